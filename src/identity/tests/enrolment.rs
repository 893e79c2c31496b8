//! From `ca init` to a certificate on another host, and to the next one.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::SystemTime;

use super::super::certificate::{NODE_LIFETIME, unix_s};
use super::super::exchange::{Blob, Reply, Secret};
use super::super::{renew, save_keyring, token_list};
use super::*;
use crate::model::NodeId;
use crate::wire::keyring::{Fingerprint, Keyring};

#[tokio::test]
async fn a_host_with_a_token_becomes_a_member_and_both_sides_prove_who_they_are() {
    let mut issuer = Issuer::start("prod").await;
    let dir = tempfile::tempdir().unwrap();
    let services = vec!["web-*".to_owned()];
    let (token, _) = token_create(issuer.path(), issuer.address, HOUR, 1, services, Some(name("web-01"))).unwrap();
    let enrolled = enroll(&token, dir.path(), &name("web-01"), Enrolling::Same).await.unwrap();
    let told = issuer.seen.recv().await.unwrap();
    assert!(
        matches!(told, Seen::Enrolment(EnrollOutcome::Issued { node, renewed: false, .. }) if node == enrolled.node)
    );

    let member = Identity::load(dir.path()).unwrap();
    assert_eq!((member.node, member.name.as_str(), member.cluster.as_str()), (enrolled.node, "web-01", "prod"));
    assert_eq!(member.node, member.record_key.node_id());
    assert_eq!(member.keyring, issuer.identity.keyring);
    assert_eq!((&member.grants[..], member.issuer), (&["web-*".to_owned()][..], Some(issuer.address)));

    let tls = member.tls().unwrap();
    let stream = connect_mesh(&tls, issuer.address).await.unwrap();
    let first = tls.peer(stream.get_ref().1.peer_certificates()).unwrap();
    assert_eq!((first.node, first.name.as_str()), (issuer.identity.node, "first"));
    assert!(matches!(issuer.seen.recv().await, Some(Seen::Mesh(peer)) if peer == "web-01"));

    let info = &token_list(issuer.path()).unwrap()[0];
    assert_eq!((info.uses_left, &info.enrolled[..]), (0, &[name("web-01")][..]));
}

#[tokio::test]
async fn everything_private_is_readable_by_its_owner_only() {
    let mut issuer = Issuer::start("prod").await;
    let (member, _) = issuer.member("web-01").await;
    for (directory, count) in [("ca", 8), ("identity", 7)] {
        let files: Vec<_> = std::fs::read_dir(issuer.path().join(directory)).unwrap().flatten().collect();
        assert_eq!(files.len(), count, "{files:?}");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
    }
    let directory = std::fs::metadata(member.path().join("identity")).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    assert!(!String::from_utf8(issuer.ledger()).unwrap().contains("\"secret\""));
}

#[tokio::test]
async fn root_gives_what_it_writes_to_the_owner_of_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    if std::os::unix::fs::chown(dir.path(), Some(12_345), Some(54_321)).is_err() {
        return; // Only root can give files away, and so only root has to.
    }
    ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    token_create(dir.path(), "127.0.0.1:1".parse().unwrap(), HOUR, 1, all_services(), None).unwrap();
    for path in
        ["ca", "ca/root.key", "ca/tokens.json", "ca/issued.jsonl", "ca/tokens.lock", "identity", "identity/node.key"]
    {
        let file = std::fs::symlink_metadata(dir.path().join(path)).unwrap();
        assert_eq!((file.uid(), file.gid()), (12_345, 54_321), "{path}");
    }
}

#[tokio::test]
async fn a_host_that_enrols_again_keeps_its_id_and_gets_new_grants() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, before) = issuer.member("web-01").await;
    let (token, _) = token_create(issuer.path(), issuer.address, HOUR, 1, vec!["db".to_owned()], None).unwrap();
    enroll(&token, dir.path(), &name("web-01"), Enrolling::Same).await.unwrap();
    let after = Identity::load(dir.path()).unwrap();
    assert_eq!(after.node, before.node);
    assert_eq!(after.grants, ["db"]);
    assert_ne!(after.certificates[0], before.certificates[0]);
}

#[tokio::test]
async fn a_renewed_certificate_is_presented_at_once_and_stays_the_same_hosts() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, before) = issuer.member("web-01").await;
    let tls = before.tls().unwrap();
    let renewed = renew(dir.path(), None).await.unwrap();
    let told = issuer.seen.recv().await.unwrap();
    assert!(matches!(told, Seen::Enrolment(EnrollOutcome::Issued { renewed: true, .. })), "{told:?}");

    let after = Identity::load(dir.path()).unwrap();
    assert_eq!((renewed.node, after.node, &after.grants), (before.node, before.node, &before.grants));
    assert_eq!((after.issuer, &after.keyring), (before.issuer, &before.keyring));
    assert_ne!(after.certificates[0], before.certificates[0]);
    tls.replace(&after).unwrap();

    let (address, _seen) = serve(tls, dir.path().to_owned()).await;
    let stream = connect_mesh(&issuer.tls, address).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(), after.certificates[0]);
}

#[tokio::test]
async fn the_issuer_renews_itself_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    let before = Identity::load(dir.path()).unwrap();
    renew(dir.path(), None).await.unwrap();
    let after = Identity::load(dir.path()).unwrap();
    assert_eq!((after.node, after.issuer), (before.node, None));
    assert_ne!(after.certificates[0], before.certificates[0]);
}

#[tokio::test]
async fn a_certificate_lasts_seven_days_and_is_due_at_a_third_of_them() {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    let identity = Identity::load(dir.path()).unwrap();
    let left = identity.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= NODE_LIFETIME && left > NODE_LIFETIME - HOUR / 60);
    let life = unix_s(identity.not_after) - unix_s(identity.not_before);
    assert_eq!(life, NODE_LIFETIME.as_secs() + HOUR.as_secs(), "one hour back");
    let due = unix_s(identity.renewal_due_at()) - unix_s(identity.not_before);
    assert!((life / 3..life / 3 + life / 12).contains(&due), "{due} of {life}");
    let other = tempfile::tempdir().unwrap();
    ca_init(other.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    let other = Identity::load(other.path()).unwrap();
    assert_ne!(unix_s(other.renewal_due_at()) - unix_s(other.not_before), due, "not all at the same time");
}

#[tokio::test]
async fn a_chain_is_verified_without_a_connection_for_the_records_that_carry_it() {
    let mut issuer = Issuer::start("prod").await;
    let (_dir, member) = issuer.member("web-01").await;
    let now = SystemTime::now();
    let peer = issuer.identity.verify_chain(&member.certificates, now).unwrap();
    assert_eq!((peer.node, peer.record_key), (member.node, member.record_key.public()));

    let stranger = Issuer::start("prod").await;
    assert!(stranger.identity.verify_chain(&member.certificates, now).is_err(), "another CA of the same name");
    assert!(issuer.identity.verify_chain(&member.certificates, now + NODE_LIFETIME * 2).is_err(), "expired");
    assert!(issuer.identity.verify_chain(&member.certificates[..1], now).is_err(), "no intermediate");
    assert!(issuer.identity.verify_chain(&[], now).is_err());
    assert!(issuer.identity.verify_chain(&vec![vec![0; 100_000]; 50], now).is_err());
}

/// A keyring that has been rotated once since `keyring`.
fn rotated(keyring: &Keyring, node: NodeId) -> Keyring {
    let key = super::super::new_gossip_key().unwrap();
    let (old, new) = (keyring.primary(), Fingerprint::of(&key));
    let keyring = keyring.install(key, node).unwrap().choose(new, node).unwrap();
    keyring.remove(old, node).unwrap()
}

#[tokio::test]
async fn a_newcomer_gets_the_keyring_as_it_is_now_and_renewals_and_new_enrolments_keep_it() {
    let mut issuer = Issuer::start("prod").await;
    let (early, before) = issuer.member("web-01").await;
    let now = rotated(&before.keyring, issuer.identity.node);
    save_keyring(issuer.path(), &issuer.identity, &now).unwrap();
    let (late, newcomer) = issuer.member("web-02").await;
    assert_eq!(newcomer.keyring, now);
    let key = std::fs::read_to_string(late.path().join("identity/gossip.key")).unwrap();
    assert_eq!(key.trim(), data_encoding::BASE64.encode(&now.keys()[0].0), "what a host without keyrings reads");

    let later = rotated(&now, before.node);
    save_keyring(early.path(), &before, &later).unwrap();
    renew(early.path(), None).await.unwrap();
    assert_eq!(Identity::load(early.path()).unwrap().keyring, later);
    issuer.enroll(early.path(), "web-01").await.unwrap();
    assert_eq!(Identity::load(early.path()).unwrap().keyring, later, "the issuer's is older, and brings nothing back");
}

#[test]
fn an_issuer_without_keyrings_is_understood_and_a_host_without_them_understands() {
    let older = r#"{"enrolled":{"certificates":[],"roots":[],"gossip_key":"AAAA"}}"#;
    assert!(matches!(serde_json::from_str(older), Ok(Reply::Enrolled { keyring: None, .. })));
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Older {
        #[allow(dead_code, reason = "only that it can be read matters")]
        Enrolled { certificates: Vec<Blob>, roots: Vec<Blob>, gossip_key: Blob },
    }
    let (key, keyring) = (Secret::new(vec![1; 32]), Some(Secret::new(vec![2; 100])));
    let newer = Reply::Enrolled { certificates: Vec::new(), roots: Vec::new(), gossip_key: key, keyring };
    assert!(serde_json::from_str::<Older>(&serde_json::to_string(&newer).unwrap()).is_ok());
}
