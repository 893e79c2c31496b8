//! A host that was taken over: it is enrolled, holds its own keys, and lies. What it says for others, or beyond what its
//! certificate grants, every other host refuses, counts, and tells of by name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use weft::gossip::{self, Command, Event, KeyringLink};
use weft::identity::{Identity, prove_claim};
use weft::model::{CatalogMessage, Claim, Instance, MemberState, NodeId, NodeName, Probe, Record, RecordKind};
use weft::model::{ServiceId, ServiceName, SwimMessage, Version, Want};
use weft::wire::body;
use weft::wire::packet::Datagram;
use weft::wire::protocol::PROTOCOL_MAX;

use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::intruder::id_of;
use crate::parts;
use crate::process::{Process, holds_for, wait_for};

/// Above every start and incarnation of its agent.
const LATER: u64 = 1 << 40;
/// Between two rounds of lies.
const ROUND: Duration = Duration::from_millis(500);
const LIES: Duration = Duration::from_secs(10);

fn web(port: u16) -> String {
    format!("[[service]]\nname = \"web\"\nport = {port}\nprotocol = \"http\"\n")
}

/// The host that lies, at work.
struct Insider {
    identity: Arc<Identity>,
    me: Claim,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    hosts: Vec<SocketAddr>,
    held: BTreeMap<NodeId, Claim>,
    /// What the victim published before it changed.
    old: Vec<Record>,
    lies: Vec<Claim>,
    forged: Vec<Record>,
    sequence: u64,
}

/// The job `insider`. Orders: `data_dir`, `address`, `hosts`, `victim` and `dead` (ids), `go` (a file that appears when the
/// victim has changed).
pub(crate) fn lie(orders: &Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut insider = Insider::start(orders).await;
        let victim = id(orders, "victim");
        insider.learn(victim).await;
        println!("\nlearned");
        let go = orders["go"].as_str().expect("go");
        while !Path::new(go).exists() {
            insider.attend(Instant::now() + Duration::from_millis(50)).await;
        }
        let until = Instant::now() + LIES;
        while Instant::now() < until {
            insider.round(victim, id(orders, "dead")).await;
            insider.attend(Instant::now() + ROUND).await;
        }
    });
}

fn id(orders: &Value, name: &str) -> NodeId {
    let text = orders[name].as_str().expect(name);
    NodeId(data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hex").try_into().expect("16 bytes"))
}

fn gossip_port(address: &Value) -> SocketAddr {
    SocketAddr::new(address.as_str().expect("an address").parse().expect("an address"), 7946)
}

impl Insider {
    async fn start(orders: &Value) -> Insider {
        let data_dir = Path::new(orders["data_dir"].as_str().expect("data_dir"));
        let identity = Arc::new(Identity::load(data_dir).expect("its identity"));
        let tls = identity.tls().expect("TLS");
        // It holds the keyring and listens to nobody about it.
        let (_, current) = watch::channel(Arc::new(identity.keyring.clone()));
        let (told, _) = mpsc::channel(1);
        let contexts = tls.clone();
        let address = gossip_port(&orders["address"]);
        let settings = gossip::Settings {
            listen: address,
            cluster: identity.cluster.clone(),
            local: identity.node,
            epoch: LATER,
            keyring: KeyringLink { current, told },
            client_tls: tls.gossip_client.clone(),
            server_tls: tls.gossip_server.clone(),
            server_name: tls.server_name.clone(),
            identify: Arc::new(move |chain: &[_]| contexts.peer(Some(chain)).ok().map(|peer| peer.node)),
            check_claim: Arc::new(|_: &Claim| Ok(None)),
            deadlines: gossip::Deadlines::default(),
            protocol_max: PROTOCOL_MAX,
        };
        let bound = gossip::bind(settings).await.expect("the gossip port");
        let (events, received) = mpsc::channel(1024);
        let (commands, commanded) = mpsc::channel(1024);
        tokio::spawn(async move {
            let (_stop, stopping) = watch::channel(false);
            bound.run(events, commanded, stopping).await;
        });
        let node = identity.node;
        let mut me = Claim {
            node,
            name: identity.name.clone(),
            address,
            incarnation: LATER,
            state: MemberState::Alive,
            from: node,
            proof: Vec::new(),
        };
        me.proof = prove_claim(&identity.record_key, &identity.cluster, LATER, &me);
        let hosts = orders["hosts"].as_array().expect("hosts").iter().map(gossip_port).collect();
        Insider {
            identity,
            me,
            commands,
            events: received,
            hosts,
            held: BTreeMap::new(),
            old: Vec::new(),
            lies: Vec::new(),
            forged: Vec::new(),
            sequence: 0,
        }
    }

    async fn command(&self, command: Command) {
        self.commands.send(command).await.expect("the driver runs");
    }

    async fn tell(&self, to: SocketAddr, datagram: Datagram) {
        self.command(Command::Send { to, node: None, datagram }).await;
    }

    /// Answers as a member does, but with lies, until then.
    async fn attend(&mut self, until: Instant) {
        while let Ok(Some(event)) = timeout_at(until, self.events.recv()).await {
            match event {
                Event::Swim { from, message: SwimMessage { probe: Probe::Ping { number, .. }, .. }, .. } => {
                    let message = SwimMessage { probe: Probe::Ack { number }, claims: vec![self.me.clone()] };
                    self.tell(from, Datagram::Swim(message)).await;
                }
                Event::SyncRequest { claims, reply, .. } => {
                    self.keep(claims);
                    let _ = reply.send([vec![self.me.clone()], self.lies.clone()].concat());
                }
                Event::Synced { claims, .. } => self.keep(claims),
                Event::PullRequest { reply, .. } => drop(reply.send((self.forged.clone(), Vec::new()))),
                Event::Pulled { records, .. } => self.old.extend(records),
                _ => {}
            }
        }
    }

    fn keep(&mut self, claims: Vec<Claim>) {
        self.held.extend(claims.into_iter().map(|claim| (claim.node, claim)));
    }

    /// What the others hold: their claims with their proofs, and the victim's records as they are now.
    async fn learn(&mut self, victim: NodeId) {
        while self.held.len() < 4 || self.old.is_empty() {
            let to = self.hosts[0];
            self.command(Command::Sync { to, expect: None, claims: vec![self.me.clone()] }).await;
            if let Some(source) = self.held.values().find(|claim| claim.address == to).map(|claim| claim.node) {
                let wants = vec![Want { origin: victim, after: Version::ZERO }];
                self.command(Command::Pull { from: source, to, wants }).await;
            }
            self.attend(Instant::now() + ROUND).await;
        }
    }

    fn next(&mut self) -> Version {
        self.sequence += 1;
        Version { epoch: LATER, sequence: self.sequence }
    }

    /// One round of lies to every host, by datagram and by stream.
    async fn round(&mut self, victim: NodeId, dead: NodeId) {
        self.lies = self.claims(victim, dead);
        self.forged = self.records(victim);
        for to in self.hosts.clone() {
            for claims in self.lies.chunks(2).map(<[Claim]>::to_vec) {
                self.tell(to, Datagram::Swim(SwimMessage { probe: Probe::Gossip, claims })).await;
            }
            let records = self.forged.iter().chain(&self.old);
            for record in records.filter(|record| record.encoded().len() < 1000).cloned() {
                self.tell(to, Datagram::Catalog(CatalogMessage::Delta(vec![record]))).await;
            }
            self.command(Command::Sync { to, expect: None, claims: self.lies.clone() }).await;
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn claims(&self, victim: NodeId, dead: NodeId) -> Vec<Claim> {
        let sign = |claim: Claim| {
            let mine = Claim { node: self.me.node, ..claim.clone() };
            let proof = prove_claim(&self.identity.record_key, &self.identity.cluster, LATER, &mine);
            Claim { proof, ..claim }
        };
        let held = |node| Claim { state: MemberState::Alive, from: node, ..self.held[&node].clone() };
        let (victim, dead) = (held(victim), held(dead));
        let mut sent_away = Claim { state: MemberState::Left, from: self.me.node, ..victim.clone() };
        sent_away.proof = prove_claim(&self.identity.record_key, &self.identity.cluster, LATER, &sent_away);
        vec![
            // The dead are alive, by the word that they gave, and by its own.
            dead.clone(),
            Claim { incarnation: dead.incarnation + 1, ..dead.clone() },
            sign(Claim { incarnation: dead.incarnation + 1, ..dead }),
            // Somebody else is where it is, has left, and is called otherwise.
            sign(Claim { incarnation: victim.incarnation + 1, address: self.me.address, ..victim.clone() }),
            sign(Claim { incarnation: victim.incarnation + 1, state: MemberState::Left, ..victim.clone() }),
            sent_away,
            Claim { name: NodeName::parse("other").expect("a name"), ..victim.clone() },
            Claim { incarnation: victim.incarnation + 1, proof: Vec::new(), ..victim },
        ]
    }

    fn records(&mut self, victim: NodeId) -> Vec<Record> {
        let identity = self.identity.clone();
        let sign = |header: &weft::model::Header, body: &[u8]| {
            Record::sign(header, body, |bytes| identity.record_key.sign(bytes)).expect("a record")
        };
        let mut forged = Vec::new();
        for record in self.old.clone() {
            // The victim's service is somewhere else, says this host in its name.
            if record.header().kind == RecordKind::SERVICE
                && let Ok(instance) = body::decode_instance(record.header().format, record.body())
            {
                let mut header = record.header().clone();
                header.version = self.next();
                let elsewhere = Instance { port: 6666, ..instance };
                forged.push(sign(&header, &body::encode_instance(&elsewhere).expect("a body")));
                let gone = weft::model::Header { version: self.next(), tombstone: true, ..header.clone() };
                forged.push(sign(&gone, b""));
                // And one of its own that its certificate does not grant.
                let key = bytes::Bytes::from_static(b"billing");
                let own = weft::model::Header { origin: identity.node, version: self.next(), key, ..header };
                let billing = Instance {
                    id: ServiceId::parse("billing").expect("an id"),
                    service: ServiceName::parse("billing").expect("a name"),
                    ..elsewhere
                };
                forged.push(sign(&own, &body::encode_instance(&billing).expect("a body")));
            }
        }
        assert!(forged.iter().any(|record| record.origin() == victim), "the victim has a service");
        forged
    }
}

/// The port that `seer` knows for the service on each host.
fn ports(seer: &Host, service: &str) -> Result<BTreeMap<String, u64>, String> {
    let (_, list) = seer.api(&format!("/v1/health/service/{service}"))?;
    let entries = list.as_array().into_iter().flatten();
    let port = |entry: &Value| {
        (entry["Node"]["Node"].as_str().unwrap_or_default().to_owned(), entry["Service"]["Port"].as_u64())
    };
    Ok(entries.map(port).filter_map(|(node, port)| Some((node, port?))).collect())
}

#[test]
fn an_enrolled_host_that_lies_is_refused_by_every_other_and_named() {
    let hosts = ["a", "b", "c", "d"];
    let Some(fleet) = Fleet::raise(&["a", "b", "c", "d", "x"]) else { return };
    fleet["b"].service("web", &web(8081));
    let _web = parts::nginx(&fleet["b"], "web", "127.0.0.1:8081", "b");
    let _moved = parts::nginx(&fleet["b"], "moved", "127.0.0.1:8082", "b");
    fleet.mesh(&hosts);
    let granted = fleet["a"].token(&["--service", "cart"]);
    fleet["x"].enrol_with(&granted).expect("enrolment");
    fleet["x"].start_agent();
    fleet.all_alive(&["a", "b", "c", "d", "x"]);
    fleet["c"].sees_passing("web", &["b"]);
    let insider = id_of(&fleet["x"]);
    let victims = ["a", "b", "c"];
    let orders = json!({
        "data_dir": fleet["x"].data_dir(), "address": fleet["x"].address(), "go": fleet["x"].folder().join("go"),
        "hosts": victims.map(|host| fleet[host].address()),
        "victim": id_of(&fleet["b"]), "dead": id_of(&fleet["d"]),
    });
    fleet["x"].kill_agent();
    let log = fleet["x"].folder().join("insider.out");
    let mut lying = Process::start("the insider", &mut helper::command(&fleet["x"], "insider", &orders), &log);
    wait_for("the insider has learned what there is", Duration::from_secs(30), || {
        if lying.printed().contains("learned") { Ok(()) } else { Err(lying.printed()) }
    });
    fleet["b"].service("web", &web(8082));
    fleet["b"].reload();
    fleet["d"].kill_agent();
    for seer in victims {
        wait_for("the victim has changed, and the dead host is known as such", Duration::from_secs(30), || {
            let (ports, members) = (ports(&fleet[seer], "web")?, fleet[seer].members()?);
            let known = ports.get("b") == Some(&8082) && members.get("d").is_some_and(|state| state == "failed");
            if known { Ok(()) } else { Err(format!("{ports:?} {members:?}")) }
        });
    }
    std::fs::write(fleet["x"].folder().join("go"), "").expect("the sign");
    holds_for("nothing of what the insider says is believed", LIES, || {
        for seer in victims {
            let host = &fleet[seer];
            let (ports, members) = (ports(host, "web")?, host.members()?);
            let state = |name: &str| members.get(name).map(String::as_str);
            let (_, services) = host.api("/v1/catalog/services")?;
            let holds = ports == BTreeMap::from([("b".to_owned(), 8082)])
                && state("d") == Some("failed")
                && matches!(state("b"), Some("alive" | "suspect"))
                && !members.contains_key("other")
                && services.get("billing").is_none();
            if !holds {
                return Err(format!("{seer}: {ports:?} {members:?} {services}"));
            }
        }
        Ok(())
    });
    lying.finish(Duration::from_secs(30));
    let answer = fleet["c"].curl("http://web.mesh.internal/").expect("a call");
    assert_eq!(answer.trim(), "b");
    for seer in victims {
        let host = &fleet[seer];
        let mut refused = Vec::new();
        for reason in ["other_host", "signature", "unsigned"] {
            refused.push((reason, host.metric("weft_gossip_claims_refused_total", reason)));
        }
        // Who is spoken for knows it for its own name.
        let forged = if seer == "b" { "own_name" } else { "signature" };
        for reason in [forged, "not_granted"] {
            refused.push((reason, host.metric("weft_records_refused_total", reason)));
        }
        println!("{seer} refused {refused:?}");
        assert!(refused.iter().all(|(_, count)| *count > 0.0), "{seer}: {refused:?}");
        let log = host.agent_log_text();
        for told in ["claims that this host makes", "records that this host sends"] {
            let named =
                log.lines().any(|line| line.contains(told) && line.contains(&insider) && line.contains("name=\"x\""));
            assert!(named, "{seer} does not name the insider: {told}");
        }
    }
}
