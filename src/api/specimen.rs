//! A small cluster for tests of this room and of the verbs: three hosts, two services, one of everything that can be wrong.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::consul::View;
use super::{BUCKET_BOUNDS_US, Direction, Edge, Limits, Local, LocalCheck, LocalService, Settings, Traffic};
use crate::config::{CheckDefinition, CheckKind, CheckTarget};
use crate::model::Quarantined;
use crate::model::{
    Action, Change, CheckStatus, Directory, Dot, Freshness, Health, Instance, Intention, Intentions, MemberState, Node,
    NodeFacts, NodeId, NodeName, Permission, Policy, Protocol, ProtocolVersions, Service, ServiceId, ServiceName,
    Standing, Statement, Tag,
};

pub(crate) fn settings() -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: None,
        cluster: "prod".into(),
        node: NodeName::parse("web-01").unwrap(),
        domain: "mesh.internal".into(),
        version: "0.1.0".into(),
        tls: None,
        writes_over_tcp: true,
        data_dir: None,
        capture: Some("redirect".into()),
        roots: vec![vec![1, 2, 3]],
        limits: Limits::default(),
    }
}

fn node(number: u8, name: &str, state: MemberState, mesh_reachable: bool) -> Arc<Node> {
    let address = Ipv4Addr::new(10, 0, 0, number);
    Arc::new(Node {
        id: NodeId([number; 16]),
        facts: NodeFacts {
            name: NodeName::parse(name).unwrap(),
            address: address.into(),
            mesh: (address, 7947).into(),
            gossip: (address, 7946).into(),
            zone: "eu-1a".into(),
            meta: BTreeMap::from([("rack".into(), format!("r{number}"))]),
            version: "0.1.0".into(),
            checks: Vec::new(),
            certificates: Vec::new(),
        },
        state,
        mesh_reachable,
        incarnation: 1,
        index: 40,
    })
}

fn instance(service: &str, tags: &[&str], health: Option<Health>) -> Arc<Instance> {
    let check = |health| CheckStatus {
        id: format!("service:{service}"),
        name: format!("{service} answers"),
        kind: "http".into(),
        health,
    };
    Arc::new(Instance {
        id: ServiceId::parse(service).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        address: None,
        port: 8080,
        protocol: Protocol::Http,
        vip_port: None,
        tags: tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
        meta: BTreeMap::from([("team".into(), "pay".into())]),
        weights: crate::model::Weights::default(),
        request_timeout: None,
        checks: health.map(check).into_iter().collect(),
    })
}

fn service(name: &str, last: u8, instances: Vec<(Arc<Node>, Arc<Instance>)>) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::parse(name).unwrap();
    let tag_vips = BTreeMap::from([(Tag::parse("v2").unwrap(), Ipv4Addr::new(127, 64, 1, last))]);
    let service = Service {
        name: name.clone(),
        vip: Ipv4Addr::new(127, 64, 0, last),
        vip_port: 8080,
        disputed: false,
        protocol: Protocol::Http,
        tag_vips,
        instances,
        index: 41,
    };
    (name, Arc::new(service))
}

/// web-01 (local) and web-02 serve `billing`, web-02's critical; db-01 is not reachable on its mesh port and serves
/// `billing` too; old-01 has left and took `legacy` with it; dead-01 has failed.
pub(crate) fn directory() -> Directory {
    let local = node(1, "web-01", MemberState::Alive, true);
    let second = node(2, "web-02", MemberState::Suspect, true);
    let cut_off = node(3, "db-01", MemberState::Alive, false);
    let gone = node(4, "old-01", MemberState::Left, true);
    let dead = node(5, "dead-01", MemberState::Failed, true);
    let billing = service(
        "billing",
        1,
        vec![
            (local.clone(), instance("billing", &["v2", "traefik.enable=true"], Some(Health::Passing))),
            (second.clone(), instance("billing", &["v1"], Some(Health::Critical))),
            (cut_off.clone(), instance("billing", &["v2"], None)),
            (dead.clone(), instance("billing", &["v2"], None)),
        ],
    );
    let legacy = service("legacy", 2, vec![(gone.clone(), instance("legacy", &[], None))]);
    Directory {
        local: local.id,
        index: 42,
        nodes_index: 40,
        services_index: 41,
        absent_index: 1,
        freshness: Freshness::Live,
        nodes: [local, second, cut_off, gone, dead].into_iter().map(|node| (node.id, node)).collect(),
        services: [billing, legacy].into(),
        vips: Default::default(),
        intentions: Arc::new(intentions()),
        traffic: Arc::default(),
    }
}

fn own(service: &str, id: &str, announced: bool) -> (ServiceId, LocalService) {
    let id = ServiceId::parse(id).unwrap();
    let instance = Instance { id: id.clone(), ..Instance::clone(&instance(service, &["v2"], None)) };
    (id, LocalService { instance, announced, source: "the API".into(), maintenance: None })
}

fn own_check(service: Option<&str>, health: Health, kind: CheckKind) -> LocalCheck {
    let definition = CheckDefinition {
        id: "c".into(),
        name: "c".into(),
        notes: "ask the pay team".into(),
        kind,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        success_before_passing: 1,
        failures_before_warning: 1,
        failures_before_critical: 1,
        initial: Health::Critical,
        deregister_after: Some(Duration::from_secs(90 * 60)),
    };
    LocalCheck {
        service: service.map(|id| ServiceId::parse(id).unwrap()),
        name: "a check".into(),
        notes: definition.notes.clone(),
        kind: definition.kind.as_str().into(),
        health,
        definition: Some(definition),
    }
}

/// What web-01 registered: `billing`, which passes; a second of it, which warns; `worker`, not announced yet.
pub(crate) fn local() -> Local {
    let http = CheckKind::Http {
        url: "http://127.0.0.1:8080/health".into(),
        target: CheckTarget { host: "127.0.0.1".into(), port: 8080 },
        path: "/health".into(),
        method: "GET".into(),
        headers: vec![("Authorization".into(), "secret".into())],
        body: "secret".into(),
        tls: None,
    };
    let ttl = CheckKind::Ttl { ttl: Duration::from_secs(30) };
    let tcp = CheckKind::Tcp { target: CheckTarget { host: "::1".into(), port: 9 }, tls: None };
    Local {
        index: 7,
        services: [own("billing", "billing", true), own("billing", "billing-2", true), own("worker", "worker", false)]
            .into(),
        checks: BTreeMap::from([
            ("service:billing".into(), own_check(Some("billing"), Health::Passing, http)),
            ("service:billing-2".into(), own_check(Some("billing-2"), Health::Warning, ttl)),
            ("service:worker".into(), own_check(Some("worker"), Health::Critical, tcp)),
        ]),
        maintenance: None,
        quarantined: vec![
            quarantined(NodeId([3; 16]), "judging it ended in a panic"),
            quarantined(NodeId([0xee; 16]), "the agent ended while it had it in hand"),
        ],
    }
}

fn quarantined(origin: NodeId, reason: &str) -> Quarantined {
    let (hash, version) = ("5e".repeat(16), "3.7".to_owned());
    Quarantined { hash, origin: origin.to_string(), version, reason: reason.to_owned(), deaths: 2 }
}

/// One caller's calls to `billing` on web-01.
pub(crate) fn traffic() -> Traffic {
    let edge = Edge {
        direction: Direction::Out,
        caller: "web-01".into(),
        caller_service: String::new(),
        node: "web-01".into(),
        service: "billing".into(),
        instance: "billing".into(),
        protocol: "http".into(),
        codes: [0, 0, 100, 0, 0, 1],
        in_flight: 2,
        retries: 0,
        latency: [1; BUCKET_BOUNDS_US.len() + 1],
        latency_sum_us: 50_000,
        ewma_us: 500,
        ejected_for_ms: 0,
    };
    Traffic { seconds: 12.5, edges: vec![edge], ..Traffic::default() }
}

/// Everything that bodies are built from, with this directory.
pub(super) fn with_view<T>(directory: &Directory, use_view: impl FnOnce(&View<'_>) -> T) -> T {
    use_view(&View {
        directory,
        settings: &settings(),
        local: &local(),
        output: &|check| Some(format!("output of {check}")),
        traffic: &traffic,
        versions: &|_| Some(ProtocolVersions { current: 2, highest: 3 }),
        now: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
    })
}

/// `web` may call `billing` and nobody else may; of `legacy` everybody may read what is below `/v1/`.
fn intentions() -> Intentions {
    let permission =
        Permission { action: Action::Allow, methods: vec!["GET".into()], path: Some("/v1/*".parse().expect("a path")) };
    let all = [
        ("web", "billing", Action::Allow, Vec::new()),
        ("*", "billing", Action::Deny, Vec::new()),
        ("*", "legacy", Action::Deny, vec![permission]),
    ];
    let standing = all.into_iter().map(|(source, destination, action, permissions)| {
        let (source, destination) = (source.parse().expect("a pattern"), destination.parse().expect("a pattern"));
        let intention = Intention { source, destination, action, permissions, description: "who pays".into() };
        let dot = Dot { lamport: 3, writer: NodeId([1; 16]) };
        let (change, at_unix_s) = (Change::Intention(intention), 1_800_000_000);
        let statement = Statement { dot, seen: Vec::new(), operator: "anna".into(), at_unix_s, change };
        let policy =
            Arc::new(Policy { statement, is_vouched: false, body: Default::default(), signed: Default::default() });
        (policy.id(), Standing { winner: policy, losers: Vec::new() })
    });
    Intentions::new(standing.collect())
}
