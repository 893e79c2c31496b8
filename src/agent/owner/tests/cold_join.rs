//! What it costs a host to learn everything: the records of a whole fleet, each judged and verified, as they come when it joins.

use tokio::net::TcpListener;

use super::poison::Other;
use super::*;
use crate::agent::own::OwnLog;
use crate::identity::{Accepted, Enrolling, accept_mesh, enroll, serve_enroll, token_create};
use crate::model::Record;

const ORIGINS: usize = 50;
const SERVICES: usize = 1_000;
/// Records of one answer to a pull.
const CHUNK: usize = 2_000;

/// Enrols hosts with the CA in `dir`, over loopback.
async fn enrol(dir: &Path, homes: &[TempDir]) -> Vec<Identity> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Identity::load(dir).unwrap().tls().unwrap();
    let home = dir.to_owned();
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(Accepted::Enroll(stream)) = accept_mesh(&tls, tcp).await {
                serve_enroll(*stream, &home, tls.cluster_trust(), async {}).await.unwrap();
            }
        }
    });
    let uses = u32::try_from(homes.len()).unwrap();
    let (token, _) = token_create(dir, address, Duration::from_secs(600), uses, vec!["*".to_owned()], None).unwrap();
    let mut enrolled = Vec::new();
    for (number, home) in homes.iter().enumerate() {
        let name = NodeName::parse(&format!("host-{number}")).unwrap();
        enroll(&token, home.path(), &name, Enrolling::Same).await.unwrap();
        enrolled.push(Identity::load(home.path()).unwrap());
    }
    serving.abort();
    enrolled
}

fn records_of(identity: &Identity) -> Vec<Record> {
    let mut own = OwnLog::new(identity.node, 1);
    let facts = NodeFacts {
        name: identity.name.clone(),
        address: Ipv4Addr::LOCALHOST.into(),
        mesh: (Ipv4Addr::LOCALHOST, 7947).into(),
        gossip: (Ipv4Addr::LOCALHOST, 7946).into(),
        zone: String::new(),
        meta: BTreeMap::new(),
        version: "0".into(),
        checks: Vec::new(),
        certificates: identity.certificates.clone(),
    };
    let key = &identity.record_key;
    let mut records = vec![own.node(key, &facts).unwrap()];
    for number in 0..SERVICES {
        let instance = service(&format!("s{number}"), &[]).instance;
        records.push(own.service(key, &instance).unwrap());
    }
    records
}

/// Three times the 5 s that are wanted on two cores: this is a debug build, on a machine that does much else. 50 µs a record are
/// Ed25519, side by side.
const TAKEN_MAX: Duration = Duration::from_secs(15);

/// Fifty thousand records, in the pieces that a pull brings.
#[tokio::test]
async fn fifty_thousand_records_are_taken_and_verified() {
    let dir = enrolled();
    let homes: Vec<TempDir> = (0..ORIGINS).map(|_| tempfile::tempdir().unwrap()).collect();
    let origins = enrol(dir.path(), &homes).await;
    let records: Vec<Record> = origins.iter().flat_map(records_of).collect();
    let mut bench = Bench::start(dir.path(), Vec::new());
    let begun = std::time::Instant::now();
    let from = origins[0].node;
    let now = bench.owner.now();
    for piece in records.chunks(CHUNK) {
        bench.owner.on_pulled(now, from, piece.to_vec(), false);
        bench.turn();
    }
    bench.owner.on_pulled(now, from, Vec::new(), true);
    bench.turn();
    let took = begun.elapsed();
    println!("{} records of {ORIGINS} hosts were taken in {took:?}", records.len());
    assert!(took < TAKEN_MAX, "{took:?}");
    assert_eq!(bench.owner.instances.len(), ORIGINS * SERVICES);
    assert_eq!(bench.owner.facts.len(), ORIGINS + 1, "and this host");
    bench.stop();
}

#[tokio::test]
async fn of_a_large_pull_what_is_forged_is_dropped_and_its_teller_named() {
    let (dir, mut other, mut unmet) = (enrolled(), Other::new(), Other::new());
    let teller = unmet.identity.node;
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    let mut records: Vec<Record> = (0..500).map(|number| other.record(&format!("s{number}"))).collect();
    let poison = other.record("poison-judge");
    records.insert(100, poison);
    records.push(unmet.record("of-nobody-that-is-known"));
    let forged = {
        let mut bytes = records[400].encoded().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Record::decode(bytes.into()).unwrap()
    };
    records[400] = forged;
    let now = bench.owner.now();
    bench.owner.on_pulled(now, teller, records, true);
    bench.turn();
    assert_eq!(bench.owner.instances.len(), 499);
    assert_eq!(bench.owner.gate.refusals().iter().map(|(_, count)| count).sum::<u64>(), 1);
    assert!(bench.owner.liars.contains(&teller));
    assert_eq!(bench.owner.quarantine.count(), 1, "what cannot be handled is met by the watch all the same");
    assert!(bench.owner.gate.knows(teller), "what is of nobody that is known waits");
    bench.stop();
}
