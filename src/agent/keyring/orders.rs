//! An operator's order, carried out on every host: keyrings are compared with each, the order is checked against what they
//! hold, the change is made here, and the keyrings are compared again, which carries it there.
//!
//! Orders come in with the list of members; a report goes out. Everything is bounded: hosts asked at once, the time for one,
//! the time for all. A host that is not reached gets the change when it meets any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::report::{self, Answers, Host, names};
use super::{Change, ChangeError, Made, Member};
use crate::api::{KeyringAnswer, KeyringOrder, KeyringRefusal, KeyringRefused, KeyringReply};
use crate::gossip::{KeyringAsk, KeyringCall};
use crate::model::{MemberState, NodeId};
use crate::wire::keyring::{Fingerprint, Keyring, KeyringError};
use crate::wire::seal::GossipKey;

/// Hosts asked at once: a handshake costs about a millisecond.
const ASKED_AT_ONCE_MAX: usize = 64;
/// One host, connecting included.
const HOST_DEADLINE: Duration = Duration::from_secs(3);
/// Lists under way; each asks every host.
const LISTS_AT_ONCE_MAX: usize = 4;
/// All hosts; an order asks them twice, and the API waits 25 s.
const ROUND_DEADLINE: Duration = Duration::from_secs(10);

/// Takes orders. One that changes something is carried out at a time.
pub(in crate::agent) struct Orders(Arc<Desk>);

struct Desk {
    local: NodeId,
    current: watch::Receiver<Arc<Keyring>>,
    changes: mpsc::Sender<(Change, Made)>,
    calls: mpsc::Sender<KeyringCall>,
    /// Of the one order that changes something.
    place: Semaphore,
    /// Of those that only look.
    looking: Semaphore,
}

impl Orders {
    pub(super) fn new(
        local: NodeId,
        current: watch::Receiver<Arc<Keyring>>,
        changes: mpsc::Sender<(Change, Made)>,
        calls: mpsc::Sender<KeyringCall>,
    ) -> Orders {
        Orders(Arc::new(Desk {
            local,
            current,
            changes,
            calls,
            place: Semaphore::new(1),
            looking: Semaphore::new(LISTS_AT_ONCE_MAX),
        }))
    }

    /// Carries an order out, in a task of its own.
    pub(in crate::agent) fn start(&self, members: Vec<Member>, order: KeyringOrder, reply: KeyringReply) {
        let desk = self.0.clone();
        tokio::spawn(async move {
            let places = if order == KeyringOrder::List { &desk.looking } else { &desk.place };
            let answer = match places.try_acquire() {
                Ok(_place) => desk.carry_out(&members, order).await,
                Err(_) => Err(refuse(
                    KeyringRefusal::Failed,
                    "another order about the keyring is under way on this host; try again when it is done",
                )),
            };
            // Who ordered it may have hung up.
            let _ = reply.send(answer);
        });
    }
}

fn refuse(refusal: KeyringRefusal, sentence: impl Into<String>) -> KeyringRefused {
    KeyringRefused { refusal, sentence: sentence.into(), report: None }
}

impl Desk {
    async fn carry_out(&self, members: &[Member], order: KeyringOrder) -> KeyringAnswer {
        if order != KeyringOrder::List {
            info!(%order, "the gossip keyring is to be changed on every host");
        }
        match order {
            KeyringOrder::List => {
                let answers = self.ask(members, KeyringAsk::List).await;
                Ok(report::report(&self.keyring(), &answers))
            }
            KeyringOrder::Install(key) => self.install(members, key).await,
            KeyringOrder::Use { key, force } => self.switch(members, key, force).await,
            KeyringOrder::Remove { key, force } => self.remove(members, key, force).await,
        }
    }

    async fn install(&self, members: &[Member], key: GossipKey) -> KeyringAnswer {
        let fingerprint = Fingerprint::of(&key);
        self.change(Change::Install(key)).await?;
        let answers = self.ask(members, KeyringAsk::Reconcile).await;
        self.conclude(&answers, &format!("{fingerprint} is not installed on"), |host| host.holds(fingerprint))
    }

    async fn switch(&self, members: &[Member], key: Fingerprint, force: bool) -> KeyringAnswer {
        // Whoever has missed the installation gets the key by being asked.
        let answers = self.ask(members, KeyringAsk::Reconcile).await;
        if !self.keyring().holds(key) {
            return Err(self.unknown(key, &answers));
        }
        let lacking = answers.lacking(|host| host.holds(key));
        if !force && !lacking.is_empty() {
            let sentence = format!(
                "{} not known to hold {key}, and would understand nobody: {}; look at them and try again, or go on without \
                 them: weft keyring use {key} --force",
                are(lacking.len()),
                names(&lacking),
            );
            return Err(self.refuse(KeyringRefusal::Conflict, sentence, &answers));
        }
        self.change(Change::Choose(key)).await?;
        let answers = self.ask(members, KeyringAsk::Reconcile).await;
        self.conclude(&answers, &format!("{key} is not known to be the primary key of"), |host| {
            host.primary() == Some(key)
        })
    }

    async fn remove(&self, members: &[Member], key: Fingerprint, force: bool) -> KeyringAnswer {
        let answers = self.ask(members, KeyringAsk::Reconcile).await;
        let sealing = answers.matching(|host| host.primary() == Some(key));
        if self.keyring().primary() == key || !sealing.is_empty() {
            let sentence = format!(
                "{key} is the primary key of {}, and was not removed; make another key the primary first: weft keyring use \
                 FINGERPRINT",
                names(&sealing)
            );
            return Err(self.refuse(KeyringRefusal::Conflict, sentence, &answers));
        }
        if !self.keyring().holds(key) {
            return Err(self.unknown(key, &answers));
        }
        let silent = answers.lacking(|_| true);
        if !force && !silent.is_empty() {
            let sentence = format!(
                "{key} was not removed, because it may still be the primary key of {}, which did not answer; look at them and \
                 try again, or go on without them: weft keyring remove {key} --force",
                names(&silent)
            );
            return Err(self.refuse(KeyringRefusal::Conflict, sentence, &answers));
        }
        self.change(Change::Remove(key)).await?;
        let answers = self.ask(members, KeyringAsk::Reconcile).await;
        self.conclude(&answers, &format!("{key} is not known to be gone from"), |host| !host.holds(key))
    }

    fn keyring(&self) -> Arc<Keyring> {
        self.current.borrow().clone()
    }

    fn unknown(&self, key: Fingerprint, answers: &Answers) -> KeyringRefused {
        let sentence = KeyringError::Unknown(key).to_string();
        self.refuse(KeyringRefusal::NotFound, sentence, answers)
    }

    fn refuse(&self, refusal: KeyringRefusal, sentence: String, answers: &Answers) -> KeyringRefused {
        KeyringRefused { refusal, sentence, report: Some(Box::new(report::report(&self.keyring(), answers))) }
    }

    /// The report; a failure if a member that counts as there has not done it.
    fn conclude(&self, answers: &Answers, what: &str, done: impl Fn(&Host) -> bool) -> KeyringAnswer {
        let report = report::report(&self.keyring(), answers);
        let missing = answers.lacking(&done);
        if missing.is_empty() {
            return Ok(report);
        }
        let sentence = format!(
            "{what} {}; it will be as soon as they meet any other host, and `weft keyring list` shows when: wait with the \
             next step until then",
            names(&missing)
        );
        Err(KeyringRefused { refusal: KeyringRefusal::Incomplete, sentence, report: Some(Box::new(report)) })
    }

    async fn change(&self, change: Change) -> Result<Arc<Keyring>, KeyringRefused> {
        let (reply, made) = oneshot::channel();
        let stopping = |_| refuse(KeyringRefusal::Failed, "the agent is stopping");
        self.changes.send((change, reply)).await.map_err(|_| stopping(()))?;
        made.await.map_err(|_| stopping(()))?.map_err(|error| {
            let refusal = match &error {
                ChangeError::Keyring(KeyringError::Unknown(_)) => KeyringRefusal::NotFound,
                ChangeError::Keyring(_) => KeyringRefusal::Conflict,
                ChangeError::Disk(_) => KeyringRefusal::Failed,
            };
            refuse(refusal, error.to_string())
        })
    }

    /// Asks every member that counts as there.
    async fn ask(&self, members: &[Member], ask: KeyringAsk) -> Answers {
        let until = Instant::now() + ROUND_DEADLINE;
        let others = members.iter().filter(|member| member.state.is_usable() && member.node != self.local);
        let places = Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX));
        let mut asking = JoinSet::new();
        for member in others {
            let (places, calls, member) = (places.clone(), self.calls.clone(), member.clone());
            asking.spawn(async move {
                let _place = places.acquire_owned().await.ok();
                let (reply, answer) = oneshot::channel();
                let call = KeyringCall { node: member.node, to: member.address, ask, deadline: HOST_DEADLINE, reply };
                let gone = || Err("this agent is stopping".to_owned());
                match calls.send(call).await {
                    Ok(()) => (member.node, answer.await.unwrap_or_else(|_| gone())),
                    Err(_) => (member.node, gone()),
                }
            });
        }
        let mut told = BTreeMap::new();
        while let Ok(Some(answered)) = timeout_at(until, asking.join_next()).await {
            told.extend(answered.ok());
        }
        let mut answers = Answers::default();
        let own = self.keyring().status();
        for member in members {
            let name = member.name.to_string();
            match member.state {
                _ if member.node == self.local => answers.hosts.push(Host { name, status: Ok(own.clone()) }),
                MemberState::Left => {}
                MemberState::Failed => answers.away.push(name),
                _ => {
                    let late = || Err("not reached in time".to_owned());
                    let status = told.remove(&member.node).unwrap_or_else(late);
                    answers.hosts.push(Host { name, status });
                }
            }
        }
        answers.hosts.sort_by(|a, b| a.name.cmp(&b.name));
        answers.away.sort();
        answers
    }
}

fn are(count: usize) -> String {
    if count == 1 { "1 host is".to_owned() } else { format!("{count} hosts are") }
}
