//! Who a host is: CA, join tokens, node certificates, record keys, and the TLS configurations made of them; and which
//! program of the host is calling (`attest`).
//!
//! Data comes in from the files under the data directory (`ca/` on issuers, `identity/` on every host) and, while a host
//! enrols, from one connection to its issuer. It goes out as [`Identity`], [`TlsContexts`] and [`PeerIdentity`]. Nothing
//! here listens, decides who may call what, or knows of the catalog; private keys never leave this room.

mod attest;
mod ca;
mod certificate;
mod claim;
mod enroll;
mod error;
mod exchange;
mod files;
#[doc(hidden)]
pub mod fuzzed;
mod installed;
mod issue;
mod issued;
mod keyring;
mod ledger;
mod operator;
mod peer;
mod record_key;
mod rotation;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod trust;

pub use attest::{Attestor, Groups};
pub use ca::{CaOptions, CaSummary, GivenCa, ca_init, fingerprint};
pub use certificate::NODE_DNS_NAME;
pub use claim::{ClaimError, prove_claim, verify_claim};
pub use enroll::{Enrolled, Enrolling, become_issuer, enroll, renew, replace_roots, trusts_next_root};
pub use error::IdentityError;
pub use exchange::RefusalCode;
pub use installed::Identity;
pub use issue::{EnrollOutcome, serve_enroll};
pub use issued::{IssuedCertificate, issued_list};
pub use keyring::{new_gossip_key, save_keyring};
pub use operator::{Operator, OperatorSummary, PolicyRefused, Voucher, operator_create};
pub use peer::{PeerError, PeerIdentity};
pub use record_key::{RecordKey, node_id_of, verify_record};
pub use rotation::{CaState, ca_root, ca_state, issues_under, rotation_begin, rotation_switch};
pub use tls::{AcceptError, Accepted, Alpn, TlsContexts, accept_mesh, server_config_for};
pub use token::{TokenInfo, token_create, token_list, token_revoke};
pub use trust::{ClusterTrust, issuer_of, root_of};
