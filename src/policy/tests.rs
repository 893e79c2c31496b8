//! Every host comes to the same view, whatever it hears first, and nobody's leave takes a policy along.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Action, Change, Dot, Intention, ServiceName, Statement};

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn intention(action: Action) -> Change {
    let (source, destination) = ("web".parse().unwrap(), "billing".parse().unwrap());
    Change::Intention(Intention { source, destination, action, permissions: Vec::new(), description: String::new() })
}

fn id() -> PolicyId {
    intention(Action::Allow).id()
}

fn policy(dot: Dot, seen: Vec<(NodeId, u64)>, change: Change) -> Arc<Policy> {
    let statement = Statement { dot, seen, operator: "anna".into(), at_unix_s: 0, change };
    statement.check().unwrap();
    let signed = Bytes::from(format!("{statement:?}").into_bytes());
    Arc::new(Policy { statement, is_vouched: false, body: signed.clone(), signed })
}

/// What an operator at this host says who knows what the host knows.
fn decide(at: &Policies, writer: NodeId, change: Change) -> Arc<Policy> {
    let (dot, seen) = at.compile().next(&change.id(), writer);
    policy(dot, seen, change)
}

fn allows(policies: &Policies) -> bool {
    let name = |text| ServiceName::parse(text).unwrap();
    policies.compile().judge(Some(&name("web")), &name("billing"), None).allowed
}

#[test]
fn a_later_decision_replaces_an_earlier_one_whichever_comes_first() {
    let mut here = Policies::default();
    let deny = decide(&here, node(1), intention(Action::Deny));
    assert_eq!(here.hold(node(1), deny.clone()), Held::News);
    let allow = decide(&here, node(2), intention(Action::Allow));
    assert_eq!(here.hold(node(2), allow.clone()), Held::News);
    assert!(allows(&here));
    let mut there = Policies::default();
    assert_eq!(there.hold(node(2), allow), Held::News);
    assert_eq!(there.hold(node(1), deny), Held::Replaced);
    assert!(allows(&there) && there.compile() == here.compile());
    assert_eq!(there.replaced_in(node(1)), [id()]);
}

#[test]
fn of_decisions_made_at_once_the_one_that_denies_wins_and_the_other_is_told() {
    let nothing = Policies::default();
    let deny = decide(&nothing, node(1), intention(Action::Deny));
    let allow = decide(&nothing, node(9), intention(Action::Allow));
    let mut policies = Policies::default();
    policies.hold(node(9), allow.clone());
    policies.hold(node(1), deny.clone());
    let compiled = policies.compile();
    let standing = &compiled.subjects()[&id()];
    assert_eq!((&standing.winner, &standing.losers[..]), (&deny, &[allow][..]));
    // Whoever decides next has seen both.
    let settled = decide(&policies, node(5), intention(Action::Allow));
    policies.hold(node(5), settled);
    assert!(allows(&policies) && policies.compile().subjects()[&id()].losers.is_empty());
}

#[test]
fn a_deletion_keeps_what_it_deletes_from_coming_back() {
    let mut policies = Policies::default();
    let deny = decide(&policies, node(1), intention(Action::Deny));
    policies.hold(node(1), deny.clone());
    let deleted = decide(&policies, node(2), Change::Delete(id()));
    policies.hold(node(2), deleted);
    assert!(allows(&policies) && policies.compile().list().next().is_none());
    assert_eq!(policies.hold(node(3), deny), Held::Replaced);
    assert!(allows(&policies));
}

#[test]
fn what_no_living_host_carries_is_an_orphan_and_still_counts() {
    let mut policies = Policies::default();
    let deny = decide(&policies, node(1), intention(Action::Deny));
    policies.hold(node(1), deny.clone());
    assert_eq!(policies.orphans(|_| true), []);
    assert_eq!(policies.orphans(|carrier| carrier != node(1)), std::slice::from_ref(&deny));
    policies.dropped_key(&id().key(), node(1));
    assert_eq!(policies.orphans(|_| true), std::slice::from_ref(&deny));
    assert!(!allows(&policies));
    assert_eq!(policies.hold(node(2), deny), Held::Known);
    assert_eq!(policies.orphans(|_| true), []);
}

#[test]
fn two_living_hosts_of_lower_ids_are_enough_to_carry_a_policy() {
    let mut policies = Policies::default();
    let deny = decide(&policies, node(9), intention(Action::Deny));
    for carrier in [1, 2, 5, 9] {
        policies.hold(node(carrier), deny.clone());
    }
    let surplus = |origin, dead: u8| !policies.surplus_in(node(origin), |carrier| carrier != node(dead)).is_empty();
    assert_eq!([1, 2, 5, 9].map(|origin| surplus(origin, 0)), [false, false, true, true]);
    assert_eq!([1, 2, 5, 9].map(|origin| surplus(origin, 1)), [false, false, false, true]);
}

#[test]
fn what_an_issuer_vouches_for_is_kept_in_that_form() {
    let mut policies = Policies::default();
    let deny = decide(&policies, node(2), intention(Action::Deny));
    let vouched = Arc::new(Policy { is_vouched: true, body: Bytes::from_static(b"vouched"), ..Policy::clone(&deny) });
    policies.hold(node(2), deny.clone());
    assert_eq!(policies.unvouched(), std::slice::from_ref(&deny));
    assert_eq!(policies.hold(node(1), vouched.clone()), Held::Known);
    assert_eq!(policies.hold(node(3), deny), Held::Known);
    assert_eq!(policies.unvouched(), []);
    assert_eq!(policies.orphans(|_| false), std::slice::from_ref(&vouched));
    policies.hold(node(4), vouched.clone());
    assert_eq!(policies.surplus_in(node(4), |_| true), [], "of those before it only one has the issuer's word");
    policies.hold(node(3), vouched);
    assert_eq!(policies.surplus_in(node(4), |_| true), [id()]);
}

#[test]
fn there_is_an_end_to_subjects() {
    let mut policies = Policies::default();
    for number in 0..SUBJECTS_MAX {
        let source = format!("s{number}").parse().unwrap();
        let destination = "billing".parse().unwrap();
        let change = Change::Delete(PolicyId::Intention { source, destination });
        let dot = Dot { lamport: 1, writer: node(1) };
        assert_eq!(policies.hold(node(1), policy(dot, Vec::new(), change)), Held::News);
    }
    let dot = Dot { lamport: 1, writer: node(1) };
    assert_eq!(policies.hold(node(1), policy(dot, Vec::new(), intention(Action::Deny))), Held::Full);
}

/// Hosts decide and hear of each other at random; returns every statement with the host that made it.
fn history(steps: &[(u8, u8, bool)]) -> Vec<(NodeId, Arc<Policy>)> {
    let mut hosts: Vec<Policies> = vec![Policies::default(); 4];
    let mut all = Vec::new();
    for (number, (host, from, decides)) in steps.iter().enumerate() {
        let (host, from) = (usize::from(host % 4), usize::from(from % 4));
        if *decides {
            let change = match number % 3 {
                0 => intention(Action::Deny),
                1 => intention(Action::Allow),
                _ => Change::Delete(id()),
            };
            let writer = node(u8::try_from(host).unwrap());
            let policy = decide(&hosts[host], writer, change);
            hosts[host].hold(writer, policy.clone());
            all.push((writer, policy));
        } else {
            let heard: Vec<_> = hosts[from].heads().cloned().collect();
            for policy in heard {
                hosts[host].hold(policy.statement.dot.writer, policy);
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn the_order_of_hearing_changes_nothing(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..40),
        order in any::<u64>(),
    ) {
        let all = history(&steps);
        let mut shuffled = all.clone();
        let mut state = order | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let view = |statements: &[(NodeId, Arc<Policy>)]| {
            let mut policies = Policies::default();
            for (origin, policy) in statements.iter().chain(statements) {
                policies.hold(*origin, policy.clone());
            }
            policies.compile()
        };
        let compiled = view(&all);
        prop_assert_eq!(&compiled, &view(&shuffled));
        // What holds was replaced by nobody, and a deny that was not replaced is never outvoted by an allow.
        for standing in compiled.subjects().values() {
            let heads: Vec<_> = standing.losers.iter().chain([&standing.winner]).collect();
            for head in &heads {
                prop_assert!(!all.iter().any(|(_, other)| other.statement.replaces(&head.statement)));
            }
            let severest = heads.iter().map(|head| head.statement.change.severity()).max();
            prop_assert_eq!(severest, Some(standing.winner.statement.change.severity()));
        }
    }

    #[test]
    fn no_two_statements_have_one_name(steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..40)) {
        let all = history(&steps);
        let dots: BTreeSet<Dot> = all.iter().map(|(_, policy)| policy.statement.dot).collect();
        prop_assert_eq!(dots.len(), all.len());
    }
}
