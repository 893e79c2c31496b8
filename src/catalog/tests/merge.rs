//! Merging: what is held is a function of the set of records, whatever their order and however often they come.

use proptest::prelude::*;

use super::*;

// Few origins, keys and versions, so that records meet: replace, tie, void and fall below floors.
fn any_record() -> impl Strategy<Value = Record> {
    let position = (0..3_u16, 1..4_u64, 0..6_u64);
    (position, 0..8_u8, 0..3_u8, 0..3_u8).prop_map(|((origin, epoch, sequence), what, key, body)| {
        let (origin, version) = (node(origin), version(epoch, sequence));
        let key = ["web", "db", "queue"][usize::from(key)];
        match what {
            0 => floor(origin, version, Version { epoch: u64::from(body), sequence: sequence / 2 }),
            1 => node_record(origin, version, usize::from(body)),
            2 => tombstone(origin, version, key),
            _ => record_of(origin, version, RecordKind::SERVICE, key, Some(&[body])),
        }
    })
}

fn merged<'a>(records: impl IntoIterator<Item = &'a Record>) -> Catalog {
    let mut catalog = catalog(node(0));
    for record in records {
        catalog.merge(Duration::ZERO, record.clone(), Relay::Quiet);
    }
    catalog
}

/// The rules of `origin`, word for word and slowly.
fn expected(records: &[Record]) -> Vec<Record> {
    let sound = |record: &&Record| record.floor().is_none_or(|floor| floor <= record.version());
    let records: Vec<&Record> = records.iter().filter(sound).collect();
    let floor_of = |origin: NodeId| records.iter().filter(|r| r.origin() == origin).filter_map(|r| r.floor()).max();
    let mut winners: BTreeMap<RecordId, &Record> = BTreeMap::new();
    for record in records.iter().filter(|record| Some(record.version()) >= floor_of(record.origin())) {
        let rank = |record: &Record| (record.floor(), record.version(), record.encoded().clone());
        let winner = winners.entry(record.id()).or_insert(record);
        if rank(record) > rank(winner) {
            *winner = record;
        }
    }
    winners.into_values().cloned().collect()
}

proptest! {
    #[test]
    fn the_state_is_a_function_of_the_set_of_records(
        (records, shuffled) in prop::collection::vec(any_record(), 0..40)
            .prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle()))
    ) {
        let (mut one, mut other) = (merged(&records), merged(&shuffled));
        prop_assert_eq!(state(&one), expected(&records));
        prop_assert_eq!(state(&one), state(&other));
        prop_assert_eq!(digest(&mut one), digest(&mut other));
        prop_assert_eq!(one.newest_of(node(1)), other.newest_of(node(1)));
    }

    #[test]
    fn merging_again_changes_nothing(records in prop::collection::vec(any_record(), 0..40)) {
        let mut catalog = merged(&records);
        let before = (state(&catalog), digest(&mut catalog));
        for record in records.iter().rev() {
            let merge = catalog.merge(Duration::ZERO, record.clone(), Relay::Eager);
            prop_assert!(!matches!(merge, Merge::Applied { .. }), "{:?} was applied twice", record);
        }
        prop_assert_eq!(before, (state(&catalog), digest(&mut catalog)));
    }

    #[test]
    fn merging_two_states_is_merging_all_their_records(
        left in prop::collection::vec(any_record(), 0..30),
        right in prop::collection::vec(any_record(), 0..30),
    ) {
        let (left_state, right_state) = (state(&merged(&left)), state(&merged(&right)));
        let all = state(&merged(left.iter().chain(&right)));
        prop_assert_eq!(&state(&merged(left_state.iter().chain(&right_state))), &all);
        prop_assert_eq!(&state(&merged(right_state.iter().chain(&left_state))), &all);
    }

    #[test]
    fn digests_are_equal_exactly_where_states_are(
        left in prop::collection::vec(any_record(), 0..6),
        right in prop::collection::vec(any_record(), 0..6),
    ) {
        let (mut left, mut right) = (merged(&left), merged(&right));
        prop_assert_eq!(state(&left) == state(&right), digest(&mut left) == digest(&mut right));
    }
}

#[test]
fn a_newer_version_replaces_and_an_older_one_is_known() {
    let mut catalog = catalog(node(0));
    let (old, new) = (service(node(1), version(1, 1), "web"), service(node(1), version(1, 2), "web"));
    assert_eq!(catalog.merge(MS, old.clone(), Relay::Quiet), Merge::Applied { replaced: None, voided: Vec::new() });
    let replaced = Merge::Applied { replaced: Some(old.clone()), voided: Vec::new() };
    assert_eq!(catalog.merge(MS, new.clone(), Relay::Quiet), replaced);
    assert_eq!(catalog.merge(MS, old, Relay::Quiet), Merge::Known);
    assert_eq!(catalog.get(&new.id()), Some(&new));
    assert_eq!(catalog.newest_of(node(1)), Some(version(1, 2)));
}

#[test]
fn a_floor_voids_what_is_below_it_held_or_still_to_come() {
    let mut catalog = catalog(node(0));
    let gone = service(node(1), version(1, 7), "web");
    catalog.merge(MS, gone.clone(), Relay::Quiet);
    catalog.merge(MS, service(node(1), version(2, 0), "db"), Relay::Quiet);
    let merge = catalog.merge(MS, floor(node(1), version(2, 1), version(2, 0)), Relay::Quiet);
    assert_eq!(merge, Merge::Applied { replaced: None, voided: vec![gone.id()] });
    assert_eq!(catalog.merge(MS, gone, Relay::Quiet), Merge::Void);
    assert_eq!(catalog.records_of(node(1)).count(), 2, "the floor and the record above it");
}

#[test]
fn a_tombstone_hides_its_record_and_keeps_older_versions_out() {
    let mut catalog = catalog(node(0));
    let web = service(node(1), version(1, 1), "web");
    catalog.merge(MS, web.clone(), Relay::Quiet);
    catalog.merge(MS, tombstone(node(1), version(1, 2), "web"), Relay::Quiet);
    assert_eq!(catalog.records().count(), 0);
    assert_eq!(catalog.merge(MS, web.clone(), Relay::Quiet), Merge::Known);
    assert!(catalog.get(&web.id()).is_some_and(|held| held.header().tombstone));
}

#[test]
fn a_lower_floor_does_not_undo_a_higher_one() {
    let mut catalog = catalog(node(0));
    catalog.merge(MS, floor(node(1), version(3, 0), version(3, 0)), Relay::Quiet);
    catalog.merge(MS, floor(node(1), version(4, 0), version(1, 0)), Relay::Quiet);
    assert_eq!(catalog.merge(MS, service(node(1), version(2, 0), "web"), Relay::Quiet), Merge::Void);
}
