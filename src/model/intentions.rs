//! The intentions in force, ready to be asked: may this service call that one?
//!
//! Precedence: the intention whose destination is the more precise decides, and of those with the same the one whose source
//! is (a name before a glob, of globs the one with more letters, `*` last); of equally precise ones that both fit, the one
//! that denies. Where it has permissions, the first that fits the request decides; a request that none fits is left to the
//! default policy, and a call that is no request is refused, because it cannot be judged. Where no intention fits, the
//! default policy decides. A caller that is not known is only meant by the source `*`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::policy::SEEN_MAX;
use super::{Action, Change, Dot, Intention, NodeId, Policy, PolicyId, Revocation, ServiceName, Trust};

/// What is said about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What holds.
    pub winner: Arc<Policy>,
    /// What was decided at the same time elsewhere and does not hold, until somebody decides anew.
    pub losers: Vec<Arc<Policy>>,
}

/// All policies, as one host sees them. Built once for each change and shared from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intentions {
    default: Action,
    subjects: BTreeMap<PolicyId, Standing>,
    /// Those whose destination is one service, by it, the most precise first.
    by_name: HashMap<String, Vec<Arc<Intention>>>,
    /// The others, the most precise first.
    by_glob: Vec<Arc<Intention>>,
    revoked: Arc<HashSet<NodeId>>,
}

impl Default for Intentions {
    fn default() -> Intentions {
        Intentions::new(BTreeMap::new())
    }
}

/// May it?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It may.
    pub allowed: bool,
    /// Which rule says so.
    pub rule: Decided,
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// No intention fits.
    Default(Action),
    /// An intention without permissions.
    Intention(Arc<Intention>),
    /// One of an intention's permissions, counted from 0.
    Permission(Arc<Intention>, usize),
    /// None of this intention's permissions fits, so the default policy decides.
    Unmatched(Arc<Intention>, Action),
    /// This intention is about requests, and the call is none.
    NoRequest(Arc<Intention>),
    /// This intention is about paths, and services may read this one differently.
    Ambiguous(Arc<Intention>),
}

impl Decided {
    /// The intention, where one fits.
    pub fn intention(&self) -> Option<&Arc<Intention>> {
        match self {
            Decided::Default(_) => None,
            Decided::Intention(intention)
            | Decided::Permission(intention, _)
            | Decided::Unmatched(intention, _)
            | Decided::NoRequest(intention)
            | Decided::Ambiguous(intention) => Some(intention),
        }
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decided::Default(action) => write!(f, "no intention fits, and the default policy is {action}"),
            Decided::Intention(intention) => write!(f, "intention {intention}: {}", intention.action),
            Decided::Permission(intention, index) => {
                let action = intention.permissions.get(*index).map_or(Action::Deny, |permission| permission.action);
                write!(f, "intention {intention}, permission {}: {action}", index + 1)
            }
            Decided::Unmatched(intention, action) => {
                write!(f, "intention {intention} has no permission for it, and the default policy is {action}")
            }
            Decided::NoRequest(intention) => {
                write!(f, "intention {intention} is about HTTP requests, and this call is none that can be read")
            }
            Decided::Ambiguous(intention) => {
                write!(f, "intention {intention} is about paths, and this path can be read in several ways")
            }
        }
    }
}

impl Intentions {
    /// Compiles what is said about each subject.
    pub fn new(subjects: BTreeMap<PolicyId, Standing>) -> Intentions {
        let mut default = Action::Allow;
        let (mut all, mut revoked) = (Vec::new(), HashSet::new());
        for standing in subjects.values() {
            match &standing.winner.statement.change {
                Change::Default(action) => default = *action,
                Change::Intention(intention) => all.push(Arc::new(intention.clone())),
                Change::Revocation(revocation) => _ = revoked.insert(revocation.node),
                Change::Delete(_) | Change::Trust(_) | Change::Traffic(_) => {}
            }
        }
        all.sort_by(|one, other| {
            let precision = |each: &Intention| (each.destination.precision(), each.source.precision());
            let severity = |each: &Intention| Change::Intention(each.clone()).severity();
            (precision(other), severity(other))
                .cmp(&(precision(one), severity(one)))
                .then_with(|| one.id().cmp(&other.id()))
        });
        let (mut by_name, mut by_glob) = (HashMap::<String, Vec<_>>::new(), Vec::new());
        for intention in all {
            if intention.destination.is_exact() {
                by_name.entry(intention.destination.as_str().to_owned()).or_default().push(intention);
            } else {
                by_glob.push(intention);
            }
        }
        Intentions { default, subjects, by_name, by_glob, revoked: Arc::new(revoked) }
    }

    /// What holds where no intention fits.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// What is said about each subject, deletions too.
    pub fn subjects(&self) -> &BTreeMap<PolicyId, Standing> {
        &self.subjects
    }

    /// The intentions in force with what is said about each, by subject.
    pub fn list(&self) -> impl Iterator<Item = (&Intention, &Standing)> {
        self.subjects.values().filter_map(|standing| match &standing.winner.statement.change {
            Change::Intention(intention) => Some((intention, standing)),
            _ => None,
        })
    }

    /// The hosts that are not believed any more.
    pub fn revoked(&self) -> &Arc<HashSet<NodeId>> {
        &self.revoked
    }

    /// The same with what was said of each, and by whom.
    pub fn revocations(&self) -> impl Iterator<Item = (&Revocation, &Standing)> {
        self.subjects.values().filter_map(|standing| match &standing.winner.statement.change {
            Change::Revocation(revocation) => Some((revocation, standing)),
            _ => None,
        })
    }

    /// Which roots count and which hosts issue, if that was ever changed.
    pub fn trust(&self) -> Option<&Trust> {
        match &self.subjects.get(&PolicyId::Trust)?.winner.statement.change {
            Change::Trust(trust) => Some(trust),
            _ => None,
        }
    }

    /// How the next statement about a subject is named, and what it replaces, if it is made on this host now.
    pub fn next(&self, id: &PolicyId, writer: NodeId) -> (Dot, Vec<(NodeId, u64)>) {
        let mut seen: BTreeMap<NodeId, u64> = BTreeMap::new();
        let standing = self.subjects.get(id);
        for policy in standing.into_iter().flat_map(|standing| standing.losers.iter().chain([&standing.winner])) {
            let dot = policy.statement.dot;
            for (writer, lamport) in policy.statement.seen.iter().copied().chain([(dot.writer, dot.lamport)]) {
                let newest = seen.entry(writer).or_default();
                *newest = lamport.max(*newest);
            }
        }
        let lamport = seen.values().max().map_or(1, |newest| newest.saturating_add(1));
        while seen.len() > SEEN_MAX {
            // The oldest cannot win any more; it would be told as made at the same time, and no worse.
            let Some(oldest) = seen.iter().min_by_key(|(_, lamport)| **lamport).map(|(writer, _)| *writer) else {
                break;
            };
            seen.remove(&oldest);
        }
        (Dot { lamport, writer }, seen.into_iter().collect())
    }

    /// Judges a call. `request`: its method and target, where it is a request that can be read.
    pub fn judge(&self, caller: Option<&ServiceName>, service: &ServiceName, request: Option<(&str, &str)>) -> Verdict {
        let by_name = self.by_name.get(service.as_str()).into_iter().flatten();
        let by_glob = self.by_glob.iter().filter(|intention| intention.destination.fits(Some(service)));
        let Some(intention) = by_name.chain(by_glob).find(|intention| intention.source.fits(caller)) else {
            return Verdict { allowed: self.default == Action::Allow, rule: Decided::Default(self.default) };
        };
        let action_verdict = |action, rule| Verdict { allowed: action == Action::Allow, rule };
        let intention = intention.clone();
        if intention.permissions.is_empty() {
            return action_verdict(intention.action, Decided::Intention(intention));
        }
        let Some((method, target)) = request else {
            return Verdict { allowed: false, rule: Decided::NoRequest(intention) };
        };
        let needs_path = intention.permissions.iter().any(|permission| permission.path.is_some());
        let path = match judgeable_path(target) {
            Some(path) => path,
            None if needs_path => return Verdict { allowed: false, rule: Decided::Ambiguous(intention) },
            None => Cow::Borrowed(""),
        };
        let found = intention.permissions.iter().enumerate().find(|(_, permission)| {
            let fits_method = permission.methods.is_empty() || permission.methods.iter().any(|each| each == method);
            fits_method && permission.path.as_ref().is_none_or(|pattern| pattern.fits(&path))
        });
        match found {
            Some((index, permission)) => {
                action_verdict(permission.action, Decided::Permission(intention.clone(), index))
            }
            None => action_verdict(self.default, Decided::Unmatched(intention, self.default)),
        }
    }
}

/// The path of a request's target as every service reads it; `None` if services may read it differently.
///
/// Percent-encoding is taken off once (RFC 3986 §2.1). What could be read otherwise is given up rather than guessed: empty
/// segments, `.` and `..`, encoded slashes, backslashes, parameters (`;`), control characters, what is encoded twice, and
/// what is no UTF-8.
pub fn judgeable_path(target: &str) -> Option<Cow<'_, str>> {
    let raw = target.split('?').next().unwrap_or_default();
    let path = if raw.contains('%') { Cow::Owned(decode(raw)?) } else { Cow::Borrowed(raw) };
    let plain = |c: char| !c.is_control() && !matches!(c, '%' | ';' | '\\' | '#');
    let segments = path.split('/').all(|segment| segment != "." && segment != "..");
    (path.starts_with('/') && !path.contains("//") && segments && path.chars().all(plain)).then_some(path)
}

fn decode(raw: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
        if value == b'/' {
            return None;
        }
        decoded.push(value);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::{PathPattern, Permission, Statement};
    use super::*;

    fn policy(change: Change) -> (PolicyId, Standing) {
        let dot = Dot { lamport: 1, writer: NodeId([1; 16]) };
        let signed = Bytes::from(format!("{change:?}").into_bytes());
        let statement = Statement { dot, seen: Vec::new(), operator: "anna".into(), at_unix_s: 0, change };
        let policy = Arc::new(Policy { statement, is_vouched: false, body: signed.clone(), signed });
        (policy.id(), Standing { winner: policy, losers: Vec::new() })
    }

    fn intention(source: &str, destination: &str, action: Action) -> Intention {
        Intention {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            action,
            permissions: Vec::new(),
            description: String::new(),
        }
    }

    fn permission(action: Action, methods: &[&str], path: Option<&str>) -> Permission {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Permission { action, methods, path: path.map(|path| PathPattern::parse(path).unwrap()) }
    }

    fn compiled(default: Action, all: &[Intention]) -> Intentions {
        let intentions = all.iter().cloned().map(Change::Intention).map(policy);
        Intentions::new(intentions.chain([policy(Change::Default(default))]).collect())
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    fn decided(intentions: &Intentions, caller: Option<&str>, called: &str) -> (bool, String) {
        let caller = caller.map(service);
        let verdict = intentions.judge(caller.as_ref(), &service(called), None);
        (verdict.allowed, verdict.rule.to_string())
    }

    #[test]
    fn without_any_policy_everybody_may_call_everybody() {
        let verdict = Intentions::default().judge(None, &service("billing"), None);
        assert_eq!(verdict, Verdict { allowed: true, rule: Decided::Default(Action::Allow) });
    }

    #[test]
    fn the_more_precise_destination_decides_and_then_the_more_precise_source() {
        use Action::{Allow, Deny};
        let all = [
            intention("*", "*", Deny),
            intention("web", "*", Allow),
            intention("*", "bil*", Deny),
            intention("web-*", "billing", Allow),
            intention("*", "billing", Deny),
            intention("web-9", "billing", Deny),
        ];
        let intentions = compiled(Allow, &all);
        let expected = [
            (Some("web-9"), "billing", false, "intention web-9 -> billing: deny"),
            (Some("web-1"), "billing", true, "intention web-* -> billing: allow"),
            (Some("web"), "billing", false, "intention * -> billing: deny"),
            (None, "billing", false, "intention * -> billing: deny"),
            (Some("web"), "bills", false, "intention * -> bil*: deny"),
            (Some("web"), "users", true, "intention web -> *: allow"),
            (None, "users", false, "intention * -> *: deny"),
        ];
        for (caller, called, allowed, rule) in expected {
            assert_eq!(decided(&intentions, caller, called), (allowed, rule.to_owned()), "{caller:?} -> {called}");
        }
    }

    #[test]
    fn of_two_globs_as_precise_the_one_that_denies_decides() {
        let all = [intention("a*", "x", Action::Allow), intention("*b", "x", Action::Deny)];
        assert!(!decided(&compiled(Action::Allow, &all), Some("ab"), "x").0);
    }

    #[test]
    fn the_default_policy_decides_where_nothing_fits() {
        let intentions = compiled(Action::Deny, &[intention("web", "billing", Action::Allow)]);
        assert!(decided(&intentions, Some("web"), "billing").0);
        let (allowed, rule) = decided(&intentions, None, "billing");
        assert!(!allowed && rule == "no intention fits, and the default policy is deny", "{rule}");
    }

    #[test]
    fn the_first_permission_that_fits_decides_and_else_the_default_policy() {
        use Action::{Allow, Deny};
        let mut users = intention("*", "users", Deny);
        users.permissions = vec![
            permission(Deny, &[], Some("/v1/admin/*")),
            permission(Allow, &["GET", "HEAD"], Some("/v1/*")),
            permission(Allow, &["POST"], Some("/v1/login")),
        ];
        for (default, unmatched) in [(Allow, true), (Deny, false)] {
            let intentions = compiled(default, std::slice::from_ref(&users));
            for (method, target, allowed) in [
                ("GET", "/v1/users?admin=/v1/admin/", true),
                ("GET", "/v1/admin/keys", false),
                ("GET", "/v1/%61dmin/keys", false),
                ("POST", "/v1/login", true),
                ("POST", "/v1/login/", unmatched),
                ("get", "/v1/users", unmatched),
                ("GET", "/v2", unmatched),
                ("GET", "/v1/x/../admin/keys", false),
                ("GET", "/v1//admin/keys", false),
                ("GET", "/v1/%2e%2e/v1/admin/keys", false),
                ("GET", "/v1%2fadmin/keys", false),
                ("GET", "/v1/admin;x=1/keys", false),
                ("GET", "*", false),
            ] {
                let verdict = intentions.judge(None, &service("users"), Some((method, target)));
                assert_eq!(verdict.allowed, allowed, "{method} {target}: {}", verdict.rule);
            }
            let verdict = intentions.judge(None, &service("users"), None);
            assert!(!verdict.allowed && matches!(verdict.rule, Decided::NoRequest(_)));
        }
    }

    #[test]
    fn methods_alone_do_not_ask_for_a_plain_path() {
        let mut users = intention("*", "users", Action::Deny);
        users.permissions = vec![permission(Action::Allow, &["GET"], None)];
        let intentions = compiled(Action::Deny, &[users]);
        let judge = |method| intentions.judge(None, &service("users"), Some((method, "/a//b;c"))).allowed;
        assert!(judge("GET") && !judge("POST"));
    }

    #[test]
    fn paths_that_services_read_differently_are_given_up() {
        for (target, path) in [
            ("/", "/"),
            ("/a/b?c=//..", "/a/b"),
            ("/a%20b", "/a b"),
            ("/gr%C3%B6sse", "/grösse"),
            ("/a.b/..c", "/a.b/..c"),
        ] {
            assert_eq!(judgeable_path(target).as_deref(), Some(path));
        }
        for target in [
            "",
            "a",
            "*",
            "/..",
            "/.",
            "/a/.",
            "//",
            "/a//",
            "/%2e%2E/a",
            "/a%2Fb",
            "/a\\b",
            "/a%5cb",
            "/a%00",
            "/%252e",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/a;b",
            "/a%3bb",
            "/a#b",
        ] {
            assert_eq!(judgeable_path(target), None, "{target}");
        }
    }

    #[test]
    fn the_next_statement_replaces_all_that_is_known() {
        let (id, mut standing) = policy(Change::Default(Action::Deny));
        let other = Dot { lamport: 7, writer: NodeId([2; 16]) };
        let mut loser = Policy::clone(&standing.winner);
        loser.statement.dot = other;
        loser.statement.seen = vec![(NodeId([3; 16]), 5)];
        standing.losers.push(Arc::new(loser.clone()));
        let intentions = Intentions::new([(id.clone(), standing.clone())].into());
        let (dot, seen) = intentions.next(&id, NodeId([9; 16]));
        assert_eq!(dot, Dot { lamport: 8, writer: NodeId([9; 16]) });
        assert_eq!(seen, [(NodeId([1; 16]), 1), (NodeId([2; 16]), 7), (NodeId([3; 16]), 5)]);
        let next = Statement { dot, seen, ..loser.statement.clone() };
        assert!(next.replaces(&loser.statement) && next.replaces(&standing.winner.statement) && next.check().is_ok());
        assert_eq!(Intentions::default().next(&id, NodeId([9; 16])).0.lamport, 1);
    }

    proptest! {
        #[test]
        fn a_path_that_is_judged_has_nothing_to_be_read_otherwise(target in "[/.%a2fFeE5c;?]{0,12}") {
            if let Some(path) = judgeable_path(&target) {
                prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains("/../") && !path.ends_with("/.."));
                prop_assert!(!path.contains(['%', ';', '\\']));
            }
        }
    }
}
