//! The store over restarts, crashes and damage.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::model::{Header, MemberState, NodeId, NodeName, RecordKind, Version};

const DEADLINE: Duration = Duration::from_secs(30);

fn open(directory: &Path) -> Opened {
    Store::open(directory, DEADLINE).unwrap()
}

fn record(origin: u8, key: &str, sequence: u64, body: &[u8]) -> Record {
    let header = Header {
        origin: NodeId([origin; 16]),
        version: Version { epoch: 1, sequence },
        kind: RecordKind::SERVICE,
        format: 1,
        tombstone: false,
        key: Bytes::copy_from_slice(key.as_bytes()),
    };
    Record::sign(&header, body, |_| [9; 64]).unwrap()
}

fn member(id: u8, state: MemberState) -> Claim {
    let node = NodeId([id; 16]);
    let name = NodeName::parse(&format!("host-{id}")).unwrap();
    let address = "[fd00::1]:7946".parse().unwrap();
    Claim { node, name, address, incarnation: 3, state, from: node, proof: vec![1; 64] }
}

#[test]
fn records_and_members_come_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path());
    assert!(opened.records.is_empty() && opened.members.is_empty() && opened.moved_aside.is_none());
    let store = opened.store;
    let large = vec![7; 60_000];
    store.save_records(&[record(1, "a", 1, b"x"), record(1, "b", 2, &large), record(2, "a", 1, b"z")]).unwrap();
    store.save_records(&[record(1, "a", 5, b"newer")]).unwrap();
    store.remove_records(&[record(2, "a", 1, b"z").id()]).unwrap();
    store.save_members(&[member(1, MemberState::Alive), member(2, MemberState::Alive)]).unwrap();
    store.save_members(&[member(2, MemberState::Failed), member(3, MemberState::Left)]).unwrap();
    store.flush().unwrap();
    drop(store);

    let again = open(directory.path());
    assert_eq!(again.records, [record(1, "a", 5, b"newer"), record(1, "b", 2, &large)]);
    assert_eq!(again.members, [member(2, MemberState::Failed), member(3, MemberState::Left)]);
}

#[test]
fn every_start_has_an_epoch_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for expected in 1..=3 {
        assert_eq!(open(directory.path()).store.next_epoch(0).unwrap(), expected);
    }
    let store = open(directory.path()).store;
    store.raise_epoch(70).unwrap();
    store.raise_epoch(7).unwrap();
    assert_eq!(store.next_epoch(0).unwrap(), 71);
    assert_eq!(fs::read_to_string(directory.path().join("epoch")).unwrap(), "71\n");
    assert_eq!((store.next_epoch(500).unwrap(), store.next_epoch(400).unwrap()), (500, 501), "it never goes back");
    assert_eq!(fs::read_to_string(directory.path().join("epoch")).unwrap(), "501\n");
}

#[test]
fn an_epoch_that_cannot_be_read_is_never_guessed() {
    let directory = tempfile::tempdir().unwrap();
    for text in ["", "x", "-1", "99999999999999999999"] {
        fs::write(directory.path().join("epoch"), text).unwrap();
        let error = open(directory.path()).store.next_epoch(0).unwrap_err();
        assert!(matches!(error, StoreError::Counter { .. }), "{text}: {error}");
    }
}

#[test]
fn incarnation_and_vips_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    assert_eq!((store.incarnation().unwrap(), store.load_vips().unwrap()), (0, BTreeMap::new()));
    let vips = BTreeMap::from([("primary.pg".to_owned(), Ipv4Addr::new(127, 64, 0, 9))]);
    store.set_incarnation(4).unwrap();
    store.save_vips(&vips).unwrap();
    drop(store);
    let store = open(directory.path()).store;
    assert_eq!((store.incarnation().unwrap(), store.load_vips().unwrap()), (4, vips));

    fs::write(directory.path().join("vips.json"), "{").unwrap();
    assert_eq!(store.load_vips().unwrap(), BTreeMap::new());
    assert!(directory.path().join("vips.json.corrupt").exists());
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let error = Store::open(directory.path(), DEADLINE).unwrap_err().to_string();
    assert!(error.contains(&directory.path().display().to_string()), "{error}");
    assert!(error.contains(&format!("(pid {})", std::process::id())) && error.contains("--data-dir"), "{error}");
    drop(first);
    open(directory.path());
}

fn cache_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(directory.join("catalog")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}

fn asides(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = names.filter(|name| name.starts_with("catalog.")).collect();
    found.sort();
    found
}

#[test]
fn a_cache_that_is_being_let_go_of_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    store.save_records(&[record(1, "a", 1, b"x")]).unwrap();
    drop(store);
    let held = sled::open(directory.path().join("catalog")).unwrap();
    let (begun, begins) = mpsc::channel();
    let letting_go = std::thread::spawn(move || {
        begins.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
    });
    begun.send(()).unwrap();
    let opened = open(directory.path());
    assert_eq!((opened.records.len(), opened.moved_aside), (1, None));
    letting_go.join().unwrap();
}

#[test]
fn a_corrupt_cache_is_moved_aside_and_the_counters_stay() {
    let directory = tempfile::tempdir().unwrap();
    for (round, kept) in [
        vec!["catalog.corrupt-1"],
        vec!["catalog.corrupt-1", "catalog.corrupt-2"],
        vec!["catalog.corrupt-2", "catalog.corrupt-3"],
    ]
    .into_iter()
    .enumerate()
    {
        let store = open(directory.path()).store;
        assert_eq!(store.next_epoch(0).unwrap(), round as u64 + 1);
        store.save_records(&[record(1, "a", 1, b"x")]).unwrap();
        drop(store);
        for file in cache_files(directory.path()) {
            let length = fs::metadata(&file).unwrap().len();
            fs::write(&file, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
        }
        let opened = open(directory.path());
        let aside = opened.moved_aside.expect("noticed");
        assert_eq!(aside.path, directory.path().join(format!("catalog.corrupt-{}", round + 1)));
        assert_eq!(opened.records, []);
        drop(opened.store);
        assert_eq!(asides(directory.path()), kept);
    }
}

#[test]
fn a_truncated_cache_opens_with_what_is_left_or_is_moved_aside_but_opens() {
    let directory = tempfile::tempdir().unwrap();
    let many: Vec<Record> = (0..2000).map(|n| record(1, &format!("s{n}"), n, &[5; 600])).collect();
    for divisor in [2, 3, 100] {
        let store = open(directory.path()).store;
        store.save_records(&many).unwrap();
        store.flush().unwrap();
        drop(store);
        let db = directory.path().join("catalog/db");
        let length = fs::metadata(&db).unwrap().len();
        fs::OpenOptions::new().write(true).open(&db).unwrap().set_len(length / divisor + 17).unwrap();
        let opened = open(directory.path());
        assert!(opened.records.iter().all(|record| many.contains(record)));
    }
}

#[test]
fn a_cache_that_failed_in_use_is_not_trusted_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    store.save_records(&[record(1, "a", 1, b"x")]).unwrap();
    let told = store.cache_failed(&sled::Error::ReportableBug("a test".into())).to_string();
    assert!(told.contains("a test") && told.contains("next start"), "{told}");
    drop(store);
    let opened = open(directory.path());
    assert_eq!((opened.records.len(), asides(directory.path())), (0, vec!["catalog.corrupt-1".to_owned()]));
    drop(opened.store);
    assert_eq!(open(directory.path()).moved_aside, None);
}

#[test]
fn a_cache_that_is_late_is_left_alone_and_replaced_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    store.save_records(&[record(1, "old", 1, b"x")]).unwrap();
    drop(store);
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let slow_disk = move |path: &Path| {
        if path.ends_with("catalog") {
            let _ = blocked.lock().unwrap().recv();
            return Err(sled::Error::Unsupported("the test is over".into()));
        }
        Cache::open(path)
    };
    let opened = Store::open_by(directory.path(), Duration::from_secs(2), slow_disk).unwrap();
    assert_eq!(opened.moved_aside.unwrap().path, directory.path().join("catalog"));
    opened.store.save_records(&[record(1, "new", 2, b"x")]).unwrap();
    drop(opened.store);
    drop(release);

    assert_eq!(open(directory.path()).records, [record(1, "new", 2, b"x")]);
    assert_eq!(asides(directory.path()), ["catalog.slow-1"]);
}

#[test]
fn a_disk_that_never_answers_is_an_error_and_never_a_hang() {
    let directory = tempfile::tempdir().unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let dead_disk = move |_: &Path| {
        let _ = blocked.lock().unwrap().recv();
        Err(sled::Error::Unsupported("the test is over".into()))
    };
    let result = Store::open_by(directory.path(), Duration::from_millis(20), dead_disk);
    assert!(matches!(result, Err(StoreError::Deadline { .. })), "{result:?}");
    drop(release);
}

#[test]
fn a_database_that_panics_is_a_corrupt_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("catalog")).unwrap();
    let panics_once = |path: &Path| match asides(path.parent().unwrap()).is_empty() {
        true => panic!("this panic is the test's"),
        false => Cache::open(path),
    };
    let opened = Store::open_by(directory.path(), DEADLINE, panics_once).unwrap();
    assert!(opened.moved_aside.unwrap().reason.contains("panicked"));
}

#[test]
fn the_writer_keeps_the_newest_of_each_and_closes_with_everything_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let writer = open(directory.path()).store.writer().unwrap();
    for sequence in 1..=500 {
        writer.save_record(record(1, "a", sequence, b"x"));
        writer.save_record(record(1, "gone", sequence, b"x"));
    }
    writer.remove_record(record(1, "gone", 1, b"x").id());
    writer.save_members(vec![member(4, MemberState::Alive)]);
    writer.save_vips(BTreeMap::from([("a".to_owned(), Ipv4Addr::new(127, 64, 0, 1))]));
    writer.set_incarnation(9);
    writer.raise_epoch(12);
    assert_eq!(writer.failures(), 0);
    assert!(writer.close(DEADLINE));

    let opened = open(directory.path());
    assert_eq!(opened.records, [record(1, "a", 500, b"x")]);
    assert_eq!(opened.members, [member(4, MemberState::Alive)]);
    assert_eq!((opened.store.incarnation().unwrap(), opened.store.next_epoch(0).unwrap()), (9, 13));
    assert_eq!(opened.store.load_vips().unwrap().len(), 1);
}

/// xorshift: damage that is the same on every run.
fn next_random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 1).unwrap()
}

#[test]
fn whatever_bytes_are_damaged_the_store_opens_and_invents_nothing() {
    let kept: Vec<Record> = (0..300).map(|n| record(1, &format!("s{n}"), n, &[5; 600])).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).store;
        store.save_records(&kept).unwrap();
        drop(store);
        let files = cache_files(directory.path());
        let file = &files[next_random(&mut state) % files.len()];
        let mut bytes = fs::read(file).unwrap();
        for _ in 0..3 {
            let at = next_random(&mut state) % bytes.len().max(1);
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 0x5a);
        }
        fs::write(file, bytes).unwrap();
        let opened = open(directory.path());
        assert!(opened.records.iter().all(|record| kept.contains(record)));
    }
}

fn service_file(id: &str) -> Registration {
    Registration::Service(id.into())
}

#[test]
fn registrations_come_back_as_they_were_given_and_a_removed_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    assert_eq!(store.registrations().unwrap(), Registrations::default());
    let long = "x".repeat(255);
    let put = |id: &str| FileChange::Put(service_file(id), Bytes::from(format!("body of {id}")));
    store.change_files(&[put("web"), put("a/../b"), put(&long)]).unwrap();
    store.change_files(&[FileChange::Put(Registration::Check("c".into()), Bytes::from_static(b"check"))]).unwrap();
    store.change_files(&[FileChange::Put(Registration::Maintenance, Bytes::from_static(b"{}"))]).unwrap();
    store.change_files(&[FileChange::Remove(service_file("web")), FileChange::Remove(service_file("never"))]).unwrap();
    drop(store);

    let kept = open(directory.path()).store.registrations().unwrap();
    let mut bodies: Vec<_> = kept.services.iter().map(|kept| kept.bytes.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, [b"body of a/../b".to_vec(), format!("body of {long}").into_bytes()]);
    assert!(kept.services.iter().any(|kept| kept.is_of(&service_file(&long))));
    assert_eq!(
        (kept.checks[0].bytes.as_slice(), kept.maintenance.unwrap().bytes.as_slice()),
        (&b"check"[..], &b"{}"[..])
    );
}

#[test]
fn files_change_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    fs::create_dir_all(directory.path().join("registrations")).unwrap();
    // Where the directory of checks should be made there is a file: the second write must fail.
    fs::write(directory.path().join("registrations/checks"), "").unwrap();
    let changes = [
        FileChange::Put(service_file("web"), Bytes::from_static(b"x")),
        FileChange::Put(Registration::Check("c".into()), Bytes::from_static(b"y")),
    ];
    assert!(matches!(store.change_files(&changes), Err(StoreError::File { .. })));
    assert_eq!(fs::read_dir(directory.path().join("registrations/services")).unwrap().count(), 0);
}

#[test]
fn what_is_set_aside_keeps_its_content_also_beside_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).store;
    for body in ["first", "second"] {
        store.change_files(&[FileChange::Put(service_file("web"), Bytes::from(body))]).unwrap();
        store.change_files(&[FileChange::SetAside(service_file("web"), "replaced")]).unwrap();
    }
    assert_eq!(store.registrations().unwrap(), Registrations::default());
    let mut found: Vec<_> = fs::read_dir(directory.path().join("registrations/services"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["first", "second"]);
}

#[test]
fn the_writer_tells_when_files_are_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let writer = open(directory.path()).store.writer().unwrap();
    let done = writer.change_files(vec![FileChange::Put(service_file("web"), Bytes::from_static(b"x"))]);
    assert!(matches!(done.blocking_recv(), Ok(Ok(()))));
    writer.set_rises(3);
    assert!(writer.close(DEADLINE));
    let store = open(directory.path()).store;
    assert_eq!((store.registrations().unwrap().services.len(), store.rises().unwrap()), (1, 3));
}
