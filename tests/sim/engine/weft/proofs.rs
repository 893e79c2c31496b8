//! A cheap stand-in for signed claims: as long as real proofs, and as hard to bend, but that anybody who reads this can make
//! one. Scenarios do not: their liars have what hosts have said, and nothing else.
//!
//! Fleets of thousands go without ([`super::Setup::signed`]): a proof for each of 10^8 pairs is more than a machine has. There
//! everything is believed, and sizes are counted as if proofs were there.

use weft::model::{Claim, MemberState};

/// A real proof: key, epoch, signature.
pub(crate) const PROOF_BYTES: usize = 104;
/// What a host adds that sends another away: key, signature.
const AWAY_BYTES: usize = 96;

/// FNV-1a.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn padded(word: u64, length: usize) -> Vec<u8> {
    let mut proof = word.to_be_bytes().to_vec();
    proof.resize(length, 0);
    proof
}

fn own(claim: &Claim, left: bool) -> Vec<u8> {
    let address = claim.address.to_string();
    let incarnation = claim.incarnation.to_be_bytes();
    let parts =
        [&claim.node.0[..], claim.name.as_str().as_bytes(), address.as_bytes(), &incarnation, &[u8::from(left)]];
    padded(hash(&parts), PROOF_BYTES)
}

fn away(claim: &Claim) -> Vec<u8> {
    padded(hash(&[&claim.from.0, &claim.node.0, &claim.incarnation.to_be_bytes()]), AWAY_BYTES)
}

/// As `identity::prove_claim`: what the host of the process signs.
pub(crate) fn prove(claim: &Claim) -> Vec<u8> {
    if claim.from == claim.node {
        return own(claim, claim.state == MemberState::Left);
    }
    [claim.proof.get(..PROOF_BYTES).unwrap_or_default(), &away(claim)].concat()
}

/// As `identity::verify_claim`.
pub(crate) fn is_proven(claim: &Claim) -> bool {
    match claim.state {
        MemberState::Unknown => false,
        MemberState::Alive => claim.from == claim.node && claim.proof == own(claim, false),
        MemberState::Suspect | MemberState::Failed => claim.proof == own(claim, false),
        MemberState::Left if claim.from == claim.node => claim.proof == own(claim, true),
        MemberState::Left => claim.proof == [own(claim, false), away(claim)].concat(),
    }
}
