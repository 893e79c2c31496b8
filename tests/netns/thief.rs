//! Somebody who stole the gossip key and nothing else, as a program: joins the gossip under an id that he made up, listens, and
//! says whatever the key lets him say, in everybody's name. Runs as a helper process inside a namespace of the fleet.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use weft::identity::{RecordKey, prove_claim};
use weft::model::{
    CatalogMessage, Claim, Header, MemberState, NodeId, NodeName, Probe, Record, RecordKind, SwimMessage, Version,
};
use weft::wire::packet::Datagram;
use weft::wire::seal::{GossipKey, Opener, Sealer};

/// Between two rounds of lies; what is refuted is accused again in the next.
const ROUND: Duration = Duration::from_millis(100);
const PORT: u16 = 7946;
/// False records in each host's name in a round: a hundred a second.
const FORGED: u64 = 10;

struct Thief {
    socket: UdpSocket,
    key: GossipKey,
    cluster: String,
    own: Sealer,
    me: Claim,
    opener: Opener,
    /// The newest signed word of each host that was heard.
    held: BTreeMap<NodeId, Claim>,
    hosts: Vec<SocketAddr>,
    /// With which he speaks in others' names.
    borrowed: BTreeMap<NodeId, Sealer>,
    forged: u64,
}

/// The job `thief`. Orders: `key`, `cluster`, `address` (his), `hosts`, `victim` and `dead` (ids), `seconds`. Prints one line of
/// JSON with what he saw.
pub(crate) fn run(orders: &Value) {
    let text = |name: &str| orders[name].as_str().expect(name).to_owned();
    let key: GossipKey = text("key").parse().expect("a gossip key");
    let address = SocketAddr::new(text("address").parse().expect("an address"), PORT);
    let record_key = RecordKey::generate().expect("a key of his own");
    let mut me = Claim {
        node: record_key.node_id(),
        name: NodeName::parse("nobody").expect("a name"),
        address,
        incarnation: 1,
        state: MemberState::Alive,
        from: record_key.node_id(),
        proof: Vec::new(),
    };
    me.proof = prove_claim(&record_key, &text("cluster"), 1, &me);
    let socket = UdpSocket::bind(address).expect("the gossip port");
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
    let own = Sealer::new(&key, &text("cluster"), me.node, 1);
    let opener = Opener::new(std::slice::from_ref(&key), &text("cluster"), me.node);
    let hosts = orders["hosts"].as_array().expect("hosts").iter();
    let hosts = hosts.map(|host| SocketAddr::new(host.as_str().expect("a host").parse().expect("an address"), PORT));
    let hosts = hosts.collect();
    let mut thief = Thief {
        socket,
        key,
        cluster: text("cluster"),
        own,
        me,
        opener,
        held: BTreeMap::new(),
        hosts,
        borrowed: BTreeMap::new(),
        forged: 0,
    };
    let named = |name: &str| -> NodeId {
        let bytes = data_encoding::HEXLOWER.decode(text(name).as_bytes()).expect("hex");
        NodeId(bytes.try_into().expect("16 bytes"))
    };
    let (victim, dead) = (named("victim"), named("dead"));
    let until = Instant::now() + Duration::from_secs(orders["seconds"].as_u64().expect("seconds"));
    let (mut accusations, mut first) = (0_u64, None);
    while Instant::now() < until {
        let round = Instant::now() + ROUND;
        while Instant::now() < round {
            thief.listen();
        }
        thief.tell_all(vec![thief.me.clone()]);
        if let Some(claim) = thief.held.get(&victim).cloned() {
            first.get_or_insert(claim.incarnation);
            accusations += thief.slander(&claim);
            thief.mute(&claim);
            thief.forge(victim);
        }
        if let Some(claim) = thief.held.get(&dead).cloned() {
            thief.raise(&claim);
        }
    }
    let last = thief.held.get(&victim).map(|claim| claim.incarnation);
    let refuted = last.zip(first).map(|(last, first)| last - first);
    let heard = thief.held.len();
    println!("{}", json!({ "heard": heard, "accusations": accusations, "refuted": refuted, "forged": thief.forged }));
}

impl Thief {
    fn seal(&mut self, claims: Vec<Claim>, probe: Probe) -> Vec<u8> {
        let message = Datagram::Swim(SwimMessage { probe, claims });
        self.own.seal(&message.encode().expect("it fits")).expect("it fits")
    }

    fn send_all(&self, packet: &[u8]) {
        for host in &self.hosts {
            let _ = self.socket.send_to(packet, host);
        }
    }

    fn tell_all(&mut self, claims: Vec<Claim>) {
        let packet = self.seal(claims, Probe::Gossip);
        self.send_all(&packet);
    }

    /// Answers pings, so that he counts as a member, and keeps what hosts sign.
    fn listen(&mut self) {
        let mut buffer = [0; 1500];
        let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { return };
        let Ok((_, payload)) = self.opener.open(&buffer[..length]) else { return };
        let Ok(Datagram::Swim(message)) = Datagram::decode(&payload) else { return };
        for claim in message.claims.into_iter().filter(|claim| claim.state != MemberState::Left) {
            let alive = Claim { state: MemberState::Alive, from: claim.node, ..claim };
            let newer = self.held.get(&alive.node).is_none_or(|held| held.incarnation < alive.incarnation);
            if newer {
                self.held.insert(alive.node, alive);
            }
        }
        if let Probe::Ping { number, .. } = message.probe {
            let answer = self.seal(vec![self.me.clone()], Probe::Ack { number });
            let _ = self.socket.send_to(&answer, from);
        }
    }

    /// All that can be said against a living host: suspected and called failed by many, gone by its own word and by his, moved,
    /// renamed, and at incarnations that it never had.
    fn slander(&mut self, victim: &Claim) -> u64 {
        let mut accusers: Vec<NodeId> = self.held.keys().copied().filter(|node| *node != victim.node).collect();
        accusers.push(self.me.node);
        let mut accusations = 0;
        for from in accusers {
            for state in [MemberState::Suspect, MemberState::Failed] {
                self.tell_all(vec![Claim { state, from, ..victim.clone() }]);
                accusations += 1;
            }
        }
        let left = Claim { state: MemberState::Left, ..victim.clone() };
        let sent_away = Claim { from: self.me.node, ..left.clone() };
        let moved = Claim { address: self.me.address, incarnation: victim.incarnation + 1, ..victim.clone() };
        let ahead = Claim { incarnation: 1 << 40, ..victim.clone() };
        let ahead_failed = Claim { state: MemberState::Failed, from: self.me.node, ..ahead.clone() };
        let unsigned = Claim { proof: Vec::new(), ..ahead.clone() };
        for lie in [left, sent_away, moved, ahead, ahead_failed, unsigned] {
            self.tell_all(vec![lie]);
        }
        accusations
    }

    /// In the victim's own name: from a start far ahead of its own, and from its own with counters that it will use.
    fn mute(&mut self, victim: &Claim) {
        let own_epoch = self.opener.epoch(victim.node).unwrap_or(1);
        for epoch in [u64::MAX, own_epoch + 1, own_epoch] {
            let mut sealer = Sealer::new(&self.key, &self.cluster, victim.node, epoch);
            let message = Datagram::Swim(SwimMessage { probe: Probe::Gossip, claims: Vec::new() });
            let payload = message.encode().expect("it fits");
            for _ in 0..20 {
                let packet = sealer.seal(&payload).expect("it fits");
                self.send_all(&packet);
            }
        }
    }

    /// Records of the victim's, with a service that it has not, told in the name of every host that he has heard.
    fn forge(&mut self, victim: NodeId) {
        let tellers: Vec<NodeId> = self.held.keys().copied().collect();
        for teller in tellers {
            let Some(epoch) = self.opener.epoch(teller) else { continue };
            for _ in 0..FORGED {
                self.forged += 1;
                let version = Version { epoch: epoch + 1, sequence: self.forged };
                let (kind, key) = (RecordKind::SERVICE, Bytes::from_static(b"trojan"));
                let header = Header { origin: victim, version, kind, format: 1, tombstone: false, key };
                let record = Record::sign(&header, b"trojan", |_| [7; 64]).expect("a record");
                let message = Datagram::Catalog(CatalogMessage::Delta(vec![record])).encode().expect("it fits");
                let (key, cluster) = (&self.key, &self.cluster);
                let sealer = self.borrowed.entry(teller).or_insert_with(|| Sealer::new(key, cluster, teller, epoch));
                let packet = sealer.seal(&message).expect("it fits");
                self.send_all(&packet);
            }
        }
    }

    /// Says that a dead host lives: by its old word, by a newer one that it never said, and in its own name.
    fn raise(&mut self, dead: &Claim) {
        let again = Claim { incarnation: dead.incarnation + 1, ..dead.clone() };
        self.tell_all(vec![dead.clone(), again]);
        let mut sealer = Sealer::new(&self.key, &self.cluster, dead.node, u64::MAX);
        let message = Datagram::Swim(SwimMessage { probe: Probe::Ack { number: 1 }, claims: vec![dead.clone()] });
        let packet = sealer.seal(&message.encode().expect("it fits")).expect("it fits");
        self.send_all(&packet);
    }
}
