//! The client against canned answers, and the verbs that read against the API itself.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::*;
use crate::cli::output::EXIT_FAILED;

/// Answers one connect that only looks, and then each request with `answer`.
fn serve(listener: TcpListener, answer: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    })
}

fn client(answer: &'static str) -> (Client, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = serve(listener, answer);
    (Client::connect(address.into()).unwrap(), server)
}

#[test]
fn an_answer_comes_with_its_freshness() {
    let answer = "HTTP/1.1 200 OK\r\nX-Weft-Freshness: stale\r\nContent-Length: 5\r\n\r\n[1,2]";
    let (client, server) = client(answer);
    let fetched: Fetched<Vec<u8>> = client.get_json("/v1/x").unwrap();
    assert_eq!((fetched.freshness(), fetched.value), ("stale", vec![1, 2]));
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /v1/x HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
}

#[test]
fn the_apis_sentence_is_the_error_and_404_has_its_own_exit_code() {
    let (client, _server) = client("HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{\"error\":\"nope\"}");
    let error = client.put("/v1/x").unwrap_err();
    assert_eq!((error.message.as_str(), error.exit_code), ("nope", EXIT_NOT_FOUND));
}

#[test]
fn a_sentence_in_plain_text_is_the_error_too() {
    let (client, _server) = client("HTTP/1.1 400 Bad Request\r\nContent-Length: 13\r\n\r\nMissing name\n");
    let error = client.put_json("/v1/x", &serde_json::json!({})).unwrap_err();
    assert_eq!((error.message.as_str(), error.exit_code), ("Missing name", EXIT_USAGE));
}

#[test]
fn a_body_goes_out_as_json_and_a_blocking_query_names_its_index() {
    let (putting, server) = client("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    putting.put_json("/v1/x", &serde_json::json!({ "name": "web" })).unwrap();
    let request = server.join().unwrap();
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"name\":\"web\"}"), "{request}");

    let (watching, server) = client("HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Length: 2\r\n\r\n[]");
    let told = watching.block_on(watching.get_changed::<Vec<u8>>("/v1/x?stale", 7)).unwrap();
    assert_eq!((told.index, told.value), (9, Vec::new()));
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /v1/x?stale&index=7&wait=300s HTTP/1.1"), "{request}");
}

#[test]
fn an_answer_that_is_not_the_agents_is_an_error_not_a_panic() {
    let (client, _server) = client("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
    assert_eq!(client.get_json::<Vec<u8>>("/v1/x").unwrap_err().exit_code, EXIT_FAILED);
}

#[test]
fn nobody_there_is_exit_code_three_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let error = Client::connect(path.display().to_string().into()).unwrap_err();
    assert_eq!(error.exit_code, EXIT_UNREACHABLE);
    assert!(error.message.contains("weft.sock") && error.advice.contains("systemctl start weft"), "{error}");
}

#[test]
fn a_socket_is_reached_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue").unwrap();
    });
    let client = Client::connect(format!("unix:{}", path.display()).into()).unwrap();
    assert!(client.get_json::<bool>("/").unwrap().value);
    server.join().unwrap();
}

/// The verbs read what the API writes: both ends of each shape, together.
#[test]
fn every_verb_reads_what_the_api_tells() {
    use std::sync::Arc;

    use crate::api::{self, Command, specimen};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bound = runtime.block_on(api::bind(specimen::settings())).unwrap();
    let address = bound.local_addr().to_string();
    let directory = Arc::new(arc_swap::ArcSwap::from_pointee(specimen::directory()));
    let (commands, mut asked) = tokio::sync::mpsc::channel(1);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    std::thread::spawn(move || {
        runtime.spawn(async move {
            while let Some(Command::Leave { reply }) = asked.recv().await {
                let _gone = reply.send(());
            }
        });
        runtime.block_on(bound.run(
            directory,
            tokio::sync::watch::channel(0).1,
            Arc::new(|_: &mut String| {}),
            commands,
            stopped,
        ));
    });
    let run = |words: &[&str]| verb(words, &address);
    for words in [
        &["members"][..],
        &["services"],
        &["services", "billing"],
        &["resolve", "v2.billing"],
        &["status"],
        &["explain", "v2.billing"],
        &["explain", "legacy"],
        &["maint", "status"],
        &["top", "--once", "--interval", "100ms"],
        &["watch", "billing", "--once"],
        &["complete", "services"],
        &["leave"],
    ] {
        assert_eq!(run(words), Ok(()), "{words:?}");
    }
    assert_eq!(run(&["resolve", "web-02.node"]), Ok(()));
    assert_eq!(run(&["services", "nothing"]).unwrap_err().exit_code, EXIT_NOT_FOUND);
    assert_eq!(run(&["resolve", "nothing"]).unwrap_err().exit_code, EXIT_NOT_FOUND);
    assert_eq!(run(&["resolve", "a.b.c.d"]).unwrap_err().exit_code, EXIT_USAGE);
}

/// Parses and runs a verb as `weft` does, as a table and as JSON.
fn verb(words: &[&str], api: &str) -> Result<(), CliError> {
    use crate::cli::{
        completions, explain, leave, maint, members, output::Globals, resolve, services, status, top, watch,
    };
    use clap::Parser;

    #[derive(Parser)]
    struct Weft {
        #[command(flatten)]
        globals: Globals,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(clap::Subcommand)]
    enum Verb {
        Complete(completions::LiveArgs),
        Explain(explain::Args),
        Leave(leave::Args),
        Maint(maint::Args),
        Members(members::Args),
        Resolve(resolve::Args),
        Services(services::Args),
        Status(status::Args),
        Top(top::Args),
        Watch(watch::Args),
    }

    let run = |extra: &[&str]| {
        let all = [&["weft", "--api", api], words, extra].concat();
        let Weft { globals, verb } = Weft::parse_from(all);
        match verb {
            Verb::Complete(args) => completions::complete(&args, &globals),
            Verb::Explain(args) => explain::run(&args, &globals),
            Verb::Leave(args) => leave::run(args, &globals),
            Verb::Maint(args) => maint::run(&args, &globals),
            Verb::Members(args) => members::run(args, &globals),
            Verb::Resolve(args) => resolve::run(args, &globals),
            Verb::Services(args) => services::run(args, &globals),
            Verb::Status(args) => status::run(&args, &globals),
            Verb::Top(args) => top::run(&args, &globals),
            Verb::Watch(args) => watch::run(args, &globals),
        }
    };
    run(&[]).and_then(|()| run(&["--json"]))
}

#[test]
fn addresses_are_read_in_all_their_forms() {
    let tcp = |text: &str| Address::Tcp(text.to_owned());
    assert_eq!(Address::parse("127.0.0.2:8500").unwrap(), tcp("127.0.0.2:8500"));
    assert_eq!(Address::parse("http://[::1]:8500/").unwrap(), tcp("[::1]:8500"));
    assert_eq!(Address::parse("/run/x.sock").unwrap(), Address::Unix("/run/x.sock".into()));
    for wrong in ["", "localhost", "https://localhost:8500", "localhost:http", ":8500", "http://h:1/x"] {
        assert_eq!(Address::parse(wrong).unwrap_err().exit_code, EXIT_USAGE, "{wrong}");
    }
}

#[test]
fn what_users_type_is_encoded_for_the_path() {
    assert_eq!(encode("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
}

#[test]
fn a_token_is_read_from_its_file_and_goes_to_this_host_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "weft-acl-abc\n").unwrap();
    assert_eq!(token(Some(&path)).unwrap().unwrap(), "weft-acl-abc");
    let api = |address: &str| Api { address: Some(address.into()), token_file: Some(path.clone()) };
    for address in ["10.0.0.1:8500", "http://weft.example:8500", "[2001:db8::1]:8500"] {
        let error = Client::connect(api(address)).unwrap_err();
        assert!(error.message.contains("in the clear"), "{address}: {error}");
    }
    for local in ["127.0.0.1:1", "[::1]:1", "localhost:1", "/nonexistent/weft.sock"] {
        assert!(Client::connect(api(local)).unwrap_err().message.contains("no agent answers"), "{local}");
    }
    for wrong in ["", "two\nlines", &"x".repeat(200)] {
        std::fs::write(&path, wrong).unwrap();
        assert_eq!(token(Some(&path)).unwrap_err().exit_code, EXIT_USAGE, "{wrong:?}");
    }
    assert!(token(Some(&dir.path().join("none"))).is_err());
}
