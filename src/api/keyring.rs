//! `/v1/operator/keyring`, in Consul's shape: `GET` lists, `POST` installs, `PUT` makes primary, `DELETE` removes, each with
//! `{"Key": ...}`. In place of keys Weft tells their fingerprints, and takes them where a key is only named.
//!
//! Requests come in; a checked [`KeyringOrder`] goes to the agent, which asks every host; its [`KeyringReport`] goes out under
//! `Weft`. What changes something takes the unix socket or an operator's token, whatever `[api] writes` says: other writes
//! concern this host, a key that its giver knows would open the gossip of all to every program of one host.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Command;
use super::answer::Answer;
use super::audited::Subject;
use super::request::Asked;
use super::responder::Shared;
use crate::wire::keyring::Fingerprint;
use crate::wire::seal::GossipKey;

/// The agent gives itself 20 s to ask every host; the command line waits 30.
const ORDER_MAX: Duration = Duration::from_secs(25);
const ALLOWED: &str = "GET, POST, PUT, DELETE";

/// What is to be done with the gossip keys of every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyringOrder {
    /// Tell which keys there are.
    List,
    /// Give every host this key, for opening packets.
    Install(GossipKey),
    /// Have every host seal with this key.
    Use {
        /// Which.
        key: Fingerprint,
        /// Even if a host does not answer, or lacks it.
        force: bool,
    },
    /// Have every host forget this key.
    Remove {
        /// Which.
        key: Fingerprint,
        /// Even if a host does not answer.
        force: bool,
    },
}

impl fmt::Display for KeyringOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyringOrder::List => f.write_str("list"),
            KeyringOrder::Install(key) => write!(f, "install {}", Fingerprint::of(key)),
            KeyringOrder::Use { key, .. } => write!(f, "use {key}"),
            KeyringOrder::Remove { key, .. } => write!(f, "remove {key}"),
        }
    }
}

/// One key, on all hosts that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyState {
    /// What it is called.
    pub fingerprint: String,
    /// On how many hosts it opens packets.
    pub held: usize,
    /// On how many hosts it seals them.
    pub primary: usize,
    /// Names of the hosts that answered and do not hold it.
    pub lacking: Vec<String>,
}

/// A host that should have answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// Its name.
    pub node: String,
    /// Why there is no answer.
    pub why: String,
}

/// The keyrings of all hosts, as they answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyringReport {
    /// `settled`, `installing`, `installed`, `switching`, `switched` or `removing`.
    pub state: &'static str,
    /// The same for people.
    pub sentence: String,
    /// What to do about it.
    pub next: Option<String>,
    /// Hosts that count as members, this one included.
    pub members: usize,
    /// Those of them that answered.
    pub answered: usize,
    /// The primary of this host first, then the latest first.
    pub keys: Vec<KeyState>,
    /// Members that did not answer.
    pub silent: Vec<Silent>,
    /// Hosts that have failed; they get the keyring when they come back.
    pub away: Vec<String>,
}

/// Why an order was not carried out, or not everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such key; nothing has changed.
    NotFound,
    /// It would cut hosts off; nothing has changed.
    Conflict,
    /// It should have worked; nothing has changed.
    Failed,
    /// It is done here, and not on every host.
    Incomplete,
}

/// An order that was not carried out, or not everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringRefused {
    /// In which way.
    pub refusal: Refusal,
    /// Why, and what to do.
    pub sentence: String,
    /// How things stand, where that is known.
    pub report: Option<Box<KeyringReport>>,
}

/// What comes of an order.
pub type KeyringAnswer = Result<KeyringReport, KeyringRefused>;
/// Where it goes.
pub type KeyringReply = oneshot::Sender<KeyringAnswer>;

/// What is asked of the keyring; the key is still to come in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    List,
    Install,
    Use { force: bool },
    Remove { force: bool },
}

/// `None`: the path is another.
pub(super) fn decide(asked: &Asked) -> Option<Result<Wanted, Answer>> {
    let ["v1", "operator", "keyring"] = asked.segments().as_slice() else { return None };
    let force = match asked.query.switch("force") {
        Ok(force) => force,
        Err(value) => return Some(Err(bad(&format!("Invalid value for force: {value:?} is no boolean")))),
    };
    Some(match asked.method {
        Method::GET => Ok(Wanted::List),
        Method::POST => Ok(Wanted::Install),
        Method::PUT => Ok(Wanted::Use { force }),
        Method::DELETE => Ok(Wanted::Remove { force }),
        _ => Err(Answer::method_not_allowed(ALLOWED)),
    })
}

fn bad(sentence: &str) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, sentence)
}

impl Wanted {
    fn order(self, body: &[u8]) -> Result<KeyringOrder, Answer> {
        let order = match self {
            Wanted::List => KeyringOrder::List,
            Wanted::Install => KeyringOrder::Install(key_in(body)?.parse().map_err(|error| bad(&format!("{error}")))?),
            Wanted::Use { force } => KeyringOrder::Use { key: named(&key_in(body)?)?, force },
            Wanted::Remove { force } => KeyringOrder::Remove { key: named(&key_in(body)?)?, force },
        };
        Ok(order)
    }
}

/// The body of every write: `{"Key": "..."}`, the name in any case as Go reads it. What it holds is never repeated.
fn key_in(body: &[u8]) -> Result<String, Answer> {
    let value: Value = serde_json::from_slice(body).map_err(|_| bad("Request decode failed: the body is no JSON"))?;
    let fields = value.as_object().into_iter().flatten();
    let key = fields.filter(|(name, _)| name.eq_ignore_ascii_case("Key")).find_map(|(_, value)| value.as_str());
    key.map(|key| key.trim().to_owned()).ok_or_else(|| bad("say which key: {\"Key\": \"...\"}"))
}

/// A key that is only named: by its fingerprint, or by itself.
fn named(text: &str) -> Result<Fingerprint, Answer> {
    let by_key = || text.parse::<GossipKey>().map(|key| Fingerprint::of(&key));
    let fingerprint = text.parse::<Fingerprint>().or_else(|_| by_key());
    fingerprint.map_err(|_| bad("name the key by its fingerprint, 16 hex digits as `weft keyring list` shows them"))
}

impl Shared {
    pub(super) async fn keyring(&self, wanted: Wanted, body: Incoming, subject: &mut Subject) -> Answer {
        let mut told = Default::default();
        if wanted != Wanted::List {
            told = match self.body(body).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
        }
        match wanted.order(&told) {
            Ok(order) => {
                subject.words = format!("keyring {order}");
                self.order(order).await
            }
            Err(answer) => answer,
        }
    }

    async fn order(&self, order: KeyringOrder) -> Answer {
        let (what, is_list) = (order.to_string(), order == KeyringOrder::List);
        let (reply, outcome) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Keyring { order, reply }).await.ok()?;
            outcome.await.ok()
        };
        match timeout(ORDER_MAX, asked).await {
            Ok(Some(Ok(report))) if is_list => Answer::json(&[Ring::of(&self.settings.cluster, report)], false),
            Ok(Some(Ok(report))) => Answer::json(&Done { report: &report }, false),
            Ok(Some(Err(refused))) => refused_answer(&refused),
            Ok(None) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
            Err(_) => {
                let sentence = format!("keyring {what}: not done in {} s; see the agent's log", ORDER_MAX.as_secs());
                Answer::error(StatusCode::GATEWAY_TIMEOUT, &sentence)
            }
        }
    }
}

#[derive(Serialize)]
struct Done<'a> {
    #[serde(rename = "Weft")]
    report: &'a KeyringReport,
}

#[derive(Serialize)]
struct RefusedBody<'a> {
    error: &'a str,
    #[serde(rename = "Weft", skip_serializing_if = "Option::is_none")]
    report: Option<&'a KeyringReport>,
}

fn refused_answer(refused: &KeyringRefused) -> Answer {
    let status = match refused.refusal {
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::Conflict => StatusCode::CONFLICT,
        // Consul's, where a host did not do it.
        Refusal::Failed | Refusal::Incomplete => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = RefusedBody { error: &refused.sentence, report: refused.report.as_deref() };
    Answer::json(&body, false).with_status(status)
}

/// Consul's form of a ring of keys.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ring<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: &'a str,
    segment: &'static str,
    keys: BTreeMap<String, usize>,
    primary_keys: BTreeMap<String, usize>,
    num_nodes: usize,
    weft: KeyringReport,
}

impl Ring<'_> {
    fn of(cluster: &str, report: KeyringReport) -> Ring<'_> {
        let counts = |count: fn(&KeyState) -> usize| {
            let counted = report.keys.iter().map(|key| (key.fingerprint.clone(), count(key)));
            counted.filter(|(_, count)| *count > 0).collect()
        };
        Ring {
            wan: false,
            datacenter: cluster,
            segment: "",
            keys: counts(|key| key.held),
            primary_keys: counts(|key| key.primary),
            num_nodes: report.members,
            weft: report,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn decided(method: Method, query: &str) -> Result<Wanted, Answer> {
        decide(&Asked::new(method, "/v1/operator/keyring", query, false)).expect("it is the keyring's path")
    }

    #[test]
    fn methods_are_orders_as_in_consul() {
        assert_eq!(decided(Method::GET, "local-only"), Ok(Wanted::List));
        assert_eq!(decided(Method::POST, ""), Ok(Wanted::Install));
        assert_eq!(decided(Method::PUT, "force"), Ok(Wanted::Use { force: true }));
        assert_eq!(decided(Method::DELETE, "force=false"), Ok(Wanted::Remove { force: false }));
        assert_eq!(decided(Method::PATCH, "").unwrap_err().status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(decided(Method::PUT, "force=perhaps").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert!(decide(&Asked::new(Method::GET, "/v1/operator/raft/configuration", "", false)).is_none());
    }

    #[test]
    fn a_key_is_named_by_itself_or_by_its_fingerprint() {
        let fingerprint = Fingerprint::of(&GossipKey([1; 32]));
        let wanted = Wanted::Use { force: false };
        for text in [KEY.to_owned(), fingerprint.to_string()] {
            let body = format!("{{\"key\": \"{text}\"}}");
            let order = KeyringOrder::Use { key: fingerprint, force: false };
            assert_eq!(wanted.order(body.as_bytes()), Ok(order));
        }
        let body = format!("{{\"Key\": \"{KEY}\"}}");
        assert_eq!(Wanted::Install.order(body.as_bytes()), Ok(KeyringOrder::Install(GossipKey([1; 32]))));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let secret = "c2VjcmV0c2VjcmV0";
        let bodies = [format!("{{\"Key\": \"{secret}\"}}"), secret.to_owned(), format!("{{\"Keys\": \"{secret}\"}}")];
        for body in bodies {
            for wanted in [Wanted::Install, Wanted::Use { force: false }, Wanted::Remove { force: true }] {
                let answer = wanted.order(body.as_bytes()).unwrap_err();
                assert_eq!(answer.status, StatusCode::BAD_REQUEST);
                assert!(!String::from_utf8_lossy(&answer.body).contains(secret));
            }
        }
    }

    #[test]
    fn no_order_prints_its_key() {
        let order = KeyringOrder::Install(KEY.parse().unwrap());
        let printed = format!("{order} {order:?}");
        assert!(!printed.contains("AQEB") && !printed.contains("[1, 1"), "{printed}");
    }
}
