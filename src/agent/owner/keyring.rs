//! Whom an order about the gossip keyring concerns.

use super::Owner;
use crate::agent::keyring::Member;
use crate::model::Claim;

impl Owner {
    /// Every member, this host included.
    pub(in crate::agent) fn roster(&self) -> Vec<Member> {
        let member =
            |claim: Claim| Member { node: claim.node, name: claim.name, address: claim.address, state: claim.state };
        self.swim.members().map(member).collect()
    }
}
