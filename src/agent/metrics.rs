//! `/metrics`: the counters of every part and the state of the published view, as OpenMetrics text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::owner::Tally;
use crate::model::{Directory, Freshness, Health, MemberState, Service};
use crate::{api, catalog, dns, gossip, proxy};

/// Everything that is counted anywhere.
pub(super) struct Sources {
    directory: Arc<ArcSwap<Directory>>,
    tally: watch::Receiver<Tally>,
    gossip: Arc<gossip::Counters>,
    proxy: Arc<proxy::Counters>,
    pub dns: Option<Arc<dns::Counters>>,
    pub api: Option<Arc<api::Counters>>,
}

impl Sources {
    pub(super) fn new(
        directory: Arc<ArcSwap<Directory>>,
        tally: watch::Receiver<Tally>,
        gossip: Arc<gossip::Counters>,
        proxy: Arc<proxy::Counters>,
    ) -> Sources {
        Sources { directory, tally, gossip, proxy, dns: None, api: None }
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
        let tally = self.tally.borrow().clone();
        sample.catalog(&tally.catalog);
        sample.counter("weft_store_failures", "Writes to the catalog cache that failed.", &[], tally.store_failures);
        sample.counter("weft_directory_published", "Views published.", &[], tally.published);
        sample.counter(
            "weft_gossip_commands_dropped",
            "Sends dropped because the gossip driver was behind.",
            &[],
            tally.dropped_commands,
        );
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
        for (name, value) in self.gossip.each() {
            sample.gossip(name, value);
        }
        for (name, help, value) in self.dns.iter().flat_map(|dns| dns.values()) {
            sample.counter(&format!("weft_dns_{name}"), help, &[], value);
        }
        for (name, help, value) in self.api.iter().flat_map(|api| api.values()) {
            sample.counter(&format!("weft_api_{name}"), help, &[], value);
        }
        sample
    }
}

/// One line: its labels and its value.
type Line = (Vec<(String, String)>, u64);

/// A family of lines under one name.
#[derive(Debug)]
struct Family {
    help: String,
    is_counter: bool,
    lines: Vec<Line>,
}

#[derive(Debug, Default)]
struct Sample(BTreeMap<String, Family>);

impl Sample {
    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, true, labels, value);
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
            ("digests_sent", "Digests sent.", counters.digests_sent),
            ("digests_differing", "Digests received that differed.", counters.digests_differing),
            ("pulls_started", "Pulls of missing records.", counters.pulls_started),
            ("pulls_failed", "Pulls that failed.", counters.pulls_failed),
        ];
        for (name, help, value) in counted {
            self.counter(&format!("weft_catalog_{name}"), help, &[], value);
        }
    }

    /// Rejections are one family by reason; the rest have a family each.
    fn gossip(&mut self, name: &str, value: u64) {
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

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, false, labels, value);
    }

    fn add(&mut self, name: &str, help: &str, is_counter: bool, labels: &[(&str, &str)], value: u64) {
        // The encoder adds the full stop, and `_total` to counters.
        let help = help.trim_end_matches('.').to_owned();
        let family = self.0.entry(name.to_owned()).or_insert(Family { help, is_counter, lines: Vec::new() });
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        family.lines.push((labels, value));
    }

    fn view(&mut self, directory: &Directory) {
        let stale = u64::from(directory.freshness == Freshness::Stale);
        self.gauge("weft_stale", "1 while the view rests on no contact with other hosts.", &[], stale);
        let states =
            [MemberState::Unknown, MemberState::Alive, MemberState::Suspect, MemberState::Failed, MemberState::Left];
        for state in states {
            let count = directory.nodes.values().filter(|node| node.state == state).count() as u64;
            self.gauge("weft_members", "Hosts by state.", &[("state", state.as_str())], count);
        }
        let unreachable = directory.nodes.values().filter(|node| !node.mesh_reachable).count() as u64;
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
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, family) in &self.0 {
            let kind = if family.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut lines = encoder.encode_descriptor(name, &family.help, None, kind)?;
            match family.lines.as_slice() {
                [(labels, value)] if labels.is_empty() => write_value(*value, family.is_counter, lines)?,
                labelled => {
                    for (labels, value) in labelled {
                        write_value(*value, family.is_counter, lines.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_value(value: u64, is_counter: bool, line: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    if is_counter {
        ConstCounter::new(value).encode(line)
    } else {
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(line)
    }
}
