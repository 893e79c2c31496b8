//! Requests of every shape that HTTP allows, over HTTP/1.1 and HTTP/2, through the caller's agent and the server's: what
//! the server gets and what the caller gets back is what was said, and each request goes to an instance of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::time::Duration;

use crate::answer::{VERSIONS, ask, curl};
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::parts;
use crate::process::Process;
use crate::raw::{self, Exchange};

/// nginx with HTTP/1.1, nginx with HTTP/2 only, and the backend that keeps what it is sent.
const SERVICES: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                        [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n\
                        [[service]]\nname = \"web2\"\nport = 8082\nprotocol = \"http2\"\n\
                        [[service.check]]\ntcp = \"127.0.0.1:8082\"\ninterval = \"1s\"\n\
                        [[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\n\
                        [[service.check]]\ntcp = \"127.0.0.1:8090\"\ninterval = \"1s\"\n";

/// A folder of files, and one that must not be touched.
const FILES: &str = "    location /files/ { alias FOLDER/files/; }\n";

struct Parts {
    fleet: Fleet,
    _nginx: [Process; 2],
    backend: Backend,
}

/// `a` serves, `c` calls.
fn raise() -> Option<Parts> {
    let fleet = Fleet::raise(&["a", "c"])?;
    let host = &fleet["a"];
    host.service("all", SERVICES);
    for name in ["web", "web2"] {
        let files = host.folder().join(name).join("files");
        fs::create_dir_all(&files).expect("files");
        fs::write(files.join("digits"), "0123456789".repeat(1000)).expect("a file");
    }
    let nginx = [
        parts::nginx_with(host, "web", "127.0.0.1:8081", "a", FILES),
        parts::nginx_with(host, "web2", "127.0.0.1:8082 http2", "a", FILES),
    ];
    let backend = Backend::start(host, 8090);
    fleet.mesh(&["a", "c"]);
    for service in ["web", "web2", "raw"] {
        fleet["c"].sees_passing(service, &["a"]);
    }
    Some(Parts { fleet, _nginx: nginx, backend })
}

const WEB: &str = "http://web.mesh.internal";
const WEB2: &str = "http://web2.mesh.internal";
const RAW: &str = "http://raw.mesh.internal";

#[test]
fn curl_gets_what_nginx_says_over_http_1_and_2_on_both_ports() {
    let Some(parts) = raise() else { return };
    let c = &parts.fleet["c"];
    for (version, number) in VERSIONS.into_iter().zip(["1.1", "2"]) {
        // Whatever the caller speaks, the agent speaks to the instance what its service says.
        for base in [WEB, "http://web.mesh.internal:8081", WEB2, "http://web2.mesh.internal:8082"] {
            let answer = ask(c, &[version, &format!("{base}/")]);
            assert_eq!((answer.version.as_str(), answer.status, answer.body.trim()), (number, 200, "a"), "{base}");
            assert_eq!(answer.error(), "", "{base}");
            assert!(answer.header("server").is_some_and(|server| server.starts_with("nginx")), "{answer:?}");
        }
        for base in [WEB, WEB2] {
            let file = format!("{base}/files/digits");
            let head = ask(c, &[version, "--head", &file]);
            assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, Some("10000"), ""));
            let range = ask(c, &[version, "--range", "12-15", &file]);
            assert_eq!((range.status, range.body.as_str()), (206, "2345"));
            assert_eq!(range.header("content-range"), Some("bytes 12-15/10000"));
            let tag = head.header("etag").expect("an etag");
            let unchanged = ask(c, &[version, "-H", &format!("If-None-Match: {tag}"), &file]);
            assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
            assert_eq!(ask(c, &[version, &format!("{base}/files/none")]).status, 404);
        }
    }
    // Debian's curl 7.88.1 cannot use an HTTP/2 connection twice that began by prior knowledge; h2load shows that below.
    let file = format!("{WEB}/files/digits");
    let format = "%{num_connects} %{size_download}\n";
    let both = curl(c, &["--http1.1", &file, &file, "-w", format, "-o", "/dev/null", "-o", "/dev/null"]);
    assert_eq!(both, "1 10000\n0 10000\n", "two requests on one connection");
    c.assert_agent_runs();
    parts.fleet["a"].assert_agent_runs();
}

#[test]
fn bodies_go_both_ways_while_the_request_is_under_way() {
    let Some(parts) = raise() else { return };
    let c = &parts.fleet["c"];
    let upload = c.folder().join("upload");
    fs::write(&upload, "weft ".repeat(1 << 20)).expect("a file to upload");
    let upload = format!("@{}", upload.display());
    // 5 MiB: the backend's own sum of what arrived, and of an empty body.
    let sum = "a 5242880 ";
    for version in VERSIONS {
        let chunked = ["-H", "Transfer-Encoding: chunked"];
        let expected = ["-H", "Expect: 100-continue"];
        for how in [&[][..], &chunked[..], &expected[..]] {
            // Nobody sends a transfer coding on HTTP/2.
            if version != "--http1.1" && how == chunked {
                continue;
            }
            let url = format!("{RAW}/sink");
            let answer = ask(c, &[how, &[version, "--data-binary", &upload, &url]].concat());
            assert_eq!(answer.status, 200, "{version} {how:?}: {answer:?}");
            assert!(answer.body.starts_with(sum), "{version} {how:?}: {}", answer.body);
        }
        let put = ask(c, &[version, "-X", "PUT", "--data-binary", "", &format!("{RAW}/sink")]);
        assert!(put.body.starts_with("a 0 e3b0c44298fc1c14"), "{}", put.body);

        // The answer comes while the body is still on its way; the caller sees it, not a broken connection.
        let large = c.folder().join("large");
        File::create(&large).and_then(|file| file.set_len(64 << 20)).expect("a sparse file");
        let large = format!("@{}", large.display());
        let early = ask(c, &[version, "-H", "Expect:", "--data-binary", &large, &format!("{RAW}/early")]);
        assert_eq!((early.status, early.body.as_str()), (413, "too much\n"), "{version}");

        // Five drops, 200 ms apart: the first is here long before the last is sent.
        let times = curl(
            c,
            &[
                version,
                "-o",
                "/dev/null",
                "-w",
                "%{time_starttransfer} %{time_total} %{size_download}",
                &format!("{RAW}/drip"),
            ],
        );
        let times: Vec<f64> = times.split(' ').map(|number| number.parse().expect("a number")).collect();
        assert!(times[0] < 0.5 && times[1] > 0.9 && times[2] == 25.0, "{version}: {times:?}");
    }

    let pipelined: String =
        (0..5).map(|n| format!("GET /number/{n} HTTP/1.1\r\nHost: raw.mesh.internal\r\n\r\n")).collect();
    let chunked_with_trailer = "POST /trailers HTTP/1.1\r\nHost: raw.mesh.internal\r\nTE: trailers\r\n\
                                Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 9083\r\n\r\n";
    let continued = |name: &str, path: &str| Exchange {
        pieces: vec![
            format!(
                "POST {path} HTTP/1.1\r\nHost: raw.mesh.internal\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            )
            .into_bytes(),
            b"body".to_vec(),
        ],
        pause: Duration::from_secs(1),
        ..Exchange::new(name, "")
    };
    let heard = raw::exchange(
        c,
        "raw.mesh.internal",
        80,
        &[
            Exchange::new("pipelined", pipelined),
            Exchange::new("trailers", chunked_with_trailer),
            continued("continued", "/sink"),
            continued("continued, with an early answer", "/early"),
        ],
    );
    let text = heard[0].text();
    let numbers: Vec<&str> = text.lines().filter(|line| line.starts_with("/number/")).collect();
    assert_eq!(numbers, ["/number/0", "/number/1", "/number/2", "/number/3", "/number/4"], "{text}");
    let text = heard[1].text();
    assert!(text.contains("x-sum: 9083"), "the request's trailer did not arrive: {text}");
    assert!(
        text.to_lowercase().contains("\r\n0\r\nx-checksum: 5417\r\n\r\n"),
        "the answer's trailer is not here: {text}"
    );
    let text = heard[2].text();
    assert!(text.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{text}");
    assert!(heard[3].text().contains("HTTP/1.1 413"), "{}", heard[3].text());
    let faults: Vec<_> = parts.backend.requests().into_iter().filter(|seen| !seen.faults.is_empty()).collect();
    assert!(faults.iter().all(|seen| seen.path() == "/early"), "{faults:#?}");
}

#[test]
fn headers_are_those_of_the_caller_but_for_the_ones_between_two_hops() {
    let Some(parts) = raise() else { return };
    let c = &parts.fleet["c"];
    let url = format!("{RAW}/head/%7Euser/a//b/../c?q=%20&r=a+b;c");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = format!("traceparent: {traceparent}");
    let carried = [
        "-H",
        &trace,
        "-H",
        "tracestate: vendor=1",
        "-H",
        "X-Forwarded-For: 198.51.100.7",
        "-H",
        "Cookie: one=1; two=2",
        "-H",
        "X-Empty;",
        "-H",
        "X-Latin: caf\u{e9}",
        "-H",
        "TE: trailers",
    ];
    let between = [
        "-H",
        "Connection: x-secret, keep-alive",
        "-H",
        "X-Secret: 1",
        "-H",
        "Keep-Alive: timeout=5",
        "-H",
        "Proxy-Connection: keep-alive",
        "-H",
        "Upgrade: h2c, x-other",
    ];
    for version in VERSIONS {
        // HTTP/2 has no such headers; a caller who sends them is refused (see smuggling.rs).
        let between = if version == "--http1.1" { &between[..] } else { &[] };
        let answer = ask(c, &[&[version, "--path-as-is"], &carried[..], between, &[&url]].concat());
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = parts.backend.requests().pop().expect("a request");
        assert!(seen.head.starts_with("GET /head/%7Euser/a//b/../c?q=%20&r=a+b;c HTTP/1.1\r\n"), "{}", seen.head);
        assert_eq!(seen.header("host"), ["raw.mesh.internal"], "{}", seen.head);
        assert_eq!(seen.header("traceparent"), [traceparent], "{}", seen.head);
        assert_eq!(seen.header("tracestate"), ["vendor=1"], "{}", seen.head);
        assert_eq!(seen.header("x-empty"), [""], "{}", seen.head);
        assert_eq!(seen.header("x-latin"), ["caf\u{e9}"], "{}", seen.head);
        assert_eq!(seen.header("cookie").join("; "), "one=1; two=2", "{}", seen.head);
        let forwarded = seen.header("x-forwarded-for").join(", ");
        assert!(forwarded.starts_with("198.51.100.7"), "{}", seen.head);
        assert!(forwarded.len() > "198.51.100.7".len(), "the caller's own address is missing: {}", seen.head);
        let gone = ["x-secret", "keep-alive", "proxy-connection", "upgrade"];
        for name in gone {
            assert!(seen.header(name).is_empty(), "{name} was carried: {}", seen.head);
        }
        assert!(seen.header("connection").iter().all(|value| !value.contains("x-secret")), "{}", seen.head);
        assert!(seen.header("te").iter().all(|value| *value == "trailers"), "{}", seen.head);

        let answer = ask(c, &[version, &format!("{RAW}/hop")]);
        assert_eq!((answer.status, answer.header("x-stays")), (200, Some("1")));
        for name in ["x-gone", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(answer.header(name), None, "{name} was carried");
        }
        assert!(!answer.header("connection").unwrap_or_default().contains("x-gone"), "{answer:?}");
    }
    // Without one of its own a caller's request still tells where it came from.
    ask(c, &[&format!("{RAW}/head")]);
    let seen = parts.backend.requests().pop().expect("a request");
    assert_eq!(seen.header("x-forwarded-for").len(), 1, "{}", seen.head);
}

#[test]
fn requests_of_one_connection_are_spread_over_the_instances_and_load_generators_find_no_error() {
    const REQUESTS: usize = 200;
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let web = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
               [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n";
    let _web = ["a", "b"].map(|name| {
        fleet[name].service("web", web);
        parts::nginx(&fleet[name], "web", "127.0.0.1:8081", name)
    });
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("web", &["a", "b"]);
    let c = &fleet["c"];
    // One after the other the calls go where the answers come sooner, but the other instance is not forgotten.
    let served = |host: &str| {
        let page = fleet[host].api_text("/metrics");
        let samples = page.lines().filter(|line| {
            line.starts_with("weft_requests_total{")
                && line.contains("direction=\"in\"")
                && line.contains("service=\"web\"")
        });
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    let spread = |what: &str, least_share: f64, work: &dyn Fn()| {
        let before = ["a", "b"].map(served);
        work();
        let after = ["a", "b"].map(served);
        let (a, b) = (after[0] - before[0], after[1] - before[1]);
        println!("{what}: a served {a}, b served {b}");
        assert!(a.min(b) >= ((a + b) * least_share).max(1.0), "{what}: a served {a}, b served {b}");
    };
    spread("HTTP/1.1, one connection", 0.0, &|| {
        let printed = curl(c, &["--http1.1", "-w", "connects %{num_connects}\n", &format!("{WEB}/[1-{REQUESTS}]")]);
        let count = |line: &str| printed.lines().filter(|found| *found == line).count();
        assert_eq!((count("connects 1"), count("connects 0")), (1, REQUESTS - 1), "one connection for all");
        assert_eq!(count("a") + count("b"), REQUESTS);
    });
    let h2load = |arguments: &[&str], requests: usize| {
        let (url, requests) = (format!("{WEB}/"), requests.to_string());
        let words = [&["-n", requests.as_str()], arguments, &[&url]].concat();
        let printed = c.run("h2load", words).expect("h2load");
        let line = |start: &str| {
            let found = printed.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("no {start:?} in {printed}")).to_owned()
        };
        println!("h2load {arguments:?}: {}", line("finished in"));
        assert!(
            line("requests:").contains(&format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout")),
            "{printed}"
        );
        assert!(
            line("status codes:").starts_with(&format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx")),
            "{printed}"
        );
    };
    spread("HTTP/2, one connection", 0.0, &|| h2load(&["-c", "1", "-m", "1"], REQUESTS));
    spread("HTTP/2, 16 connections of 10 streams", 0.1, &|| h2load(&["-c", "16", "-m", "10"], 4000));
    spread("HTTP/1.1, 16 connections", 0.1, &|| h2load(&["--h1", "-c", "16"], 4000));
    let printed = c.run("wrk", ["-t1", "-c16", "-d3s", "--latency", &format!("{WEB}/")]).expect("wrk");
    let rate = printed.lines().find(|line| line.starts_with("Requests/sec:")).expect("a rate");
    println!("wrk: {rate}");
    assert!(!printed.contains("Socket errors") && !printed.contains("Non-2xx"), "{printed}");

    // 10,000 requests and more, and two hosts: the connections between them are shared.
    let opened: BTreeMap<&str, f64> =
        ["a", "b"].map(|host| (host, fleet[host].metric("weft_mesh_connections_in_total", ""))).into();
    println!("mesh connections taken: {opened:?}");
    assert!(opened.values().all(|count| *count <= 40.0), "{opened:?}");
}
