//! Revocation, recovery after the end, further issuers, other roots, and a CA of one's own.

use std::collections::HashSet;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use super::super::ca::{GivenCa, fingerprint};
use super::super::exchange::{Blob, RecoverRequest, RefusalCode, Reply, Request, recovery_bytes};
use super::super::issue::answer;
use super::super::{
    become_issuer, ca_root, ca_state, issued_list, issuer_of, issues_under, renew, replace_roots, root_of,
    rotation_begin, rotation_switch, token_revoke, trusts_next_root,
};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn trust(revoked: &[NodeId], issuers: Option<&[NodeId]>) -> ClusterTrust {
    let trust = ClusterTrust::default();
    trust.replace(Arc::new(revoked.iter().copied().collect::<HashSet<_>>()), issuers.map(<[NodeId]>::to_vec));
    trust
}

fn recovery(member: &Identity, binding: &[u8; 32], now: SystemTime) -> Request {
    let key = super::super::ca::new_key().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    Request::Recover(RecoverRequest {
        certificates: member.certificates.iter().cloned().map(Blob).collect(),
        proof: Blob(member.record_key.sign(&recovery_bytes(binding, &csr)).to_vec()),
        csr: Blob(csr),
        time_unix_s: super::super::certificate::unix_s(now),
    })
}

#[tokio::test]
async fn a_certificate_that_ended_is_got_again_with_the_record_key_for_a_month() {
    let mut issuer = Issuer::start("prod").await;
    let (_dir, member) = issuer.member("web-01").await;
    let later = member.not_after + DAY;
    let asked = |request, trust: &ClusterTrust, now| answer(issuer.path(), trust, Some(request), None, &[5; 32], now).0;
    let code = |reply| match reply {
        Reply::Refused { code, .. } => code,
        _ => panic!("granted"),
    };
    let free = ClusterTrust::default();
    assert!(matches!(asked(recovery(&member, &[5; 32], later), &free, later), Reply::Renewed { .. }));
    let other_connection = recovery(&member, &[6; 32], later);
    assert_eq!(code(asked(other_connection, &free, later)), RefusalCode::Malformed, "carried to another connection");
    let much_later = member.not_after + 31 * DAY;
    assert_eq!(code(asked(recovery(&member, &[5; 32], much_later), &free, much_later)), RefusalCode::EndedLongAgo);
    let revoked = trust(&[member.node], None);
    assert_eq!(code(asked(recovery(&member, &[5; 32], later), &revoked, later)), RefusalCode::Revoked);
    let retired = trust(&[], Some(&[member.node]));
    assert_eq!(code(asked(recovery(&member, &[5; 32], later), &retired, later)), RefusalCode::NotIssuer);
    let stranger = Issuer::start("prod").await.member("web-01").await.1;
    assert_eq!(code(asked(recovery(&stranger, &[5; 32], later), &free, later)), RefusalCode::NoCertificate);
}

#[tokio::test]
async fn a_revoked_host_passes_no_handshake_and_neither_renews_nor_enrols() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let (_other, peer) = issuer.member("web-02").await;
    let peer_tls = peer.tls().unwrap();
    let (address, mut seen) = serve(peer_tls.clone(), dir.path().to_owned()).await;
    connect_mesh(&member.tls().unwrap(), address).await.unwrap();
    assert!(matches!(seen.recv().await, Some(Seen::Mesh(name)) if name == "web-01"));

    // The configurations that are in use already say no, in both directions.
    peer_tls.cluster_trust().replace(Arc::new(HashSet::from([member.node])), None);
    let _ = connect_mesh(&member.tls().unwrap(), address).await;
    assert!(matches!(seen.recv().await, Some(Seen::Closed(AcceptError::Handshake(_)))));
    let (theirs, _seen) = serve(member.tls().unwrap(), dir.path().to_owned()).await;
    assert!(connect_mesh(&peer_tls, theirs).await.is_err());
    assert_eq!(peer.verify_chain(&member.certificates, SystemTime::now()), Err(PeerError::Revoked));
    assert!(peer.verify_chain(&peer.certificates, SystemTime::now()).is_ok());

    issuer.tls.cluster_trust().replace(Arc::new(HashSet::from([member.node])), None);
    assert!(renew(dir.path(), Some(issuer.address)).await.is_err());
    let (token, _) = token_create(issuer.path(), issuer.address, HOUR, 1, all_services(), None).unwrap();
    let refused = enroll(&token, dir.path(), &name("web-01"), Enrolling::Same).await.unwrap_err();
    assert!(matches!(refused, IdentityError::Refused { code: RefusalCode::Revoked, .. }), "{refused}");
    let enrolled = enroll(&token, dir.path(), &name("web-01"), Enrolling::New).await.unwrap();
    assert_ne!(enrolled.node, member.node, "the token was not spent by the refusal");
}

#[tokio::test]
async fn a_host_becomes_an_issuer_when_the_cluster_says_so_and_only_then() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let refused = become_issuer(dir.path(), issuer.address).await.unwrap_err();
    assert!(matches!(refused, IdentityError::Refused { code: RefusalCode::NotToIssue, .. }), "{refused}");
    let first = Identity::load(issuer.path()).unwrap();
    issuer.tls.cluster_trust().replace(Arc::default(), Some(vec![first.node, member.node]));
    become_issuer(dir.path(), issuer.address).await.unwrap();
    renew(dir.path(), None).await.unwrap();
    let own = Identity::load(dir.path()).unwrap();
    assert_eq!(issuer_of(&own.certificates), Some(member.node), "it certifies itself");
    assert_eq!(issuer_of(&member.certificates), Some(first.node));
    first.verify_chain(&own.certificates, SystemTime::now()).unwrap();
    assert!(!ca_state(dir.path()).unwrap().has_root_key);
    assert!(issues_under(&own, dir.path(), &ca_root(issuer.path()).unwrap()));

    // What it issues is believed by all, until it is revoked itself.
    let (address, _seen) = serve(own.tls().unwrap(), dir.path().to_owned()).await;
    let (token, info) = token_create(dir.path(), address, HOUR, 1, all_services(), None).unwrap();
    let third = tempfile::tempdir().unwrap();
    enroll(&token, third.path(), &name("web-03"), Enrolling::Same).await.unwrap();
    let third = Identity::load(third.path()).unwrap();
    first.verify_chain(&third.certificates, SystemTime::now()).unwrap();
    assert_eq!(issued_list(dir.path()).unwrap().last().unwrap().subject, "spiffe://prod/node/web-03");
    first.cluster_trust().replace(Arc::new(HashSet::from([member.node])), None);
    assert_eq!(first.verify_chain(&third.certificates, SystemTime::now()), Err(PeerError::Revoked));
    assert!(token_revoke(dir.path(), &info.id).unwrap() && !token_revoke(dir.path(), "nothing").unwrap());

    // Without the root's key nobody else becomes one.
    let key = issuer.path().join("ca/root.key");
    std::fs::rename(&key, issuer.path().join("elsewhere.key")).unwrap();
    let refused = become_issuer(dir.path(), issuer.address).await.unwrap_err();
    assert!(matches!(refused, IdentityError::Refused { code: RefusalCode::NoRootKey, .. }), "{refused}");
}

#[tokio::test]
async fn roots_are_replaced_one_step_at_a_time() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let tls = member.tls().unwrap();
    let (address, _seen) = serve(tls.clone(), dir.path().to_owned()).await;
    let old = ca_root(issuer.path()).unwrap();
    assert!(matches!(rotation_switch(issuer.path()), Err(IdentityError::Rotation(_))));
    let new = rotation_begin(issuer.path(), None).unwrap();
    assert_eq!(rotation_begin(issuer.path(), None).unwrap(), new, "asked twice");
    assert_eq!(ca_root(issuer.path()).unwrap(), old, "not in use yet");
    assert!(!trusts_next_root(issuer.path(), address).await.unwrap());

    let both = vec![old.clone(), new.clone()];
    replace_roots(dir.path(), both.clone()).await.unwrap();
    tls.replace(&member.reload(dir.path()).unwrap()).unwrap();
    assert!(trusts_next_root(issuer.path(), address).await.unwrap(), "without a restart");
    replace_roots(issuer.path(), both.clone()).await.unwrap();

    assert_eq!(rotation_switch(issuer.path()).unwrap(), new);
    renew(issuer.path(), None).await.unwrap();
    renew(dir.path(), Some(issuer.address)).await.unwrap();
    let renewed = Identity::load(dir.path()).unwrap();
    assert_eq!(root_of(&member.certificates, &both), Some(0));
    assert_eq!(root_of(&renewed.certificates, &both), Some(1));
    assert_eq!(renewed.node, member.node);
    let kept = replace_roots(dir.path(), vec![old.clone()]).await;
    assert!(matches!(kept, Err(IdentityError::Rotation(_))), "its own certificate leads elsewhere");
    replace_roots(dir.path(), vec![new.clone()]).await.unwrap();
    let after = Identity::load(dir.path()).unwrap();
    assert!(after.verify_chain(&member.certificates, SystemTime::now()).is_err(), "retired");
    assert_eq!(after.keyring.encode().unwrap(), member.keyring.encode().unwrap(), "what belongs to the CA stays");
    assert_eq!(after.lineage, fingerprint(&old));
}

/// A CA certificate and its key, in files.
fn given(dir: &Path, name: &str, below: Option<&CertifiedIssuer<'_, KeyPair>>) -> (PathBuf, PathBuf, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let certificate = match below {
        Some(root) => params.signed_by(&key, root).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let (certificate_path, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    std::fs::write(&certificate_path, certificate.pem()).unwrap();
    std::fs::write(&key_path, pem).unwrap();
    (certificate_path, key_path, certificate.der().to_vec())
}

#[test]
fn a_root_or_an_intermediate_of_ones_own_is_used_if_it_fits() {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key, root) = given(files.path(), "root", None);
    let init = |given: GivenCa| {
        let dir = tempfile::tempdir().unwrap();
        let options = CaOptions { given: Some(given), node_ttl: Some(DAY) };
        ca_init(dir.path(), "prod", &name("first"), &options).map(|_| dir)
    };
    let dir = init(GivenCa::Root { certificate: certificate.clone(), key: key.clone() }).unwrap();
    let identity = Identity::load(dir.path()).unwrap();
    assert!(identity.roots().eq([&root[..]]));
    let left = identity.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= DAY && left > DAY - HOUR / 60);

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let offline = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let root = files.path().join("offline.pem");
    std::fs::write(&root, offline.pem()).unwrap();
    let (below, below_key, _) = given(files.path(), "below", Some(&offline));
    let intermediate = |root: &Path, key: &Path| GivenCa::Intermediate {
        root: root.into(),
        certificate: below.clone(),
        key: key.into(),
    };
    let dir = init(intermediate(&root, &below_key)).unwrap();
    assert!(!ca_state(dir.path()).unwrap().has_root_key);
    assert!(Identity::load(dir.path()).unwrap().roots().eq([&offline.der()[..]]));

    for wrong in [
        intermediate(&certificate, &below_key),
        intermediate(&root, &key),
        GivenCa::Root { certificate: certificate.clone(), key: below_key.clone() },
        GivenCa::Root { certificate: key.clone(), key: key.clone() },
        GivenCa::Root { certificate, key: root.clone() },
    ] {
        let error = init(wrong.clone()).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("the CA that was given")), "{wrong:?}: {error:?}");
    }
}
