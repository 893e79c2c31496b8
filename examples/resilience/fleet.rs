//! Real agents, each a host of its own by address: 127.0.0.1, .2, ... in one network namespace. The first has the CA, and is
//! where the calls are made.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::ask::{ask, resolve};
use crate::process::{Process, run, wait_for};

/// From the start of an agent to all that is waited for of it.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const API_PORT: u16 = 8500;
const DNS_PORT: u16 = 8600;
/// Where a service's address answers, whatever the ports of its instances.
const VIP_PORT: u16 = 80;

/// An instance of a service, on 127.0.0.1.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) service: &'static str,
    pub(crate) port: u16,
    /// More keys of its table.
    pub(crate) more: String,
}

/// A host to raise.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) zone: &'static str,
    pub(crate) instances: Vec<Instance>,
}

struct Host {
    name: &'static str,
    address: Ipv4Addr,
    folder: PathBuf,
    agent: Option<Process>,
}

/// Agents that run until this is dropped.
pub(crate) struct Fleet {
    weft: PathBuf,
    hosts: Vec<Host>,
}

impl Fleet {
    /// Starts the agents; returns when each sees every instance.
    pub(crate) fn raise(weft: &Path, folder: &Path, plans: &[Plan]) -> Fleet {
        let mut fleet = Fleet { weft: weft.to_owned(), hosts: Vec::new() };
        for (plan, number) in plans.iter().zip(1_u8..) {
            fleet.hosts.push(Host::prepare(plan, number, folder));
        }
        let data = text(&fleet.hosts[0].data_dir());
        fleet.weft(&["ca", "init", "--data-dir", &data, "--cluster", "resilience", "--node", plans[0].name]);
        fleet.start(plans[0].name);
        for plan in &plans[1..] {
            let issuer = format!("{}:7947", fleet.hosts[0].address);
            let token = fleet.weft(&["token", "create", "--data-dir", &data, "--issuer", &issuer]);
            let own = text(&fleet.host(plan.name).data_dir());
            fleet.weft(&["enroll", "--token", token.trim(), "--data-dir", &own, "--node", plan.name]);
            fleet.start(plan.name);
        }
        let mut services: Vec<(&str, usize)> = Vec::new();
        for instance in plans.iter().flat_map(|plan| &plan.instances) {
            match services.iter_mut().find(|(service, _)| *service == instance.service) {
                Some((_, count)) => *count += 1,
                None => services.push((instance.service, 1)),
            }
        }
        for host in &fleet.hosts {
            services.iter().for_each(|(service, count)| await_passing(host, service, *count));
        }
        fleet
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a host of this fleet")
    }

    /// A host's own.
    pub(crate) fn address(&self, host: &str) -> Ipv4Addr {
        self.host(host).address
    }

    /// Where the first host's programs call a service.
    pub(crate) fn address_of(&self, service: &str) -> SocketAddr {
        self.address_at(self.hosts[0].name, service)
    }

    /// Where this host's programs do.
    pub(crate) fn address_at(&self, host: &str, service: &str) -> SocketAddr {
        let server = (self.host(host).address, DNS_PORT).into();
        let address = resolve(server, &format!("{service}.mesh.internal."));
        (address.unwrap_or_else(|error| panic!("{service}.mesh.internal: {error}")), VIP_PORT).into()
    }

    /// Runs a verb, which must succeed.
    fn weft(&self, arguments: &[&str]) -> String {
        run(Command::new(&self.weft).args(arguments)).expect(&format!("weft {}", arguments.join(" ")))
    }

    /// Somebody who may decide for all, at the first host.
    pub(crate) fn operator(&self) -> Operator {
        let host = &self.hosts[0];
        let key = host.folder.join("operator.pem");
        if !key.exists() {
            let (data, out) = (text(&host.data_dir()), text(&key));
            self.weft(&["ca", "operator", "anna", "--data-dir", &data, "--out", &out]);
        }
        Operator { weft: self.weft.clone(), socket: host.folder.join("weft.sock"), key, folder: host.folder.clone() }
    }

    /// `weft apply` of this file; how long it took.
    pub(crate) fn apply(&self, policy: &str, more: &[&str]) -> Duration {
        self.operator().apply(policy, more)
    }

    /// `weft shift SERVICE --to SUBSET --percent PERCENT`; how long it took.
    pub(crate) fn shift(&self, service: &str, to: &str, percent: u32) -> Duration {
        self.operator().weft(&["shift", service, "--to", to, "--percent", &percent.to_string()])
    }

    /// Starts an agent; returns when it answers.
    pub(crate) fn start(&mut self, name: &str) {
        let weft = self.weft.clone();
        let host = self.hosts.iter_mut().find(|host| host.name == name).expect("a host of this fleet");
        let mut command = Command::new(weft);
        command.arg("agent").arg("--config").arg(host.folder.join("weft.toml"));
        command.arg("--data-dir").arg(host.data_dir());
        let mut agent = Process::start(&format!("agent {name}"), &mut command, &host.folder.join("agent.log"));
        let api = (host.address, API_PORT).into();
        wait_for(&format!("agent {name} answers"), READY_DEADLINE, || {
            assert!(agent.ended().is_none(), "agent {name} ended:\n{}", agent.printed());
            ask(api, "/v1/agent/self")
        });
        host.agent = Some(agent);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        let host = self.hosts.iter_mut().find(|host| host.name == name).expect("a host of this fleet");
        if let Some(mut agent) = host.agent.take() {
            agent.kill();
        }
    }

    /// SIGHUP to all: they read their files again.
    pub(crate) fn reload(&mut self) {
        self.hosts.iter_mut().filter_map(|host| host.agent.as_mut()).for_each(|agent| agent.signal(Signal::HUP));
    }

    /// Writes a service file anew; read at the next reload.
    pub(crate) fn write_services(&self, plan: &Plan) {
        self.host(plan.name).write_services(&plan.instances);
    }
}

/// A person with a key.
pub(crate) struct Operator {
    weft: PathBuf,
    socket: PathBuf,
    key: PathBuf,
    folder: PathBuf,
}

impl Operator {
    /// `weft apply` of this file; how long it took.
    pub(crate) fn apply(&self, policy: &str, more: &[&str]) -> Duration {
        let file = self.folder.join("policy.toml");
        fs::write(&file, policy).expect("policy.toml");
        let mut arguments = vec!["apply", "-f", file.to_str().expect("a path in UTF-8")];
        arguments.extend(more);
        self.weft(&arguments)
    }

    fn weft(&self, arguments: &[&str]) -> Duration {
        let begun = Instant::now();
        let mut command = Command::new(&self.weft);
        command.args(arguments).env("WEFT_API", &self.socket).env("WEFT_OPERATOR", &self.key);
        run(&mut command).expect(&format!("weft {}", arguments.join(" ")));
        begun.elapsed()
    }
}

fn await_passing(host: &Host, service: &str, count: usize) {
    let path = format!("/v1/health/service/{service}?passing");
    wait_for(&format!("{} sees {count} instances of {service} pass", host.name), READY_DEADLINE, || {
        let text = ask((host.address, API_PORT).into(), &path)?;
        let list: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let seen = list.as_array().map_or(0, Vec::len);
        if seen == count { Ok(()) } else { Err(format!("{seen}")) }
    });
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

impl Host {
    fn prepare(plan: &Plan, number: u8, folder: &Path) -> Host {
        let host = Host {
            name: plan.name,
            address: Ipv4Addr::new(127, 0, 0, number),
            folder: folder.join(plan.name),
            agent: None,
        };
        fs::create_dir_all(host.folder.join("services.d")).expect("the host's folder");
        // Agents in one namespace share 127.64.0.0/10.
        let config = format!(
            "[node]\nname = \"{name}\"\nadvertise = \"{address}\"\nzone = \"{zone}\"\n\
             [cluster]\nname = \"resilience\"\nseeds = [\"127.0.0.1:7946\"]\n\
             [dns]\nlisten = [\"{address}:{DNS_PORT}\"]\nupstreams = []\n\
             [gossip]\nlisten = \"{address}:7946\"\n\
             [mesh]\nlisten = \"{address}:7947\"\n\
             [proxy]\nvip_range = \"127.{vip}.0.0/14\"\ncapture = \"bind\"\n\
             [api]\nlisten = \"{address}:{API_PORT}\"\nsocket = \"{folder}/weft.sock\"\n\
             [log]\nlevel = \"warn\"\n",
            name = plan.name,
            zone = plan.zone,
            address = host.address,
            vip = 60 + number * 4,
            folder = host.folder.display(),
        );
        fs::write(host.folder.join("weft.toml"), config).expect("weft.toml");
        host.write_services(&plan.instances);
        host
    }

    fn write_services(&self, instances: &[Instance]) {
        let table = |instance: &Instance| {
            format!(
                "[[service]]\nname = \"{service}\"\nid = \"{service}-{port}\"\nport = {port}\nvip_port = {VIP_PORT}\n\
                 protocol = \"http\"\n{more}\n",
                service = instance.service,
                port = instance.port,
                more = instance.more,
            )
        };
        let text: String = instances.iter().map(table).collect();
        let file = self.folder.join("services.d/services.toml");
        // By a rename, so that a reload never reads half of it.
        fs::write(file.with_extension("new"), text).expect("a service file");
        fs::rename(file.with_extension("new"), file).expect("a service file");
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }
}
