//! The hosts of `weft dev`: their directories, configurations, enrolments and processes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::super::output::{CliError, remark};
use super::{SERVICE, SERVICE_PORT};
use crate::identity::{CaOptions, Enrolling, ca_init, enroll, token_create};
use crate::model::NodeName;

const CLUSTER: &str = "dev";
/// For the whole mesh to stand; it takes about a second.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// How many hosts run the demo service.
const SERVING: usize = 2;

struct Host {
    name: String,
    ip: Ipv4Addr,
    serves: bool,
    child: Option<Child>,
}

/// All hosts, and the directory that they live in.
pub(super) struct Fleet {
    directory: PathBuf,
    hosts: Vec<Host>,
}

fn failed(what: &str, error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("{what}: {error}"), "")
}

impl Fleet {
    pub(super) fn new(count: u8) -> Result<Fleet, CliError> {
        let directory = std::env::temp_dir().join(format!("weft-dev-{}", std::process::id()));
        // Made for this user alone, and never somebody else's: it will hold keys.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| failed(&format!("{} cannot be made", directory.display()), error))?;
        let first_serving = usize::from(count).saturating_sub(SERVING);
        let host = |index: u8| Host {
            name: format!("host-{}", index + 1),
            ip: Ipv4Addr::new(127, 0, 0, index + 1),
            serves: usize::from(index) >= first_serving,
            child: None,
        };
        Ok(Fleet { directory, hosts: (0..count).map(host).collect() })
    }

    /// Makes the CA, starts and enrols every host, and waits until the first sees them all. Returns the demo service's
    /// VIP on the first host.
    pub(super) async fn start(&mut self) -> Result<Ipv4Addr, CliError> {
        self.check_ports()?;
        let name = NodeName::parse(&self.hosts[0].name).map_err(|error| failed("a host's name", error))?;
        let ca_dir = self.home(0);
        ca_init(&ca_dir, CLUSTER, &name, &CaOptions::default()).map_err(|error| failed("the CA", error))?;
        self.spawn(0)?;
        let deadline = Instant::now() + START_DEADLINE;
        self.wait_for_port(SocketAddr::from((self.hosts[0].ip, 7947)), deadline).await?;
        for index in 1..self.hosts.len() {
            let issuer = SocketAddr::from((self.hosts[0].ip, 7947));
            let (token, _) = token_create(&ca_dir, issuer, TOKEN_TTL, 1, vec!["*".into()], None)
                .map_err(|error| failed("a join token", error))?;
            let name = NodeName::parse(&self.hosts[index].name).map_err(|error| failed("a host's name", error))?;
            enroll(&token, &self.home(index), &name, Enrolling::Same)
                .await
                .map_err(|error| failed("enrolment", error))?;
            self.spawn(index)?;
        }
        self.wait_for_mesh(deadline).await?;
        self.ask_name(deadline).await
    }

    /// A port that somebody has is told at once, by name, instead of by a host that does not come up.
    fn check_ports(&self) -> Result<(), CliError> {
        for host in &self.hosts {
            for port in [7946, 7947, 8500, 8600] {
                let address = SocketAddr::from((host.ip, port));
                std::net::TcpListener::bind(address).map_err(|error| {
                    CliError::failed(
                        format!("{address} is needed and cannot be had: {error}"),
                        "is another agent running here? `ss -ltnp` shows who listens",
                    )
                })?;
            }
        }
        Ok(())
    }

    fn home(&self, index: usize) -> PathBuf {
        self.directory.join(&self.hosts[index].name)
    }

    fn spawn(&mut self, index: usize) -> Result<(), CliError> {
        let home = self.home(index);
        let written = write_configuration(&self.hosts[index], index, &self.hosts[0], &home);
        let config = written.map_err(|error| failed("a configuration cannot be written", error))?;
        let log = File::create(home.join("log")).map_err(|error| failed("a log cannot be written", error))?;
        let program = std::env::current_exe().map_err(|error| failed("this program cannot be found", error))?;
        let mut command = Command::new(program);
        command.arg("dev-host").arg("--config").arg(config);
        if self.hosts[index].serves {
            command.arg("--demo").arg(SocketAddr::from((self.hosts[index].ip, SERVICE_PORT)).to_string());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.hosts[index].child = Some(child.map_err(|error| failed("a host cannot be started", error))?);
        Ok(())
    }

    async fn wait_for_port(&mut self, address: SocketAddr, deadline: Instant) -> Result<(), CliError> {
        while TcpStream::connect(address).await.is_err() {
            self.check_going(deadline)?;
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until the first host sees every host alive and the service on all that serve it.
    async fn wait_for_mesh(&mut self, deadline: Instant) -> Result<(), CliError> {
        let serving = self.hosts.iter().filter(|host| host.serves).count();
        let api = SocketAddr::from((self.hosts[0].ip, 8500));
        loop {
            let members: Vec<Member> = get(api, "/v1/agent/members").await.unwrap_or_default();
            let path = format!("/v1/health/service/{SERVICE}?passing");
            let instances: Vec<serde_json::Value> = get(api, &path).await.unwrap_or_default();
            let alive = members.iter().filter(|member| member.status == 1).count();
            if alive == self.hosts.len() && instances.len() == serving {
                return Ok(());
            }
            self.check_going(deadline)?;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Asks the shim for the service's name, as an application would; the VIP is bound by that.
    async fn ask_name(&mut self, deadline: Instant) -> Result<Ipv4Addr, CliError> {
        let shim = SocketAddr::from((self.hosts[0].ip, 8600));
        loop {
            if let Ok(Ok(vip)) = timeout(Duration::from_secs(1), lookup(shim)).await {
                return Ok(vip);
            }
            self.check_going(deadline)?;
            sleep(POLL_INTERVAL).await;
        }
    }

    fn check_going(&mut self, deadline: Instant) -> Result<(), CliError> {
        for host in &mut self.hosts {
            let Some(child) = &mut host.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(self.directory.join(&host.name).join("log")).unwrap_or_default();
                return Err(CliError::failed(format!("{} ended with {status}:\n{}", host.name, last_lines(&log)), ""));
            }
        }
        if Instant::now() > deadline {
            return Err(CliError::failed("the mesh did not come up in 30 s", "is this machine very busy? try again"));
        }
        Ok(())
    }

    /// Watches over the hosts until Ctrl-C.
    pub(super) async fn watch(&mut self) {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                () = sleep(POLL_INTERVAL * 4) => {}
            }
            for host in &mut self.hosts {
                let ended = host.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
                if let Some(status) = ended {
                    host.child = None;
                    remark(&format!("{} has ended ({status}); the others go on\n", host.name));
                }
            }
        }
    }

    /// Ends every host, gracefully if it can, and removes the directory.
    pub(super) async fn stop(&mut self) {
        for child in self.hosts.iter().filter_map(|host| host.child.as_ref()) {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended meanwhile needs no signal.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        for child in self.hosts.iter_mut().filter_map(|host| host.child.as_mut()) {
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                sleep(POLL_INTERVAL).await;
            }
            // Fails only for a child that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            remark(&format!("{} could not be removed: {error}\n", self.directory.display()));
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn first(&self) -> &str {
        &self.hosts[0].name
    }

    /// Name, address, process id and part of every host.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, Ipv4Addr, u32, &'static str)> {
        self.hosts.iter().map(|host| {
            let part = if host.serves { "runs the service hello" } else { "calls it" };
            (host.name.as_str(), host.ip, host.child.as_ref().map_or(0, Child::id), part)
        })
    }

    /// A serving host, to be killed for the demonstration.
    pub(super) fn victim(&self) -> (&str, u32) {
        self.hosts.last().map_or(("", 0), |host| (host.name.as_str(), host.child.as_ref().map_or(0, Child::id)))
    }

    pub(super) fn json(&self, vip: Ipv4Addr) -> String {
        let hosts: Vec<_> =
            self.hosts().map(|(name, ip, pid, _)| json!({ "name": name, "address": ip, "pid": pid })).collect();
        let service = json!({ "name": SERVICE, "vip": vip, "port": SERVICE_PORT });
        json!({ "version": 1, "hosts": hosts, "service": service, "directory": self.directory }).to_string()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.hosts.iter_mut().filter_map(|host| host.child.as_mut()) {
            // Fails only for a child that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "Status")]
    status: u8,
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn write_configuration(host: &Host, index: usize, first: &Host, home: &Path) -> io::Result<PathBuf> {
    let Host { name, ip, .. } = host;
    let mut text = format!(
        "data_dir = {data_dir:?}\n[node]\nname = {name:?}\nadvertise = \"{ip}\"\n[cluster]\nname = {CLUSTER:?}\n",
        data_dir = home.display().to_string()
    );
    if index > 0 {
        let _ = writeln!(text, "seeds = [\"{}:7946\"]", first.ip);
    }
    // Where the redirect rule is loaded, calls go to whoever listens on 127.0.0.1:15001, and nothing that is bound to a VIP
    // is ever reached: the first host, which is the one called, finds out.
    let capture = if index == 0 { "auto" } else { "bind" };
    let vip_range = format!("127.{}.0.0/14", 64 + 4 * index);
    let socket = home.join("weft.sock").display().to_string();
    let _ = write!(
        text,
        "[dns]\nlisten = [\"{ip}:8600\"]\nupstreams = []\n[gossip]\nlisten = \"{ip}:7946\"\n[mesh]\nlisten = \
         \"{ip}:7947\"\n[proxy]\nvip_range = \"{vip_range}\"\ncapture = \"{capture}\"\nworkers = 1\n[api]\nlisten = \
         \"{ip}:8500\"\nsocket = {socket:?}\n"
    );
    fs::create_dir_all(home.join("services.d"))?;
    if host.serves {
        let service = format!(
            "[[service]]\nname = \"{SERVICE}\"\naddress = \"{ip}\"\nport = {SERVICE_PORT}\n\n[[service.check]]\nhttp = \
             \"http://{ip}:{SERVICE_PORT}/\"\ninterval = \"1s\"\n"
        );
        fs::write(home.join("services.d/hello.toml"), service)?;
    }
    let path = home.join("weft.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// One small JSON document from a host's API.
async fn get<T: serde::de::DeserializeOwned>(api: SocketAddr, path: &str) -> Option<T> {
    use http_body_util::{BodyExt, Empty, Limited};
    let tcp = TcpStream::connect(api).await.ok()?;
    let io = hyper_util::rt::TokioIo::new(tcp);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", api.to_string()).body(Empty::<bytes::Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let body = Limited::new(response.into_body(), 1 << 20).collect().await.ok()?.to_bytes();
    connection.abort();
    serde_json::from_slice(&body).ok()
}

/// The A record of the demo service.
async fn lookup(shim: SocketAddr) -> io::Result<Ipv4Addr> {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RData, RecordType};
    let name = Name::from_ascii(format!("{SERVICE}.mesh.internal.")).map_err(io::Error::other)?;
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(shim).await?;
    socket.send(&query.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = [0; 1232];
    let count = socket.recv(&mut buffer).await?;
    let answer = Message::from_vec(&buffer[..count]).map_err(io::Error::other)?;
    let address = answer.answers.iter().find_map(|record| match record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    address.ok_or_else(|| io::ErrorKind::NotFound.into())
}
