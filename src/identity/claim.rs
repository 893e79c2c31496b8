//! Claims of membership, signed: what a host says of itself (that it is alive, and where; that it leaves) carries a proof made
//! with its record key. A node id is that key's hash, so a claim proves itself: no certificate and no list is needed.
//!
//! Claims come in from `swim` to be signed and from the gossip driver to be checked; proofs and verdicts go out. Which of two
//! proven claims wins is `swim`'s. `docs/adr/0011-signed-claims.md` says why so.
//!
//! ```text
//! proof      public key 32 │ epoch 8, big endian │ signature 64
//! signed     "weft claim 1\0" │ length 2 │ cluster │ node 16 │ length 1 │ name │ ip 16 │ port 2 │ incarnation 8 │ epoch 8
//!            │ state 1 (1 alive, 2 left)
//! sent away  the proof above, for alive │ public key 32 │ signature 64 of who sends it away, over
//!            "weft send away 1\0" │ length 2 │ cluster │ node 16 │ incarnation 8
//! ```
//!
//! `Alive` and `Left` carry the host's proof for that state. `Suspect` and `Failed` are said by others and are not signed: they
//! carry the proof of the `Alive` that they speak of, so that name, address and incarnation are the host's own words whoever
//! passes them on. The epoch counts the host's starts and is that of its sealed packets.

use std::net::IpAddr;

use super::record_key::{RecordKey, node_id_of, verify};
use crate::model::{Claim, MemberState, SIGNATURE_BYTES};

const CONTEXT: &[u8] = b"weft claim 1\0";
const CONTEXT_AWAY: &[u8] = b"weft send away 1\0";

const KEY_BYTES: usize = 32;
const EPOCH_BYTES: usize = 8;
/// A host's proof of what it says of itself.
const PROOF_BYTES: usize = KEY_BYTES + EPOCH_BYTES + SIGNATURE_BYTES;
/// What another host adds that sends it away.
const AWAY_BYTES: usize = KEY_BYTES + SIGNATURE_BYTES;

/// Why a claim is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// An agent that does not sign made it.
    #[error("a claim without a proof; upgrade the agent of the host that it speaks of")]
    Unsigned,
    /// Not of a form that this agent reads.
    #[error("a claim with a proof that this agent cannot read")]
    Malformed,
    /// The key is not the one that the node id is the hash of.
    #[error("a claim with the proof of another host")]
    OtherHost,
    /// The signature does not cover what the claim says.
    #[error("a claim that its host did not sign")]
    Signature,
}

impl ClaimError {
    /// The label of the counter.
    pub fn as_str(self) -> &'static str {
        match self {
            ClaimError::Unsigned => "unsigned",
            ClaimError::Malformed => "malformed",
            ClaimError::OtherHost => "other_host",
            ClaimError::Signature => "signature",
        }
    }
}

/// The proof of a claim that the key's host makes: about itself, or that another has left, whose own proof `claim` carries.
pub fn prove_claim(key: &RecordKey, cluster: &str, epoch: u64, claim: &Claim) -> Vec<u8> {
    if claim.node != key.node_id() {
        let mut proof = claim.proof.clone();
        proof.truncate(PROOF_BYTES);
        proof.extend(key.public());
        proof.extend(key.sign(&away_bytes(cluster, claim)));
        return proof;
    }
    let left = claim.state == MemberState::Left;
    let mut proof = key.public().to_vec();
    proof.extend(epoch.to_be_bytes());
    proof.extend(key.sign(&signed_bytes(cluster, claim, epoch, left)));
    proof
}

/// Checks a claim that came from the network. Gives the epoch that its host proves with it.
pub fn verify_claim(cluster: &str, claim: &Claim) -> Result<u64, ClaimError> {
    if claim.proof.is_empty() {
        return Err(ClaimError::Unsigned);
    }
    let (own, away) = claim.proof.split_at_checked(PROOF_BYTES).ok_or(ClaimError::Malformed)?;
    let left = match claim.state {
        MemberState::Unknown => return Err(ClaimError::Malformed),
        MemberState::Alive if claim.from != claim.node => return Err(ClaimError::OtherHost),
        MemberState::Alive | MemberState::Suspect | MemberState::Failed => false,
        MemberState::Left => claim.from == claim.node,
    };
    let sent_away = claim.state == MemberState::Left && !left;
    if away.len() != if sent_away { AWAY_BYTES } else { 0 } {
        return Err(ClaimError::Malformed);
    }
    let (public, rest) = own.split_first_chunk::<KEY_BYTES>().ok_or(ClaimError::Malformed)?;
    let (epoch, signature) = rest.split_first_chunk::<EPOCH_BYTES>().ok_or(ClaimError::Malformed)?;
    let epoch = u64::from_be_bytes(*epoch);
    if node_id_of(public) != claim.node {
        return Err(ClaimError::OtherHost);
    }
    if !verify(public, &signed_bytes(cluster, claim, epoch, left), signature) {
        return Err(ClaimError::Signature);
    }
    if sent_away {
        let (public, signature) = away.split_first_chunk::<KEY_BYTES>().ok_or(ClaimError::Malformed)?;
        if node_id_of(public) != claim.from {
            return Err(ClaimError::OtherHost);
        }
        if !verify(public, &away_bytes(cluster, claim), signature) {
            return Err(ClaimError::Signature);
        }
    }
    Ok(epoch)
}

fn put_cluster(bytes: &mut Vec<u8>, cluster: &str) {
    bytes.extend(u16::try_from(cluster.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(cluster.as_bytes());
}

fn signed_bytes(cluster: &str, claim: &Claim, epoch: u64, left: bool) -> Vec<u8> {
    let name = claim.name.as_str().as_bytes();
    let ip = match claim.address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = CONTEXT.to_vec();
    put_cluster(&mut bytes, cluster);
    bytes.extend(claim.node.as_bytes());
    // A name is a label of DNS: 63 bytes at most.
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name);
    bytes.extend(ip.octets());
    bytes.extend(claim.address.port().to_be_bytes());
    bytes.extend(claim.incarnation.to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes.push(if left { 2 } else { 1 });
    bytes
}

fn away_bytes(cluster: &str, claim: &Claim) -> Vec<u8> {
    let mut bytes = CONTEXT_AWAY.to_vec();
    put_cluster(&mut bytes, cluster);
    bytes.extend(claim.node.as_bytes());
    bytes.extend(claim.incarnation.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::*;
    use crate::model::{NodeId, NodeName};

    const CLUSTER: &str = "prod";

    fn claim(key: &RecordKey, state: MemberState) -> Claim {
        let mut claim = Claim {
            node: key.node_id(),
            name: NodeName::parse("web-01").unwrap(),
            address: SocketAddr::from(([10, 0, 0, 1], 7946)),
            incarnation: 7,
            state,
            from: key.node_id(),
            proof: Vec::new(),
        };
        claim.proof = prove_claim(key, CLUSTER, 3, &claim);
        claim
    }

    fn accusation(of: &Claim, by: &RecordKey, state: MemberState) -> Claim {
        Claim { state, from: by.node_id(), ..of.clone() }
    }

    #[test]
    fn what_a_host_says_of_itself_is_proven_with_the_epoch() {
        let key = RecordKey::generate().unwrap();
        for state in [MemberState::Alive, MemberState::Left] {
            assert_eq!(verify_claim(CLUSTER, &claim(&key, state)), Ok(3));
        }
        let v6 = Claim { address: "[2001:db8::1]:7946".parse().unwrap(), ..claim(&key, MemberState::Alive) };
        let v6 = Claim { proof: prove_claim(&key, CLUSTER, 3, &v6), ..v6 };
        assert_eq!(verify_claim(CLUSTER, &v6), Ok(3));
    }

    #[test]
    fn nothing_of_a_signed_claim_can_be_changed() {
        let (key, other) = (RecordKey::generate().unwrap(), RecordKey::generate().unwrap());
        let held = claim(&key, MemberState::Alive);
        let forged = [
            (Claim { incarnation: 8, ..held.clone() }, ClaimError::Signature),
            (Claim { address: SocketAddr::from(([10, 0, 0, 66], 7946)), ..held.clone() }, ClaimError::Signature),
            (Claim { address: SocketAddr::from(([10, 0, 0, 1], 7947)), ..held.clone() }, ClaimError::Signature),
            (Claim { name: NodeName::parse("web-02").unwrap(), ..held.clone() }, ClaimError::Signature),
            (Claim { node: other.node_id(), from: other.node_id(), ..held.clone() }, ClaimError::OtherHost),
            (Claim { state: MemberState::Left, ..held.clone() }, ClaimError::Signature),
            (Claim { state: MemberState::Left, from: other.node_id(), ..held.clone() }, ClaimError::Malformed),
            (Claim { from: other.node_id(), ..held.clone() }, ClaimError::OtherHost),
            (Claim { proof: Vec::new(), ..held.clone() }, ClaimError::Unsigned),
            (Claim { proof: held.proof[1..].to_vec(), ..held.clone() }, ClaimError::Malformed),
            (Claim { state: MemberState::Unknown, ..held.clone() }, ClaimError::Malformed),
            // Signed by another, who names himself or the host.
            (
                Claim { proof: prove_claim(&other, CLUSTER, 3, &claim(&other, MemberState::Alive)), ..held.clone() },
                ClaimError::OtherHost,
            ),
        ];
        for (forged, why) in forged {
            assert_eq!(verify_claim(CLUSTER, &forged), Err(why), "{forged:?}");
        }
        assert_eq!(verify_claim("test", &held), Err(ClaimError::Signature), "another cluster's");
        for bit in 0..held.proof.len() * 8 {
            let mut bent = held.clone();
            bent.proof[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_claim(CLUSTER, &bent).is_err(), "bit {bit}");
        }
        let gone = claim(&key, MemberState::Left);
        let back = Claim { state: MemberState::Alive, ..gone };
        assert_eq!(verify_claim(CLUSTER, &back), Err(ClaimError::Signature), "who left is not alive by its goodbye");
    }

    #[test]
    fn an_accusation_is_anybodys_but_only_of_what_its_host_has_said() {
        let (key, accuser) = (RecordKey::generate().unwrap(), RecordKey::generate().unwrap());
        let held = claim(&key, MemberState::Alive);
        for state in [MemberState::Suspect, MemberState::Failed] {
            let accused = accusation(&held, &accuser, state);
            assert_eq!(verify_claim(CLUSTER, &accused), Ok(3));
            assert!(verify_claim(CLUSTER, &Claim { incarnation: 8, ..accused.clone() }).is_err());
            assert!(verify_claim(CLUSTER, &Claim { address: ([10, 0, 0, 66], 1).into(), ..accused }).is_err());
        }
    }

    #[test]
    fn who_sends_a_host_away_signs_for_it() {
        let (key, sender, other) =
            (RecordKey::generate().unwrap(), RecordKey::generate().unwrap(), RecordKey::generate().unwrap());
        let mut away = accusation(&claim(&key, MemberState::Alive), &sender, MemberState::Left);
        away.proof = prove_claim(&sender, CLUSTER, 9, &away);
        assert_eq!(verify_claim(CLUSTER, &away), Ok(3));
        assert!(away.proof.len() <= 256, "the wire's limit");
        let blamed = Claim { from: other.node_id(), ..away.clone() };
        assert_eq!(verify_claim(CLUSTER, &blamed), Err(ClaimError::OtherHost), "nobody is made its sender");
        let mut bent = away;
        *bent.proof.last_mut().unwrap() ^= 1;
        assert_eq!(verify_claim(CLUSTER, &bent), Err(ClaimError::Signature));
    }

    #[test]
    fn what_a_thousand_claims_cost_is_told() {
        let keys: Vec<RecordKey> = (0..1000).map(|_| RecordKey::generate().unwrap()).collect();
        let started = Instant::now();
        let claims: Vec<Claim> = keys.iter().map(|key| claim(key, MemberState::Alive)).collect();
        let signed = started.elapsed();
        let started = Instant::now();
        assert!(claims.iter().all(|claim| verify_claim(CLUSTER, claim).is_ok()));
        println!("1,000 claims: signed in {signed:?}, verified in {:?}", started.elapsed());
    }

    #[test]
    fn a_node_id_of_all_zeros_is_no_back_door() {
        let key = RecordKey::generate().unwrap();
        let nobody = Claim { node: NodeId([0; 16]), from: NodeId([0; 16]), ..claim(&key, MemberState::Alive) };
        assert_eq!(verify_claim(CLUSTER, &nobody), Err(ClaimError::OtherHost));
    }
}
