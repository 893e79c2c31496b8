//! What operators decide for the whole cluster: who may call whom, what holds where nobody has said anything, which hosts are
//! no longer believed, which roots the cluster trusts ([`super::trust`]), and how calls are carried ([`super::traffic_policy`]).
//!
//! A [`Statement`] is what an operator signs. Several may be made at once, on hosts that do not hear of each other; which of
//! them holds is decided in `policy`, from the statements alone. Texts come in through `parse`-style constructors, and a
//! statement of another host through [`Statement::check`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::traffic_policy::TrafficStatement;
use super::trust::{Revocation, Trust};
use super::{NodeId, ServiceName, glob_matches};

/// As long as a service's name may be.
const PATTERN_BYTES_MAX: usize = 63;
/// Permissions of one intention: each is looked at for each request.
pub const PERMISSIONS_MAX: usize = 64;
/// Methods of one permission.
pub const METHODS_MAX: usize = 16;
/// The longest method that anybody registered has 17 letters (IANA: `UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 32;
/// A path that a rule names.
const PATH_BYTES_MAX: usize = 512;
/// For people.
pub const DESCRIPTION_BYTES_MAX: usize = 512;
/// An operator's name, and a cluster's.
const NAME_BYTES_MAX: usize = 63;
/// Hosts on which one subject was ever decided about, as far as a statement tells.
pub const SEEN_MAX: usize = 64;

/// Why a text is no part of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither a service's name nor a glob over such.
    #[error(
        "{0:?} is neither a service's name nor a glob over names; use lower-case letters, digits, '-', '_' and '*', at most 63"
    )]
    Pattern(String),
    /// No path.
    #[error(
        "{0:?} is no path for a rule: begin with '/', end with '*' for all that begins so, and leave out '//', '.', '..', '%', ';', '\\\\' and other '*'"
    )]
    Path(String),
    /// No method.
    #[error("{0:?} is no method; use one like GET, in capitals")]
    Method(String),
    /// Over a limit.
    #[error("more {what} than the {max} that one intention may have")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A text over a limit.
    #[error("a {what} over the limit of {max} bytes; say less")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A statement that contradicts itself.
    #[error("a policy that contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The call is carried.
    Allow,
    /// The call is refused.
    Deny,
}

impl Action {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! checked_text {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = PolicyError;

            fn from_str(text: &str) -> Result<$name, PolicyError> {
                $name::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                $name::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A service's name, or a glob over such: `billing`, `web-*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);
checked_text!(Pattern);

impl Pattern {
    /// Checks the text.
    pub fn parse(text: &str) -> Result<Pattern, PolicyError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'*');
        let is_exact = !text.contains('*');
        let fits = !text.is_empty() && text.len() <= PATTERN_BYTES_MAX && text.bytes().all(allowed);
        if !fits || (is_exact && ServiceName::parse(text).is_err()) {
            return Err(PolicyError::Pattern(text.chars().take(80).collect()));
        }
        Ok(Pattern(text.into()))
    }

    /// True if it names one service.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// True for `*`, in whatever number.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// True if it stands for this service. Nobody in particular is only meant by `*`.
    pub fn fits(&self, service: Option<&ServiceName>) -> bool {
        match service {
            Some(service) => glob_matches(&self.0, service.as_str()),
            None => self.is_any(),
        }
    }

    /// The more precise, the higher: a name before a glob, and of globs the one that says more of the name.
    pub fn precision(&self) -> (bool, usize) {
        (self.is_exact(), self.0.bytes().filter(|byte| *byte != b'*').count())
    }
}

/// A path, or with a `*` at its end all paths that begin so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(Arc<str>);
checked_text!(PathPattern);

impl PathPattern {
    /// Checks the text.
    pub fn parse(text: &str) -> Result<PathPattern, PolicyError> {
        let literal = text.strip_suffix('*').unwrap_or(text);
        let plain = |c: char| !c.is_control() && !matches!(c, '*' | '%' | ';' | '\\' | '?' | '#');
        let segments = literal.split('/').all(|segment| segment != "." && segment != "..");
        let fits = literal.starts_with('/') && text.len() <= PATH_BYTES_MAX && !literal.contains("//");
        if fits && segments && literal.chars().all(plain) {
            return Ok(PathPattern(text.into()));
        }
        Err(PolicyError::Path(text.chars().take(80).collect()))
    }

    /// True if it fits the path, which must have been made plain ([`super::judgeable_path`]).
    pub fn fits(&self, path: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => *self.0 == *path,
        }
    }

    /// The path, and whether it stands for all that begin so.
    pub fn parts(&self) -> (&str, bool) {
        self.0.strip_suffix('*').map_or((&self.0, false), |prefix| (prefix, true))
    }
}

/// One of an intention's rules for requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// What becomes of requests that it fits.
    pub action: Action,
    /// Methods; none: any.
    pub methods: Vec<String>,
    /// Paths; `None`: any.
    pub path: Option<PathPattern>,
}

/// Whether one service may call another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intention {
    /// Who calls.
    pub source: Pattern,
    /// Who is called.
    pub destination: Pattern,
    /// What becomes of calls; without meaning where there are permissions.
    pub action: Action,
    /// For requests, the first that fits decides; those that none fits are left to the default policy.
    pub permissions: Vec<Permission>,
    /// For people.
    pub description: String,
}

impl Intention {
    /// What it is about.
    pub fn id(&self) -> PolicyId {
        PolicyId::Intention { source: self.source.clone(), destination: self.destination.clone() }
    }

    fn check(&self) -> Result<(), PolicyError> {
        let too_many = |what, max| Err(PolicyError::TooMany { what, max });
        if self.permissions.len() > PERMISSIONS_MAX {
            return too_many("permissions", PERMISSIONS_MAX);
        }
        if self.description.len() > DESCRIPTION_BYTES_MAX || self.description.chars().any(char::is_control) {
            return too_many("printable characters in its description", DESCRIPTION_BYTES_MAX);
        }
        for permission in &self.permissions {
            if permission.methods.len() > METHODS_MAX {
                return too_many("methods", METHODS_MAX);
            }
            if let Some(wrong) = permission.methods.iter().find(|method| !is_method(method)) {
                return Err(PolicyError::Method(wrong.chars().take(40).collect()));
            }
            if permission.methods.is_empty() && permission.path.is_none() {
                return Err(PolicyError::Contradiction("a permission names neither methods nor a path"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Intention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.destination)
    }
}

/// True of a request's method as rules name them.
pub fn is_method(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    !text.is_empty() && text.len() <= METHOD_BYTES_MAX && text.bytes().all(fits)
}

/// What a policy is about. There is one policy at a time for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyId {
    /// What holds where no intention fits.
    Default,
    /// Calls from these services to those.
    Intention {
        /// Who calls.
        source: Pattern,
        /// Who is called.
        destination: Pattern,
    },
    /// Whether a host is still believed.
    Revocation(NodeId),
    /// Which roots count, and which hosts issue.
    Trust,
    /// How calls of a service are carried.
    Traffic(ServiceName),
}

impl PolicyId {
    /// The key of its records: at most 138 bytes.
    pub fn key(&self) -> Bytes {
        match self {
            PolicyId::Default => Bytes::from_static(b"default"),
            PolicyId::Intention { source, destination } => {
                Bytes::from(format!("intention/{source}/{destination}").into_bytes())
            }
            PolicyId::Revocation(node) => Bytes::from(format!("revocation/{node}").into_bytes()),
            PolicyId::Trust => Bytes::from_static(b"trust"),
            PolicyId::Traffic(service) => Bytes::from(format!("traffic/{service}").into_bytes()),
        }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyId::Default => f.write_str("the default policy"),
            PolicyId::Intention { source, destination } => write!(f, "intention {source} -> {destination}"),
            PolicyId::Revocation(node) => write!(f, "revocation of {node}"),
            PolicyId::Trust => f.write_str("the trusted roots"),
            PolicyId::Traffic(service) => write!(f, "the traffic policy of {service}"),
        }
    }
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This holds where no intention fits.
    Default(Action),
    /// This intention holds.
    Intention(Intention),
    /// There is no such intention any more; of the default policy: it is not set.
    Delete(PolicyId),
    /// A host is not believed any more, for good.
    Revocation(Revocation),
    /// Which roots count, and which hosts issue. Only issuers may say so.
    Trust(Trust),
    /// How calls of a service are carried.
    Traffic(TrafficStatement),
}

impl Change {
    /// What it is about.
    pub fn id(&self) -> PolicyId {
        match self {
            Change::Default(_) => PolicyId::Default,
            Change::Intention(intention) => intention.id(),
            Change::Delete(id) => id.clone(),
            Change::Revocation(revocation) => PolicyId::Revocation(revocation.node),
            Change::Trust(_) => PolicyId::Trust,
            Change::Traffic(statement) => PolicyId::Traffic(statement.service.clone()),
        }
    }

    /// Of decisions made at once the one that forbids more wins.
    pub fn severity(&self) -> u8 {
        match self {
            Change::Default(Action::Deny) | Change::Revocation(_) => 2,
            Change::Intention(Intention { permissions, .. }) if !permissions.is_empty() => 1,
            Change::Intention(Intention { action: Action::Deny, .. }) => 2,
            Change::Default(Action::Allow) | Change::Intention(_) | Change::Delete(_) => 0,
            Change::Trust(_) | Change::Traffic(_) => 0,
        }
    }
}

/// Names a statement: when, by Lamport's clock, and on which host it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Greater than that of all that it replaces (Lamport 1978).
    pub lamport: u64,
    /// The host where the operator decided.
    pub writer: NodeId,
}

/// What an operator decided and signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Its name among those of the same subject.
    pub dot: Dot,
    /// What it replaces: of each host the newest statement about the subject that was known where it was made (a version
    /// vector: Parker et al. 1983). Sorted by host.
    pub seen: Vec<(NodeId, u64)>,
    /// Who decided, as their certificate has it.
    pub operator: String,
    /// When, in seconds since 1970, by the clock of where it was signed. For people: nothing is decided by it.
    pub at_unix_s: u64,
    /// What.
    pub change: Change,
}

impl Statement {
    /// True if this one was made knowing that one.
    pub fn replaces(&self, other: &Statement) -> bool {
        self.seen.iter().any(|(writer, lamport)| *writer == other.dot.writer && *lamport >= other.dot.lamport)
    }

    /// Checks what its types do not say.
    pub fn check(&self) -> Result<(), PolicyError> {
        let wrong = |why| Err(PolicyError::Contradiction(why));
        if self.seen.len() > SEEN_MAX {
            return Err(PolicyError::TooMany { what: "hosts that decided about it before", max: SEEN_MAX });
        }
        if self.seen.iter().any(|(_, lamport)| *lamport >= self.dot.lamport) {
            return wrong("it is older than what it replaces");
        }
        if !self.seen.is_sorted_by(|one, other| one.0 < other.0) {
            return wrong("what it replaces is out of order");
        }
        if self.operator.is_empty() || self.operator.len() > NAME_BYTES_MAX {
            return wrong("its operator has no name, or a long one");
        }
        match &self.change {
            Change::Intention(intention) => intention.check(),
            Change::Delete(PolicyId::Revocation(_)) => wrong("a revocation is for good"),
            Change::Delete(PolicyId::Trust) => wrong("a cluster trusts something"),
            Change::Default(_) | Change::Delete(_) => Ok(()),
            Change::Revocation(revocation) => revocation.check(),
            Change::Trust(trust) => trust.check(),
            Change::Traffic(statement) => statement.check(self.at_unix_s),
        }
    }
}

/// A statement with the proof that an operator made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it says.
    pub statement: Statement,
    /// An issuer vouches for it, whose certificate lasts longer than an operator's.
    pub is_vouched: bool,
    /// Statement, certificates and signature, as a record's body has them.
    pub body: Bytes,
    /// The statement as it was signed.
    pub signed: Bytes,
}

impl Policy {
    /// What it is about.
    pub fn id(&self) -> PolicyId {
        self.statement.change.id()
    }

    /// True if both are the same statement, whoever vouches for it.
    pub fn is_same(&self, other: &Policy) -> bool {
        self.signed == other.signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_or_globs() {
        for good in ["web", "web-*", "*", "*-api", "w_b9"] {
            assert_eq!(Pattern::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Web", "web.*", "-web", "a/b", "node", &"x".repeat(64)] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
        let precision = |text| Pattern::parse(text).unwrap().precision();
        assert!(
            precision("a") > precision("web-api-*")
                && precision("web-*") > precision("w*")
                && precision("w*") > precision("*")
        );
        let web = ServiceName::parse("web").unwrap();
        assert!(Pattern::parse("**").unwrap().fits(None) && !Pattern::parse("web*").unwrap().fits(None));
        assert!(Pattern::parse("w*").unwrap().fits(Some(&web)) && !Pattern::parse("we").unwrap().fits(Some(&web)));
    }

    #[test]
    fn paths_of_rules_are_plain() {
        for good in ["/", "/*", "/v1/users", "/v1/*", "/v1*", "/größe/*"] {
            assert!(PathPattern::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "v1/*", "/a//b", "/a/../b", "/./a", "/a/..", "/a%2fb", "/a;b", "/*/b", "/a?b", "/a\\b"] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_statement_must_be_newer_than_what_it_replaces() {
        let dot = Dot { lamport: 2, writer: NodeId([1; 16]) };
        let change = Change::Default(Action::Deny);
        let good = Statement { dot, seen: vec![(NodeId([2; 16]), 1)], operator: "anna".into(), at_unix_s: 0, change };
        assert_eq!(good.check(), Ok(()));
        let old = Statement { seen: vec![(NodeId([2; 16]), 2)], ..good.clone() };
        let twice = Statement { seen: vec![(NodeId([2; 16]), 1); 2], ..good.clone() };
        let nobody = Statement { operator: String::new(), ..good };
        for wrong in [old, twice, nobody] {
            assert!(matches!(wrong.check(), Err(PolicyError::Contradiction(_))));
        }
    }

    #[test]
    fn a_key_names_the_subject_and_fits_a_record() {
        let longest = "x".repeat(63);
        let id = PolicyId::Intention { source: longest.parse().unwrap(), destination: longest.parse().unwrap() };
        assert!(id.key().len() <= super::super::RECORD_KEY_BYTES_MAX);
        assert_eq!(&PolicyId::Default.key()[..], b"default");
    }
}
