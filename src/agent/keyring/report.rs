//! What the keyrings of all hosts come to: counts for each key, and in one sentence how far a rotation is. Pure.

use crate::api::{KeyState, KeyringReport, Silent};
use crate::wire::keyring::{Fingerprint, Keyring, KeyringStatus};

/// Hosts named in a sentence; all of them stand in the report.
const NAMED_MAX: usize = 8;

/// One host, and what it says of its keyring or why that is not known.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) status: Result<KeyringStatus, String>,
}

impl Host {
    pub(super) fn holds(&self, key: Fingerprint) -> bool {
        self.status.as_ref().is_ok_and(|status| status.holds(key))
    }

    pub(super) fn primary(&self) -> Option<Fingerprint> {
        self.status.as_ref().ok().and_then(KeyringStatus::primary)
    }
}

/// All hosts by name: those that count as there, and those that have failed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) hosts: Vec<Host>,
    pub(super) away: Vec<String>,
}

impl Answers {
    /// Names of those of which it is not known that it is so: they say otherwise, or nothing.
    pub(super) fn lacking(&self, so: impl Fn(&Host) -> bool) -> Vec<&str> {
        let lacking = self.hosts.iter().filter(|host| host.status.is_err() || !so(host));
        lacking.map(|host| host.name.as_str()).collect()
    }

    /// Names of those that answered and of which it is so.
    pub(super) fn matching(&self, so: impl Fn(&Host) -> bool) -> Vec<&str> {
        let matching = self.hosts.iter().filter(|host| host.status.is_ok() && so(host));
        matching.map(|host| host.name.as_str()).collect()
    }

    fn answered_without(&self, so: impl Fn(&Host) -> bool) -> Vec<&str> {
        self.matching(|host| !so(host))
    }
}

/// Some names, and how many more there are.
pub(super) fn names(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Every key that any host told of, those of this host first.
fn keys(own: &Keyring, answers: &Answers) -> Vec<Fingerprint> {
    let mut keys = own.status().keys;
    for host in &answers.hosts {
        for key in host.status.iter().flat_map(|status| &status.keys) {
            if !keys.contains(key) {
                keys.push(*key);
            }
        }
    }
    keys
}

/// The whole report, from this host's keyring and what all said.
pub(super) fn report(own: &Keyring, answers: &Answers) -> KeyringReport {
    let keys = keys(own, answers);
    let (state, sentence, next) = stage(own, answers, &keys);
    let key_state = |key: &Fingerprint| KeyState {
        fingerprint: key.to_string(),
        held: answers.matching(|host| host.holds(*key)).len(),
        primary: answers.matching(|host| host.primary() == Some(*key)).len(),
        lacking: answers.answered_without(|host| host.holds(*key)).into_iter().map(str::to_owned).collect(),
    };
    let silent = answers.hosts.iter().filter_map(|host| {
        let why = host.status.as_ref().err()?;
        Some(Silent { node: host.name.clone(), why: why.clone() })
    });
    let silent: Vec<Silent> = silent.collect();
    KeyringReport {
        state,
        sentence,
        next,
        members: answers.hosts.len(),
        answered: answers.hosts.len() - silent.len(),
        keys: keys.iter().map(key_state).collect(),
        silent,
        away: answers.away.clone(),
    }
}

/// How far a rotation is, and what comes next.
fn stage(own: &Keyring, answers: &Answers, keys: &[Fingerprint]) -> (&'static str, String, Option<String>) {
    let primary = own.primary();
    let wait = "weft keyring list, until every host has answered".to_owned();
    let sealing_otherwise = answers.answered_without(|host| host.primary() == Some(primary));
    if !sealing_otherwise.is_empty() {
        let sentence = format!("{primary} does not seal everywhere yet; not on {}", names(&sealing_otherwise));
        return ("switching", sentence, Some(format!("weft keyring use {primary}")));
    }
    let others = || keys.iter().filter(|key| **key != primary);
    if let Some(newer) = others().find(|key| own.awaits_use(**key)) {
        let lacking = answers.answered_without(|host| host.holds(*newer));
        if !lacking.is_empty() {
            let sentence = format!("{newer} is installed, but not on {}", names(&lacking));
            return ("installing", sentence, Some(wait));
        }
        let sentence = format!("{newer} is installed on every host that answered, and seals nothing yet");
        return ("installed", sentence, Some(format!("weft keyring use {newer}")));
    }
    if let Some(older) = others().find(|key| own.holds(**key)) {
        let sentence = format!("{primary} seals on every host that answered; {older} is still accepted");
        return ("switched", sentence, Some(format!("weft keyring remove {older}")));
    }
    if let Some(leftover) = others().next() {
        let holding = answers.matching(|host| host.holds(*leftover));
        let sentence = format!("{leftover} is not in this host's keyring, but still held by {}", names(&holding));
        return ("removing", sentence, Some(wait));
    }
    ("settled", format!("No rotation is under way: {primary} is the only key"), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;
    use crate::wire::seal::GossipKey;

    const WRITER: NodeId = NodeId([1; 16]);

    fn key(number: u8) -> (GossipKey, Fingerprint) {
        (GossipKey([number; 32]), Fingerprint::of(&GossipKey([number; 32])))
    }

    fn answers(hosts: &[(&str, Option<&Keyring>)]) -> Answers {
        let host = |(name, keyring): &(&str, Option<&Keyring>)| {
            let status = keyring.map(Keyring::status).ok_or_else(|| "no connection".to_owned());
            Host { name: (*name).to_owned(), status }
        };
        Answers { hosts: hosts.iter().map(host).collect(), away: vec!["z".to_owned()] }
    }

    #[test]
    fn each_step_of_a_rotation_names_the_next() {
        let ((first_key, first), (second_key, second)) = (key(1), key(2));
        let start = Keyring::new(first_key);
        let installed = start.install(second_key, WRITER).unwrap();
        let used = installed.choose(second, WRITER).unwrap();
        let removed = used.remove(first, WRITER).unwrap();
        let told = |own: &Keyring, other: &Keyring| {
            let report = report(own, &answers(&[("a", Some(own)), ("b", Some(other))]));
            (report.state, report.next.unwrap_or_default())
        };
        let wait = "weft keyring list, until every host has answered";
        assert_eq!(told(&start, &start), ("settled", String::new()));
        assert_eq!(told(&installed, &start), ("installing", wait.to_owned()));
        assert_eq!(told(&installed, &installed), ("installed", format!("weft keyring use {second}")));
        assert_eq!(told(&used, &installed), ("switching", format!("weft keyring use {second}")));
        assert_eq!(told(&used, &used), ("switched", format!("weft keyring remove {first}")));
        assert_eq!(told(&removed, &used), ("removing", wait.to_owned()));
        assert_eq!(told(&removed, &removed), ("settled", String::new()));
    }

    #[test]
    fn who_lacks_a_key_who_is_silent_and_who_is_away_are_told_apart() {
        let (first_key, first) = key(1);
        let (second_key, second) = key(2);
        let start = Keyring::new(first_key);
        let installed = start.install(second_key, WRITER).unwrap();
        let report = report(&installed, &answers(&[("a", Some(&installed)), ("b", Some(&start)), ("c", None)]));
        assert_eq!((report.members, report.answered), (3, 2));
        let states: Vec<_> = report.keys.iter().map(|key| (key.held, key.primary, key.lacking.clone())).collect();
        assert_eq!(states, [(2, 2, vec![]), (1, 0, vec!["b".to_owned()])]);
        assert_eq!(report.keys[0].fingerprint, first.to_string());
        assert_eq!(report.keys[1].fingerprint, second.to_string());
        assert_eq!(report.silent, [Silent { node: "c".into(), why: "no connection".into() }]);
        assert_eq!(report.away, ["z"]);
    }

    #[test]
    fn a_sentence_names_a_few_and_counts_the_rest() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&["x"; 10]), "x, x, x, x, x, x, x, x and 2 more");
    }
}
