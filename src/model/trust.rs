//! What the cluster believes: the roots that certificates may lead to, the hosts that issue them, and the hosts that are not
//! believed any more. All three are policies: signed, spread by gossip, and held against every certificate from then on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::{DESCRIPTION_BYTES_MAX, PolicyError};
use super::{NodeId, NodeName};

/// The one in use, the one to come or to go, and one that somebody forgot to retire.
pub const ROOTS_MAX: usize = 3;
/// A root has less than 1 KiB; one with RSA 4096 has 2.
const ROOT_BYTES_MAX: usize = 4 * 1024;
/// Two are enough for a fleet; one a site is plenty.
pub const ISSUERS_MAX: usize = 16;

/// A host is not believed any more. There is no way back for it but a new identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Which: the hash of its record key, so that no certificate of it, old or renewed, is of use.
    pub node: NodeId,
    /// What it was called, for people.
    pub name: NodeName,
    /// Why, for people.
    pub reason: String,
}

impl Revocation {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.reason.len() > DESCRIPTION_BYTES_MAX || self.reason.chars().any(char::is_control) {
            let max = DESCRIPTION_BYTES_MAX;
            return Err(PolicyError::TooMany { what: "printable characters in its reason", max });
        }
        Ok(())
    }
}

/// Which roots count, and which hosts issue.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trust {
    /// Certificates, DER. Those that lead to any of them hold; new ones lead to the first.
    pub roots: Vec<Vec<u8>>,
    /// Hosts that issue certificates, the one that keeps the root's key first.
    pub issuers: Vec<NodeId>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For logs: the roots' bytes would say nothing to anybody.
        write!(f, "Trust({} roots, issuers", self.roots.len())?;
        self.issuers.iter().try_for_each(|issuer| write!(f, " {issuer}"))?;
        f.write_str(")")
    }
}

impl Trust {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        let wrong = |why| Err(PolicyError::Contradiction(why));
        if self.roots.is_empty() || self.roots.iter().any(Vec::is_empty) {
            return wrong("a cluster without a root");
        }
        if self.roots.len() > ROOTS_MAX {
            return Err(PolicyError::TooMany { what: "roots", max: ROOTS_MAX });
        }
        if self.roots.iter().any(|root| root.len() > ROOT_BYTES_MAX) {
            return wrong("a root of more than 4 KiB");
        }
        if self.issuers.is_empty() {
            return wrong("a cluster in which nobody issues certificates");
        }
        if self.issuers.len() > ISSUERS_MAX {
            return Err(PolicyError::TooMany { what: "issuers", max: ISSUERS_MAX });
        }
        let twice = |number: usize, issuer: &NodeId| self.issuers[..number].contains(issuer);
        if self.issuers.iter().enumerate().any(|(number, issuer)| twice(number, issuer)) {
            return wrong("an issuer is named twice");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_names_roots_and_issuers_and_not_too_many() {
        let good = Trust { roots: vec![vec![1; 600]], issuers: vec![NodeId([1; 16]), NodeId([2; 16])] };
        assert_eq!(good.check(), Ok(()));
        let many = |count: u8| (0..count).map(|number| NodeId([number; 16])).collect();
        for wrong in [
            Trust { roots: Vec::new(), ..good.clone() },
            Trust { roots: vec![Vec::new()], ..good.clone() },
            Trust { roots: vec![vec![1]; ROOTS_MAX + 1], ..good.clone() },
            Trust { roots: vec![vec![1; ROOT_BYTES_MAX + 1]], ..good.clone() },
            Trust { issuers: Vec::new(), ..good.clone() },
            Trust { issuers: vec![NodeId([1; 16]); 2], ..good.clone() },
            Trust { issuers: many(17), ..good },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_reason_is_a_printable_line() {
        let revocation = |reason: &str| {
            let name = NodeName::parse("web-01").unwrap();
            Revocation { node: NodeId([1; 16]), name, reason: reason.to_owned() }.check()
        };
        assert_eq!(revocation("stolen from the rack"), Ok(()));
        assert!(revocation("a\nb").is_err() && revocation(&"x".repeat(513)).is_err());
    }
}
