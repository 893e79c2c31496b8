//! What a caller is told when a request cannot be carried: the status, and the reason in `weft-error`.

use std::fs;
use std::time::Instant;

use crate::answer::{VERSIONS, ask};
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::parts;

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n\
                   success_before_passing = 1\n";

/// On `a`: a backend with a deadline, and a service whose port nothing listens on.
const ON_A: &str = "[[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\ntimeout = \"1s\"\n\n\
                    [[service]]\nname = \"hole\"\nport = 9999\nprotocol = \"http\"\n\
                    [[service]]\nname = \"half\"\nport = 9998\nprotocol = \"http\"\n";

/// On `b` one of them listens.
const ON_B: &str = "[[service]]\nname = \"half\"\nport = 8091\nprotocol = \"http\"\n";

#[test]
fn a_request_that_cannot_be_carried_is_answered_with_the_reason() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let (a, b, c) = (&fleet["a"], &fleet["b"], &fleet["c"]);
    a.service("web", WEB);
    a.service("more", ON_A);
    b.service("more", ON_B);
    let _web = parts::nginx(a, "web", "127.0.0.1:8081", "a");
    let mut raw = Backend::start(a, 8090);
    let half = Backend::start(b, 8091);
    fleet.mesh(&["a", "b", "c"]);
    c.sees_passing("web", &["a"]);
    c.sees_passing("half", &["a", "b"]);
    fs::write(parts::sickness(a, "web"), "").expect("the mark of sickness");
    c.sees_passing("web", &[]);

    for version in VERSIONS {
        let told = |url: &str| {
            let start = Instant::now();
            let answer = ask(c, &[version, url]);
            (answer.status, answer.error().to_owned(), start.elapsed().as_secs_f64())
        };
        let (status, error, _) = told("http://web.mesh.internal/");
        assert_eq!((status, error.as_str()), (503, "no-instance"), "{version}");
        let (status, error, _) = told("http://hole.mesh.internal/");
        assert_eq!((status, error.as_str()), (502, "connect-failed"), "{version}");
        let (status, error, seconds) = told("http://raw.mesh.internal/hang");
        assert_eq!((status, error.as_str()), (504, "timeout"), "{version}");
        assert!((0.9..3.0).contains(&seconds), "{seconds} s for a timeout of one");
        let (status, error, _) = told("http://raw.mesh.internal/close");
        assert_eq!((status, error.as_str()), (502, "reset"), "{version}");
        let (status, error, _) = told("http://raw.mesh.internal/garbage");
        assert_eq!((status, error.as_str()), (502, "protocol"), "{version}");

        // Nobody listens on a: the request is made on b before the caller hears of it, a POST with a body too, since
        // nothing of it has left.
        for path in 0..30 {
            let url = format!("http://half.mesh.internal/sink/{path}");
            let answer = ask(c, &[version, "--data-binary", "some words", &url]);
            assert_eq!((answer.status, answer.error()), (200, ""), "{version} {path}");
            assert!(answer.body.starts_with("b 10 "), "{answer:?}");
        }
        // The others of this connection's service go on after a failure.
        assert_eq!(told("http://raw.mesh.internal/number/1").0, 200);
    }
    // A request that may have been acted on is not made twice.
    let closes = raw.requests().iter().filter(|seen| seen.path() == "/close").count();
    println!("GET /close reached the instance {closes} times for {} requests", VERSIONS.len());
    let posts = half.requests().len();
    assert_eq!(posts, 60, "each POST exactly once");

    let post = ask(c, &["--data-binary", "x", "http://raw.mesh.internal/close/post"]);
    assert_eq!((post.status, post.error()), (502, "reset"));
    let posts = raw.requests().iter().filter(|seen| seen.path() == "/close/post").count();
    assert_eq!(posts, 1, "a POST that was lost on the way was made again");
    raw.kill();
    let gone = ask(c, &["http://raw.mesh.internal/"]);
    assert_eq!((gone.status, gone.error()), (502, "connect-failed"));
    c.assert_agent_runs();
}
