//! `/metrics`: the counters of every part and the state of the published view, as OpenMetrics text.

mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use self::sample::{Histogram, Sample};
use super::owner::Tally;
use crate::identity::PeerIdentity;
use crate::lobby::Lobby;
use crate::model::Quarantined;
use crate::model::{
    BUCKET_BOUNDS_US, Direction, Directory, Edge, Freshness, Health, MemberState, NodeId, Pressure, Service, Traffic,
};
use crate::wire::keyring::Keyring;
use crate::{api, catalog, dns, gossip, health, proxy};

/// Of a quarantined record's hash, in its label.
const QUARANTINED_HASH_DIGITS: usize = 12;

/// Everything that is counted anywhere.
pub(super) struct Sources {
    directory: Arc<ArcSwap<Directory>>,
    tally: watch::Receiver<Tally>,
    gossip: Arc<gossip::Counters>,
    peers: Arc<gossip::Peers>,
    keyring: watch::Receiver<Arc<Keyring>>,
    proxy: Arc<proxy::Counters>,
    traffic: Arc<proxy::Registry>,
    taps: Arc<proxy::Taps>,
    log_lines_lost: Option<Arc<AtomicU64>>,
    /// Where connections wait until they have proven themselves, by port.
    pub lobbies: Vec<(&'static str, Lobby)>,
    pub dns: Option<Arc<dns::Counters>>,
    pub api: Option<Arc<api::Counters>>,
    pub checks: Option<Arc<health::Counters>>,
    /// Events that the history lacks because the disk did not take them.
    pub history_lost: Arc<AtomicU64>,
}

impl Sources {
    pub(super) fn new(
        directory: Arc<ArcSwap<Directory>>,
        tally: watch::Receiver<Tally>,
        (gossip, peers): (Arc<gossip::Counters>, Arc<gossip::Peers>),
        keyring: watch::Receiver<Arc<Keyring>>,
        proxy: &proxy::Proxy,
    ) -> Sources {
        let (traffic, taps, log_lines_lost) = (proxy.traffic(), proxy.taps(), proxy.log_lines_lost());
        let proxy::Lobbies { mesh, enroll, calls } = proxy.lobbies();
        let lobbies = vec![("mesh", mesh), ("enroll", enroll), ("calls", calls)];
        Sources {
            directory,
            tally,
            gossip,
            peers,
            keyring,
            proxy: proxy.counters(),
            traffic,
            taps,
            log_lines_lost,
            lobbies,
            dns: None,
            api: None,
            checks: None,
            history_lost: Arc::default(),
        }
    }

    /// Appends the text.
    pub(super) fn render(&self, text: &mut String) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.sample()));
        if let Err(error) = encode(text, &registry) {
            tracing::error!(%error, "metrics could not be written");
        }
    }

    fn sample(&self) -> Sample {
        let mut sample = Sample::default();
        sample.view(&self.directory.load());
        sample.protocols(&self.directory.load(), &self.peers);
        let tally = self.tally.borrow().clone();
        sample.catalog(&tally.catalog);
        let (quarantined, left_alone) = tally.quarantined;
        let help = "Records that this agent does not touch because it failed on them.";
        sample.gauge("weft_catalog_records_quarantined", help, &[], quarantined);
        sample.quarantine(&tally.quarantine, &self.directory.load());
        let help = "Times that a record in quarantine was left alone.";
        sample.counter("weft_catalog_records_quarantine_hits", help, &[], left_alone);
        let help = "Changes of this host's services that were published together with later ones.";
        sample.counter("weft_own_changes_coalesced", help, &[], tally.coalesced);
        sample.counter("weft_store_failures", "Writes to the catalog cache that failed.", &[], tally.store_failures);
        sample.counter("weft_directory_published", "Views published.", &[], tally.published);
        sample.counter(
            "weft_gossip_commands_dropped",
            "Sends dropped because the gossip driver was behind.",
            &[],
            tally.dropped_commands,
        );
        let help = "How far this host doubts itself: 0 is well, 8 the most (Lifeguard's local health)";
        sample.gauge("weft_gossip_health_score", help, &[], u64::from(tally.health_score));
        let help = "How many times longer than usual this host waits for answers";
        sample.ratio("weft_gossip_patience_ratio", help, &[], tally.patience);
        let help = "Accusations not made because others had not confirmed the ones before";
        sample.counter("weft_gossip_accusations_withheld", help, &[], tally.accusations_withheld);
        for (reason, count) in tally.refused {
            sample.counter(
                "weft_records_refused",
                "Records of other hosts dropped, by reason.",
                &[("reason", reason)],
                count,
            );
        }
        for (name, help, value) in self.proxy.all() {
            sample.counter(name, help, &[], value);
        }
        sample.traffic(&self.traffic.snapshot());
        for (source, destination, count) in self.traffic.denied() {
            let labels = [("source", source.as_str()), ("destination", destination.as_str())];
            let help = "Calls to services of this host that intentions did not let through.";
            sample.counter("weft_calls_denied", help, &labels, count);
        }
        for ((service, reason), count) in self.traffic.failures() {
            let help = "Requests that Weft answered itself, by service and the weft-error that it gave";
            let labels = [("service", service.as_str()), ("reason", reason)];
            sample.counter("weft_request_failures", help, &labels, count);
        }
        sample.gauge("weft_taps", "Taps that are open.", &[], self.taps.count() as u64);
        let help = "Lines that taps were not told because they did not take them as fast";
        sample.counter("weft_tap_lost", help, &[], self.taps.lost());
        if let Some(lost) = &self.log_lines_lost {
            let help = "Lines of the access log that were lost because nobody read them";
            sample.counter("weft_access_log_lost", help, &[], lost.load(Ordering::Relaxed));
        }
        let help = "Lines of the history that were lost because the disk did not take them";
        sample.counter("weft_history_lost", help, &[], self.history_lost.load(Ordering::Relaxed));
        if let Some(checks) = &self.checks {
            sample.checks(checks);
        }
        for (port, lobby) in &self.lobbies {
            sample.lobby(port, lobby);
        }
        for (name, value) in self.gossip.each() {
            sample.gossip(name, value);
        }
        let keyring = self.keyring.borrow().clone();
        let held = keyring.status().keys.len() as u64;
        sample.gauge("weft_gossip_keys", "Gossip keys that open packets.", &[], held);
        let primary = keyring.primary().to_string();
        let help = "1, with the fingerprint of the gossip key that seals packets.";
        sample.gauge("weft_gossip_primary_key", help, &[("fingerprint", &primary)], 1);
        for (name, help, value) in self.dns.iter().flat_map(|dns| dns.values()) {
            sample.counter(&format!("weft_dns_{name}"), help, &[], value);
        }
        for (name, help, value) in self.api.iter().flat_map(|api| api.values()) {
            sample.counter(&format!("weft_api_{name}"), help, &[], value);
        }
        sample
    }
}

impl Sample {
    /// By the host whose record it is, and enough of the hash to find it in the log and in `quarantine.json`.
    fn quarantine(&mut self, records: &[Quarantined], directory: &Directory) {
        for record in records {
            let node = record.origin.parse().ok().and_then(|id: NodeId| directory.nodes.get(&id));
            let node = node.map_or(record.origin.as_str(), |node| node.facts.name.as_str());
            let hash = record.hash.get(..QUARANTINED_HASH_DIGITS).unwrap_or(&record.hash);
            let help = "1, for each record that this agent does not touch, by its host and its hash.";
            self.gauge("weft_catalog_record_in_quarantine", help, &[("node", node), ("hash", hash)], 1);
        }
    }

    fn catalog(&mut self, counters: &catalog::Counters) {
        self.gauge("weft_catalog_origins", "Hosts whose records are held.", &[], counters.origins);
        self.gauge("weft_catalog_records", "Live records held.", &[], counters.records);
        self.gauge(
            "weft_catalog_records_unconfirmed",
            "Records from the store that no host has confirmed.",
            &[],
            counters.records_unconfirmed,
        );
        let counted = [
            ("records_applied", "Records that changed the catalog.", counters.records_applied),
            ("deltas_sent", "Datagrams of fresh records sent.", counters.deltas_sent),
            ("names_sent", "Datagrams that name fresh records.", counters.names_sent),
            ("requests_sent", "Datagrams that ask for named records.", counters.requests_sent),
            ("fetches_failed", "Named records that nobody sent when asked.", counters.fetches_failed),
            (
                "records_over_rate",
                "Fresh records left unread because their host changes more than one may.",
                counters.records_over_rate,
            ),
            ("pulls_over_rate", "Pulls put off because of the same.", counters.pulls_over_rate),
            ("digests_sent", "Digests sent.", counters.digests_sent),
            ("digests_differing", "Digests received that differed.", counters.digests_differing),
            ("pulls_started", "Pulls of missing records.", counters.pulls_started),
            ("pulls_failed", "Pulls that failed.", counters.pulls_failed),
        ];
        for (name, help, value) in counted {
            self.counter(&format!("weft_catalog_{name}"), help, &[], value);
        }
    }

    fn lobby(&mut self, port: &str, lobby: &Lobby) {
        let labels = [("port", port)];
        let help = "Connections that have not proven themselves yet";
        self.gauge("weft_half_open_connections", help, &labels, lobby.waiting());
        let help = "Connections closed before they proved themselves, because others needed the place";
        self.counter("weft_half_open_crowded_out", help, &labels, lobby.crowded_out());
        let help = "Connections that the system could not give, for want of descriptors or memory";
        self.counter("weft_accept_failures", help, &labels, lobby.accept_failures());
    }

    /// Rejections are one family by reason, and so are refused claims; the rest have a family each.
    fn gossip(&mut self, name: &str, value: u64) {
        if let Some(reason) = name.strip_prefix("claims_refused_") {
            let help = "Claims of membership that were not believed, by reason";
            return self.counter("weft_gossip_claims_refused", help, &[("reason", reason)], value);
        }
        match name.strip_prefix("rejected_") {
            Some(reason) => {
                let help = "Datagrams on the gossip port that were thrown away, by reason";
                self.counter("weft_gossip_rejected", help, &[("reason", reason)], value);
            }
            None => {
                let help = format!("Gossip driver: {}", name.replace('_', " "));
                self.counter(&format!("weft_gossip_{name}"), &help, &[], value);
            }
        }
    }

    /// Checks that run on this host.
    fn checks(&mut self, checks: &health::Counters) {
        for health in [Health::Passing, Health::Warning, Health::Critical] {
            let labels = [("health", health.as_str())];
            self.gauge("weft_checks", "Checks of this host by verdict", &labels, checks.checks(health));
        }
        self.counter("weft_check_attempts", "Attempts of checks made", &[], checks.attempts());
        self.counter("weft_check_transitions", "Changes of verdicts that were told", &[], checks.transitions());
    }

    /// Carried calls. Latencies are told by direction and service, so that their number does not grow with hosts.
    fn traffic(&mut self, traffic: &Traffic) {
        let mut durations: BTreeMap<(Direction, &str), Histogram> = BTreeMap::new();
        let mut in_flight: BTreeMap<(Direction, &str), u64> = BTreeMap::new();
        let mut retries: BTreeMap<&str, u64> = BTreeMap::new();
        for edge in &traffic.edges {
            self.edge(edge);
            let key = (edge.direction, edge.service.as_str());
            durations.entry(key).or_default().add(edge);
            *in_flight.entry(key).or_default() += edge.in_flight;
            *retries.entry(edge.service.as_str()).or_default() += edge.retries;
        }
        for ((direction, service), histogram) in durations {
            let help = "From a call to the head of its response, or to its connection";
            let labels = [("direction", word(direction)), ("service", service)];
            self.histogram("weft_request_duration_seconds", help, &labels, histogram);
        }
        for ((direction, service), count) in in_flight {
            let labels = [("direction", word(direction)), ("service", service)];
            self.gauge("weft_requests_in_flight", "Calls under way", &labels, count);
        }
        for (service, count) in retries {
            let help = "Calls that were tried again on another instance";
            self.counter("weft_request_retries", help, &[("service", service)], count);
        }
        for pressure in &traffic.pressures {
            self.pressure(pressure);
        }
        self.counter(
            "weft_ejections",
            "Instances that a worker stopped calling because they failed.",
            &[],
            traffic.ejections,
        );
        let help = "Ejected instances that answered again.";
        self.counter("weft_ejections_ended", help, &[], traffic.returns);
        let ejected = traffic.edges.iter().filter(|edge| edge.ejected_for_ms > 0).count() as u64;
        self.gauge("weft_instances_ejected", "Instances that get no calls from here now.", &[], ejected);
    }

    fn pressure(&mut self, pressure: &Pressure) {
        let labels = [("service", pressure.service.as_str())];
        let help = "Requests of this host that may be under way at a service.";
        self.gauge("weft_service_requests_limit", help, &labels, u64::from(pressure.limit));
        let help = "Requests refused because as many as may be were under way.";
        self.counter("weft_service_requests_limited", help, &labels, pressure.refused);
        let help = "Tries that the retry budget paid for.";
        self.counter("weft_service_retries_budgeted", help, &labels, pressure.retries);
        let help = "Tries that were not made because the retry budget was used up.";
        self.counter("weft_service_retries_withheld", help, &labels, pressure.retries_refused);
    }

    fn edge(&mut self, edge: &Edge) {
        const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        for (code, count) in CODES.into_iter().zip(edge.codes) {
            if count == 0 {
                continue;
            }
            let labels = [
                ("direction", word(edge.direction)),
                ("caller", edge.caller.as_str()),
                ("caller_service", edge.caller_service.as_str()),
                ("node", edge.node.as_str()),
                ("service", edge.service.as_str()),
                // `instance` is the label that scrapers give to their targets.
                ("service_instance", edge.instance.as_str()),
                ("protocol", edge.protocol.as_str()),
                ("code", code),
            ];
            let help = "Calls that have ended, by class of their status; none without a response. Of tcp, connections";
            self.counter("weft_requests", help, &labels, count);
        }
    }

    fn view(&mut self, directory: &Directory) {
        self.certificate(directory);
        let stale = u64::from(directory.freshness == Freshness::Stale);
        self.gauge("weft_stale", "1 while the view rests on no contact with other hosts.", &[], stale);
        let states =
            [MemberState::Unknown, MemberState::Alive, MemberState::Suspect, MemberState::Failed, MemberState::Left];
        for state in states {
            let count = directory.nodes.values().filter(|node| node.state == state).count() as u64;
            self.gauge("weft_members", "Hosts by state.", &[("state", state.as_str())], count);
        }
        let unreachable = directory.nodes.values().filter(|node| node.state.is_usable() && !node.mesh_reachable);
        let unreachable = unreachable.count() as u64;
        self.gauge(
            "weft_members_mesh_unreachable",
            "Hosts whose mesh port does not answer this host.",
            &[],
            unreachable,
        );
        self.gauge("weft_services", "Known services.", &[], directory.services.len() as u64);
        for health in [Health::Passing, Health::Warning, Health::Critical] {
            let of = |service: &Arc<Service>| {
                service.instances.iter().filter(|(node, instance)| Service::health(node, instance) == health).count()
            };
            let count = directory.services.values().map(of).sum::<usize>() as u64;
            self.gauge("weft_instances", "Known instances by health.", &[("health", health.as_str())], count);
        }
    }

    /// Hosts that calls may go to, by the version of the gossip protocol that is spoken with them.
    fn protocols(&mut self, directory: &Directory, peers: &gossip::Peers) {
        let mut hosts: BTreeMap<String, u64> = BTreeMap::new();
        for node in directory.nodes.values().filter(|node| node.state.is_usable()) {
            let spoken = peers.versions(node.id).map_or("unknown".to_owned(), |versions| versions.current.to_string());
            *hosts.entry(spoken).or_default() += 1;
        }
        for (version, count) in hosts {
            let help = "Hosts by the version of the gossip protocol that is spoken with them.";
            self.gauge("weft_members_protocol", help, &[("version", &version)], count);
        }
    }

    fn certificate(&mut self, directory: &Directory) {
        let own = directory.nodes.get(&directory.local).and_then(|node| node.facts.certificates.first());
        let Some(Ok(peer)) = own.map(|leaf| PeerIdentity::from_der(leaf)) else { return };
        let expiry = peer.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.gauge("weft_certificate_expiry_seconds", "When this host's certificate ends, in Unix time", &[], expiry);
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "out",
        Direction::In => "in",
    }
}

impl Histogram {
    fn add(&mut self, edge: &Edge) {
        let bounds = BUCKET_BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        if self.buckets.is_empty() {
            self.buckets = bounds.map(|bound| (bound, 0)).collect();
        }
        for ((_, total), count) in self.buckets.iter_mut().zip(edge.latency) {
            *total += count;
        }
        self.sum += edge.latency_sum_us as f64 / 1e6;
    }
}
