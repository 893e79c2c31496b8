//! Who is calling: programs of one host are told apart by what the kernel says of them, without any change to them, and a
//! host that lies about them is refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weft::identity::Identity;
use weft::model::{ServiceId, ServiceName};
use weft::wire::frame::{FrameHeader, Open, RstReason};

use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::process::{run, wait_for};

const SHOP: &str = "[[service]]\nname = \"shop\"\nport = 8080\nprotocol = \"http\"\n\
                    [[service]]\nname = \"store\"\nport = 8080\nid = \"store\"\nprotocol = \"http\"\nvip_port = 8088\n";
/// A service of bytes.
const TILL: &str = "[[service]]\nname = \"till\"\nport = 8080\n";
/// Two services that run as users, one that runs as the unit of its name, two that cannot be told apart.
const CALLERS: &str = "[[service]]\nname = \"billing\"\nport = 9001\nuser = \"2001\"\n\
                       [[service]]\nname = \"reports\"\nport = 9002\nuser = \"2002\"\n\
                       [[service]]\nname = \"ledger\"\nport = 9003\n\
                       [[service]]\nname = \"one\"\nport = 9004\nuser = \"2004\"\n\
                       [[service]]\nname = \"two\"\nport = 9005\nuser = \"2004\"\n\
                       [[service]]\nname = \"here\"\nport = 8081\nprotocol = \"http\"\n";

fn as_user(host: &Host, uid: &str, arguments: &[&str]) -> String {
    let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let mut words = vec![reuid.as_str(), regid.as_str(), "--clear-groups", "--"];
    words.extend(arguments);
    host.run("setpriv", words).expect(&format!("{arguments:?} as {uid}"))
}

/// What the service was told of who called.
fn clients(head: &str) -> Vec<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let named = lines.filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-") == "x-weft-client");
    named.map(|(_, value)| value.trim_start_matches("spiffe://proving/").to_owned()).collect()
}

fn ask(host: &Host, uid: &str, url: &str, more: &[&str]) -> Vec<String> {
    let words = [&["curl", "--silent", "--show-error", "--fail", "--max-time", "5", url][..], more].concat();
    clients(&as_user(host, uid, &words))
}

#[test]
fn programs_of_one_host_are_known_by_their_users_and_units_whatever_they_say_of_themselves() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    fleet["a"].service("shop", SHOP);
    fleet["c"].service("callers", CALLERS);
    let backend = Backend::start(&fleet["a"], 8080);
    let _here = Backend::start(&fleet["c"], 8081);
    fleet.mesh(&["a", "c"]);
    let c = &fleet["c"];
    c.sees_passing("shop", &["a"]);
    c.sees_passing("here", &["c"]);
    for url in ["http://shop.mesh.internal/head", "http://here.mesh.internal/head"] {
        for (uid, client) in [
            ("2001", "service/billing"),
            ("2002", "service/reports"),
            ("2003", "anonymous"),
            ("0", "anonymous"),
            ("2004", "anonymous"),
        ] {
            assert_eq!(ask(c, uid, url, &[]), [client], "{uid} at {url}");
            let forged = ["-H", "X-Weft-Client: spiffe://proving/service/boss", "-H", "x_weft_client: boss"];
            let more = ["-H", "weft-caller: billing", "-H", "Connection: x-weft-client"];
            assert_eq!(ask(c, uid, url, &[forged, more].concat()), [client], "{uid} at {url}");
        }
    }
    let log = c.agent_log_text();
    assert_eq!(log.matches("as much the one service as the other").count(), 1, "told once");
    by_unit(c);
    let told = as_user(c, "2001", &[env!("CARGO_BIN_EXE_weft"), "whoami", "--json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((told["service"].as_str(), told["uid"].as_u64()), (Some("billing"), Some(2001)), "{told}");
    ports(c);
    who_closes_at_once(&fleet, &backend);
}

/// By the systemd unit: a control group of that name is all that there is of it.
fn by_unit(host: &Host) {
    let Some(root) = cgroup_root() else {
        return eprintln!("no cgroup2 that can be written to here: units are not tested");
    };
    let slice = root.join(format!("wefttest{}.slice", std::process::id()));
    let groups = [
        ("ledger.service", "service/ledger"),
        ("ledger.service/worker", "service/ledger"),
        ("other.service", "anonymous"),
        ("other.service/ledger.service", "anonymous"),
        ("user@2003.service/ledger.service", "anonymous"),
    ];
    let made: Result<Vec<()>, _> = groups.iter().map(|(group, _)| fs::create_dir_all(slice.join(group))).collect();
    if let Err(error) = made {
        return eprintln!("no cgroup2 that can be written to here ({error}): units are not tested");
    }
    let heads: Vec<(&str, String)> =
        groups.map(|(group, client)| (client, ask_from(host, &slice.join(group)))).to_vec();
    for (group, _) in groups.iter().rev() {
        let _ = fs::remove_dir(slice.join(group));
    }
    let _ = fs::remove_dir(slice.join("user@2003.service"));
    let _ = fs::remove_dir(&slice);
    for ((group, _), (client, head)) in groups.iter().zip(&heads) {
        assert_eq!(clients(head), [*client], "{group}: {head}");
    }
}

fn ask_from(host: &Host, group: &Path) -> String {
    let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
    let url = "http://shop.mesh.internal/head";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(group).args(["ip", "netns", "exec", &host.namespace, "curl"]);
    run(command.args(["--silent", "--show-error", "--max-time", "5", url])).expect("curl in a control group")
}

fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Calls from one port to several services, and to both ports of one: the kernel must not change the port on the way, by
/// which the agent finds who calls.
fn ports(host: &Host) {
    let vip = |name: &str| host.dig(&format!("{name}.mesh.internal")).remove(0);
    let targets = json!([[vip("shop"), 80], [vip("store"), 80], [vip("shop"), 8080], [vip("store"), 8088]]);
    let arguments = json!({ "targets": targets, "beyond": [vip("shop"), 9999] });
    run(&mut helper_as(host, 2001, "one_port", &arguments)).expect("calls from one port");
}

/// The job `one_port`.
pub(crate) fn one_port(arguments: &Value) {
    let target = |value: &Value| -> SocketAddr {
        let vip: Ipv4Addr = value[0].as_str().expect("a VIP").parse().expect("a VIP");
        (vip, u16::try_from(value[1].as_u64().expect("a port")).expect("a port")).into()
    };
    const FROM: u16 = 41_999;
    let call = |to: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("the port again");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, FROM)).into()).expect("the port");
        socket.connect_timeout(&to.into(), Duration::from_secs(2)).map(|()| TcpStream::from(socket))
    };
    let targets: Vec<SocketAddr> = arguments["targets"].as_array().expect("targets").iter().map(target).collect();
    let mut open: Vec<TcpStream> = targets.iter().map(|to| call(*to).expect("a connection")).collect();
    for (stream, to) in open.iter_mut().zip(&targets) {
        write!(stream, "GET /head HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert_eq!(clients(&answer), ["service/billing"], "{to}: {answer}");
    }
    // A third port of one service from there would have to come from another.
    let beyond = call(target(&arguments["beyond"]));
    assert!(beyond.is_err(), "a call whose port the kernel changed came through");
}

/// A helper that runs as another user from its beginning.
fn helper_as(host: &Host, uid: u32, job: &str, arguments: &Value) -> Command {
    let plain = helper::command(host, job, arguments);
    let (uid, ip_netns_exec_name) = (uid.to_string(), 3);
    let mut command = Command::new(plain.get_program());
    command.args(plain.get_args().take(ip_netns_exec_name));
    command.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"]);
    command.args(plain.get_args().skip(ip_netns_exec_name)).current_dir("/");
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

/// A program that has closed its socket before the agent asks is nobody; it is never another.
fn who_closes_at_once(fleet: &Fleet, backend: &Backend) {
    let vip = fleet["c"].dig("shop.mesh.internal").remove(0);
    let judged = || ["named", "anonymous"].map(|how| fleet["c"].metric(&format!("weft_proxy_callers_{how}_total"), ""));
    let before: f64 = judged().iter().sum();
    let callers: Vec<_> = [2001, 2002, 2003]
        .map(|uid| helper_as(&fleet["c"], uid, "closes", &json!({ "uid": uid, "vip": vip })))
        .iter_mut()
        .map(|command| command.spawn().expect("a program that closes at once"))
        .collect();
    for mut caller in callers {
        assert!(caller.wait().expect("its end").success());
    }
    let (mut named, mut anonymous) = (0, 0);
    for seen in backend.requests() {
        let Some(uid) = seen.path().strip_prefix("/closes/") else { continue };
        let client = clients(&seen.head);
        match (uid, client.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) {
            ("2001", ["service/billing"]) | ("2002", ["service/reports"]) => named += 1,
            (_, ["anonymous"]) => anonymous += 1,
            (_, other) => panic!("a program of {uid} was taken for {other:?}"),
        }
    }
    println!("of the calls of programs that closed at once {named} were named and {anonymous} anonymous");
    // How many of the requests are carried on although nobody waits for the answer is a matter of moments; all were judged.
    wait_for("every connection is judged", Duration::from_secs(20), || match judged().iter().sum::<f64>() - before {
        all if all >= 600.0 => Ok(()),
        some => Err(format!("{some} of 600")),
    });
}

/// The job `closes`.
pub(crate) fn closes(arguments: &Value) {
    let vip = arguments["vip"].as_str().expect("vip");
    for _ in 0..200 {
        let mut stream = TcpStream::connect((vip, 80)).expect("a connection");
        let _ = write!(stream, "GET /closes/{} HTTP/1.1\r\nHost: x\r\n\r\n", arguments["uid"]);
    }
}

#[test]
fn a_host_that_claims_a_caller_beyond_its_grants_is_refused_and_named() {
    let Some(fleet) = Fleet::raise(&["a", "x"]) else { return };
    fleet["a"].service("shop", SHOP);
    fleet["a"].service("till", TILL);
    let backend = Backend::start(&fleet["a"], 8080);
    fleet.mesh(&["a"]);
    fleet["a"].sees_passing("shop", &["a"]);
    fleet["a"].sees_passing("till", &["a"]);
    let token = fleet["a"].token(&["--service", "x-*"]);
    fleet["x"].enrol_with(&token).expect("enrolment");
    let arguments = json!({ "data": fleet["x"].data_dir(), "target": "10.77.0.1:7947" });
    run(&mut helper::command(&fleet["x"], "liar", &arguments)).expect("the lying host");
    let log = fleet["a"].agent_log_text();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("does not grant; its calls")).collect();
    assert!(matches!(named.as_slice(), [line] if line.contains("node=x") && line.contains("billing")), "{named:?}");
    assert_eq!(fleet["a"].metric("weft_proxy_callers_refused_total", ""), 2.0);
    let told: Vec<String> = backend.requests().iter().flat_map(|seen| clients(&seen.head)).collect();
    assert_eq!(told, ["service/x-1"], "the one request that was let through");
}

/// The job `liar`: what an agent would send that claims callers at will.
pub(crate) fn liar(arguments: &Value) {
    let identity = Identity::load(Path::new(arguments["data"].as_str().expect("data"))).expect("the identity");
    let tls = identity.tls().expect("TLS");
    let target = arguments["target"].as_str().expect("target");
    let name = |text: &str| ServiceName::parse(text).expect("a name");
    // What speaks HTTP takes no streams at all, whoever is said to call: the head in one could say that anybody does.
    let (not_allowed, none) = (RstReason::NotAllowed.encode(), RstReason::NoSuchInstance.encode());
    let accepted = FrameHeader::ACCEPT.encode();
    for (service, claimed, answer) in
        [("till", "billing", &not_allowed[..]), ("till", "x-1", &accepted[..]), ("shop", "x-1", &none[..])]
    {
        let tcp = TcpStream::connect(target).expect("the mesh port");
        tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        let session = ClientConnection::new(tls.mesh_client.clone(), tls.server_name.clone()).expect("a session");
        let mut stream = StreamOwned::new(session, tcp);
        let instance = ServiceId::parse(service).expect("an id");
        let open = Open { service: name(service), instance, tag: None, caller: Some(name(claimed)) };
        stream.write_all(&open.encode().expect("OPEN")).expect("OPEN");
        let mut heard = vec![0; answer.len()];
        stream.read_exact(&mut heard).expect("an answer");
        assert_eq!(heard, answer, "{service} as {claimed}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(target).await.expect("the mesh port");
        let connector = tokio_rustls::TlsConnector::from(tls.http_client.clone());
        let stream = connector.connect(tls.server_name.clone(), tcp).await.expect("a handshake");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        for (claimed, status, error) in [("billing", 403, Some("not-allowed")), ("x-1", 200, None)] {
            let request = Request::get("/head")
                .header("host", "shop")
                .header("weft-service", "shop")
                .header("weft-instance", "shop")
                .header("weft-caller", claimed)
                .header("x-weft-client", "spiffe://proving/service/billing");
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), status, "{claimed}");
            let told = response.headers().get("weft-error").and_then(|value| value.to_str().ok());
            assert_eq!(told, error, "{claimed}");
            let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
            if status == 200 {
                assert_eq!(clients(&String::from_utf8_lossy(&body)), ["service/x-1"]);
            }
        }
    });
}
