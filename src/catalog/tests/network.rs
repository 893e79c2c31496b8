//! A mesh in one thread: catalogs joined by a network that loses, repeats, delays and partitions datagrams and cuts
//! streams, all by one seed, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rand::RngExt;

use super::*;

const CHUNK_BYTES: usize = 16 * 1024;

pub(super) struct Faults {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    pub(super) latency_max: Duration,
}

impl Faults {
    pub(super) const LAN: Faults = Faults { loss: 0.0, duplication: 0.0, latency_max: Duration::from_millis(2) };
    /// Latencies up to 150 ms put datagrams in any order.
    pub(super) const ROUGH: Faults = Faults { loss: 0.2, duplication: 0.1, latency_max: Duration::from_millis(150) };
}

#[derive(Debug)]
enum Event {
    Datagram { from: usize, to: usize, message: CatalogMessage },
    PullRequest { from: usize, to: usize, wants: Vec<Want> },
    PullReply { from: usize, to: usize, records: Vec<Record>, left: Vec<Want> },
    PullFailed { from: usize, to: usize },
}

impl Event {
    fn ends(&self) -> [usize; 2] {
        match self {
            Event::Datagram { from, to, .. }
            | Event::PullRequest { from, to, .. }
            | Event::PullReply { from, to, .. }
            | Event::PullFailed { from, to } => [*from, *to],
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) datagrams: usize,
    pub(super) digests: usize,
    pub(super) pulls: usize,
    pub(super) pulled_records: usize,
    /// Records that arrived in deltas.
    pub(super) copies: usize,
    /// Of datagrams sent, sealed and with IPv4 and UDP headers.
    pub(super) bytes: usize,
}

pub(super) struct Network {
    pub(super) hosts: Vec<Catalog>,
    sequences: Vec<u64>,
    pub(super) now: Duration,
    pub(super) faults: Faults,
    /// Hosts in different sides do not reach each other.
    sides: Vec<u8>,
    pub(super) traffic: Traffic,
    pub(super) bytes_sent: Vec<usize>,
    /// Of an older version: hosts that cannot read names and requests.
    pub(super) old: BTreeSet<usize>,
    rng: ChaCha8Rng,
    events: BTreeMap<u64, Event>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    sent: u64,
    /// Hosts whose outputs and timeout are to be looked at.
    touched: BTreeSet<usize>,
    timeouts: BTreeSet<(Duration, usize)>,
    timeout_of: Vec<Option<Duration>>,
}

impl Network {
    pub(super) fn new(count: u16, seed: u64, faults: Faults) -> Network {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let ids: Vec<NodeId> = (0..count).map(node).collect();
        let host = |id: &NodeId| {
            let mut catalog =
                Catalog::new(Config::default(), *id, ChaCha8Rng::seed_from_u64(rng.random_range(0..u64::MAX)));
            catalog.set_peers(ids.iter().copied().map(Peer::from).collect());
            catalog
        };
        let hosts: Vec<Catalog> = ids.iter().map(host).collect();
        Network {
            sequences: vec![0; hosts.len()],
            sides: vec![0; hosts.len()],
            touched: BTreeSet::new(),
            timeouts: BTreeSet::new(),
            timeout_of: vec![None; hosts.len()],
            hosts,
            now: Duration::ZERO,
            faults,
            traffic: Traffic::default(),
            bytes_sent: vec![0; usize::from(count)],
            old: BTreeSet::new(),
            rng,
            events: BTreeMap::new(),
            queue: BinaryHeap::new(),
            sent: 0,
        }
    }

    /// Host `host` writes its next record.
    pub(super) fn publish(&mut self, host: usize, make: impl FnOnce(NodeId, Version) -> Record) -> Record {
        self.sequences[host] += 1;
        let record = make(self.id(host), version(1, self.sequences[host]));
        let merge = self.hosts[host].merge(self.now, record.clone(), Relay::Eager);
        assert!(matches!(merge, Merge::Applied { .. }), "{record:?}: {merge:?}");
        record
    }

    /// Every host knows every record.
    pub(super) fn seed_everywhere(&mut self, records_each: u64) {
        for host in 0..self.hosts.len() {
            self.sequences[host] = records_each;
            for sequence in 1..=records_each {
                let record = service(self.id(host), version(1, sequence), &format!("web-{sequence}"));
                for catalog in &mut self.hosts {
                    catalog.merge(self.now, record.clone(), Relay::Quiet);
                }
            }
        }
    }

    pub(super) fn id(&self, host: usize) -> NodeId {
        self.hosts[host].local
    }

    pub(super) fn partition(&mut self, side_of: impl Fn(usize) -> u8) {
        self.sides = (0..self.hosts.len()).map(side_of).collect();
    }

    pub(super) fn heal(&mut self) {
        self.partition(|_| 0);
    }

    /// As [`Network::partition`], and membership has noticed: nobody is a peer of the other side any more.
    pub(super) fn split(&mut self, side_of: impl Fn(usize) -> u8) {
        self.partition(side_of);
        (0..self.hosts.len()).for_each(|host| self.show_members(host));
    }

    /// Membership shows a host those it can reach, and those that have come back.
    fn show_members(&mut self, host: usize) {
        let reached = (0..self.hosts.len()).filter(|other| self.sides[*other] == self.sides[host]);
        let reached: Vec<NodeId> = reached.map(|other| self.id(other)).collect();
        let (now, host) = (self.now, &mut self.hosts[host]);
        let mut new = reached.clone();
        new.retain(|node| *node != host.local && !host.peers.contains(*node));
        host.set_peers(reached.into_iter().map(Peer::from).collect());
        new.into_iter().for_each(|node| host.met(now, node));
    }

    /// The network is whole again and membership notices within `within`, each host at a time of its own.
    pub(super) fn reunite(&mut self, within: Duration) {
        self.heal();
        let mut hosts: Vec<(Duration, usize)> = (0..self.hosts.len())
            .map(|host| (self.now + within.mul_f64(self.rng.random_range(0.0..1.0)), host))
            .collect();
        hosts.sort_unstable();
        for (at, host) in hosts {
            self.run_for(at.saturating_sub(self.now));
            self.show_members(host);
        }
    }

    /// Puts a message of `from` on the network that its catalog never sent.
    pub(super) fn inject(&mut self, from: usize, to: usize, message: CatalogMessage) {
        self.send_datagram(Event::Datagram { from, to, message });
    }

    /// The most that a host has sent, in bytes of datagrams.
    pub(super) fn bytes_sent_max(&self) -> usize {
        self.bytes_sent.iter().copied().max().unwrap_or(0)
    }

    /// Runs until every host holds `record` and gives the time it took; `None` if some never did.
    pub(super) fn run_until_held(&mut self, end: Duration, record: &Record) -> Option<Duration> {
        // The first host that lacked it when last looked at: most looks end there.
        let lacking = std::cell::Cell::new(0);
        let id = record.id();
        self.run_until(end, |network| {
            while let Some(host) = network.hosts.get(lacking.get()) {
                if host.get(&id).is_none_or(|held| held.version() < record.version()) {
                    return false;
                }
                lacking.set(lacking.get() + 1);
            }
            true
        })
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run_until(end, |_| false);
    }

    /// Runs until `done` holds, checked every millisecond, and gives the time it took; `None` if it never did.
    pub(super) fn run_until(&mut self, end: Duration, done: impl Fn(&Network) -> bool) -> Option<Duration> {
        let begin = self.now;
        let mut checked = None;
        // Tests change hosts between runs: look at all of them once, then only at those that something happened to.
        self.timeouts.clear();
        self.timeout_of.fill(None);
        self.touched = (0..self.hosts.len()).collect();
        loop {
            self.settle();
            if checked.is_none_or(|checked| self.now >= checked + MS) {
                checked = Some(self.now);
                if done(self) {
                    return Some(self.now - begin);
                }
            }
            let arrival = self.queue.peek().map(|Reverse((at, _))| *at);
            let timeout = self.timeouts.first().map(|(at, _)| *at);
            let Some(next) = arrival.into_iter().chain(timeout).min().filter(|next| *next <= end) else {
                self.now = end;
                return None;
            };
            self.now = self.now.max(next);
            while let Some(Reverse((_, number))) = self.pop_due() {
                if let Some(event) = self.events.remove(&number) {
                    self.arrive(event);
                }
            }
            let due: Vec<usize> = self.timeouts.range(..=(self.now, usize::MAX)).map(|(_, host)| *host).collect();
            for host in due {
                self.hosts[host].tick(self.now);
                self.touched.insert(host);
            }
        }
    }

    fn settle(&mut self) {
        for host in std::mem::take(&mut self.touched) {
            self.carry_out(host);
            let timeout = self.hosts[host].next_timeout();
            if let Some(before) = std::mem::replace(&mut self.timeout_of[host], timeout) {
                self.timeouts.remove(&(before, host));
            }
            self.timeouts.extend(timeout.map(|timeout| (timeout, host)));
        }
    }

    fn carry_out(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].poll_output() {
            match output {
                Output::Send { to, message } => {
                    assert!(message_bytes(&message) <= Config::default().datagram_bytes_max, "{message:?}");
                    self.traffic.datagrams += 1;
                    self.traffic.bytes += datagram_bytes(&message);
                    self.bytes_sent[host] += datagram_bytes(&message);
                    self.traffic.digests += usize::from(matches!(message, CatalogMessage::Digest(_)));
                    let to = self.host_of(to);
                    if self.rng.random_bool(self.faults.duplication) {
                        self.send_datagram(Event::Datagram { from: host, to, message: message.clone() });
                    }
                    self.send_datagram(Event::Datagram { from: host, to, message });
                }
                Output::Pull { from, wants } => {
                    self.traffic.pulls += 1;
                    let to = self.host_of(from);
                    self.send(Event::PullRequest { from: host, to, wants });
                }
                Output::Compact => {}
            }
        }
    }

    fn pop_due(&mut self) -> Option<Reverse<(Duration, u64)>> {
        self.queue.peek().filter(|Reverse((at, _))| *at <= self.now)?;
        self.queue.pop()
    }

    fn host_of(&self, id: NodeId) -> usize {
        usize::from(u16::from_be_bytes([id.0[1], id.0[2]]))
    }

    fn send_datagram(&mut self, event: Event) {
        if !self.rng.random_bool(self.faults.loss) {
            self.send(event);
        }
    }

    fn send(&mut self, event: Event) {
        let latency = self.rng.random_range(Duration::from_micros(200)..=self.faults.latency_max);
        self.sent += 1;
        self.queue.push(Reverse((self.now + latency, self.sent)));
        self.events.insert(self.sent, event);
    }

    fn arrive(&mut self, event: Event) {
        let now = self.now;
        self.touched.extend(event.ends());
        match event {
            Event::Datagram { from, to, message } => {
                if self.sides[from] != self.sides[to] {
                    return;
                }
                let sender = self.id(from);
                let is_new = matches!(message, CatalogMessage::Fresh(_) | CatalogMessage::Request(_));
                match message {
                    _ if is_new && self.old.contains(&to) => {}
                    CatalogMessage::Delta(records) => {
                        self.traffic.copies += records.len();
                        for record in records {
                            if self.hosts[to].screen(now, &record) == Screen::Take {
                                self.hosts[to].merge(now, record, Relay::Delta(sender));
                            }
                        }
                    }
                    message => self.hosts[to].receive(now, sender, message),
                }
            }
            Event::PullRequest { from, to, wants } => {
                if self.sides[from] != self.sides[to] {
                    return self.send(Event::PullFailed { from: to, to: from });
                }
                let (records, left) = self.hosts[to].answer(&wants, CHUNK_BYTES);
                self.send(Event::PullReply { from: to, to: from, records, left });
            }
            Event::PullReply { from, to, records, left } => {
                let sender = self.id(from);
                if self.sides[from] != self.sides[to] {
                    return self.hosts[to].pull_failed(now, sender);
                }
                self.traffic.pulled_records += records.len();
                for record in records {
                    self.hosts[to].merge(now, record, Relay::Quiet);
                }
                if left.is_empty() {
                    self.hosts[to].pulled(now, sender);
                } else {
                    self.send(Event::PullRequest { from: to, to: from, wants: left });
                }
            }
            Event::PullFailed { from, to } => {
                let sender = self.id(from);
                self.hosts[to].pull_failed(now, sender);
            }
        }
    }

    /// True if all hosts hold the same.
    pub(super) fn is_converged(&self) -> bool {
        let hashes = |host: &Catalog| host.buckets.map(|bucket| bucket.hash);
        let first = hashes(&self.hosts[0]);
        self.hosts.iter().all(|host| hashes(host) == first)
    }

    pub(super) fn assert_same_everywhere(&self) {
        let first = state(&self.hosts[0]);
        self.hosts.iter().for_each(|host| assert_eq!(state(host), first));
    }

    pub(super) fn all_hold(&self, record: &Record) -> bool {
        self.hosts.iter().all(|host| host.get(&record.id()) == Some(record))
    }
}
