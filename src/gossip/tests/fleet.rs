//! Whole hosts, membership and catalog on real sockets, of both versions of the protocol in one cluster.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::time::Instant;

use super::*;
use crate::catalog::{self, Catalog, Relay};
use crate::model::{Header, Now, RecordKind, Version};
use crate::swim::{self, Swim};
use crate::wire::stream::PULL_CHUNK_BYTES_MAX;

/// A host with its cores, driven as the owner drives them, but that every record is believed.
struct Whole {
    host: Host,
    swim: Swim,
    catalog: Catalog,
    started: Instant,
}

fn record(origin: NodeId, kind: u16, bytes: usize) -> Record {
    let header = Header {
        origin,
        version: Version { epoch: 1, sequence: u64::from(kind) },
        kind: RecordKind(kind),
        format: 0x0909,
        tombstone: false,
        key: bytes::Bytes::copy_from_slice(&kind.to_be_bytes()),
    };
    Record::sign(&header, &vec![0xee; bytes], |_| [7; 64]).unwrap()
}

fn alive<P: From<NodeId>>(swim: &Swim) -> Vec<P> {
    swim.alive().map(|(node, _)| node.into()).collect()
}

impl Whole {
    /// A host of that version; one record of it fits a datagram, the other has to be pulled.
    async fn start(ca: &Ca, number: u8, protocol_max: u8, seed: Option<SocketAddr>) -> Whole {
        let host = Host::start(Settings { protocol_max, ..ca.settings() }, 256).await;
        let (rng, name) =
            (ChaCha8Rng::seed_from_u64(number.into()), NodeName::parse(&format!("web-{number}")).unwrap());
        let mut swim = Swim::new(swim::Config::default(), host.node, name, host.address, 1, rng.clone());
        let mut catalog = Catalog::new(catalog::Config::default(), host.node, rng);
        swim.set_seeds(seed.into_iter().collect());
        for (kind, bytes) in [(2, 100), (0x7777, 5_000)] {
            catalog.merge(Now::ZERO, record(host.node, kind, bytes), Relay::Eager);
        }
        let mut whole = Whole { host, swim, catalog, started: Instant::now() };
        whole.turn();
        whole
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    /// Takes what came, or what is due.
    async fn step(&mut self) {
        let due = [self.swim.next_timeout(), self.catalog.next_timeout()].into_iter().flatten().min();
        let due = self.started + due.unwrap_or(Duration::from_secs(1));
        tokio::select! {
            event = self.host.events.recv() => self.take(event.expect("the driver stopped")),
            () = tokio::time::sleep_until(due) => {}
        }
        self.turn();
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Swim { sender, from, message } => self.swim.receive(now, sender, from, message),
            Event::Catalog { sender, message } => {
                if let CatalogMessage::Delta(records) = message {
                    self.merge(records);
                } else {
                    self.catalog.receive(now, sender, message);
                }
            }
            Event::Synced { claims, .. } => self.swim.synced(now, claims),
            Event::SyncFailed { to, .. } => self.swim.sync_failed(now, to),
            Event::SyncRequest { claims, reply, .. } => {
                self.swim.synced(now, claims);
                let _ = reply.send(self.swim.snapshot());
            }
            Event::PullRequest { wants, reply, .. } => {
                let _ = reply.send(self.catalog.answer(&wants, PULL_CHUNK_BYTES_MAX));
            }
            Event::Pulled { from, records, done } => {
                self.merge(records);
                if done {
                    self.catalog.pulled(now, from);
                }
            }
            Event::PullFailed { from, .. } => self.catalog.pull_failed(now, from),
            Event::StreamProbe { target, number, alive } => self.swim.stream_probe_result(now, target, number, alive),
        }
    }

    fn merge(&mut self, records: Vec<Record>) {
        for record in records {
            self.catalog.merge(self.now(), record, Relay::Eager);
        }
    }

    fn turn(&mut self) {
        let now = self.now();
        self.swim.tick(now);
        while let Some(output) = self.swim.poll_output() {
            match output {
                swim::Output::Send { to, node, message } => {
                    self.send(Command::Send { to, node, datagram: Datagram::Swim(message) });
                }
                swim::Output::Sync { to, node } => {
                    self.send(Command::Sync { to, expect: node, claims: self.swim.snapshot() });
                }
                swim::Output::StreamProbe { target, to, number } => {
                    self.send(Command::StreamProbe { target, to, number });
                }
                swim::Output::Changed { node, state: MemberState::Alive, .. } if node != self.host.node => {
                    self.catalog.set_peers(alive(&self.swim));
                    self.catalog.start_sync(now, node);
                }
                _ => {}
            }
        }
        self.catalog.tick(now);
        while let Some(output) = self.catalog.poll_output() {
            let address = |node| self.swim.whereabouts(node).map(|(_, address)| address);
            match output {
                catalog::Output::Send { to: node, message } => {
                    if let Some(to) = address(node) {
                        self.send(Command::Send { to, node: Some(node), datagram: Datagram::Catalog(message) });
                    }
                }
                catalog::Output::Pull { from, wants } => match address(from) {
                    Some(to) => self.send(Command::Pull { from, to, wants }),
                    None => self.catalog.pull_failed(now, from),
                },
                catalog::Output::Compact => {}
            }
        }
    }

    /// What finds no room is said again by the cores' own timers.
    fn send(&self, command: Command) {
        let _ = self.host.commands.try_send(command);
    }

    fn held(&self) -> BTreeSet<Vec<u8>> {
        self.catalog.held().map(|record| record.encoded().to_vec()).collect()
    }
}

#[tokio::test]
async fn hosts_of_both_versions_are_one_cluster_with_one_catalog() {
    let ca = Ca::new();
    let mut fleet = vec![Whole::start(&ca, 1, 1, None).await];
    let seed = fleet[0].host.address;
    for (number, protocol_max) in [(2, 2), (3, 1), (4, 2)] {
        fleet.push(Whole::start(&ca, number, protocol_max, Some(seed)).await);
    }
    let all: BTreeSet<Vec<u8>> = fleet.iter().flat_map(Whole::held).collect();
    assert_eq!(all.len(), 8);
    let agreed = |fleet: &[Whole]| {
        let spoken = |from: &Whole, to: &Whole| from.host.peers.versions(to.host.node).map(|told| told.current);
        fleet.iter().all(|whole| whole.swim.alive().count() == 3 && whole.held() == all)
            && spoken(&fleet[1], &fleet[3]) == Some(2)
            && spoken(&fleet[3], &fleet[1]) == Some(2)
    };
    let converging = async {
        while !agreed(&fleet) {
            let [a, b, c, d] = &mut fleet[..] else { panic!("four hosts") };
            tokio::select! {
                () = a.step() => {}
                () = b.step() => {}
                () = c.step() => {}
                () = d.step() => {}
            }
        }
    };
    let converged = timeout(Duration::from_secs(30), converging).await.is_ok();
    let alive: Vec<usize> = fleet.iter().map(|whole| whole.swim.alive().count()).collect();
    let held: Vec<usize> = fleet.iter().map(|whole| whole.held().len()).collect();
    assert!(converged, "alive {alive:?}, records {held:?}");
    for whole in &fleet {
        let counters = &whole.host.counters;
        assert_eq!((counters.packets_unsent.get(), counters.packets_newer.get()), (0, 0));
        assert!(counters.rejected_malformed.get() <= 3, "at most a hello from each of the others");
    }
}
