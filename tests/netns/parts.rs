//! The real parts behind the mesh: nginx, Redis and PostgreSQL as Debian ships them, and one server that speaks first.
//!
//! Each runs in a host's namespace from a folder of its own; none reads or touches the machine's own configuration.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::helper;
use crate::host::Host;
use crate::process::{Done, Process, run, wait_for};

/// initdb on a busy machine takes seconds.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// An nginx that answers every path with `answer`, and `/health` with 503 while a file `sick` stands in its folder.
#[track_caller]
pub(crate) fn nginx(host: &Host, name: &str, listen: &str, answer: &str) -> Process {
    nginx_with(host, name, listen, answer, "")
}

/// The same, with more of its own configuration inside `server`; `FOLDER` stands for its folder.
#[track_caller]
pub(crate) fn nginx_with(host: &Host, name: &str, listen: &str, answer: &str, more: &str) -> Process {
    let folder = host.folder().join(name);
    fs::create_dir_all(&folder).expect("nginx's folder");
    let dir = folder.display();
    let more = more.replace("FOLDER", &dir.to_string());
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{kind};\n"))
        .concat();
    let text = format!(
        "user root root;\ndaemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n{temp}\
         \x20 server {{\n    listen {listen};\n    default_type text/plain;\n{more}\
         \x20   location / {{ return 200 \"{answer}\\n\"; }}\n\
         \x20   location /health {{ if (-f {dir}/sick) {{ return 503; }} return 200 \"well\\n\"; }}\n  }}\n}}\n"
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, text).expect("nginx.conf");
    let mut command = host.command("nginx");
    command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(&config);
    let mut process = Process::start(&format!("{name} on {}", host.name), &mut command, &folder.join("nginx.log"));
    let (address, options) = listen.split_once(' ').unwrap_or((listen, ""));
    let url = format!("http://{}/", address.replace("0.0.0.0", "127.0.0.1"));
    let version = if options.contains("http2") { "--http2-prior-knowledge" } else { "--http1.1" };
    wait_for(&format!("{name} answers on {}", host.name), START_DEADLINE, || {
        assert!(process.ended().is_none(), "{name} ended at once: {}", process.printed());
        let done = host.run("curl", ["-sS", "--fail", "--max-time", "5", version, &url]);
        if done.ok && done.stdout.trim() == answer { Ok(()) } else { Err(done.stdout + &done.stderr) }
    });
    process
}

/// The file whose presence turns an nginx's `/health` red.
pub(crate) fn sickness(host: &Host, name: &str) -> PathBuf {
    host.folder().join(name).join("sick")
}

/// A Redis server on its usual port, on loopback only.
#[track_caller]
pub(crate) fn redis(host: &Host) -> Process {
    let folder = host.folder().join("redis");
    fs::create_dir_all(&folder).expect("redis's folder");
    let mut command = host.command("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no", "--dir"]).arg(&folder);
    let process = Process::start("redis", &mut command, &folder.join("redis.log"));
    wait_for("redis answers", START_DEADLINE, || {
        let done = host.run("redis-cli", ["-h", "127.0.0.1", "ping"]);
        if done.stdout.trim() == "PONG" { Ok(()) } else { Err(done.stderr) }
    });
    process
}

/// The password of PostgreSQL's role `app`.
pub(crate) const PASSWORD: &str = "open sesame";

/// A PostgreSQL server on its usual port, on loopback only, that trusts 127.0.0.1 and wants a password from everybody
/// else. `show cluster_name` tells its host.
#[track_caller]
pub(crate) fn postgres(host: &Host) -> Process {
    let folder = host.folder().join("postgres");
    let data = folder.join("data");
    let dir = folder.to_str().expect("a path in UTF-8");
    fs::create_dir_all(&folder).expect("postgres's folder");
    let words = as_owner(&folder);
    let program = |program: &str| {
        let mut command = host.command(words[0]);
        command.args(&words[1..]).arg(postgres_program(program)).current_dir(&folder);
        command
    };
    let mut initdb = program("initdb");
    initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
    run(&mut initdb).expect("initdb");
    let access = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all 0.0.0.0/0 scram-sha-256\n";
    fs::write(data.join("pg_hba.conf"), access).expect("pg_hba.conf");
    let mut command = program("postgres");
    command.arg("-D").arg(&data).args(["-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
    command.arg("-c").arg(format!("cluster_name={}", host.name));
    let name = format!("postgres on {}", host.name);
    let process = Process::start(&name, &mut command, &host.folder().join("postgres.log"));
    wait_for(&format!("{name} answers"), START_DEADLINE, || {
        let sql = format!("create role app login password '{PASSWORD}'");
        let done = host.run("psql", ["-h", dir, "-U", "postgres", "-d", "postgres", "-c", &sql]);
        if done.ok { Ok(()) } else { Err(done.stderr) }
    });
    process
}

/// A question to PostgreSQL as role `app`, with a password or without.
#[track_caller]
pub(crate) fn psql(host: &Host, server: &str, password: Option<&str>, sql: &str) -> Done {
    let words = psql_words(server, password, sql);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    host.run("env", words)
}

/// The same, as a session that goes on.
#[track_caller]
pub(crate) fn psql_session(host: &Host, server: &str, sql: &str) -> Process {
    let mut command = host.command("env");
    command.args(psql_words(server, Some(PASSWORD), sql));
    let log = host.folder().join(format!("session-{server}.log"));
    Process::start(&format!("session with {server}"), &mut command, &log)
}

fn psql_words(server: &str, password: Option<&str>, sql: &str) -> Vec<String> {
    let mut words = vec!["PGCONNECT_TIMEOUT=5".to_owned(), "PGPASSFILE=/nonexistent".to_owned()];
    words.extend(password.map(|password| format!("PGPASSWORD={password}")));
    let rest = ["psql", "-w", "-X", "-A", "-t", "-h", server, "-U", "app", "-d", "postgres", "-c", sql];
    words.extend(rest.map(str::to_owned));
    words
}

fn postgres_program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("no {name} under /usr/lib/postgresql; next: apt-get install postgresql"))
}

/// What to put before a program so that it runs as the owner of `folder`, who is not root: PostgreSQL refuses root.
fn as_owner(folder: &Path) -> &'static [&'static str] {
    if !rustix::process::geteuid().is_root() {
        return &["env"];
    }
    run(Command::new("chown").arg("postgres:postgres").arg(folder)).expect("chown");
    &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
}

/// A server on 127.0.0.1 that speaks first, as SMTP, MySQL and SSH do: it greets, reads a line, and answers it.
#[track_caller]
pub(crate) fn speaks_first(host: &Host, port: u16) -> Process {
    let mut command = helper::command(host, "greeter", &json!({ "port": port, "name": host.name }));
    let process = Process::start("the greeter", &mut command, &host.folder().join("greeter.log"));
    listens(host, port);
    process
}

/// Waits until something on `host` listens on `port`.
#[track_caller]
pub(crate) fn listens(host: &Host, port: u16) {
    wait_for(&format!("port {port} of {} listens", host.name), START_DEADLINE, || {
        let listening = host.run("ss", ["-Hltn", &format!("sport = :{port}")]).stdout;
        if listening.is_empty() { Err("it does not".to_owned()) } else { Ok(()) }
    });
}

/// Calls such a server by name from `host`; it must greet before anything is said.
#[track_caller]
pub(crate) fn call_who_speaks_first(host: &Host, server: &str, port: u16) {
    let arguments = json!({ "server": server, "port": port });
    run(&mut helper::command(host, "greeted", &arguments)).expect("a call of a server that speaks first");
}

pub(crate) fn greeter(arguments: &Value) {
    let port = u16::try_from(arguments["port"].as_u64().expect("port")).expect("a port");
    let name = arguments["name"].as_str().expect("name");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the greeter's port");
    for stream in listener.incoming() {
        let mut stream = stream.expect("a caller");
        // A health check connects and goes away; that is no reason to end.
        let mut line = String::new();
        let told = write!(stream, "220 {name} at your service\r\n").is_ok()
            && BufReader::new(&stream).read_line(&mut line).is_ok();
        if told && !line.is_empty() {
            let _ = write!(stream, "250 {line}");
        }
    }
}

pub(crate) fn greeted(arguments: &Value) {
    let server = arguments["server"].as_str().expect("server");
    let port = u16::try_from(arguments["port"].as_u64().expect("port")).expect("a port");
    let mut stream = TcpStream::connect((server, port)).expect("a connection by name");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("the greeting, before a word was said");
    assert!(line.starts_with("220 "), "{line:?}");
    write!(stream, "user mesh\r\n").expect("the answer to it");
    line.clear();
    reader.read_line(&mut line).expect("the reply");
    assert_eq!(line, "250 user mesh\r\n");
}
