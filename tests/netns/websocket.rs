//! WebSocket behind the mesh: the upgrade, messages of every size both ways, and how a connection ends.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message};

use crate::answer::curl;
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::parts;
use crate::process::{Process, run};

const PORT: u16 = 8100;
const CHAT: &str = "[[service]]\nname = \"chat\"\nport = 8100\nprotocol = \"http\"\n\
                    [[service.check]]\ntcp = \"127.0.0.1:8100\"\ninterval = \"1s\"\n\
                    [[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\n\
                    [[service.check]]\ntcp = \"127.0.0.1:8090\"\ninterval = \"1s\"\n";

const SIZES: &[usize] = &[0, 1, 125, 126, 65_535, 65_536, 1 << 20];

/// A connection that says nothing for so long is not closed.
const SILENCE: Duration = Duration::from_secs(3);

fn serve(host: &Host) -> Process {
    let mut command = helper::command(host, "websocket_server", &json!({ "name": host.name }));
    let process = Process::start("the WebSocket server", &mut command, &host.folder().join("websocket.log"));
    parts::listens(host, PORT);
    process
}

#[test]
fn a_websocket_carries_messages_both_ways_and_ends_with_its_code() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    fleet["a"].service("chat", CHAT);
    let server = serve(&fleet["a"]);
    let backend = Backend::start(&fleet["a"], 8090);
    fleet.mesh(&["a", "c"]);
    fleet["c"].sees_passing("chat", &["a"]);
    fleet["c"].sees_passing("raw", &["a"]);
    for port in [80, PORT] {
        let arguments = json!({ "server": "chat.mesh.internal", "port": port });
        run(&mut helper::command(&fleet["c"], "websocket_client", &arguments)).expect("the WebSocket client");
    }
    let said = server.printed();
    assert!(said.contains("closed by the caller with 4001 enough"), "{said}");
    assert!(said.contains("path /echo?x=1 origin http://example.org"), "{said}");

    // What curl sees of the upgrade: the accept key of RFC 6455, section 1.3.
    let asked = [
        "--http1.1",
        "--include",
        "--max-time",
        "2",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let done = fleet["c"].run("curl", [&["-sS"], &asked[..], &["http://chat.mesh.internal/echo"]].concat());
    let head = done.stdout.to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head} {}", done.stderr);
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");

    // An instance that does not switch answers as to any other request.
    let refused = curl(&fleet["c"], &[&asked[..], &["http://raw.mesh.internal/sink"]].concat());
    assert!(refused.starts_with("HTTP/1.1 200"), "{refused}");
    let seen = backend.requests().pop().expect("a request");
    assert_eq!(seen.header("upgrade"), ["websocket"], "{}", seen.head);
    assert!(seen.header("connection").iter().any(|value| value.eq_ignore_ascii_case("upgrade")), "{}", seen.head);
    for host in ["a", "c"] {
        fleet[host].assert_agent_runs();
    }
}

/// The job `websocket_server`: answers every message with the same.
pub(crate) fn server(arguments: &Value) {
    let name = arguments["name"].as_str().expect("name").to_owned();
    let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("the WebSocket server's port");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let name = name.clone();
        std::thread::spawn(move || echo(stream, &name));
    }
}

// The error's type is tungstenite's.
#[allow(clippy::result_large_err)]
fn echo(stream: TcpStream, name: &str) {
    let accepted = tungstenite::accept_hdr(
        stream,
        |request: &tungstenite::handshake::server::Request, mut response: tungstenite::handshake::server::Response| {
            let origin = request.headers().get("origin").and_then(|value| value.to_str().ok()).unwrap_or_default();
            println!("path {} origin {origin}", request.uri());
            response.headers_mut().insert("x-host", name.parse().expect("a host's name"));
            Ok(response)
        },
    );
    // A health check connects and goes away.
    let Ok(mut socket) = accepted else { return };
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => {
                let told = frame.map(|frame| format!("{} {}", u16::from(frame.code), frame.reason));
                println!("closed by the caller with {}", told.unwrap_or_default());
                let _ = socket.flush();
            }
            Ok(Message::Text(text)) if text.as_str() == "close" => {
                let _ = socket.close(Some(frame(CloseCode::Away, "as you like")));
            }
            Ok(Message::Text(text)) if text.as_str() == "drop" => return,
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if socket.send(message).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn frame(code: CloseCode, reason: &str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

/// The job `websocket_client`.
pub(crate) fn client(arguments: &Value) {
    let server = arguments["server"].as_str().expect("server");
    let port = u16::try_from(arguments["port"].as_u64().expect("port")).expect("a port");
    let connect = || {
        let stream = TcpStream::connect((server, port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
        let uri = format!("ws://{server}:{port}/echo?x=1").parse().expect("a URI");
        let request = tungstenite::ClientRequestBuilder::new(uri).with_header("Origin", "http://example.org");
        let (socket, response) = tungstenite::client(request, stream).expect("the upgrade");
        assert_eq!(response.status(), 101);
        assert!(response.headers().contains_key("x-host"), "{response:?}");
        socket
    };

    let mut socket = connect();
    for size in SIZES {
        let bytes: Bytes = (0..*size).map(|index| u8::try_from(index % 251).expect("below 251")).collect();
        socket.send(Message::Binary(bytes.clone())).expect("a message");
        let answer = socket.read().expect("its echo");
        assert!(answer == Message::Binary(bytes), "{size} bytes came back changed: {} bytes", answer.len());
    }
    // Many under way at once, in order.
    for number in 0..500 {
        socket.write(Message::text(format!("message {number}"))).expect("one of many");
    }
    socket.flush().expect("all of them");
    for number in 0..500 {
        assert_eq!(socket.read().expect("an echo").to_text().expect("text"), format!("message {number}"));
    }
    std::thread::sleep(SILENCE);
    socket.send(Message::Ping(Bytes::from_static(b"still there"))).expect("a ping");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(Bytes::from_static(b"still there")));

    // Either side may end it, with a code and words.
    socket.close(Some(frame(CloseCode::Library(4001), "enough"))).expect("a close");
    assert_eq!(socket.read().expect("the answer"), Message::Close(Some(frame(CloseCode::Library(4001), "enough"))));
    let end = socket.read().expect_err("the end");
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end:?}");

    let mut socket = connect();
    socket.send(Message::text("close")).expect("a request to close");
    let closed = socket.read().expect("the close");
    assert_eq!(closed, Message::Close(Some(frame(CloseCode::Away, "as you like"))));

    // A server that dies without a word takes the caller's connection with it.
    let mut socket = connect();
    socket.send(Message::text("drop")).expect("a request to drop");
    let end = socket.read().expect_err("the end");
    assert!(
        !matches!(&end, tungstenite::Error::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "{end:?}"
    );
}
