//! Asking "are you there?": a ping, then others are asked to ping, and a stream is tried beside them (SWIM §3.1, Lifeguard's
//! nacks). A target is accused only when all of it failed; every answer from it, by whatever way, ends the probe.
//!
//! Questions and answers come in from `mod.rs`; the verdicts go to `claims.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::members::Member;
use super::{Output, Swim};
use crate::model::{MemberState, NodeId, Now, Probe};

/// Own probes open at once: the regular one, its slow predecessors, and second opinions about suspects.
const PROBES_MAX: usize = 32;
/// Probes open for others. More are not answered; the requester has other helpers.
const RELAYS_MAX: usize = 128;

/// An answer that comes later than this says nothing of the network.
const LATE_MAX: Duration = Duration::from_secs(5);

/// A probe of this host's own.
#[derive(Debug)]
struct Open {
    target: NodeId,
    address: SocketAddr,
    pinged_at: Now,
    /// When it is given up or, while it is direct, taken to others.
    deadline: Now,
    asked: Option<Asked>,
}

/// The indirect half of a probe.
#[derive(Debug)]
struct Asked {
    helpers: Vec<NodeId>,
    /// Helpers that said that the target did not answer them.
    nacks: Vec<NodeId>,
    stream_failed: bool,
}

/// A probe for another host.
#[derive(Debug)]
struct Relay {
    target: NodeId,
    requester: NodeId,
    to: SocketAddr,
    /// The requester's number.
    number: u64,
    /// When to say that there was no answer; nothing once it was said.
    nack_at: Option<Now>,
    forget_at: Now,
}

#[derive(Debug)]
pub(super) struct Prober {
    open: BTreeMap<u64, Open>,
    /// Given up; an answer may still come, and shows how late answers are.
    late: BTreeMap<u64, (NodeId, Now)>,
    relays: BTreeMap<u64, Relay>,
}

impl Prober {
    pub(super) fn new() -> Prober {
        Prober { open: BTreeMap::new(), late: BTreeMap::new(), relays: BTreeMap::new() }
    }

    /// Forgets this host's own open probes.
    pub(super) fn void(&mut self) {
        self.open.clear();
        self.late.clear();
    }

    pub(super) fn next_deadline(&self) -> Option<Now> {
        let open = self.open.values().map(|open| open.deadline);
        let relays = self.relays.values().map(|relay| relay.nack_at.unwrap_or(relay.forget_at));
        open.chain(relays).min()
    }
}

/// Not to be guessed: an answer with the right number was made after the question, by who has read it. So nobody keeps a dead
/// host alive by answering in its name, nor by repeating old answers.
pub(super) fn probe_number(rng: &mut ChaCha8Rng) -> u64 {
    rng.random()
}

impl Swim {
    /// Probes the next member of the round.
    pub(super) fn probe_next(&mut self, now: Now) {
        if let Some(node) = self.members.next_to_probe(&mut self.rng) {
            self.start_probe(now, node);
        }
    }

    pub(super) fn start_probe(&mut self, now: Now, target: NodeId) {
        let Some(address) = self.members.get(target).map(Member::address) else { return };
        if self.prober.open.len() >= PROBES_MAX || self.prober.open.values().any(|open| open.target == target) {
            return;
        }
        let number = probe_number(&mut self.rng);
        let deadline = now + self.patience(self.config.probe_timeout);
        self.prober.open.insert(number, Open { target, address, pinged_at: now, deadline, asked: None });
        let against = self.held_against(target);
        self.send(address, Some(target), Probe::Ping { number, target }, against);
    }

    /// Advances the probes whose time is over, this host's and those for others.
    pub(super) fn expire_probes(&mut self, now: Now) {
        let due = self.prober.open.iter().filter(|(_, open)| open.deadline <= now);
        let due: Vec<(u64, bool)> = due.map(|(number, open)| (*number, open.asked.is_some())).collect();
        for (number, asked) in due {
            if asked { self.fail_probe(now, number) } else { self.ask_others(now, number) }
        }
        let silent = self.prober.relays.values_mut().filter(|relay| relay.nack_at.is_some_and(|at| at <= now));
        let silent: Vec<_> = silent
            .map(|relay| {
                relay.nack_at = None;
                (relay.to, relay.requester, relay.number)
            })
            .collect();
        for (to, requester, number) in silent {
            self.send(to, Some(requester), Probe::Nack { number }, Vec::new());
        }
        self.prober.relays.retain(|_, relay| relay.forget_at > now);
        self.prober.late.retain(|_, (_, pinged_at)| now < *pinged_at + LATE_MAX);
    }

    fn ask_others(&mut self, now: Now, number: u64) {
        let deadline = now + self.patience(self.config.probe_interval);
        let Some(open) = self.prober.open.get_mut(&number) else { return };
        let (target, address) = (open.target, open.address);
        let helpers = self.members.pick(&mut self.rng, self.config.indirect_probes, |member| {
            member.state() == MemberState::Alive && member.node() != target
        });
        open.deadline = deadline;
        let nodes = helpers.iter().map(|(node, _)| *node).collect();
        open.asked = Some(Asked { helpers: nodes, nacks: Vec::new(), stream_failed: false });
        for (helper, to) in helpers {
            self.send(to, Some(helper), Probe::PingRequest { number, target, address }, Vec::new());
        }
        self.outputs.push_back(Output::StreamProbe { target, to: address, number });
    }

    fn fail_probe(&mut self, now: Now, number: u64) {
        let Some(open) = self.prober.open.remove(&number) else { return };
        if self.prober.late.len() < PROBES_MAX {
            self.prober.late.insert(number, (open.target, open.pinged_at));
        }
        let Some(asked) = open.asked else { return };
        // Helpers that nack show that this host is well. Those that are silent, or that there are none, raise doubts.
        let silent = asked.helpers.len() - asked.nacks.len();
        if self.contact.met {
            self.health.worse(if asked.helpers.is_empty() { 1 } else { silent });
        }
        self.contact.probe_failed();
        self.accuse(now, open.target);
    }

    /// Without waiting for the deadline, if every way is known to have failed.
    fn fail_probe_early(&mut self, now: Now, number: u64) {
        let asked = self.prober.open.get(&number).and_then(|open| open.asked.as_ref());
        if asked.is_some_and(|asked| asked.stream_failed && asked.nacks.len() == asked.helpers.len()) {
            self.fail_probe(now, number);
        }
    }

    pub(super) fn take_ack(&mut self, now: Now, sender: NodeId, number: u64) {
        let open = self.prober.open.get(&number).map(|open| (open.target, open.pinged_at));
        if let Some((target, pinged_at)) = open.or_else(|| self.prober.late.remove(&number))
            && target == sender
        {
            self.pace.sample(now.saturating_sub(pinged_at));
        }
        let answers = |open: &Open| {
            let helped = open.asked.as_ref().is_some_and(|asked| asked.helpers.contains(&sender));
            open.target == sender || helped
        };
        if self.prober.open.get(&number).is_some_and(answers) {
            self.prober.open.remove(&number);
            self.health.better();
        } else if self.prober.relays.get(&number).is_some_and(|relay| relay.target == sender)
            && let Some(relay) = self.prober.relays.remove(&number)
        {
            self.send(relay.to, Some(relay.requester), Probe::Ack { number: relay.number }, Vec::new());
        }
    }

    pub(super) fn take_nack(&mut self, now: Now, sender: NodeId, number: u64) {
        let asked = self.prober.open.get_mut(&number).and_then(|open| open.asked.as_mut());
        let Some(asked) = asked else { return };
        if asked.helpers.contains(&sender) && !asked.nacks.contains(&sender) {
            asked.nacks.push(sender);
            self.fail_probe_early(now, number);
        }
    }

    pub(super) fn take_stream_result(&mut self, now: Now, target: NodeId, number: u64, alive: bool) {
        let Some(open) = self.prober.open.get_mut(&number).filter(|open| open.target == target) else { return };
        if alive {
            self.prober.open.remove(&number);
            self.heard(now);
            self.health.better();
        } else if let Some(asked) = &mut open.asked {
            asked.stream_failed = true;
            self.fail_probe_early(now, number);
        }
    }

    /// Pings `target` for another host.
    pub(super) fn relay_ping(
        &mut self,
        now: Now,
        requester: (NodeId, SocketAddr),
        number: u64,
        target: (NodeId, SocketAddr),
    ) {
        if self.prober.relays.len() >= RELAYS_MAX || target.0 == self.me.node {
            return;
        }
        let own = probe_number(&mut self.rng);
        let relay = Relay {
            target: target.0,
            requester: requester.0,
            to: requester.1,
            number,
            nack_at: Some(now + self.config.probe_timeout),
            forget_at: now + self.config.probe_timeout + self.config.probe_interval,
        };
        self.prober.relays.insert(own, relay);
        // This host's own knowledge of the address before the requester's.
        let to = self.members.get(target.0).map_or(target.1, Member::address);
        let against = self.held_against(target.0);
        self.send(to, Some(target.0), Probe::Ping { number: own, target: target.0 }, against);
    }
}
