//! One host's state machine, driven by hand: every input said, every output looked at. Whole fleets are in `tests/sim/`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

const LOCAL: u8 = 1;

fn node(id: u8) -> NodeId {
    NodeId([id; 16])
}

fn address(id: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id], 7946))
}

fn claim(id: u8, incarnation: u64, state: MemberState) -> Claim {
    let name = NodeName::parse(&format!("n{id}")).unwrap();
    Claim { node: node(id), name, address: address(id), incarnation, state, from: node(id), proof: Vec::new() }
}

fn alive(id: u8) -> Claim {
    claim(id, 0, MemberState::Alive)
}

fn accused_by(accuser: u8, id: u8, incarnation: u64) -> Claim {
    Claim { from: node(accuser), ..claim(id, incarnation, MemberState::Suspect) }
}

/// A host and its clock.
struct Bench {
    swim: Swim,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let name = NodeName::parse("n1").unwrap();
        Bench { swim: Swim::new(Config::default(), node(LOCAL), name, address(LOCAL), 0, rng), now: Now::ZERO }
    }

    /// In contact with hosts 2 to `last`, and done with what it had to say about that.
    fn with_peers(last: u8) -> Bench {
        let mut bench = Bench::new();
        bench.swim.tick(Now::ZERO);
        bench.swim.synced(Now::ZERO, (2..=last).map(alive).collect());
        bench.outputs();
        bench
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.swim.poll_output()).collect()
    }

    fn receive(&mut self, sender: u8, probe: Probe, claims: Vec<Claim>) -> Vec<Output> {
        self.swim.receive(self.now, node(sender), address(sender), SwimMessage { probe, claims });
        self.outputs()
    }

    fn gossip(&mut self, sender: u8, claims: Vec<Claim>) -> Vec<Output> {
        self.receive(sender, Probe::Gossip, claims)
    }

    /// Ticks whenever it is due, for `time`; `answer` sees each output and may give a datagram in reply.
    fn run(&mut self, time: Duration, answer: impl Fn(&Output) -> Option<(u8, Probe)>) -> Vec<(Now, Output)> {
        let end = self.now + time;
        let mut seen = Vec::new();
        while let Some(next) = self.swim.next_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.swim.tick(self.now);
            while let Some(output) = self.swim.poll_output() {
                let reply = answer(&output);
                seen.push((self.now, output));
                if let Some((sender, probe)) = reply {
                    let message = SwimMessage { probe, claims: Vec::new() };
                    self.swim.receive(self.now, node(sender), address(sender), message);
                }
            }
        }
        self.now = end;
        seen
    }

    /// Several hosts call `id` failed, and it does not refute.
    fn bury(&mut self, id: u8) {
        for accuser in [2, 3] {
            self.gossip(accuser, vec![Claim { from: node(accuser), ..claim(id, 0, MemberState::Failed) }]);
        }
        self.run(Duration::from_millis(1600), all_answer_but(id));
        assert_eq!(self.state(id), Some(MemberState::Failed));
    }

    fn state(&self, id: u8) -> Option<MemberState> {
        self.swim.member(node(id)).map(|claim| claim.state)
    }
}

/// All answer but `dead`; who is asked to ping it says that it does not answer.
fn all_answer_but(dead: u8) -> impl Fn(&Output) -> Option<(u8, Probe)> {
    move |output| {
        let Output::Send { node: Some(to), message, .. } = output else { return None };
        if *to == node(dead) {
            return None;
        }
        match message.probe {
            Probe::Ping { number, .. } => Some((to.0[0], Probe::Ack { number })),
            Probe::PingRequest { number, .. } => Some((to.0[0], Probe::Nack { number })),
            _ => None,
        }
    }
}

fn sent(outputs: &[Output]) -> Vec<(SocketAddr, Probe)> {
    let sends = outputs.iter().filter_map(|output| match output {
        Output::Send { to, message, .. } => Some((*to, message.probe.clone())),
        _ => None,
    });
    sends.collect()
}

#[test]
fn a_ping_is_answered_to_where_it_came_from() {
    let mut bench = Bench::with_peers(3);
    let natted = SocketAddr::from(([192, 0, 2, 1], 4000));
    let ping = SwimMessage { probe: Probe::Ping { number: 9, target: node(LOCAL) }, claims: Vec::new() };
    bench.swim.receive(bench.now, node(2), natted, ping);
    assert_eq!(sent(&bench.outputs()), [(natted, Probe::Ack { number: 9 })]);
}

#[test]
fn a_ping_for_the_former_owner_of_this_address_is_not_answered() {
    let mut bench = Bench::with_peers(3);
    assert_eq!(bench.receive(2, Probe::Ping { number: 9, target: node(7) }, Vec::new()), []);
}

#[test]
fn a_silent_member_is_probed_by_every_way_then_suspected_then_failed() {
    let mut bench = Bench::with_peers(3);
    let seen = bench.run(Duration::from_secs(12), all_answer_but(3));
    let first = |wanted: &dyn Fn(&Output) -> bool| {
        seen.iter().find(|(_, output)| wanted(output)).map(|(at, _)| *at).expect("it happens")
    };
    let is_send = |output: &Output, wanted: &dyn Fn(&Probe) -> bool| matches!(output, Output::Send { message, .. } if wanted(&message.probe));
    let ping =
        first(&|output| is_send(output, &|probe| matches!(probe, Probe::Ping { target, .. } if *target == node(3))));
    let request = first(&|output| is_send(output, &|probe| matches!(probe, Probe::PingRequest { .. })));
    let stream = first(&|output| matches!(output, Output::StreamProbe { target, .. } if *target == node(3)));
    let changed = |state| move |output: &Output| matches!(output, Output::Changed { node: changed, state: s, .. } if *changed == node(3) && *s == state);
    let (suspect, failed) = (first(&changed(MemberState::Suspect)), first(&changed(MemberState::Failed)));
    let config = Config::default();
    assert_eq!((request, stream), (ping + config.probe_timeout, ping + config.probe_timeout));
    assert_eq!(suspect, request + config.probe_interval);
    assert_eq!(failed, suspect + config.suspicion_max_for(3), "nobody confirmed");
    assert_eq!(bench.state(2), Some(MemberState::Alive));
}

#[test]
fn a_suspect_is_told_so_at_once() {
    let mut bench = Bench::with_peers(4);
    let seen = bench.run(Duration::from_secs(4), all_answer_but(3));
    let told = seen.iter().any(|(_, output)| match output {
        Output::Send { to, message, .. } => *to == address(3) && message.claims.contains(&accused_by(LOCAL, 3, 0)),
        _ => false,
    });
    assert!(told);
}

#[test]
fn a_member_that_answers_by_stream_only_is_not_accused() {
    let mut bench = Bench::with_peers(2);
    for _ in 0..20 {
        let seen = bench.run(Duration::from_millis(400), |_| None);
        for (_, output) in seen {
            if let Output::StreamProbe { target, number, .. } = output {
                bench.swim.stream_probe_result(bench.now, target, number, true);
            }
        }
    }
    assert_eq!(bench.state(2), Some(MemberState::Alive));
}

#[test]
fn a_probe_ends_early_when_every_way_is_known_to_have_failed() {
    let mut bench = Bench::with_peers(2);
    let seen = bench.run(Duration::from_secs(1), |_| None);
    let probe = seen.iter().find_map(|(_, output)| match output {
        Output::StreamProbe { target, number, .. } => Some((*target, *number)),
        _ => None,
    });
    let (target, number) = probe.expect("the first probe has failed directly");
    bench.swim.stream_probe_result(bench.now, target, number, false);
    assert_eq!(bench.state(2), Some(MemberState::Suspect));
}

#[test]
fn a_helper_passes_on_the_answer_and_says_when_there_is_none() {
    let mut bench = Bench::with_peers(3);
    let request = Probe::PingRequest { number: 77, target: node(3), address: address(3) };
    let outputs = bench.receive(2, request.clone(), Vec::new());
    let [(to, Probe::Ping { number, .. })] = sent(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(to, address(3));
    let outputs = bench.receive(3, Probe::Ack { number }, Vec::new());
    assert_eq!(sent(&outputs), [(address(2), Probe::Ack { number: 77 })]);

    bench.receive(2, request, Vec::new());
    let seen = bench.run(Duration::from_secs(1), |_| None);
    let outputs: Vec<Output> = seen.into_iter().map(|(_, output)| output).collect();
    assert!(sent(&outputs).contains(&(address(2), Probe::Nack { number: 77 })));
}

#[test]
fn an_answer_from_somebody_else_answers_nothing() {
    let mut bench = Bench::with_peers(3);
    let impostor = |output: &Output| match output {
        Output::Send { node: Some(to), message, .. } => match message.probe {
            Probe::Ping { number, .. } if *to == node(3) => Some((2, Probe::Ack { number })),
            Probe::Ping { number, .. } => Some((to.0[0], Probe::Ack { number })),
            _ => None,
        },
        _ => None,
    };
    bench.run(Duration::from_secs(4), impostor);
    assert_eq!(bench.state(3), Some(MemberState::Suspect));
}

#[test]
fn an_accusation_is_refuted_with_a_higher_incarnation() {
    let mut bench = Bench::with_peers(3);
    let outputs = bench.gossip(2, vec![accused_by(2, LOCAL, 4)]);
    assert!(outputs.contains(&Output::IncarnationRaised(5)));
    let refuted = outputs.iter().any(|output| match output {
        Output::Send { to, message, .. } => {
            *to == address(2) && message.claims.contains(&claim(1, 5, MemberState::Alive))
        }
        _ => false,
    });
    assert!(refuted, "{outputs:?}");
    assert_eq!(bench.swim.incarnation(), 5);
}

#[test]
fn an_accusation_that_was_refuted_before_is_answered_but_changes_nothing() {
    let mut bench = Bench::with_peers(3);
    bench.gossip(2, vec![accused_by(2, LOCAL, 4)]);
    let outputs = bench.gossip(3, vec![accused_by(2, LOCAL, 3)]);
    assert_eq!(bench.swim.incarnation(), 5);
    assert_eq!(sent(&outputs), [(address(3), Probe::Gossip)]);
}

#[test]
fn who_accuses_a_member_that_has_refuted_hears_of_the_refutation() {
    let mut bench = Bench::with_peers(4);
    let refutation = claim(3, 7, MemberState::Alive);
    bench.gossip(2, vec![refutation.clone()]);
    let outputs = bench.gossip(4, vec![claim(3, 6, MemberState::Failed)]);
    let told = |output: &Output| matches!(output, Output::Send { to, message, .. } if *to == address(4) && message.claims.contains(&refutation));
    assert!(outputs.iter().any(told), "{outputs:?}");
}

#[test]
fn an_expelled_host_has_left_and_what_is_known_of_it_does_not_bring_it_back() {
    let mut bench = Bench::with_peers(3);
    bench.swim.expel(bench.now, node(2));
    let changed = bench.outputs();
    assert!(changed.iter().any(|output| matches!(
        output,
        Output::Changed { node: about, state: MemberState::Left, .. } if *about == node(2)
    )));
    bench.gossip(3, vec![alive(2), accused_by(3, 2, 0)]);
    assert_eq!(bench.state(2), Some(MemberState::Left));
    bench.swim.expel(bench.now, node(1));
    assert_eq!(bench.outputs().len(), 0, "nobody expels itself");
}

#[test]
fn stale_claims_change_nothing() {
    let mut bench = Bench::with_peers(4);
    bench.gossip(2, vec![claim(3, 7, MemberState::Alive)]);
    for stale in [alive(3), accused_by(2, 3, 6), claim(3, 6, MemberState::Failed), claim(3, 6, MemberState::Left)] {
        bench.gossip(2, vec![stale]);
        assert_eq!(bench.swim.member(node(3)), Some(claim(3, 7, MemberState::Alive)));
    }
}

#[test]
fn independent_accusers_bring_the_end_of_a_suspicion_nearer() {
    let ends = |accusers: &[u8]| {
        let mut bench = Bench::with_peers(9);
        let outputs = bench.gossip(2, accusers.iter().map(|accuser| accused_by(*accuser, 3, 0)).collect());
        // This host's own second opinion is that the suspect answers, so that it does not confirm.
        for (sender, probe) in outputs.iter().filter_map(all_answer_but(0)) {
            bench.receive(sender, probe, Vec::new());
        }
        let seen = bench.run(Duration::from_secs(20), all_answer_but(0));
        let failed =
            |(_, output): &&(Now, Output)| matches!(output, Output::Changed { state: MemberState::Failed, .. });
        seen.iter().find(failed).map(|(at, _)| *at)
    };
    let config = Config::default();
    assert_eq!(ends(&[2]), None, "one host's word buries nobody where others could confirm it");
    assert_eq!(ends(&[2, 2, 2, 2]), None, "one accuser counts once");
    let two = ends(&[2, 4]).expect("nobody refuted");
    assert!(two < config.suspicion_max_for(9) && ends(&[2, 4, 5]).is_some_and(|three| three < two));
    assert_eq!(ends(&[2, 4, 5, 6]), Some(config.suspicion_min_for(9)));
}

#[test]
fn a_host_whom_nobody_confirms_accuses_few_says_so_again_and_buries_none() {
    let mut bench = Bench::with_peers(40);
    // Whatever it asks is lost; what it hears shows that the others are well, but not how they do.
    let heard = |output: &Output| matches!(output, Output::Send { .. }).then_some((2, Probe::Gossip));
    let seen = bench.run(Duration::from_secs(60), heard);
    let changes = |state| {
        let changed = |output: &&Output| matches!(output, Output::Changed { state: to, .. } if *to == state);
        seen.iter().map(|(_, output)| output).filter(changed).count()
    };
    assert!((3..=17).contains(&changes(MemberState::Suspect)), "{}", changes(MemberState::Suspect));
    assert_eq!(changes(MemberState::Failed), 0);
    assert!(bench.swim.health_score() > 4);
}

#[test]
fn of_several_zones_most_gossip_stays_in_the_own_and_some_always_leaves_it() {
    let mut bench = Bench::with_peers(60);
    (2..=20).for_each(|id| bench.swim.set_near(node(id), true));
    bench.gossip(2, vec![claim(60, 1, MemberState::Alive)]);
    let seen = bench.run(Duration::from_secs(2), |_| None);
    // A round goes out at one moment. What is told to one host alone, as an accusation is to its face, is no round.
    let mut rounds: BTreeMap<Now, Vec<bool>> = BTreeMap::new();
    for (at, output) in &seen {
        match output {
            Output::Send { node: Some(to), message, .. } if message.probe == Probe::Gossip => {
                rounds.entry(*at).or_default().push(to.0[0] <= 20);
            }
            _ => {}
        }
    }
    rounds.retain(|_, partners| partners.len() == 3);
    assert!(!rounds.is_empty());
    assert!(rounds.values().all(|partners| partners.iter().filter(|near| **near).count() == 2), "{rounds:?}");
}

#[test]
fn failed_in_an_exchange_is_only_a_suspicion_where_the_member_is_known_as_alive() {
    let mut bench = Bench::with_peers(4);
    bench.swim.synced(bench.now, vec![alive(2), claim(3, 0, MemberState::Failed)]);
    assert_eq!(bench.state(3), Some(MemberState::Suspect));
    bench.gossip(2, vec![claim(4, 0, MemberState::Failed)]);
    assert_eq!(bench.state(4), Some(MemberState::Suspect), "nor is anybody buried on another's word");
}

#[test]
fn who_is_called_failed_has_the_time_to_refute_that_many_accusers_leave_it() {
    let mut bench = Bench::with_peers(8);
    for accuser in [2, 3] {
        bench.gossip(accuser, vec![Claim { from: node(accuser), ..claim(4, 0, MemberState::Failed) }]);
    }
    bench.run(Config::default().suspicion_min - Duration::from_millis(10), all_answer_but(4));
    assert_eq!(bench.state(4), Some(MemberState::Suspect));
    bench.gossip(5, vec![claim(4, 1, MemberState::Alive)]);
    bench.run(Duration::from_secs(5), all_answer_but(0));
    assert_eq!(bench.state(4), Some(MemberState::Alive));
}

#[test]
fn a_member_from_the_store_is_not_buried_by_a_datagram() {
    let mut bench = Bench::new();
    bench.swim.restore(bench.now, vec![alive(2), alive(3), alive(4)]);
    bench.gossip(2, vec![claim(4, 0, MemberState::Failed)]);
    assert_eq!(bench.state(4), Some(MemberState::Suspect));
}

#[test]
fn a_tick_that_comes_much_too_late_accuses_nobody() {
    // Two peers: too few for the doubts that more would raise, so that the stall alone is seen.
    let mut bench = Bench::with_peers(3);
    for _ in 0..20 {
        // Each time with a probe open.
        bench.run(Duration::from_millis(700), |_| None);
        bench.now += Duration::from_secs(5);
        bench.swim.tick(bench.now);
        bench.outputs();
    }
    assert!((2..=3).all(|id| bench.state(id) == Some(MemberState::Alive)));
}

#[test]
fn members_from_the_store_are_unknown_and_never_accused_before_first_contact() {
    let mut bench = Bench::new();
    let departed = claim(4, 3, MemberState::Failed);
    bench
        .swim
        .restore(Now::ZERO, vec![alive(2), accused_by(2, 3, 1), departed.clone(), claim(1, 6, MemberState::Alive)]);
    let seen = bench.run(Duration::from_secs(600), |_| None);
    assert_eq!([2, 3].map(|id| bench.state(id)), [Some(MemberState::Unknown); 2]);
    assert_eq!(bench.swim.member(node(4)), Some(departed));
    assert_eq!(bench.swim.incarnation(), 6);
    assert!(!bench.swim.in_contact());
    let tried = seen.iter().filter(|(_, output)| matches!(output, Output::Sync { node: Some(_), .. })).count();
    assert!((20..100).contains(&tried), "{tried} tries in ten minutes");
}

#[test]
fn a_member_from_the_store_that_speaks_is_alive() {
    let mut bench = Bench::new();
    bench.swim.restore(Now::ZERO, vec![claim(2, 4, MemberState::Alive)]);
    bench.gossip(2, Vec::new());
    assert_eq!(bench.swim.member(node(2)), Some(claim(2, 4, MemberState::Alive)));
    assert!(bench.swim.in_contact());
}

#[test]
fn a_stranger_is_asked_who_is_there_but_not_for_every_datagram() {
    let mut bench = Bench::with_peers(3);
    let syncs = (0..100).flat_map(|_| bench.gossip(9, Vec::new())).filter(|o| matches!(o, Output::Sync { .. })).count();
    assert_eq!(syncs, 1);
}

#[test]
fn an_exchange_with_itself_is_no_contact() {
    let mut bench = Bench::new();
    bench.swim.synced(Now::ZERO, vec![claim(LOCAL, 0, MemberState::Alive)]);
    assert!(!bench.swim.in_contact());
}

#[test]
fn a_goodbye_is_spread_and_then_done_and_no_longer_refuted() {
    let mut bench = Bench::with_peers(4);
    bench.swim.leave(bench.now);
    bench.gossip(2, vec![accused_by(2, LOCAL, 0)]);
    assert_eq!(bench.swim.incarnation(), 0);
    let seen = bench.run(Duration::from_secs(5), |_| None);
    let goodbye = claim(LOCAL, 0, MemberState::Left);
    let told =
        seen.iter().filter(|(_, o)| matches!(o, Output::Send { message, .. } if message.claims.contains(&goodbye)));
    assert!(told.count() >= 3);
    let done: Vec<Now> = seen.iter().filter(|(_, o)| *o == Output::LeaveDone).map(|(at, _)| *at).collect();
    assert!(done.len() == 1 && done[0] < Duration::from_secs(2), "{done:?}");
    assert_eq!(bench.swim.next_timeout(), None);
}

#[test]
fn no_datagram_carries_more_claims_than_fit() {
    let mut bench = Bench::with_peers(3);
    bench.gossip(2, (4..120).map(alive).collect());
    let seen = bench.run(Duration::from_secs(20), |_| None);
    let mut most = 0;
    for (_, output) in seen {
        if let Output::Send { message, .. } = output {
            most = most.max(message.claims.iter().map(claim_bytes_max).sum());
        }
    }
    let max = Config::default().claims_bytes_max;
    assert!(most <= max && most > max / 2, "{most}");
}

#[test]
fn the_departed_are_forgotten_after_their_time() {
    let mut bench = Bench::with_peers(4);
    bench.bury(4);
    bench.swim.config.departed_lifetime = Duration::from_secs(120);
    bench.run(Duration::from_secs(100), all_answer_but(4));
    assert_eq!(bench.state(4), Some(MemberState::Failed));
    let seen = bench.run(Duration::from_secs(60), all_answer_but(4));
    assert_eq!(bench.state(4), None);
    assert!(seen.iter().any(|(_, output)| *output == Output::Forgotten { node: node(4) }));
}

#[test]
fn a_reimaged_host_takes_the_place_of_its_ghost() {
    let mut bench = Bench::with_peers(4);
    let heir = Claim { name: NodeName::parse("n4").unwrap(), ..alive(5) };
    bench.gossip(2, vec![claim(4, 0, MemberState::Failed), heir]);
    bench.run(Duration::from_secs(15), all_answer_but(0));
    assert_eq!((bench.state(4), bench.state(5)), (None, Some(MemberState::Alive)));
}

#[test]
fn two_living_hosts_of_one_name_are_reported_once() {
    let mut bench = Bench::with_peers(4);
    bench.gossip(2, vec![Claim { name: NodeName::parse("n4").unwrap(), ..alive(5) }]);
    let seen = bench.run(Duration::from_secs(300), all_answer_but(0));
    let conflicts: Vec<_> = seen.iter().filter(|(_, output)| matches!(output, Output::NameConflict { .. })).collect();
    let expected = Output::NameConflict { name: NodeName::parse("n4").unwrap(), node: node(4), other: node(5) };
    assert!(conflicts.len() == 1 && conflicts[0].1 == expected, "{conflicts:?}");
}

#[test]
fn seeds_are_contacted_at_once_and_again() {
    let mut bench = Bench::new();
    bench.swim.set_seeds(vec![address(9), address(LOCAL)]);
    let seen = bench.run(Duration::from_secs(60), |_| None);
    let tries: Vec<Now> =
        seen.iter().filter(|(_, o)| *o == Output::Sync { to: address(9), node: None }).map(|(at, _)| *at).collect();
    assert_eq!(tries.first(), Some(&Now::ZERO));
    assert!((4..=8).contains(&tries.len()), "{tries:?}");
    assert!(!seen.iter().any(|(_, o)| matches!(o, Output::Sync { to, .. } if *to == address(LOCAL))));
}

#[test]
fn a_failed_host_is_sent_away_and_a_living_one_is_not() {
    let mut bench = Bench::with_peers(5);
    bench.bury(4);
    let refused = bench.swim.force_leave(bench.now, node(3), false);
    assert_eq!(refused, Err(ForceLeaveError::NotFailed(MemberState::Alive)));
    assert_eq!(bench.swim.force_leave(bench.now, node(9), true), Err(ForceLeaveError::Unknown));
    assert!(!bench.outputs().iter().any(|output| matches!(output, Output::Changed { .. })));

    bench.swim.force_leave(bench.now, node(4), false).unwrap();
    assert_eq!(bench.state(4), Some(MemberState::Left));
    let told = bench.run(Duration::from_secs(2), all_answer_but(4));
    let is_told = |output: &Output| match output {
        Output::Send { message, .. } => {
            message.claims.iter().any(|claim| claim.node == node(4) && claim.state == MemberState::Left)
        }
        _ => false,
    };
    assert!(told.iter().any(|(_, output)| is_told(output)), "the others hear of it");
    bench.swim.force_leave(bench.now, node(4), false).unwrap();
}

#[test]
fn a_pruned_host_is_forgotten_at_once_and_gossip_does_not_bring_it_back() {
    let mut bench = Bench::with_peers(5);
    bench.bury(4);
    bench.swim.force_leave(bench.now, node(4), true).unwrap();
    assert!(bench.outputs().contains(&Output::Forgotten { node: node(4) }));
    bench.gossip(2, vec![claim(4, 0, MemberState::Failed)]);
    bench.swim.synced(bench.now, vec![alive(2), claim(4, 0, MemberState::Left)]);
    assert_eq!(bench.state(4), None);
    bench.gossip(2, vec![claim(4, 1, MemberState::Alive)]);
    assert_eq!(bench.state(4), Some(MemberState::Alive), "it lives after all");
}

#[test]
fn where_answers_come_late_but_come_nobody_is_accused_for_long() {
    let mut bench = Bench::with_peers(20);
    let mut due: Vec<(Now, u8, u64)> = Vec::new();
    let mut suspected = Vec::new();
    let end = Duration::from_secs(120);
    while bench.now < end {
        let timer = bench.swim.next_timeout().unwrap_or(end);
        let answer = due.iter().map(|(at, ..)| *at).min().unwrap_or(end);
        bench.now = bench.now.max(timer.min(answer));
        let (ready, waiting): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, ..)| *at <= bench.now);
        due = waiting;
        for (_, sender, number) in ready {
            bench.swim.receive(
                bench.now,
                node(sender),
                address(sender),
                SwimMessage { probe: Probe::Ack { number }, claims: Vec::new() },
            );
        }
        bench.swim.tick(bench.now);
        for output in bench.outputs() {
            match output {
                // Starved of CPU, each answers after 0.9 s: beyond a probe's usual time with all its helpers.
                Output::Send { node: Some(to), message, .. } => {
                    if let Probe::Ping { number, .. } = message.probe {
                        due.push((bench.now + Duration::from_millis(900), to.0[0], number));
                    }
                }
                Output::Changed { state: MemberState::Suspect, .. } => suspected.push(bench.now),
                _ => {}
            }
        }
    }
    assert!(suspected.iter().all(|at| *at < Duration::from_secs(20)), "{suspected:?}");
}

#[test]
fn who_sends_a_host_away_must_be_known_and_the_host_failed() {
    let mut bench = Bench::with_peers(5);
    let away = |by: u8, incarnation| Claim { from: node(by), ..claim(4, incarnation, MemberState::Left) };
    bench.gossip(2, vec![away(2, 0)]);
    assert_eq!(bench.state(4), Some(MemberState::Suspect), "it lives, as far as this host knows, and may refute");
    bench.bury(4);
    bench.gossip(2, vec![away(77, 0)]);
    assert_eq!(bench.state(4), Some(MemberState::Failed));
    bench.gossip(2, vec![away(3, 0)]);
    assert_eq!(bench.state(4), Some(MemberState::Left));
    bench.gossip(2, vec![claim(5, 0, MemberState::Left)]);
    assert_eq!(bench.state(5), Some(MemberState::Left), "a host's own goodbye needs nothing");
}

#[test]
fn a_newcomer_holds_who_was_sent_away_for_failed_until_it_is_told_again() {
    let mut bench = Bench::new();
    let away = Claim { from: node(2), ..claim(4, 0, MemberState::Left) };
    bench.swim.synced(bench.now, vec![alive(2), alive(3), away.clone()]);
    assert_eq!(bench.state(4), Some(MemberState::Failed));
    bench.swim.synced(bench.now, vec![alive(2), alive(3), away]);
    assert_eq!(bench.state(4), Some(MemberState::Left));
}

/// Signs as a real host does, but that anybody can read and make it: who, when, what.
fn signature(claim: &Claim) -> Vec<u8> {
    let left = claim.state == MemberState::Left;
    let mut proof = claim.proof.clone();
    if claim.node == node(LOCAL) {
        proof.clear();
    }
    proof.extend([claim.node.0[0], u8::try_from(claim.incarnation).unwrap(), u8::from(left)]);
    proof
}

fn signed(claim: Claim) -> Claim {
    let left = u8::from(claim.state == MemberState::Left);
    Claim { proof: vec![claim.node.0[0], u8::try_from(claim.incarnation).unwrap(), left], ..claim }
}

#[test]
fn what_a_host_says_of_itself_is_signed_anew_with_each_change() {
    let mut bench = Bench::with_peers(3);
    bench.swim.sign_with(Arc::new(signature));
    assert_eq!(bench.swim.member(node(LOCAL)).unwrap().proof, [LOCAL, 0, 0]);
    bench.gossip(2, vec![accused_by(2, LOCAL, 0)]);
    assert_eq!(bench.swim.member(node(LOCAL)).unwrap().proof, [LOCAL, 1, 0], "a refutation");
    bench.swim.restore(bench.now, vec![claim(LOCAL, 6, MemberState::Alive)]);
    assert_eq!(bench.swim.member(node(LOCAL)).unwrap().proof, [LOCAL, 6, 0]);
    bench.swim.leave(bench.now);
    assert_eq!(bench.swim.member(node(LOCAL)).unwrap().proof, [LOCAL, 6, 1], "a goodbye");
}

#[test]
fn an_accusation_carries_the_proof_of_what_it_speaks_of_and_so_does_its_withdrawal() {
    let mut bench = Bench::new();
    bench.swim.sign_with(Arc::new(signature));
    bench.swim.tick(Now::ZERO);
    bench.swim.synced(Now::ZERO, (2..=6).map(|id| signed(alive(id))).collect());
    bench.outputs();
    let seen = bench.run(Duration::from_secs(4), all_answer_but(3));
    let claims = seen.iter().filter_map(|(_, output)| match output {
        Output::Send { message, .. } => Some(message.claims.clone()),
        _ => None,
    });
    let accusations: Vec<Claim> = claims.flatten().filter(|claim| claim.state == MemberState::Suspect).collect();
    assert!(!accusations.is_empty());
    assert!(accusations.iter().all(|claim| claim.proof == [3, 0, 0]), "{accusations:?}");
    // Nobody is heard any more: what this host alone suspects it takes back, and holds what the member last signed.
    bench.run(Duration::from_secs(20), |_| None);
    assert_eq!(bench.swim.member(node(3)), Some(signed(alive(3))));
}

#[test]
fn who_sends_a_host_away_signs_beside_its_proof() {
    let mut bench = Bench::new();
    bench.swim.sign_with(Arc::new(signature));
    bench.swim.tick(Now::ZERO);
    bench.swim.synced(Now::ZERO, (2..=6).map(|id| signed(alive(id))).collect());
    for accuser in [2, 3] {
        bench.gossip(accuser, vec![Claim { from: node(accuser), state: MemberState::Failed, ..signed(alive(4)) }]);
    }
    bench.run(Duration::from_millis(1600), all_answer_but(4));
    bench.swim.force_leave(bench.now, node(4), false).unwrap();
    let held = bench.swim.member(node(4)).unwrap();
    assert_eq!((held.from, held.proof), (node(LOCAL), vec![4, 0, 0, 4, 0, 1]));
}

#[test]
fn numbers_of_probes_are_not_to_be_guessed() {
    let mut bench = Bench::with_peers(9);
    let seen = bench.run(Duration::from_secs(20), all_answer_but(0));
    let numbers = seen.iter().filter_map(|(_, output)| match output {
        Output::Send { message: SwimMessage { probe: Probe::Ping { number, .. }, .. }, .. } => Some(*number),
        _ => None,
    });
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.len() > 10);
    assert!(numbers.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1 << 32), "{numbers:?}");
}

#[test]
fn who_is_told_its_own_word_by_others_is_confirmed_by_them() {
    let mut bench = Bench::with_peers(6);
    bench.gossip(2, vec![accused_by(LOCAL, 4, 0)]);
    for teller in [2, 3] {
        bench.gossip(teller, vec![Claim { from: node(LOCAL), ..claim(4, 0, MemberState::Failed) }]);
    }
    bench.run(Duration::from_millis(1600), all_answer_but(4));
    assert_eq!(bench.state(4), Some(MemberState::Failed));
}
