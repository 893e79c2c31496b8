//! Everything that must fail on the way to a certificate, and what it must leave untouched.

use std::time::SystemTime;

use proptest::prelude::*;
use rcgen::CertificateParams;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::super::ca::{Authority, Subject, new_key};
use super::super::exchange::{
    Blob, EnrollRequest, REQUEST_BYTES_MAX, RefusalCode, RenewRequest, Reply, Request, Secret, proof_bytes,
    read_message, write_message,
};
use super::super::issue::answer;
use super::super::ledger::{Attempt, Ledger};
use super::super::token::{JoinToken, create};
use super::super::{RecordKey, renew, token_list};
use super::*;
use crate::model::NodeId;

fn refused(result: Result<Enrolled, IdentityError>) -> RefusalCode {
    match result.unwrap_err() {
        IdentityError::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_used_token_is_refused_in_words_and_the_ledger_stays_as_it_was() {
    let mut issuer = Issuer::start("prod").await;
    let token = issuer.token();
    enroll(&token, tempfile::tempdir().unwrap().path(), &name("web-01"), Enrolling::Same).await.unwrap();
    let ledger = issuer.ledger();

    let second = tempfile::tempdir().unwrap();
    let error = enroll(&token, second.path(), &name("web-02"), Enrolling::Same).await.unwrap_err();
    assert!(error.to_string().contains("the token has been used already; create a new one"), "{error}");
    assert_eq!(issuer.ledger(), ledger);
    assert!(matches!(Identity::load(second.path()), Err(IdentityError::NotEnrolled { .. })));
    issuer.seen.recv().await;
    let told = issuer.seen.recv().await;
    assert!(matches!(told, Some(Seen::Enrolment(EnrollOutcome::Refused(RefusalCode::UsedToken)))), "{told:?}");
}

#[tokio::test]
async fn an_expired_token_a_wrong_secret_and_another_hosts_token_are_refused() {
    let issuer = Issuer::start("prod").await;
    let dir = tempfile::tempdir().unwrap();
    let past = SystemTime::now() - 2 * HOUR;
    let (expired, _) = create(issuer.path(), issuer.address, past, HOUR, 1, all_services(), None).unwrap();
    assert_eq!(
        refused(enroll(&expired, dir.path(), &name("web-01"), Enrolling::Same).await),
        RefusalCode::ExpiredToken
    );

    let mut guessed = JoinToken::parse(&issuer.token()).unwrap();
    guessed.secret[0] ^= 1;
    assert_eq!(
        refused(enroll(&guessed.to_text(), dir.path(), &name("web-01"), Enrolling::Same).await),
        RefusalCode::UnknownToken
    );

    let bound = token_create(issuer.path(), issuer.address, HOUR, 1, all_services(), Some(name("db-01"))).unwrap().0;
    assert_eq!(refused(enroll(&bound, dir.path(), &name("web-01"), Enrolling::Same).await), RefusalCode::OtherName);
    assert!(token_list(issuer.path()).unwrap().iter().all(|token| token.uses_left == 1));
}

#[tokio::test]
async fn another_cas_host_is_told_nothing() {
    let home = Issuer::start("prod").await;
    let mut impostor = Issuer::start("prod").await;
    let mut token = JoinToken::parse(&home.token()).unwrap();
    token.issuer_address = impostor.address;
    let error = enroll(&token.to_text(), tempfile::tempdir().unwrap().path(), &name("web-01"), Enrolling::Same)
        .await
        .unwrap_err();
    assert!(matches!(error, IdentityError::WrongRoot { .. }), "{error}");
    let seen = impostor.seen.recv().await.unwrap();
    assert!(matches!(seen, Seen::Closed(AcceptError::Handshake(_))), "no request: {seen:?}");
}

#[tokio::test]
async fn a_member_that_is_not_the_issuer_is_told_nothing_either() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let (address, mut seen) = serve(member.tls().unwrap(), dir.path().to_owned()).await;
    let mut token = JoinToken::parse(&issuer.token()).unwrap();
    token.issuer_address = address;
    let error = enroll(&token.to_text(), tempfile::tempdir().unwrap().path(), &name("web-02"), Enrolling::Same)
        .await
        .unwrap_err();
    assert!(matches!(error, IdentityError::WrongIssuer { .. }), "{error}");
    assert!(matches!(seen.recv().await, Some(Seen::BrokenOff(_))));
}

#[tokio::test]
async fn nobody_at_the_address_and_no_tls_there_are_told_apart() {
    let issuer = Issuer::start("prod").await;
    let (dir, web) = (tempfile::tempdir().unwrap(), name("web-01"));
    let mut token = JoinToken::parse(&issuer.token()).unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    token.issuer_address = plain.local_addr().unwrap();
    let answer = async { plain.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await };
    let text = token.to_text();
    let (error, _) = tokio::join!(enroll(&text, dir.path(), &web, Enrolling::Same), answer);
    assert!(matches!(error, Err(IdentityError::Handshake { .. })));
    drop(plain);
    let error = enroll(&text, dir.path(), &web, Enrolling::Same).await;
    assert!(matches!(error, Err(IdentityError::Connect { .. })));
}

/// An issuer that answers every request with the same thing.
async fn answering(issuer: &Issuer, reply: Reply) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut token = JoinToken::parse(&issuer.token()).unwrap();
    token.issuer_address = listener.local_addr().unwrap();
    let tls = issuer.tls.clone();
    tokio::spawn(async move {
        let Ok(Accepted::Enroll(mut stream)) = accept_mesh(&tls, listener.accept().await.unwrap().0).await else {
            panic!("not an enrolment")
        };
        let _: Request = read_message(&mut stream, REQUEST_BYTES_MAX).await.unwrap();
        write_message(&mut stream, &reply, 1 << 20).await.unwrap();
    });
    token.to_text()
}

#[tokio::test]
async fn an_enrolment_that_breaks_off_half_way_leaves_the_old_identity_in_force() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, before) = issuer.member("web-01").await;
    let certificates = before.certificates.iter().cloned().map(Blob).collect();
    let roots = vec![Blob(issuer.identity.root_certificates[0].to_vec())];
    let old_key =
        Reply::Enrolled { certificates, roots: roots.clone(), gossip_key: Secret::new(vec![0; 32]), keyring: None };
    let nothing = Reply::Enrolled { certificates: vec![], roots, gossip_key: Secret::new(vec![0; 32]), keyring: None };
    let other_root =
        Reply::Enrolled { certificates: vec![], roots: vec![], gossip_key: Secret::new(vec![0; 32]), keyring: None };
    let renewed = Reply::Renewed { certificates: vec![] };
    for reply in [old_key, nothing, other_root, renewed] {
        let token = answering(&issuer, reply).await;
        assert!(enroll(&token, dir.path(), &name("web-01"), Enrolling::Same).await.is_err());
        let after = Identity::load(dir.path()).unwrap();
        assert_eq!((after.certificates, after.keyring), (before.certificates.clone(), before.keyring.clone()));
    }
}

#[tokio::test]
async fn files_of_two_identities_are_not_loaded_as_one() {
    let mut issuer = Issuer::start("prod").await;
    let (a, _) = issuer.member("web-01").await;
    let (b, _) = issuer.member("web-02").await;
    for file in ["node.key", "record.key"] {
        let path = a.path().join("identity").join(file);
        let own = std::fs::read(&path).unwrap();
        std::fs::copy(b.path().join("identity").join(file), &path).unwrap();
        let error = Identity::load(a.path()).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        std::fs::write(&path, own).unwrap();
    }
    std::fs::write(a.path().join("identity/cluster"), "other\n").unwrap();
    assert!(matches!(Identity::load(a.path()), Err(IdentityError::Damaged { .. })));
}

#[tokio::test]
async fn renewal_needs_a_certificate_and_an_issuer() {
    let mut issuer = Issuer::start("prod").await;
    let (dir, member) = issuer.member("web-01").await;
    let request = Request::Renew(RenewRequest { csr: Blob(vec![]), time_unix_s: 0 });
    let (reply, _) = answer(issuer.path(), &ClusterTrust::default(), Some(request), None, &[0; 32], SystemTime::now());
    assert!(matches!(reply, Reply::Refused { code: RefusalCode::NoCertificate, .. }));

    let (elsewhere, _seen) = serve(member.tls().unwrap(), dir.path().to_owned()).await;
    assert_eq!(refused(renew(dir.path(), Some(elsewhere)).await), RefusalCode::NotIssuer);
    assert_eq!(Identity::load(dir.path()).unwrap().certificates, member.certificates);
}

#[test]
fn a_second_ca_is_not_made_over_the_first_nor_over_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    let root = std::fs::read(dir.path().join("ca/root.pem")).unwrap();
    assert!(matches!(
        ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()),
        Err(IdentityError::AlreadyThere { .. })
    ));
    assert_eq!(std::fs::read(dir.path().join("ca/root.pem")).unwrap(), root);
    std::fs::rename(dir.path().join("ca"), dir.path().join("ca.old")).unwrap();
    assert!(matches!(
        ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()),
        Err(IdentityError::AlreadyThere { .. })
    ));
    assert!(matches!(
        ca_init(tempfile::tempdir().unwrap().path(), "A B", &name("x"), &CaOptions::default()),
        Err(IdentityError::ClusterName(_))
    ));
}

#[test]
fn only_an_issuer_makes_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let address = "127.0.0.1:7947".parse().unwrap();
    let error = token_create(dir.path(), address, HOUR, 1, all_services(), None).unwrap_err();
    assert!(matches!(error, IdentityError::NotIssuer { .. }));
    assert!(token_list(dir.path()).is_err());
}

fn issuer_with_token(uses: u32) -> (TempDir, JoinToken) {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &name("first"), &CaOptions::default()).unwrap();
    let address = "127.0.0.1:7947".parse().unwrap();
    let (text, _) = token_create(dir.path(), address, HOUR, uses, all_services(), None).unwrap();
    (dir, JoinToken::parse(&text).unwrap())
}

#[test]
fn many_hosts_at_once_spend_a_token_exactly_as_often_as_it_says() {
    let (dir, token) = issuer_with_token(3);
    let spend = |host: u8| {
        let name = name(&format!("web-{host}"));
        let (token_id, secret, node) = (&token.id[..], &token.secret[..], NodeId([host; 16]));
        let attempt = Attempt { token_id, secret, name: &name, node, now_unix_s: token.expires_unix_s - 1 };
        Ledger::of(dir.path()).unwrap().spend(&attempt).unwrap()
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let hosts: Vec<_> = (0..8).map(|host| scope.spawn(move || spend(host))).collect();
        hosts.into_iter().map(|host| host.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    assert_eq!(token_list(dir.path()).unwrap()[0].enrolled.len(), 3);
}

fn request(token: &JoinToken, time: SystemTime) -> EnrollRequest {
    let (key, tls_key) = (RecordKey::generate().unwrap(), new_key().unwrap());
    let csr = CertificateParams::default().serialize_request(&tls_key).unwrap();
    EnrollRequest {
        token_id: Blob(token.id.to_vec()),
        secret: Secret::new(token.secret.to_vec()),
        name: name("web-01"),
        proof: Blob(key.sign(&proof_bytes(&[5; 32], csr.der())).to_vec()),
        csr: Blob(csr.der().to_vec()),
        record_key: Blob(key.public().to_vec()),
        time_unix_s: super::super::certificate::unix_s(time),
    }
}

#[test]
fn a_request_that_cannot_be_granted_does_not_cost_the_token() {
    let (dir, token) = issuer_with_token(1);
    let now = SystemTime::now();
    let refusal = |request| match answer(
        dir.path(),
        &ClusterTrust::default(),
        Some(Request::Enroll(request)),
        None,
        &[5; 32],
        now,
    )
    .0
    {
        Reply::Refused { code, .. } => Some(code),
        _ => None,
    };
    for off in [HOUR, 24 * HOUR] {
        assert_eq!(refusal(request(&token, now - off)), Some(RefusalCode::ClockOff));
        assert_eq!(refusal(request(&token, now + off)), Some(RefusalCode::ClockOff));
    }
    let mut other_key = request(&token, now);
    other_key.record_key = Blob(RecordKey::generate().unwrap().public().to_vec());
    assert_eq!(refusal(other_key), Some(RefusalCode::Malformed), "a record key that the host does not hold");
    let mut carried = request(&token, now);
    carried.csr = request(&token, now).csr;
    assert_eq!(refusal(carried), Some(RefusalCode::Malformed), "a proof from another request");
    let mut changed = request(&token, now);
    *changed.csr.0.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(changed), Some(RefusalCode::Malformed), "a CSR that its key did not sign");
    assert_eq!(refusal(request(&token, now)), None);
    assert_eq!(refusal(request(&token, now)), Some(RefusalCode::UsedToken));
}

#[test]
fn a_damaged_ledger_issues_nothing() {
    let (dir, token) = issuer_with_token(1);
    std::fs::write(dir.path().join("ca/tokens.json"), "{").unwrap();
    let now = SystemTime::now();
    let (reply, outcome) =
        answer(dir.path(), &ClusterTrust::default(), Some(Request::Enroll(request(&token, now))), None, &[5; 32], now);
    assert!(matches!(reply, Reply::Refused { code: RefusalCode::Failed, .. }));
    assert!(matches!(outcome, EnrollOutcome::Failed(IdentityError::Damaged { .. })));
}

#[test]
fn a_certificate_never_outlives_its_ca() {
    let (dir, _) = issuer_with_token(1);
    let identity = Identity::load(dir.path()).unwrap();
    let subject = Subject { cluster: "prod", name: &name("a"), record_key: &[1; 32], grants: &[] };
    let late = SystemTime::now() + 24 * HOUR * 3648;
    let chain = Authority::load(dir.path()).unwrap().issue(&subject, &new_key().unwrap(), late).unwrap();
    let leaf = super::super::PeerIdentity::from_der(&chain[0]).unwrap();
    assert!(leaf.not_after < late + 24 * HOUR * 3, "{:?}", leaf.not_after);
    assert!(identity.verify_chain(&chain, late).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_on_the_connection_make_the_issuer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), framed: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = duplex(1024);
            if framed {
                theirs.write_u32(u32::try_from(bytes.len()).unwrap()).await.unwrap();
            }
            theirs.write_all(&bytes).await.unwrap();
            drop(theirs);
            let read: std::io::Result<Request> = read_message(&mut ours, REQUEST_BYTES_MAX).await;
            assert!(read.is_err());
        });
    }

    #[test]
    fn no_request_that_can_be_read_makes_the_issuer_panic(
        blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 4),
        known_token: bool, time_unix_s: u64, flip in any::<prop::sample::Index>(), from_csr: bool,
    ) {
        static ISSUER: std::sync::OnceLock<(TempDir, JoinToken)> = std::sync::OnceLock::new();
        let (dir, token) = ISSUER.get_or_init(|| issuer_with_token(1));
        let now = SystemTime::now();
        let mut asked = request(token, now);
        let [secret, csr, record_key, proof] = &blobs[..] else { unreachable!() };
        if from_csr {
            let at = flip.index(asked.csr.0.len());
            asked.csr.0[at] ^= 0x55;
        } else {
            (asked.csr, asked.record_key, asked.proof) =
                (Blob(csr.clone()), Blob(record_key.clone()), Blob(proof.clone()));
            asked.time_unix_s = time_unix_s;
        }
        if !known_token {
            asked.secret = Secret::new(secret.clone());
        }
        let (reply, _) = answer(dir.path(), &ClusterTrust::default(), Some(Request::Enroll(asked)), None, &[5; 32], now);
        let is_refused = matches!(reply, Reply::Refused { .. });
        prop_assert!(is_refused);
    }
}
