//! What follows from a claim: whether it is believed, what changes, who is told, and how this host defends itself.
//!
//! Claims come in from datagrams and push-pull exchanges, and from this host's own probes and timers. Changes go to the member
//! table, to the owner as outputs, and to the others by way of the dissemination queue.

use std::net::SocketAddr;

use rand::RngExt;

use super::errands::NAMES_COMPARED;
use super::members::{Member, supersedes};
use super::suspicion::Suspicion;
use super::{Output, Swim};
use crate::model::{CLAIM_PROOF_BYTES, Claim, MemberState, NodeId, Now};

/// Nobody restarts or refutes so often. Incarnations above are lies, and refuting one must still leave room to count.
const INCARNATION_MAX: u64 = 1 << 62;
/// An accusation may be so far ahead of what is held of its member (the claims between were lost), and an incarnation so
/// far beyond the maximum (a lie below it was refuted).
const INCARNATION_JUMP_MAX: u64 = 1 << 20;
/// A signature with its algorithm and room to grow; more is not a proof.
const PROOF_BYTES_MAX: usize = 256;

/// How a claim came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// On a datagram: it is news to somebody.
    Datagram,
    /// In a push-pull exchange: it may be old.
    Sync,
    /// In the exchange that made first contact: everybody else knows it.
    FirstSync,
}

impl Swim {
    /// Takes one claim. If it is an accusation that was refuted, gives what its teller is to hear instead: the refutation
    /// was spread a bounded number of times and has missed it.
    pub(super) fn hear(&mut self, now: Now, claim: Claim, via: Via) -> Option<Claim> {
        let claim = self.tame(claim);
        if claim.state == MemberState::Unknown || claim.proof.len() > PROOF_BYTES_MAX || !is_reachable(claim.address) {
            return None;
        }
        if claim.node == self.me.node {
            return self.defend(now, &claim);
        }
        let held = self.members.get(claim.node);
        if !is_plausible(&claim, held.map(Member::incarnation)) {
            return None;
        }
        let Some(held) = held else {
            self.meet(now, claim, via);
            return None;
        };
        // Its teller has missed a refutation, or that the suspect's time was over: it would wait for others' word for ever.
        let is_over = claim.state == MemberState::Suspect
            && claim.incarnation == held.incarnation()
            && matches!(held.state(), MemberState::Failed | MemberState::Left);
        if is_over || (is_accusation(&claim) && claim.incarnation < held.incarnation()) {
            return Some(held.claim());
        }
        let held = (held.incarnation(), held.state());
        self.learn(now, held, claim, via);
        None
    }

    /// A claim about a host that was not known.
    fn meet(&mut self, now: Now, claim: Claim, via: Via) {
        // The departed are learned once, on joining: later they would be handed round for ever, each time as if new.
        let departed = matches!(claim.state, MemberState::Failed | MemberState::Left);
        if self.members.len() >= self.config.members_max
            || (departed && (via != Via::FirstSync || self.is_replaced(&claim)))
        {
            return;
        }
        self.adopt(now, claim, via);
    }

    /// A claim about a known member.
    fn learn(&mut self, now: Now, held: (u64, MemberState), mut claim: Claim, via: Via) {
        let mut hurry = false;
        let living = matches!(held.1, MemberState::Alive | MemberState::Suspect);
        if claim.state == MemberState::Failed && (living || (held.1 == MemberState::Unknown && via == Via::Datagram)) {
            // Nobody is buried on another's word, which is not signed: it counts as one more accuser, and the member gets the
            // time to refute that it would have if many accused it. In an exchange it may be news of a cut that has healed, and
            // while this host doubts itself it doubts those who are in the same place: then it gets all the time there is.
            self.judge_contact(now);
            hurry = via == Via::Datagram && !self.contact.is_frozen();
            claim.state = MemberState::Suspect;
        }
        let node = claim.node;
        if supersedes((claim.incarnation, claim.state), held) {
            if held.1 == MemberState::Failed && claim.state == MemberState::Alive {
                self.note_risen(now);
            }
            self.adopt(now, claim, via);
        } else if claim.state == MemberState::Suspect && held == (claim.incarnation, MemberState::Suspect) {
            self.confirm(now, claim);
        }
        if hurry {
            self.suspicions.hurry(node);
        }
    }

    /// Another than the member itself says that it left: an operator's word about a host that will not come back. It ends a
    /// failure that this host sees too, at the same incarnation; elsewhere it says no more than that the member has failed.
    pub(super) fn tame(&self, mut claim: Claim) -> Claim {
        if claim.state == MemberState::Left && claim.from != claim.node && claim.node != self.me.node {
            let known = claim.from == self.me.node || self.members.get(claim.from).is_some();
            let held = self.members.get(claim.node).map(|held| (held.incarnation(), held.state()));
            let departed = [MemberState::Failed, MemberState::Left].map(|state| Some((claim.incarnation, state)));
            if !known || !departed.contains(&held) {
                claim.state = MemberState::Failed;
                claim.proof.truncate(CLAIM_PROOF_BYTES);
            }
        }
        claim
    }

    /// Makes a claim this host's own view and passes it on.
    pub(super) fn adopt(&mut self, now: Now, claim: Claim, via: Via) {
        let node = claim.node;
        self.write(now, claim.clone());
        let ended = self.suspicions.remove(node);
        if claim.state == MemberState::Failed && ended.is_some_and(|suspicion| suspicion.is_only_by(self.me.node)) {
            self.budget.give_back();
        }
        if claim.state == MemberState::Suspect {
            let pace = self.patience_factor();
            let suspicion = Suspicion::new(now, &self.config, self.hosts(), claim.from, pace);
            self.suspicions.insert(node, suspicion);
            self.offer_second_opinion(now, node, claim.from);
        }
        if via != Via::FirstSync || claim.state == MemberState::Suspect {
            self.spread(now, claim);
        }
    }

    fn confirm(&mut self, now: Now, claim: Claim) {
        let alone = self.suspicions.get(claim.node).is_some_and(|suspicion| suspicion.is_only_by(self.me.node));
        if self.suspicions.confirm(claim.node, claim.from) {
            if alone {
                self.budget.give_back();
            }
            self.spread(now, claim);
        }
    }

    /// A suspect is soon probed by about as many others as can shorten its time. They tell it, so that it can refute, and
    /// they make the accusation certain soon if it cannot.
    fn offer_second_opinion(&mut self, now: Now, node: NodeId, accuser: NodeId) {
        let wanted = 2 * (self.config.confirmations + 1);
        if accuser != self.me.node && self.rng.random_range(0..self.hosts()) < wanted {
            self.start_probe(now, node);
        }
    }

    /// This host could not reach `node`.
    pub(super) fn accuse(&mut self, now: Now, node: NodeId) {
        let Some(member) = self.members.get(node) else { return };
        if self.contact.is_silent() || self.leaving.is_some() || !member.state().is_usable() {
            return;
        }
        let claim = Claim { state: MemberState::Suspect, from: self.me.node, ..member.claim() };
        if member.state() == MemberState::Suspect {
            self.confirm(now, claim.clone());
        } else if !self.budget.take(now) {
            return;
        } else {
            self.adopt(now, claim.clone(), Via::Datagram);
        }
        // To its face: it can refute before anybody else believes it.
        self.tell(claim.address, node, vec![claim]);
    }

    /// Ends the suspicions that nobody refuted in time.
    pub(super) fn bury_overdue(&mut self, now: Now) {
        if self.contact.is_frozen() || self.suspicions.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.judge_contact(now);
        if self.contact.is_frozen() {
            return;
        }
        for node in self.suspicions.overdue(now) {
            if let Some(accuser) = self.suspicions.get(node).and_then(Suspicion::unconfirmed) {
                self.ask_again(now, node, accuser);
                continue;
            }
            self.suspicions.remove(node);
            let Some(member) = self.members.get(node) else { continue };
            let claim = Claim { state: MemberState::Failed, from: self.me.node, ..member.claim() };
            self.adopt(now, claim, Via::Datagram);
        }
    }

    /// Nobody has confirmed the accusation in all its time: the suspect gets that time again, and others are asked anew.
    fn ask_again(&mut self, now: Now, node: NodeId, accuser: NodeId) {
        self.suspicions.restart(now, node);
        if accuser != self.me.node {
            return self.offer_second_opinion(now, node, accuser);
        }
        self.start_probe(now, node);
        if let Some(claim) = self.members.get(node).map(Member::claim) {
            self.spread(now, claim);
        }
    }

    /// A claim about this host. It is alive, whatever is said, and it alone counts its incarnation.
    fn defend(&mut self, now: Now, claim: &Claim) -> Option<Claim> {
        if self.leaving.is_some() {
            return None;
        }
        let accused = claim.state != MemberState::Alive;
        let wrong = accused || claim.address != self.me.address || claim.name != self.me.name;
        let current = claim.incarnation > self.me.incarnation || (claim.incarnation == self.me.incarnation && wrong);
        let limit = INCARNATION_MAX.max(self.me.incarnation.saturating_add(INCARNATION_JUMP_MAX));
        if current && claim.incarnation < limit {
            self.me.incarnation = claim.incarnation + 1;
            self.signer.sign(&mut self.me);
            self.outputs.push_back(Output::IncarnationRaised(self.me.incarnation));
            if accused {
                self.health.worse(1);
            }
            self.spread(now, self.me.clone());
        }
        accused.then(|| self.me.clone())
    }

    /// What is held against `node`, to be told to it.
    pub(super) fn held_against(&self, node: NodeId) -> Vec<Claim> {
        let against = |member: &&Member| !matches!(member.state(), MemberState::Alive | MemberState::Unknown);
        self.members.get(node).filter(against).map(Member::claim).into_iter().collect()
    }

    /// True if a living host has taken the claim's name: it was reimaged, and this is its ghost.
    pub(super) fn is_replaced(&self, claim: &Claim) -> bool {
        let is_heir = |heir: &Member| {
            heir.state() == MemberState::Alive && *heir.name() == claim.name && heir.node() != claim.node
        };
        (self.me.state == MemberState::Alive && self.me.name == claim.name) || self.members.iter().any(is_heir)
    }

    /// Changes the table and tells the owner, in one place so that the two cannot differ.
    pub(super) fn write(&mut self, now: Now, claim: Claim) {
        self.outputs.push_back(Output::Changed {
            node: claim.node,
            name: claim.name.clone(),
            state: claim.state,
            address: claim.address,
            incarnation: claim.incarnation,
        });
        self.names_until = now + NAMES_COMPARED;
        self.members.set(now, &mut self.rng, claim);
    }
}

/// An incarnation that its host can still refute. Claims come with their host's proof, so only a host itself, or one that signs
/// nothing, can be so far off; accusations are held closer to what is known.
fn is_plausible(claim: &Claim, held: Option<u64>) -> bool {
    let near = held.is_some_and(|held| claim.incarnation <= held.saturating_add(INCARNATION_JUMP_MAX));
    let believable = claim.incarnation <= INCARNATION_MAX && (!is_accusation(claim) || held.is_none());
    near || believable
}

/// Said by others, so it may be wrong.
fn is_accusation(claim: &Claim) -> bool {
    matches!(claim.state, MemberState::Suspect | MemberState::Failed)
}

fn is_reachable(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeName;

    fn claim(incarnation: u64, state: MemberState) -> Claim {
        Claim {
            node: NodeId([1; 16]),
            name: NodeName::parse("n1").unwrap(),
            address: SocketAddr::from(([10, 0, 0, 1], 7946)),
            incarnation,
            state,
            from: NodeId([2; 16]),
            proof: Vec::new(),
        }
    }

    #[test]
    fn an_accusation_cannot_run_far_ahead_of_what_is_known() {
        assert!(is_plausible(&claim(8, MemberState::Suspect), Some(7)));
        assert!(!is_plausible(&claim(1 << 40, MemberState::Suspect), Some(7)));
        assert!(!is_plausible(&claim(u64::MAX, MemberState::Failed), None));
        assert!(!is_plausible(&claim(u64::MAX, MemberState::Alive), Some(7)));
    }

    #[test]
    fn a_host_that_had_to_refute_the_highest_lie_can_still_be_accused() {
        assert!(is_plausible(&claim(INCARNATION_MAX, MemberState::Alive), Some(7)));
        assert!(is_plausible(&claim(INCARNATION_MAX + 1, MemberState::Suspect), Some(INCARNATION_MAX)));
    }
}
