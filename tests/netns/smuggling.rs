//! Requests that two readers may understand differently, as published in RFCs, advisories and research on request
//! smuggling: an agent answers each by a 4xx or hangs up, or forwards exactly one request that leaves no doubt.
//!
//! What was forwarded is judged by a backend that reads strictly ([`crate::backend`]). The cases are tables, one file a
//! protocol; each says where it is from and what is right.

mod http1;
mod http2;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::answer::{VERSIONS, ask};
use crate::backend::{Backend, Seen};
use crate::fleet::Fleet;
use crate::raw::{self, Exchange, Heard};

const RAW: &str = "[[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\n\
                   [[service.check]]\ntcp = \"127.0.0.1:8090\"\ninterval = \"1s\"\n";

/// What must come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Nothing of it reaches the service; the caller is told, or the connection ends.
    Refused,
    /// It means one thing only, however odd it looks: the service gets it once, the caller an answer.
    Once,
    /// A reader may refuse it or take it in one way; the service gets it once at most.
    AtMostOnce,
    /// The head is in order, the body is not: the service may see it begin but never complete.
    NeverWhole,
}

/// One of the corpus. Its request carries the name in a header `x-case`.
struct Case {
    name: String,
    /// Where it is from.
    source: &'static str,
    bytes: Vec<u8>,
    right: Right,
}

/// Nobody may ever be asked for this: it stands only where a second request would be smuggled.
const SMUGGLED: &str = "/smuggled";

/// How many connections only begin a request.
const DRIPPING: usize = 200;
/// Memory that they, and all of the corpus, may cost an agent.
const GROWTH_KIB_MAX: u64 = 48 * 1024;

#[test]
fn no_ambiguous_request_reaches_a_service() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    let (a, c) = (&fleet["a"], &fleet["c"]);
    a.service("raw", RAW);
    let backend = Backend::start(a, 8090);
    fleet.mesh(&["a", "c"]);
    c.sees_passing("raw", &["a"]);
    for version in VERSIONS {
        assert_eq!(ask(c, &[version, "http://raw.mesh.internal/number/1"]).status, 200);
    }
    let before = [a, c].map(crate::host::Host::agent_rss_kib);

    let mut wrong = Vec::new();
    let (http1, http2) = (http1::cases(), http2::cases());
    for (cases, judge) in [(&http1, told_http1 as fn(&Heard) -> Told), (&http2, http2::told)] {
        let exchanges: Vec<Exchange> = cases.iter().map(|case| Exchange::new(&case.name, case.bytes.clone())).collect();
        let heard = raw::exchange(c, "raw.mesh.internal", 80, &exchanges);
        let seen = by_case(&backend.requests());
        for (case, heard) in cases.iter().zip(&heard) {
            let seen = seen.get(&case.name).map(Vec::as_slice).unwrap_or_default();
            if let Err(what) = judge_case(case, &judge(heard), seen) {
                wrong.push(format!(
                    "{} ({}), right is {:?}: {what}\n  answer: {:?}",
                    case.name,
                    case.source,
                    case.right,
                    heard.text().chars().take(160).collect::<String>()
                ));
            }
        }
    }
    println!("{} cases over HTTP/1.1, {} over HTTP/2", http1.len(), http2.len());
    for seen in backend.requests() {
        if seen.path().contains(SMUGGLED) {
            wrong.push(format!("smuggled: {seen:?}"));
        }
        if seen.header("x-forwarded-for").is_empty() {
            wrong.push(format!("a request that no agent has read: {seen:?}"));
        }
        wrong.extend(
            seen.faults
                .iter()
                .filter(|fault| !fault.starts_with("the body: "))
                .map(|fault| format!("forwarded with a fault, {fault}: {:?}", seen.head)),
        );
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));

    // The agents are well, and the next callers are served.
    for version in VERSIONS {
        assert_eq!(ask(c, &[version, "http://raw.mesh.internal/number/2"]).status, 200);
    }
    slow_heads(&fleet);
    for (host, before) in [a, c].into_iter().zip(before) {
        host.assert_agent_runs();
        let growth = host.agent_rss_peak_kib().saturating_sub(before);
        println!("the agent of {} grew by {growth} KiB", host.name);
        assert!(growth < GROWTH_KIB_MAX, "the agent of {} grew by {growth} KiB", host.name);
    }
}

fn by_case(requests: &[Seen]) -> BTreeMap<String, Vec<Seen>> {
    let mut found: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for seen in requests {
        let case = seen.header("x-case").first().map(|name| (*name).to_owned()).unwrap_or_default();
        found.entry(case).or_default().push(seen.clone());
    }
    found
}

/// What the caller learned.
#[derive(Debug)]
enum Told {
    /// The request was refused in words, or the connection ended.
    No,
    /// It was answered by the service.
    Yes,
    /// Something else, or nothing.
    Else(String),
}

fn told_http1(heard: &Heard) -> Told {
    match heard.status() {
        Some(400..=499 | 501 | 502 | 505) => Told::No,
        Some(200) => Told::Yes,
        None if heard.closed && heard.answer.is_empty() => Told::No,
        _ => Told::Else(format!("{:?}, closed: {}", heard.text(), heard.closed)),
    }
}

fn judge_case(case: &Case, told: &Told, seen: &[Seen]) -> Result<(), String> {
    let whole = seen.iter().filter(|seen| seen.faults.is_empty()).count();
    if seen.len() > 1 {
        return Err(format!("forwarded {} times: {seen:#?}", seen.len()));
    }
    let right = match case.right {
        Right::Refused => seen.is_empty() && matches!(told, Told::No),
        Right::Once => whole == 1 && matches!(told, Told::Yes),
        Right::AtMostOnce => match told {
            Told::No => true,
            Told::Yes => whole == 1,
            Told::Else(_) => false,
        },
        Right::NeverWhole => whole == 0 && matches!(told, Told::No),
    };
    if right { Ok(()) } else { Err(format!("{told:?}; forwarded: {seen:?}")) }
}

/// Slowloris: connections that send a byte of a head now and then. Others are served meanwhile; nothing is forwarded.
fn slow_heads(fleet: &Fleet) {
    let c = &fleet["c"];
    let head = b"GET /number/3 HTTP/1.1\r\nHost: raw.mesh.internal\r\nX-Slow: ";
    let dripping: Vec<Exchange> = (0..DRIPPING)
        .map(|number| Exchange {
            pieces: [&head[..], b"a", b"b", b"c", b"d"].map(<[u8]>::to_vec).into(),
            pause: Duration::from_millis(700),
            patience: Duration::from_millis(300),
            ..Exchange::new(&format!("dripping {number}"), "")
        })
        .collect();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| raw::exchange_at_once(c, "raw.mesh.internal", 80, &dripping));
        let (start, mut served) = (Instant::now(), 0);
        while !heard.is_finished() {
            let asked = Instant::now();
            assert_eq!(ask(c, &["http://raw.mesh.internal/number/4"]).status, 200);
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?} beside slow heads", asked.elapsed());
            served += 1;
        }
        println!("{served} requests served in {:?} beside {DRIPPING} slow heads", start.elapsed());
        for heard in heard.join().expect("the slow heads") {
            assert!(heard.answer.is_empty() || heard.status() == Some(408), "{}: {}", heard.name, heard.text());
        }
    });
}
