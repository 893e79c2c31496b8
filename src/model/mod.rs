//! The vocabulary of Weft: what a node, a service, an instance and a record are, what hosts say to each other, and the
//! [`Directory`], the immutable snapshot that every reader sees.
//!
//! Plain data with checked constructors. Nothing here opens a socket or a file, reads a clock, or knows of a runtime.
//! Data comes in through `parse`-style constructors and never changes meaning afterwards.

mod caller;
mod directory;
mod glob;
mod id;
mod instance;
mod intentions;
mod membership;
mod name;
mod policy;
mod quarantined;
mod record;
mod replication;
mod resilience;
mod tap;
mod traffic;
mod traffic_policy;
mod trust;

pub use caller::{CallerKeys, CallerRule, CallerUser, CallerVerdict, Callers, Program};
pub use directory::{Directory, Freshness, Node, Service, VipTarget};
pub use glob::glob_matches;
pub use id::{NodeId, NodeIdError};
pub use instance::{CheckStatus, Health, Instance, NodeFacts, Protocol, Weights};
pub use intentions::{Decided, Intentions, Standing, Verdict, judgeable_path};
pub use membership::{CLAIM_PROOF_BYTES, Claim, MemberState, Probe, ProtocolVersions, SwimMessage};
pub use name::{NameError, NodeName, ServiceId, ServiceName, Tag};
pub use policy::{
    Action, Change, DESCRIPTION_BYTES_MAX, Dot, Intention, METHODS_MAX, PERMISSIONS_MAX, PathPattern, Pattern,
    Permission, Policy, PolicyError, PolicyId, SEEN_MAX, Statement, is_method,
};
pub use quarantined::Quarantined;
pub use record::{
    Header, RECORD_BYTES_MAX, RECORD_KEY_BYTES_MAX, Record, RecordError, RecordId, RecordKind, SIGNATURE_BYTES, Version,
};
pub use replication::{BUCKETS, BucketDigest, CatalogMessage, OriginSummary, RecordRef, Want};
pub use resilience::{
    Algorithm, Balance, HashKey, Limits, Outlier, PLATFORM_DEFAULT, Retries, Route, Share, Subset, Timeouts,
    TrafficPolicies, TrafficPolicy, platform_of,
};
pub use tap::{TapCode, TapError, TapFilter, TapHead};
pub use traffic::{BUCKET_BOUNDS_US, Direction, Edge, Pressure, Traffic};
pub use traffic_policy::{
    PastStatement, TRAFFIC_DOCUMENT_BYTES_MAX, TRIAL_SECONDS_MAX, TrafficAccount, TrafficStatement, Trial, TrialHere,
};
pub use trust::{ISSUERS_MAX, ROOTS_MAX, Revocation, Trust};

/// A point in time: the duration since the agent's start (or the simulation's). Cores take it as an argument and never
/// ask a clock.
pub type Now = std::time::Duration;
