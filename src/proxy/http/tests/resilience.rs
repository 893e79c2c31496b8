//! What policies do to requests, over real sockets: retries and their budget, ejection, limits, shares, routes, deadlines.

use std::cell::Cell;

use super::*;
use crate::model::{
    Balance, Limits, Outlier, PathPattern, Retries, Route, Share, Subset, Timeouts, TrafficPolicies, TrafficPolicy,
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
const BROKEN: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";

/// Hosts hold this policy of `web` from now on.
fn decide(mesh: &Mesh, policy: TrafficPolicy) {
    let policies = BTreeMap::from([(ServiceName::parse("web").unwrap(), Arc::new(policy))]);
    let policies = Arc::new(TrafficPolicies::new(policies));
    for worker in [&mesh.near, &mesh.far] {
        let directory = Directory { traffic: policies.clone(), ..Directory::clone(&worker.directory.load()) };
        worker.directory.store(Arc::new(directory));
    }
}

fn retrying() -> Retries {
    Retries { max: 2, on_server_error: true, backoff: Duration::ZERO, ..Retries::default() }
}

impl Mesh {
    /// Calls so often; how many were answered 200.
    async fn successes(&self, calls: usize) -> usize {
        let mut good = 0;
        for _ in 0..calls {
            good += usize::from(self.exchange(GET).await.starts_with("HTTP/1.1 200 "));
        }
        good
    }
}

impl Backend {
    fn requests(&mut self) -> usize {
        std::iter::from_fn(|| self.seen.try_recv().ok()).count()
    }
}

#[test]
fn an_instance_that_fails_in_a_row_is_ejected_and_comes_back_by_one_call_that_succeeds() {
    run(async {
        let (mut good, mut bad) = (Backend::start(OK, 0).await, Backend::start(BROKEN, 0).await);
        let mesh = mesh(vec![instance("good", good.port, None), instance("bad", bad.port, None)]).await;
        let outlier = Outlier { ejection: Duration::from_secs(1), ..Outlier::default() };
        decide(&mesh, TrafficPolicy { outlier, ..TrafficPolicy::default() });
        // Chosen seldom after its first failure, but chosen; until five in a row.
        while mesh.traffic.snapshot().ejections == 0 {
            mesh.exchange(GET).await;
        }
        let ejected_for_ms = || {
            let edges = mesh.traffic.snapshot().edges;
            edges.iter().find(|edge| edge.instance == "bad").map_or(0, |edge| edge.ejected_for_ms)
        };
        let (failed, shown_ms) = (bad.requests(), ejected_for_ms());
        assert_eq!(failed, usize::from(outlier.consecutive_failures));
        assert!(shown_ms <= 1_000, "{shown_ms}");
        // One call finds out whether it is back; it is not, and is ejected for longer.
        while mesh.traffic.snapshot().ejections == 1 {
            let answer = mesh.exchange(GET).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") || ejected_for_ms() > shown_ms, "called while it is ejected");
        }
        assert_eq!(bad.requests(), 1);
        assert!(good.requests() > 0 && ejected_for_ms() > shown_ms);
    });
}

#[test]
fn an_instance_that_callers_give_up_waiting_for_is_ejected_though_it_never_answers() {
    run(async {
        let (good, hangs) = (Backend::start(OK, 0).await, Backend::start(OK, 1).await);
        let mesh = mesh(vec![instance("good", good.port, None), instance("hangs", hangs.port, None)]).await;
        decide(&mesh, TrafficPolicy::default());
        // Of callers that wait for 600 ms, about half are given nothing, until five were.
        while mesh.traffic.snapshot().ejections == 0 {
            let mut waiting = Vec::new();
            for _ in 0..8 {
                let mut application = mesh.application().await;
                application.write_all(GET).await.unwrap();
                waiting.push(application);
            }
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        assert_eq!(mesh.successes(20).await, 20);
    });
}

#[test]
fn retries_of_errors_stay_within_their_budget_however_many_fail() {
    run(async {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(Backend::start(BROKEN, 0).await);
        }
        let ids = ["one", "two", "three"];
        let mesh = mesh(all.iter().zip(ids).map(|(each, id)| instance(id, each.port, None)).collect()).await;
        let outlier = Outlier { consecutive_failures: 0, success_rate_stdev_tenths: 0, ..Outlier::default() };
        decide(&mesh, TrafficPolicy { retries: retrying(), outlier, ..TrafficPolicy::default() });
        let begun = std::time::Instant::now();
        let offered = 200;
        assert_eq!(mesh.successes(offered).await, 0);
        let attempts: usize = all.iter_mut().map(Backend::requests).sum();
        // A fifth more, ten a second, and ten that are there at once.
        let few = usize::try_from(begun.elapsed().as_millis()).unwrap() / 100 + 1 + 10;
        let allowed = offered + offered / 5 + few;
        assert!(attempts > offered && attempts <= allowed, "{attempts} of {allowed}");
        assert!(mesh.traffic.snapshot().pressures[0].retries_refused > 0);
    });
}

#[test]
fn an_error_is_repeated_elsewhere_where_operators_say_so_and_the_method_allows_it() {
    run(async {
        let (good, bad) = (Backend::start(OK, 0).await, Backend::start(BROKEN, 0).await);
        let mesh = mesh(vec![instance("good", good.port, None), instance("bad", bad.port, None)]).await;
        let outlier = Outlier { consecutive_failures: 0, ..Outlier::default() };
        decide(&mesh, TrafficPolicy { retries: retrying(), outlier, ..TrafficPolicy::default() });
        assert_eq!(mesh.successes(20).await, 20);
        let post = b"POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let again = b"GET /a HTTP/1.1\r\nHost: web\r\nx-weft-attempt: 2\r\nConnection: close\r\n\r\n";
        for request in [&post[..], &again[..]] {
            let before = mesh.near.counters.retries.get();
            for _ in 0..20 {
                mesh.exchange(request).await;
            }
            assert_eq!(mesh.near.counters.retries.get(), before, "{}", String::from_utf8_lossy(request));
        }
    });
}

#[test]
fn one_call_too_many_is_refused_at_once_with_its_reason_and_when_to_come_again() {
    run(async {
        // Never answers: it waits for a byte that does not come.
        let hangs = Backend::start(OK, 1).await;
        let mesh = mesh(vec![instance("hangs", hangs.port, None)]).await;
        let limits = Limits { service_concurrency: 1, ..Limits::default() };
        decide(&mesh, TrafficPolicy { limits, ..TrafficPolicy::default() });
        let mut first = mesh.application().await;
        first.write_all(GET).await.unwrap();
        while mesh.traffic.snapshot().pressures.first().is_none_or(|each| each.under_way == 0) {
            tokio::task::yield_now().await;
        }
        let answer = mesh.exchange(GET).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("weft-error: limited\r\n"), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        // The place comes back with the application that held it.
        drop(first);
        while mesh.traffic.snapshot().pressures[0].under_way > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn an_instance_with_a_limit_refuses_what_its_queue_does_not_hold_for_all_callers() {
    run(async {
        let hangs = Backend::start(OK, 1).await;
        let mesh = mesh(vec![instance("hangs", hangs.port, None)]).await;
        let limits = Limits { instance_concurrency: Some(2), queue: 0, ..Limits::default() };
        decide(&mesh, TrafficPolicy { limits, ..TrafficPolicy::default() });
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut application = mesh.application().await;
            application.write_all(GET).await.unwrap();
            held.push(application);
        }
        while mesh.far.counters.streams_in.get() < 2 {
            tokio::task::yield_now().await;
        }
        let answer = mesh.exchange(GET).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("weft-error: overloaded\r\n"), "{answer}");
    });
}

#[test]
fn a_caller_beyond_its_rate_is_told_so() {
    run(async {
        let mut backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        let limits = Limits { caller_rate_per_second: Some(1), caller_burst: 3, ..Limits::default() };
        decide(&mesh, TrafficPolicy { limits, ..TrafficPolicy::default() });
        let good = mesh.successes(20).await;
        assert!((3..=10).contains(&good) && backend.requests() == good, "{good}");
        let answer = mesh.exchange(GET).await;
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("weft-error: rate-limited\r\n"), "{answer}");
    });
}

#[test]
fn a_try_that_takes_too_long_is_made_elsewhere_and_the_whole_ends_with_its_deadline() {
    run(async {
        let (good, hangs) = (Backend::start(OK, 0).await, Backend::start(OK, 1).await);
        let mesh = mesh(vec![instance("good", good.port, None), instance("hangs", hangs.port, None)]).await;
        let per_try = Some(Duration::from_secs(1));
        let timeouts = Timeouts { request: Some(PATIENCE), per_try };
        let retries = Retries { on_reset: true, ..retrying() };
        decide(&mesh, TrafficPolicy { timeouts, retries, ..TrafficPolicy::default() });
        assert_eq!(mesh.successes(6).await, 6);
        // Nobody is left to ask, and the application says itself how long it waits.
        let lonely = super::mesh(vec![instance("hangs", hangs.port, None)]).await;
        let request = b"GET / HTTP/1.1\r\nHost: web\r\nx-weft-timeout-ms: 60\r\nConnection: close\r\n\r\n";
        let begun = std::time::Instant::now();
        let answer = lonely.exchange(request).await;
        assert!(answer.starts_with("HTTP/1.1 504 ") && begun.elapsed() < PATIENCE / 2, "{answer}");
    });
}

#[test]
fn an_application_that_waits_for_nothing_has_nobody_ejected_and_no_limit_narrowed() {
    run(async {
        let backend = Backend::start(OK, 0).await;
        let mesh = mesh(vec![instance("one", backend.port, None)]).await;
        assert_eq!(mesh.successes(5).await, 5);
        for _ in 0..20 {
            let request = b"GET / HTTP/1.1\r\nHost: web\r\nx-weft-timeout-ms: 0\r\nConnection: close\r\n\r\n";
            let answer = mesh.exchange(request).await;
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        }
        let traffic = mesh.traffic.snapshot();
        assert_eq!((traffic.ejections, traffic.pressures[0].limit), (0, Limits::default().service_concurrency));
        assert_eq!(mesh.successes(5).await, 5);
    });
}

#[test]
fn a_service_is_told_how_long_it_has_and_which_try_it_is() {
    run(async {
        let (mut good, bad) = (Backend::start(OK, 0).await, Backend::start(BROKEN, 0).await);
        let mesh = mesh(vec![instance("good", good.port, None), instance("bad", bad.port, None)]).await;
        let timeouts = Timeouts { request: Some(Duration::from_secs(5)), per_try: None };
        let outlier = Outlier { consecutive_failures: 0, ..Outlier::default() };
        decide(&mesh, TrafficPolicy { timeouts, retries: retrying(), outlier, ..TrafficPolicy::default() });
        let (retried, told) = (Cell::new(false), Cell::new(0));
        while !retried.get() {
            mesh.exchange(GET).await;
            while let Ok(request) = good.seen.try_recv() {
                let request = String::from_utf8_lossy(&request).into_owned();
                let left = request.lines().find_map(|line| line.strip_prefix("x-weft-timeout-ms: "));
                let left_ms: u64 = left.expect("a deadline").parse().unwrap();
                assert!(left_ms <= 5_000 && left_ms > 0, "{request}");
                told.set(told.get() + 1);
                retried.set(retried.get() || request.contains("x-weft-attempt: 2\r\n"));
            }
        }
        assert!(told.get() > 0);
    });
}

#[test]
fn shares_are_kept_and_a_share_of_which_nobody_is_left_is_stood_in_for() {
    run(async {
        let (mut old, mut new) = (Backend::start(OK, 0).await, Backend::start(OK, 0).await);
        let tagged = |id, port, tag: &str| {
            let instance = Instance::clone(&instance(id, port, None));
            Arc::new(Instance { tags: vec![crate::model::Tag::parse(tag).unwrap()], ..instance })
        };
        let mesh = mesh(vec![tagged("old", old.port, "v1"), tagged("new", new.port, "v2")]).await;
        let share = |tag: &str, weight| {
            let tag = Some(crate::model::Tag::parse(tag).unwrap());
            Share { subset: Subset { tag, ..Subset::default() }, weight }
        };
        decide(&mesh, TrafficPolicy { split: vec![share("v1", 90), share("v2", 10)], ..TrafficPolicy::default() });
        assert_eq!(mesh.successes(400).await, 400);
        let to_new = new.requests();
        // Four standard deviations of 40 of 400.
        assert!((16..=64).contains(&to_new), "{to_new}");
        assert_eq!(old.requests(), 400 - to_new);
        decide(&mesh, TrafficPolicy { split: vec![share("v3", 100)], ..TrafficPolicy::default() });
        assert_eq!(mesh.successes(20).await, 20);
    });
}

#[test]
fn a_route_changes_heads_and_picks_who_answers() {
    run(async {
        let (mut one, mut two) = (Backend::start(OK, 0).await, Backend::start(OK, 0).await);
        let zoned = |id, port, platform: &str| {
            let instance = Instance::clone(&instance(id, port, None));
            Arc::new(Instance { meta: [("platform".to_owned(), platform.to_owned())].into(), ..instance })
        };
        let mesh = mesh(vec![zoned("one", one.port, "vm"), zoned("two", two.port, "kubernetes")]).await;
        let route = Route {
            path: Some(PathPattern::parse("/a*").unwrap()),
            methods: vec!["GET".into()],
            subset: Some(Subset { platform: Some("kubernetes".into()), ..Subset::default() }),
            set_headers: [("x-lane".to_owned(), "green".to_owned())].into(),
            ..Route::default()
        };
        decide(&mesh, TrafficPolicy { routes: vec![route], ..TrafficPolicy::default() });
        assert_eq!(mesh.successes(20).await, 20);
        assert_eq!(one.requests(), 0);
        assert!(two.next().await.contains("x-lane: green\r\n"));
    });
}

#[test]
fn weights_of_instances_count() {
    run(async {
        let (mut light, mut heavy) = (Backend::start(OK, 0).await, Backend::start(OK, 0).await);
        let weighing = |id, port, passing| {
            let instance = Instance::clone(&instance(id, port, None));
            Arc::new(Instance { weights: Weights { passing, warning: 1 }, ..instance })
        };
        let mesh = mesh(vec![weighing("light", light.port, 1), weighing("heavy", heavy.port, 9)]).await;
        let balance = Balance { algorithm: crate::model::Algorithm::RoundRobin, ..Balance::default() };
        decide(&mesh, TrafficPolicy { balance, ..TrafficPolicy::default() });
        mesh.successes(100).await;
        assert_eq!((light.requests(), heavy.requests()), (10, 90));
    });
}
