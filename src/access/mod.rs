//! Who may use this host's API, and what was done with it: tokens, their roles, and the audit log.
//!
//! Data comes in from `acl.json` in the data directory, written by `weft acl` and read again by the agent whenever it has
//! changed, and goes out as what a presented token may do ([`Tokens`]). What the API did is given to [`Audit`], which appends
//! it to `audit.log` in a thread of its own. Secrets are kept nowhere: a token is held as its SHA-256.

mod audit;
mod file;
mod role;
mod token;

pub use audit::{AUDIT_FILE, Audit, Entry, Outcome, append, read_audit};
pub use role::{Role, RoleError, ServiceGlob};
pub use token::{AclError, Created, TOKEN_CHARS_MAX, Token, Tokens, Unknown, acl_create, acl_delete, acl_list};
