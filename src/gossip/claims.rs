//! Claims of membership are checked here, before the owner sees them: what their host did not sign is dropped, counted, and its
//! teller named in the log.
//!
//! Claims come in from datagrams and streams and go out without those that prove nothing. What was checked before costs a look at
//! a table. The starts that hosts prove with their claims go to the receive task, which keeps the seal's keys.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Counters;
use crate::model::{Claim, MemberState, NodeId, NodeName};

/// Checks one claim. Gives the start that its host proves with it, if it proves one, or why it is not believed: `unsigned`, `malformed`,
/// `other_host`, `signature` or `revoked`.
pub type CheckClaim = Arc<dyn Fn(&Claim) -> Result<Option<u64>, &'static str> + Send + Sync>;

/// Wrong claims that one teller may make over streams within a second; the rest of its new claims is dropped until the second ends.
/// A check costs about 50 µs, and an honest host makes none.
const OFFENCES_MAX: u32 = 50;
/// Claims of datagrams that are checked within a second: a fifth of a processor. The key that seals datagrams may be stolen, and then
/// a teller's name is any name: to ignore one would be to ignore the host whose name it is, and its word against what is said of
/// it. Streams name their teller by certificate, and bring what datagrams do not.
const CHECKS_MAX: u32 = 4_000;
/// Claims checked in one go; then others have their turn.
const CHECKS_AT_ONCE: usize = 64;
/// Hosts in each half of the table of checked claims: above the largest cluster planned for.
const HOSTS_KEPT: usize = 16_384;
/// Claims kept of one host: its word of now, and the one before that is still passed round.
const CLAIMS_KEPT: usize = 2;
/// Tellers and reasons named in the log; the rest is only counted.
const NAMED_MAX: usize = 4_096;
/// Proven starts that wait for the receive task, which takes them with the next packet.
const STARTS_MAX: usize = 16_384;

/// The parts of a claim that its host signed, and how it was checked.
#[derive(Debug, Clone)]
struct Checked {
    name: NodeName,
    address: std::net::SocketAddr,
    incarnation: u64,
    /// Left: by whose word. Else the host is alive, or accused.
    left: Option<NodeId>,
    proof: Vec<u8>,
}

impl Checked {
    fn of(claim: &Claim) -> Checked {
        Checked {
            name: claim.name.clone(),
            address: claim.address,
            incarnation: claim.incarnation,
            left: (claim.state == MemberState::Left).then_some(claim.from),
            proof: claim.proof.clone(),
        }
    }

    fn is(&self, claim: &Claim) -> bool {
        // An `Alive` is said by its host alone; accusations are said by anybody.
        let own = claim.state != MemberState::Alive || claim.from == claim.node;
        own && self.left == (claim.state == MemberState::Left).then_some(claim.from)
            && self.incarnation == claim.incarnation
            && self.address == claim.address
            && self.name == claim.name
            && self.proof == claim.proof
    }
}

#[derive(Default)]
struct Table {
    /// The older half goes when the younger is full.
    young: HashMap<NodeId, Vec<Checked>>,
    old: HashMap<NodeId, Vec<Checked>>,
    second: Option<Instant>,
    checks: u32,
    offences: HashMap<NodeId, u32>,
    named: HashSet<(NodeId, &'static str)>,
    starts: HashMap<NodeId, u64>,
}

/// What all tasks of the driver check claims with.
pub(super) struct Claims {
    check: CheckClaim,
    counters: Arc<Counters>,
    table: Mutex<Table>,
    has_starts: AtomicBool,
}

/// How the claims came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Datagram,
    Stream,
}

impl Claims {
    pub(super) fn new(check: CheckClaim, counters: Arc<Counters>) -> Claims {
        Claims { check, counters, table: Mutex::default(), has_starts: AtomicBool::new(false) }
    }

    /// The claims of a datagram that was sealed in `teller`'s name, but for those that prove nothing.
    pub(super) fn of_datagram(&self, teller: NodeId, claims: Vec<Claim>) -> Vec<Claim> {
        let now = Instant::now();
        claims.into_iter().filter(|claim| self.is_proven(now, teller, claim, Via::Datagram)).collect()
    }

    /// The claims of a stream whose other end has proven to be `teller`. Thousands may be new at once: the others' tasks go on.
    pub(super) async fn of_stream(&self, teller: NodeId, claims: Vec<Claim>) -> Vec<Claim> {
        let mut proven = Vec::with_capacity(claims.len());
        for (claim, number) in claims.into_iter().zip(1_usize..) {
            if self.is_proven(Instant::now(), teller, &claim, Via::Stream) {
                proven.push(claim);
            }
            if number.is_multiple_of(CHECKS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        proven
    }

    /// The starts that hosts have proven since the last call.
    pub(super) fn take_starts(&self) -> HashMap<NodeId, u64> {
        if !self.has_starts.swap(false, Ordering::Relaxed) {
            return HashMap::new();
        }
        std::mem::take(&mut self.table().starts)
    }

    fn is_proven(&self, now: Instant, teller: NodeId, claim: &Claim, via: Via) -> bool {
        // What a host holds from its store only: it means nothing to others.
        if claim.state == MemberState::Unknown {
            return false;
        }
        {
            let mut table = self.table();
            if table.holds(claim) {
                return true;
            }
            table.turn(now);
            let is_over_rate = match via {
                Via::Datagram => table.checks >= CHECKS_MAX,
                Via::Stream => table.offences.get(&teller).is_some_and(|wrong| *wrong >= OFFENCES_MAX),
            };
            if is_over_rate {
                self.counters.claims_refused_over_rate.increment();
                return false;
            }
            table.checks += u32::from(via == Via::Datagram);
        }
        // Not under the lock: it takes its time.
        let checked = (self.check)(claim);
        let mut table = self.table();
        match checked {
            Ok(start) => {
                table.keep(claim);
                if let Some(start) = start.filter(|_| table.starts.len() < STARTS_MAX) {
                    let proven = table.starts.entry(claim.node).or_insert(start);
                    *proven = (*proven).max(start);
                    self.has_starts.store(true, Ordering::Relaxed);
                }
                true
            }
            Err(reason) => {
                if via == Via::Stream {
                    *table.offences.entry(teller).or_default() += 1;
                }
                let news = table.named.len() < NAMED_MAX && table.named.insert((teller, reason));
                let named = |node| table.name(node).map(ToString::to_string).unwrap_or_default();
                if news {
                    let (name, about) = (named(teller), named(claim.node));
                    warn!(
                        %teller, name, about = %claim.node, about_name = about, state = %claim.state, reason,
                        "claims that this host makes, or somebody who has the gossip key makes in its name, are dropped"
                    );
                }
                drop(table);
                self.counters.claim_refused(reason);
                false
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that is done under the lock panics half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn holds(&mut self, claim: &Claim) -> bool {
        if self.young.get(&claim.node).is_some_and(|held| held.iter().any(|held| held.is(claim))) {
            return true;
        }
        let known = self.old.get(&claim.node).is_some_and(|held| held.iter().any(|held| held.is(claim)));
        if known {
            self.keep(claim);
        }
        known
    }

    fn keep(&mut self, claim: &Claim) {
        if self.young.len() >= HOSTS_KEPT && !self.young.contains_key(&claim.node) {
            self.old = std::mem::take(&mut self.young);
        }
        let held = self.young.entry(claim.node).or_default();
        held.truncate(CLAIMS_KEPT - 1);
        held.insert(0, Checked::of(claim));
    }

    /// What is counted within a second begins anew after it.
    fn turn(&mut self, now: Instant) {
        if self.second.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.checks = 0;
            self.offences.clear();
        }
    }

    fn name(&self, node: NodeId) -> Option<&NodeName> {
        let held = self.young.get(&node).or_else(|| self.old.get(&node))?;
        held.first().map(|checked| &checked.name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const TELLER: NodeId = NodeId([9; 16]);

    fn claim(number: usize, proof: &[u8]) -> Claim {
        let node = NodeId(*(number as u128 + 100).to_be_bytes().first_chunk().unwrap());
        Claim {
            node,
            name: NodeName::parse("web").unwrap(),
            address: ([10, 0, 0, 1], 7946).into(),
            incarnation: 1,
            state: MemberState::Alive,
            from: node,
            proof: proof.to_vec(),
        }
    }

    /// What says "good" is believed; all checks are counted.
    fn bench() -> (Claims, Arc<AtomicUsize>, Arc<Counters>) {
        let (checks, counters) = (Arc::new(AtomicUsize::new(0)), Arc::<Counters>::default());
        let counted = checks.clone();
        let check: CheckClaim = Arc::new(move |claim: &Claim| {
            counted.fetch_add(1, Ordering::Relaxed);
            if claim.proof == b"good" { Ok(Some(5)) } else { Err("signature") }
        });
        (Claims::new(check, counters.clone()), checks, counters)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_checked_is_not_checked_again_unless_anything_of_it_changed() {
        let (claims, checks, _) = bench();
        let known = claim(1, b"good");
        for _ in 0..3 {
            assert_eq!(claims.of_datagram(TELLER, vec![known.clone()]).len(), 1);
            assert_eq!(claims.of_stream(TELLER, vec![known.clone()]).await.len(), 1);
        }
        let accused = Claim { state: MemberState::Suspect, from: TELLER, ..known.clone() };
        assert_eq!(claims.of_datagram(TELLER, vec![accused]).len(), 1, "it carries what was checked");
        assert_eq!(checks.load(Ordering::Relaxed), 1);
        for changed in [
            Claim { incarnation: 2, ..known.clone() },
            Claim { address: ([10, 0, 0, 2], 7946).into(), ..known.clone() },
            Claim { state: MemberState::Left, ..known.clone() },
            Claim { from: TELLER, ..known.clone() },
            Claim { proof: b"bad".to_vec(), ..known.clone() },
        ] {
            let before = checks.load(Ordering::Relaxed);
            claims.of_datagram(TELLER, vec![changed.clone()]);
            assert_eq!(checks.load(Ordering::Relaxed), before + 1, "{changed:?}");
        }
        assert_eq!(claims.take_starts(), HashMap::from([(known.node, 5)]));
        assert!(claims.take_starts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_claims_are_dropped_and_counted_and_cost_no_more_than_so_much_a_second() {
        let (claims, checks, counters) = bench();
        for round in 1..=3_usize {
            let forged: Vec<Claim> = (0..1_000).map(|number| claim(round * 1_000 + number, b"forged")).collect();
            assert!(claims.of_stream(TELLER, forged).await.is_empty());
            assert_eq!(checks.load(Ordering::Relaxed), round * OFFENCES_MAX as usize);
            assert_eq!(
                claims.of_stream(NodeId([8; 16]), vec![claim(round, b"good")]).await.len(),
                1,
                "others are heard"
            );
            checks.fetch_sub(1, Ordering::Relaxed);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(counters.claims_refused_signature.get(), 3 * u64::from(OFFENCES_MAX));
        assert_eq!(counters.claims_refused_over_rate.get(), 3 * (1_000 - u64::from(OFFENCES_MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_claims_in_a_hosts_name_do_not_keep_its_true_ones_out() {
        let (claims, _, _) = bench();
        let forged: Vec<Claim> = (0..1_000).map(|number| claim(number, b"forged")).collect();
        assert!(claims.of_datagram(TELLER, forged).is_empty());
        assert_eq!(claims.of_datagram(TELLER, vec![claim(2_000, b"good")]).len(), 1);
        assert_eq!(claims.of_stream(TELLER, vec![claim(2_001, b"good")]).await.len(), 1, "nor those of its streams");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_in_ever_new_names_is_bounded_too_and_what_is_known_is_still_heard() {
        let (claims, checks, _) = bench();
        let known = claim(0, b"good");
        claims.of_datagram(TELLER, vec![known.clone()]);
        for number in 1..10_000 {
            let forged = claim(number, b"forged");
            assert!(claims.of_datagram(forged.node, vec![forged.clone()]).is_empty());
        }
        assert_eq!(checks.load(Ordering::Relaxed), CHECKS_MAX as usize);
        assert_eq!(claims.of_datagram(TELLER, vec![known]).len(), 1);
        assert_eq!(
            claims.of_stream(TELLER, vec![claim(20_000, b"good")]).await.len(),
            1,
            "streams have room of their own"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let (claims, _, _) = bench();
        for number in 0..HOSTS_KEPT * 3 {
            claims.of_stream(TELLER, vec![claim(number, b"good")]).await;
        }
        let table = claims.table();
        assert!(table.young.len() <= HOSTS_KEPT && table.old.len() <= HOSTS_KEPT && table.starts.len() <= STARTS_MAX);
    }
}
