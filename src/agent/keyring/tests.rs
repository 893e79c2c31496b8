//! The keeper and its orders, with a real identity on disk and hosts that are played by the test.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::api::{KeyringAnswer, KeyringOrder, KeyringRefusal};
use crate::identity::{CaOptions, ca_init};
use crate::wire::keyring::KeyringStatus;

const NEW: GossipKey = GossipKey([7; 32]);
const PEER: NodeId = NodeId([0xb; 16]);

/// A kept keyring and, in place of the gossip driver, a mesh of hosts that hold what this one does when asked.
struct Bench {
    dir: TempDir,
    identity: Arc<Identity>,
    link: KeyringLink,
    orders: Orders,
    members: Vec<Member>,
}

/// How the played hosts answer: by name, whether at all.
type Plays = fn(&KeyringCall, KeyringStatus) -> Result<KeyringStatus, String>;

fn member(node: NodeId, name: &str, state: MemberState) -> Member {
    Member { node, name: NodeName::parse(name).unwrap(), address: "127.0.0.1:7946".parse().unwrap(), state }
}

fn bench(plays: Plays) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &NodeName::parse("a").unwrap(), &CaOptions::default()).unwrap();
    let identity = Arc::new(Identity::load(dir.path()).unwrap());
    let (beginning, link) = begin(identity.keyring.clone());
    let (calls, mut called) = mpsc::channel::<KeyringCall>(8);
    let directory = Arc::new(ArcSwap::from_pointee(Directory::empty(identity.node)));
    let orders = beginning.start(identity.clone(), dir.path().to_owned(), directory, calls);
    let current = link.current.clone();
    tokio::spawn(async move {
        while let Some(call) = called.recv().await {
            let own = current.borrow().status();
            let answer = plays(&call, own);
            let _ = call.reply.send(answer);
        }
    });
    let members = vec![
        member(identity.node, "a", MemberState::Alive),
        member(PEER, "b", MemberState::Alive),
        member(NodeId([0xc; 16]), "c", MemberState::Failed),
        member(NodeId([0xd; 16]), "d", MemberState::Left),
    ];
    Bench { dir, identity, link, orders, members }
}

impl Bench {
    async fn order(&self, order: KeyringOrder) -> KeyringAnswer {
        let (reply, answer) = oneshot::channel();
        self.orders.start(self.members.clone(), order, reply);
        answer.await.unwrap()
    }

    fn first(&self) -> Fingerprint {
        self.identity.keyring.primary()
    }
}

fn on_disk(dir: &Path) -> Keyring {
    Identity::load(dir).unwrap().keyring
}

fn new() -> Fingerprint {
    Fingerprint::of(&NEW)
}

#[tokio::test]
async fn a_rotation_is_on_disk_at_each_step_and_private() {
    let bench = bench(|_, own| Ok(own));
    let first = bench.first();
    let report = bench.order(KeyringOrder::Install(NEW)).await.unwrap();
    assert_eq!((report.state, report.members, report.answered), ("installed", 2, 2));
    assert_eq!(report.away, ["c"], "who has left is nobody's concern");
    assert_eq!(on_disk(bench.dir.path()).status().keys, [first, new()]);
    let report = bench.order(KeyringOrder::Use { key: new(), force: false }).await.unwrap();
    assert_eq!(report.state, "switched");
    assert_eq!(on_disk(bench.dir.path()).status().keys, [new(), first]);
    let report = bench.order(KeyringOrder::Remove { key: first, force: false }).await.unwrap();
    assert_eq!(report.state, "settled");
    assert_eq!(on_disk(bench.dir.path()), **bench.link.current.borrow());
    let file = bench.dir.path().join("keyring.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(bench.dir.path().join("identity/gossip.key")).unwrap();
    assert_eq!(key.trim(), data_encoding::BASE64.encode(&NEW.0), "for an agent that knows no keyring");
}

#[tokio::test]
async fn what_would_cut_a_host_off_is_refused_and_names_it() {
    let bench = bench(|_, _| Err("no connection".to_owned()));
    let first = bench.first();
    let refused = bench.order(KeyringOrder::Install(NEW)).await.unwrap_err();
    assert_eq!(refused.refusal, KeyringRefusal::Incomplete);
    assert!(refused.sentence.contains("not installed on b"), "{}", refused.sentence);
    let refused = bench.order(KeyringOrder::Use { key: new(), force: false }).await.unwrap_err();
    assert_eq!(refused.refusal, KeyringRefusal::Conflict);
    assert!(refused.sentence.contains(": b;") && refused.sentence.contains("--force"), "{}", refused.sentence);
    assert_eq!(bench.link.current.borrow().primary(), first, "nothing has changed");
    let refused = bench.order(KeyringOrder::Use { key: new(), force: true }).await.unwrap_err();
    assert_eq!(refused.refusal, KeyringRefusal::Incomplete, "it is done, but not known of b");
    assert_eq!(bench.link.current.borrow().primary(), new());
    let refused = bench.order(KeyringOrder::Remove { key: first, force: false }).await.unwrap_err();
    assert_eq!(refused.refusal, KeyringRefusal::Conflict);
    assert!(bench.link.current.borrow().holds(first));
}

#[tokio::test]
async fn nobodys_primary_is_removed_whoever_holds_it_and_force_or_not() {
    // The other host has a primary of its own.
    let bench = bench(|_, own| Ok(KeyringStatus { keys: own.keys.into_iter().rev().collect() }));
    let first = bench.first();
    let refused = bench.order(KeyringOrder::Remove { key: first, force: true }).await.unwrap_err();
    assert_eq!(refused.refusal, KeyringRefusal::Conflict);
    assert!(refused.sentence.contains("primary key of a, b"), "{}", refused.sentence);
    bench.order(KeyringOrder::Install(NEW)).await.unwrap();
    let refused = bench.order(KeyringOrder::Remove { key: new(), force: true }).await.unwrap_err();
    assert!(refused.sentence.contains("primary key of b,"), "{}", refused.sentence);
    assert!(bench.link.current.borrow().holds(new()));
}

#[tokio::test]
async fn a_key_that_is_not_there_is_neither_used_nor_removed() {
    let bench = bench(|_, own| Ok(own));
    for order in [KeyringOrder::Use { key: new(), force: true }, KeyringOrder::Remove { key: new(), force: true }] {
        let refused = bench.order(order).await.unwrap_err();
        assert_eq!(refused.refusal, KeyringRefusal::NotFound);
        assert!(refused.sentence.contains("weft keyring list"));
    }
    assert!(!bench.dir.path().join("keyring.json").exists(), "nothing has changed");
}

#[tokio::test]
async fn another_hosts_keyring_is_on_disk_before_it_is_answered_and_a_disk_that_fails_changes_nothing() {
    let bench = bench(|_, own| Ok(own));
    let theirs = bench.identity.keyring.install(NEW, PEER).unwrap();
    let merge = async |keyring: Keyring| {
        let (reply, merged) = oneshot::channel();
        bench.link.told.send(KeyringTold::Merge { peer: PEER, keyring, reply }).await.unwrap();
        merged.await.ok()
    };
    assert_eq!(merge(theirs.clone()).await.as_deref(), Some(&theirs));
    assert_eq!(on_disk(bench.dir.path()), theirs);
    let path = bench.dir.path().join("keyring.json");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(merge(theirs.choose(new(), PEER).unwrap()).await, None);
    assert_eq!(**bench.link.current.borrow(), theirs);
}

#[tokio::test]
async fn a_keyring_of_another_ca_or_a_damaged_one_does_not_count() {
    let bench = bench(|_, own| Ok(own));
    bench.order(KeyringOrder::Install(NEW)).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    ca_init(other.path(), "prod", &NodeName::parse("a").unwrap(), &CaOptions::default()).unwrap();
    let alone = on_disk(other.path());
    std::fs::copy(bench.dir.path().join("keyring.json"), other.path().join("keyring.json")).unwrap();
    assert_eq!(on_disk(other.path()), alone);
    std::fs::write(bench.dir.path().join("keyring.json"), b"{").unwrap();
    assert_eq!(on_disk(bench.dir.path()), bench.identity.keyring, "it begins anew, and other hosts tell it the rest");
}
