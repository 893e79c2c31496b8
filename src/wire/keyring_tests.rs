//! What the keyring promises, whatever the order in which hosts meet.

use proptest::prelude::*;

use super::*;

const FIRST_KEY: u8 = 0;

fn key(number: u8) -> GossipKey {
    GossipKey([number; 32])
}

fn name(number: u8) -> Fingerprint {
    Fingerprint::of(&key(number))
}

fn host(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn start() -> Keyring {
    Keyring::new(key(FIRST_KEY))
}

/// install `new`, use it, remove `old`.
fn rotate(keyring: &Keyring, old: u8, new: u8, writer: NodeId) -> Keyring {
    let keyring = keyring.install(key(new), writer).unwrap().choose(name(new), writer).unwrap();
    keyring.remove(name(old), writer).unwrap()
}

#[test]
fn a_rotation_ends_with_the_new_key_alone() {
    let installed = start().install(key(1), host(1)).unwrap();
    assert_eq!(installed.status().keys, [name(0), name(1)], "the old one still seals");
    assert!(installed.awaits_use(name(1)));
    let used = installed.choose(name(1), host(1)).unwrap();
    assert_eq!(used.keys(), [key(1), key(0)]);
    assert!(!used.awaits_use(name(0)));
    let back = used.choose(name(0), host(1)).unwrap();
    assert!(!back.awaits_use(name(1)), "who goes back is to remove it, not to use it");
    let removed = used.remove(name(0), host(1)).unwrap();
    assert_eq!(removed.keys(), [key(1)]);
    assert!(!removed.awaits_use(name(0)));
}

#[test]
fn the_primary_and_what_is_not_there_are_not_removed_and_the_unknown_is_not_used() {
    let keyring = start();
    assert_eq!(keyring.remove(name(0), host(1)), Err(KeyringError::Primary(name(0))));
    assert_eq!(keyring.remove(name(1), host(1)), Err(KeyringError::Unknown(name(1))));
    assert_eq!(keyring.choose(name(1), host(1)), Err(KeyringError::Unknown(name(1))));
    let full = (1..8).fold(keyring, |keyring, number| keyring.install(key(number), host(1)).unwrap());
    assert_eq!(full.install(key(8), host(1)), Err(KeyringError::Full));
    assert_eq!(full.install(key(7), host(1)), Ok(full), "again is no change");
}

#[test]
fn a_host_that_was_away_learns_all_and_brings_nothing_back() {
    let away = start();
    let rotated = rotate(&start(), 0, 1, host(1));
    let met = away.merge(&rotated).unwrap();
    assert_eq!(met, rotated);
    assert_eq!(rotated.merge(&away).unwrap(), rotated);
    assert!(!met.holds(name(0)));
    // Nor does it while it was away during several.
    let further = rotate(&rotated, 1, 2, host(2));
    assert_eq!(further.merge(&away).unwrap(), further);
    assert_eq!(met.merge(&further).unwrap(), further);
}

#[test]
fn removed_keys_stay_removed_when_too_many_were_to_be_remembered_one_by_one() {
    let away = start();
    let mut seen = Vec::new();
    let mut keyring = start();
    for number in 1..=200 {
        keyring = rotate(&keyring, number - 1, number, host(1));
        assert!(keyring.entries.len() <= REMOVED_MAX + 2, "{} after {number}", keyring.entries.len());
        seen.push(keyring.clone());
    }
    assert!(keyring.floor > Stamp::default());
    for older in seen.iter().chain([&away]) {
        assert_eq!(older.merge(&keyring).unwrap(), keyring);
        assert_eq!(keyring.merge(older).unwrap(), keyring);
    }
    assert!(keyring.encode().unwrap().len() < 8 * 1024);
}

#[test]
fn a_key_that_one_side_of_a_cut_chose_and_the_other_removed_stays_until_another_is_chosen() {
    let both = start().install(key(1), host(1)).unwrap();
    let chose = both.choose(name(1), host(1)).unwrap().remove(name(0), host(1)).unwrap();
    let removed = both.remove(name(1), host(2)).unwrap();
    let met = chose.merge(&removed).unwrap();
    assert_eq!(met, removed.merge(&chose).unwrap());
    assert_eq!(met.keys(), [key(1)], "no host is ever without a key");
    let settled = met.install(key(2), host(1)).unwrap().choose(name(2), host(1)).unwrap();
    assert_eq!(settled.keys(), [key(2)], "then the removal takes effect");
}

#[test]
fn a_removed_key_may_be_installed_again_on_purpose() {
    let rotated = rotate(&start(), 0, 1, host(1));
    let back = rotated.install(key(0), host(2)).unwrap();
    assert!(rotated.merge(&back).unwrap().holds(name(0)));
}

#[test]
fn a_count_that_nobody_reached_is_not_taken_over() {
    let mut mad = start();
    mad.chosen.counter = u64::MAX;
    assert!(matches!(start().merge(&mad), Err(KeyringError::Invalid(_))));
    assert!(matches!(mad.install(key(1), host(1)), Err(KeyringError::Invalid(_))));
}

#[test]
fn a_keyring_reads_back_and_says_nothing_of_its_keys_when_printed() {
    let keyring = rotate(&start(), 0, 0xab, host(1));
    assert_eq!(Keyring::decode(&keyring.encode().unwrap()), Ok(keyring.clone()));
    let printed = format!("{keyring:?} {:?} {:?}", keyring.status(), keyring.keys());
    assert!(!printed.contains("171") && !printed.contains("abab"), "{printed}");
    assert_eq!(name(3).to_string().parse(), Ok(name(3)));
    assert!("xyz".parse::<Fingerprint>().is_err() && "00".parse::<Fingerprint>().is_err());
}

#[test]
fn keyrings_that_do_not_make_sense_are_refused() {
    let told = |change: fn(&mut Told)| {
        let mut told = Told::from(rotate(&start(), 0, 1, host(1)).install(key(2), host(1)).unwrap());
        change(&mut told);
        Keyring::try_from(told)
    };
    assert!(told(|_| {}).is_ok());
    assert!(told(|told| told.primary = name(9)).is_err());
    assert!(told(|told| told.primary = name(0)).is_err(), "removed, and without its key");
    assert!(told(|told| told.entries.iter_mut().for_each(|entry| entry.key = None)).is_err());
    assert!(told(|told| told.entries.iter_mut().for_each(|entry| entry.key = Some([9; 32]))).is_err());
    assert!(told(|told| told.entries.extend(Told::from(start()).entries)).is_err(), "a key twice");
    let many = |told: &mut Told| {
        for number in 0..=255 {
            let entry = ToldEntry { fingerprint: Fingerprint([number; 8]), stamp: FIRST, removed: true, key: None };
            told.entries.push(entry);
        }
    };
    assert!(told(many).is_err());
}

/// What a host does with its keyring, or whom it meets.
#[derive(Debug, Clone)]
enum Step {
    Install(u8, u8),
    Choose(u8, u8),
    Remove(u8, u8),
    Meet(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (at, with) = (0u8..3, 0u8..5);
    let step = (0u8..4, at, with).prop_map(|(kind, at, with)| match kind {
        0 => Step::Install(at, with),
        1 => Step::Choose(at, with),
        2 => Step::Remove(at, with),
        _ => Step::Meet(at, with % 3),
    });
    prop::collection::vec(step, 0..40)
}

/// Three hosts of one cluster that change and meet as told. What is refused changes nothing.
fn hosts(steps: &[Step]) -> [Keyring; 3] {
    let mut hosts = [start(), start(), start()];
    for step in steps {
        let (at, next) = match *step {
            Step::Install(at, number) => (at, hosts[usize::from(at)].install(key(number), host(at + 1))),
            Step::Choose(at, number) => (at, hosts[usize::from(at)].choose(name(number), host(at + 1))),
            Step::Remove(at, number) => (at, hosts[usize::from(at)].remove(name(number), host(at + 1))),
            Step::Meet(at, with) => (at, hosts[usize::from(at)].merge(&hosts[usize::from(with)])),
        };
        if let Ok(next) = next {
            hosts[usize::from(at)] = next;
        }
    }
    hosts
}

/// The same with a floor at a stamp that was in use, as a host has it that forgot its oldest removals.
fn with_floor(keyring: &Keyring, at: u64) -> Keyring {
    let floor = Stamp { counter: at, writer: Writer(host(9)) };
    Keyring { floor, ..keyring.clone() }.settled()
}

proptest! {
    #[test]
    fn merging_commutes_associates_and_repeats_without_effect(steps in steps(), floors in prop::array::uniform3(0u64..12)) {
        let mut hosts = hosts(&steps);
        for (keyring, floor) in hosts.iter_mut().zip(floors) {
            *keyring = with_floor(keyring, floor);
        }
        let [a, b, c] = &hosts;
        let merge = |a: &Keyring, b: &Keyring| a.merge(b).unwrap();
        prop_assert_eq!(merge(a, b), merge(b, a));
        prop_assert_eq!(merge(&merge(a, b), c), merge(a, &merge(b, c)));
        prop_assert_eq!(merge(a, a), a.clone());
        let all = merge(&merge(a, b), c);
        prop_assert_eq!(&merge(&all, b), &all);
        prop_assert_eq!(all.digest(), merge(c, &merge(b, a)).digest());
        prop_assert_eq!(Keyring::decode(&all.encode().unwrap()).unwrap(), all);
    }

    #[test]
    fn no_host_is_ever_without_its_primary(steps in steps()) {
        for keyring in hosts(&steps) {
            prop_assert!(keyring.holds(keyring.primary()));
            prop_assert_eq!(keyring.status().primary(), Some(keyring.primary()));
            prop_assert_eq!(keyring.keys().len(), keyring.status().keys.len());
        }
    }

    #[test]
    fn what_was_removed_last_is_gone_from_all_who_meet_the_remover(steps in steps(), number in 0u8..5) {
        let [a, b, c] = hosts(&steps);
        let latest = a.merge(&b).unwrap().merge(&c).unwrap();
        if let Ok(removed) = latest.remove(name(number), host(7)) {
            for older in [&a, &b, &c] {
                prop_assert!(!older.merge(&removed).unwrap().holds(name(number)));
                prop_assert!(!removed.merge(older).unwrap().holds(name(number)));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Keyring::decode(&bytes);
        let _ = Keyring::decode(&[&[1u8][..], &bytes].concat());
    }
}
