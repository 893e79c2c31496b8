//! The owner with a real store and real keys, and channels in place of the drivers. `life` is a service from registration
//! to withdrawal, `registering` what is taken, refused and kept, `operating` joins and reloads, `past` a disk that was set back,
//! `poison` records that it must not die of twice, and hosts and services gone mad, `policies` what operators decide, `traffic` how calls
//! are carried, `history` what is told of it later, `thieves` what a stolen gossip key is good for.

mod cold_join;
mod history;
mod life;
mod operating;
mod past;
mod poison;
mod policies;
mod registering;
mod thieves;
mod traffic;

use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::super::kept::{self, Stored};
use super::*;
use crate::api::{Local, Refused, Reply};
use crate::config::{
    CheckDefinition, CheckKind, CheckRegistration, ConfigErrors, ServiceDefinition, service_registration,
};
use crate::health;
use crate::identity::{CaOptions, PeerIdentity, ca_init};
use crate::model::{CallerKeys, Health, NodeName, Protocol, RecordId, RecordKind, ServiceId, ServiceName, Weights};
use crate::store::{Opened, Registrations, Store};

/// One start of an agent's owner.
struct Bench {
    owner: Owner,
    directory: Arc<ArcSwap<Directory>>,
    local: Arc<ArcSwap<Local>>,
    changed: watch::Receiver<u64>,
    gossip: mpsc::Receiver<gossip::Command>,
    checks: mpsc::Receiver<CheckRequest>,
    /// The last set of checks that was asked for.
    running: Vec<(Option<ServiceId>, CheckDefinition)>,
}

/// A data directory with an identity.
fn enrolled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    ca_init(dir.path(), "prod", &NodeName::parse("web-01").unwrap(), &CaOptions::default()).unwrap();
    dir
}

fn files(services: Vec<ServiceDefinition>) -> Files {
    Files { services, checks: Vec::new(), zone: String::new(), meta: BTreeMap::new() }
}

impl Bench {
    /// Starts from what `dir` keeps, with those services in files.
    fn start(dir: &Path, services: Vec<ServiceDefinition>) -> Bench {
        Bench::start_with(dir, files(services))
    }

    fn start_with(dir: &Path, files: Files) -> Bench {
        let Opened { store, records, .. } = Store::open(dir, Duration::from_secs(10)).unwrap();
        let identity = Arc::new(Identity::load(dir).unwrap());
        let epoch = store.next_epoch(0).unwrap();
        let stored = kept::read(store.registrations().unwrap(), read_service, read_check);
        let rises = store.rises().unwrap();
        let facts = NodeFacts {
            name: identity.name.clone(),
            address: Ipv4Addr::LOCALHOST.into(),
            mesh: (Ipv4Addr::LOCALHOST, 7947).into(),
            gossip: (Ipv4Addr::LOCALHOST, 7946).into(),
            zone: String::new(),
            meta: BTreeMap::new(),
            version: "0".into(),
            checks: Vec::new(),
            certificates: identity.certificates.clone(),
        };
        let rng = ChaCha8Rng::seed_from_u64(epoch);
        let config = swim::Config::default();
        let swim = Swim::new(config, identity.node, identity.name.clone(), facts.gossip, epoch, rng.clone());
        let catalog = Catalog::new(catalog::Config::default(), identity.node, rng);
        let vips = Vips::new("127.64.0.0/10".parse().unwrap(), BTreeMap::new());
        let directory = Arc::new(ArcSwap::from_pointee(Directory::empty(identity.node)));
        let local: Arc<ArcSwap<Local>> = Arc::default();
        let (changes, changed) = watch::channel(0);
        let (commands, gossip) = mpsc::channel(64);
        let (requests, checks) = mpsc::channel(8);
        let quarantine = Quarantine::load(&store, env!("CARGO_PKG_VERSION"));
        let out = Outlets {
            directory: directory.clone(),
            local: local.clone(),
            callers: Arc::default(),
            changes,
            tally: watch::channel(Tally::default()).0,
            gossip: commands,
            checks: requests,
            store: store.writer().unwrap(),
            history: History::start(dir).unwrap(),
        };
        let begin = Beginning {
            identity,
            facts,
            epoch,
            swim,
            catalog,
            vips,
            has_seeds: false,
            rises,
            quarantine,
            voucher: None,
            clock: Box::new(std::time::SystemTime::now),
        };
        let mut owner = Owner::new(begin, out);
        owner.restore(records);
        owner.introduce(files, stored).unwrap();
        let mut bench = Bench { owner, directory, local, changed, gossip, checks, running: Vec::new() };
        bench.turn();
        bench
    }

    /// Ends this start as a crash would: nothing is withdrawn.
    fn stop(self) {
        self.owner.close();
    }

    fn turn(&mut self) {
        // The publication may not be due yet; time is the test's own.
        self.owner.publish_at = Instant::now();
        self.owner.turn();
        while let Ok(request) = self.checks.try_recv() {
            if let CheckRequest::Replace(checks) = request {
                self.running = checks;
            }
        }
    }

    /// Asks, waits for the disk, and gives the answer.
    async fn ask(&mut self, ask: Ask) -> Result<(), Refused> {
        let (reply, mut answer) = oneshot::channel();
        self.owner.ask(ask, Some(reply));
        loop {
            self.turn();
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            let written = self.owner.written().await;
            self.owner.on_written(written);
        }
    }

    async fn register(&mut self, definition: ServiceDefinition) -> Result<(), Refused> {
        let body = body_of(&definition);
        self.ask(Ask::Register { definition: Box::new(definition), body, replace_checks: false }).await
    }

    async fn register_check(&mut self, service: Option<&str>, check: CheckDefinition) -> Result<(), Refused> {
        let body = Bytes::from(format!("{} {}", service.unwrap_or("-"), check.id));
        let registration = Box::new(CheckRegistration { service: service.map(id), check });
        self.ask(Ask::RegisterCheck { registration, body }).await
    }

    async fn maintain(&mut self, service: Option<&str>, reason: Option<&str>) -> Result<(), Refused> {
        self.ask(Ask::Maintain { service: service.map(id), reason: reason.map(str::to_owned) }).await
    }

    /// A check has come to a verdict.
    fn verdict(&mut self, service: Option<&str>, check: &str, health: Health) {
        let output = String::new();
        let event = health::Event::Verdict { service: service.map(id), check: check.into(), health, output };
        self.owner.on_health(event);
        self.turn();
    }

    /// What others are told of a service: its health, or nothing.
    fn told(&self, service: &str) -> Option<Health> {
        let directory = self.directory.load();
        let service = directory.services.get(service)?;
        let (node, instance) = service.instances.first()?;
        Some(crate::model::Service::health(node, instance))
    }

    fn local(&self) -> Arc<Local> {
        self.local.load_full()
    }

    /// The record of one of this host's services; `Some(true)` is a tombstone.
    fn is_tombstone(&self, service: &str) -> Option<bool> {
        let key = Bytes::copy_from_slice(service.as_bytes());
        let id = RecordId { origin: self.owner.local, kind: RecordKind::SERVICE, key };
        Some(self.owner.catalog.get(&id)?.header().tombstone)
    }

    /// From now on the certificate grants these services only.
    fn grant(&mut self, grants: &[&str]) {
        let peer = PeerIdentity::from_der(&self.owner.identity.certificates[0]).unwrap();
        let grants = grants.iter().map(|glob| (*glob).to_owned()).collect();
        self.owner.gate.prove(Arc::new(PeerIdentity { grants, ..peer }));
    }
}

fn id(text: &str) -> ServiceId {
    ServiceId::parse(text).unwrap()
}

/// A service whose id is its name, with checks of those ids that begin critical.
fn service(name: &str, checks: &[&str]) -> ServiceDefinition {
    let instance = Instance {
        id: id(name),
        service: ServiceName::parse(name).unwrap(),
        address: None,
        port: 8080,
        protocol: Protocol::Http,
        vip_port: None,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weights: Weights::default(),
        request_timeout: None,
        checks: Vec::new(),
    };
    let source = "services.d/x.toml:1".to_owned();
    let checks = checks.iter().map(|id| check(id)).collect();
    ServiceDefinition { instance, checks, callers: CallerKeys::default(), source }
}

fn check(id: &str) -> CheckDefinition {
    CheckDefinition {
        id: id.into(),
        name: id.into(),
        notes: "a note".into(),
        kind: CheckKind::Ttl { ttl: Duration::from_secs(30) },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        success_before_passing: 1,
        failures_before_warning: 1,
        failures_before_critical: 1,
        initial: Health::Critical,
        deregister_after: None,
    }
}

/// A stand-in for the API's JSON: `NAME CHECK...`.
fn body_of(definition: &ServiceDefinition) -> Bytes {
    let checks = definition.checks.iter().map(|check| check.id.as_str());
    let words: Vec<&str> = std::iter::once(definition.instance.id.as_str()).chain(checks).collect();
    Bytes::from(words.join(" "))
}

fn unreadable() -> ConfigErrors {
    service_registration(b"{").unwrap_err()
}

fn read_service(body: &[u8]) -> Result<ServiceDefinition, ConfigErrors> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    let mut words = text.split(' ');
    let name = words.next().filter(|name| !name.starts_with('{')).ok_or_else(unreadable)?;
    Ok(service(name, &words.collect::<Vec<_>>()))
}

fn read_check(body: &[u8]) -> Result<CheckRegistration, ConfigErrors> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    let (service, name) = text.split_once(' ').ok_or_else(unreadable)?;
    Ok(CheckRegistration { service: (service != "-").then(|| id(service)), check: check(name) })
}

/// The bodies kept under `dir`, of services and of checks.
fn kept_files(dir: &Path) -> (Vec<String>, Vec<String>) {
    let list = |kind: &str| {
        let entries = std::fs::read_dir(dir.join("registrations").join(kind)).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
        let mut bodies: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        bodies.sort();
        bodies
    };
    (list("services"), list("checks"))
}

fn reply() -> (Reply, oneshot::Receiver<Result<(), Refused>>) {
    oneshot::channel()
}
