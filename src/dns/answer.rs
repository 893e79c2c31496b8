//! Query bytes and the directory in, reply bytes out: everything that the shim says about the mesh domain.
//!
//! Pure: no sockets, no clock; randomness is given at construction. Foreign names are not answered here but handed back
//! as [`Verdict::Forward`].

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::ProtoError;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::query::{Query, Unusable};
use super::reply::{Owner, Reply, Section, write_error};
use super::zone::{Asked, Zone, address_label, reverse_v4};
use crate::model::{Directory, Health, Instance, MemberState, Node, NodeId, Service};

/// A service keeps its VIP for as long as it exists, so caches may hold it; short, because services do come and go.
const VIP_TTL_S: u32 = 5;
/// Hosts seldom change their address.
const NODE_TTL_S: u32 = 5;
/// Health changes at any moment, and asking again costs microseconds on loopback: caches must not hold real instances.
const INSTANCE_TTL_S: u32 = 0;
/// A name that `addr.D` spells can mean nothing else.
const ADDRESS_TTL_S: u32 = 3600;
/// Nor may caches hold "there is none": the service may be registered the next moment.
const NEGATIVE_TTL_S: u32 = 0;
/// Transfers are refused, so these matter to nobody; the values that RIPE-203 recommends.
const SOA_REFRESH_S: i32 = 86_400;
const SOA_RETRY_S: i32 = 7_200;
const SOA_EXPIRE_S: i32 = 3_600_000;
/// Lengths over TCP are 16 bits (RFC 1035 §4.2.2).
const TCP_REPLY_BYTES_MAX: u16 = u16::MAX;
/// Additional addresses in one reply. Past these the client asks for those it wants, and finding duplicates stays cheap.
const ADDITIONAL_RECORDS_MAX: usize = 100;

/// How the query came, which decides how large a reply may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// One datagram.
    Udp,
    /// Length-prefixed on a stream.
    Tcp,
}

/// What is to be done with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send the reply that was written.
    Reply {
        /// The VIP in it: where VIPs are bound when asked for, bind it before sending.
        vip: Option<Ipv4Addr>,
        /// TC is set.
        truncated: bool,
    },
    /// A foreign name that may not be forwarded: send the refusal that was written.
    Refused,
    /// A foreign name: ask the upstreams.
    Forward,
    /// Not a query: send the error that was written.
    Malformed,
    /// Not a query, and not to be answered.
    Drop,
}

/// Answers queries, one at a time. Keeps its buffers, so each server task has its own.
pub(super) struct Answerer {
    zone: Zone,
    forwards: bool,
    rng: ChaCha8Rng,
    addresses: Vec<IpAddr>,
    targets: Vec<Target>,
}

/// One SRV record to be. Ordered, so that duplicates can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    address: IpAddr,
    port: u16,
    node: NodeId,
    weight: u16,
}

/// How the answer section turned out.
enum Found {
    /// Records were written, or there are too many to write.
    Records { vip: Option<Ipv4Addr> },
    /// The name exists; it has no records of that type.
    NoData,
    /// The name does not exist.
    NoName,
    /// No directory was published yet.
    NotReady,
    /// Not answered as a matter of policy.
    Refused,
}

impl Found {
    fn any(found: bool) -> Found {
        if found { Found::Records { vip: None } } else { Found::NoData }
    }
}

/// What a query is answered from.
struct Scene<'a> {
    query: &'a Query,
    directory: &'a Directory,
    domain: &'a Name,
}

impl Answerer {
    /// `forwards`: whether foreign names may be asked of upstreams.
    pub(super) fn new(zone: Zone, forwards: bool, rng: ChaCha8Rng) -> Answerer {
        Answerer { zone, forwards, rng, addresses: Vec::new(), targets: Vec::new() }
    }

    /// Answers the query in `packet`. What is to be sent, if anything, is in `buffer` afterwards.
    pub(super) fn answer(
        &mut self,
        packet: &[u8],
        transport: Transport,
        directory: &Directory,
        buffer: &mut Vec<u8>,
    ) -> Verdict {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(Unusable::Silence) => return Verdict::Drop,
            Err(Unusable::Refuse(asked, code)) => {
                return write_error(&asked, code, buffer).map_or(Verdict::Drop, |()| Verdict::Malformed);
            }
        };
        // Writing fails only where even header and question do not fit, and 512 bytes always hold those.
        self.answer_query(&query, packet, transport, directory, buffer).unwrap_or(Verdict::Drop)
    }

    fn answer_query(
        &mut self,
        query: &Query,
        packet: &[u8],
        transport: Transport,
        directory: &Directory,
        buffer: &mut Vec<u8>,
    ) -> Result<Verdict, ProtoError> {
        let bytes_max = match transport {
            Transport::Udp => query.udp_payload_bytes(),
            Transport::Tcp => TCP_REPLY_BYTES_MAX,
        };
        let mut reply = Reply::start(query, packet, bytes_max, buffer)?;
        reply.flags().recursion_available = self.forwards;
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return close(reply, ResponseCode::BADVERS, None);
        }
        let Answerer { zone, rng, addresses, targets, .. } = self;
        let located = zone.locate(&query.name);
        let transfer = matches!(query.kind, RecordType::AXFR | RecordType::IXFR);
        let (domain, found) = match located {
            _ if transfer => return refuse(reply, Verdict::Reply { vip: None, truncated: false }),
            Some((domain, asked)) => {
                let scene = Scene { query, directory, domain };
                let mut writer = Writer { reply: &mut reply, rng, addresses, targets };
                (domain, writer.write(&scene, asked))
            }
            None => match vip_name(query, directory, zone) {
                Some((domain, name)) => {
                    let fits = reply.add(Section::Answer, Owner::Question, RecordType::PTR, VIP_TTL_S, &PTR(name));
                    (domain, Found::any(fits))
                }
                None if self.forwards => return Ok(Verdict::Forward),
                None => return refuse(reply, Verdict::Refused),
            },
        };
        match found {
            Found::Records { vip } => close(reply, ResponseCode::NoError, vip),
            Found::NoData => deny(reply, ResponseCode::NoError, domain, directory),
            Found::NoName => deny(reply, ResponseCode::NXDomain, domain, directory),
            Found::NotReady => close(reply, ResponseCode::ServFail, None),
            Found::Refused => refuse(reply, Verdict::Reply { vip: None, truncated: false }),
        }
    }
}

/// Writes the records of one answer.
struct Writer<'a, 'buffer> {
    reply: &'a mut Reply<'buffer>,
    rng: &'a mut ChaCha8Rng,
    addresses: &'a mut Vec<IpAddr>,
    targets: &'a mut Vec<Target>,
}

impl Writer<'_, '_> {
    fn write(&mut self, scene: &Scene<'_>, asked: Asked<'_>) -> Found {
        let Scene { query, directory, .. } = *scene;
        if query.class != DNSClass::IN || query.kind == RecordType::ANY {
            return Found::Refused;
        }
        let needs_directory = matches!(asked, Asked::Vip { .. } | Asked::Instances { .. } | Asked::Node(_));
        if directory.index == 0 && needs_directory {
            return Found::NotReady;
        }
        match asked {
            Asked::Apex => self.apex(scene),
            Asked::Branch => Found::NoData,
            Asked::Nothing => Found::NoName,
            Asked::Address(address) => self.address(query.kind, address, ADDRESS_TTL_S),
            Asked::Node(name) => match directory.node_named(name) {
                // One that left is gone, as in Consul; one that failed still has its address.
                Some(node) if node.state != MemberState::Left => {
                    self.address(query.kind, node.facts.address, NODE_TTL_S)
                }
                _ => Found::NoName,
            },
            Asked::Vip { service, tag } => match directory.services.get(service) {
                Some(service) => self.vip(scene, service, tag),
                None => Found::NoName,
            },
            Asked::Instances { service, tag } => match directory.services.get(service) {
                Some(service) => self.instances(scene, service, tag),
                None => Found::NoName,
            },
        }
    }

    fn apex(&mut self, scene: &Scene<'_>) -> Found {
        let Scene { query, directory, domain } = *scene;
        let found = match query.kind {
            RecordType::SOA => {
                let soa = soa(domain, directory);
                self.reply.add(Section::Answer, Owner::Question, RecordType::SOA, NEGATIVE_TTL_S, &soa)
            }
            RecordType::NS => {
                let server = name_server(domain, directory);
                self.reply.add(Section::Answer, Owner::Question, RecordType::NS, NODE_TTL_S, &NS(server.clone()));
                if let Some(node) = directory.nodes.get(&directory.local) {
                    self.courtesy(&server, node.facts.address);
                }
                true
            }
            _ => false,
        };
        Found::any(found)
    }

    /// One address under the asked name, if it is of the asked family.
    fn address(&mut self, kind: RecordType, address: IpAddr, ttl_s: u32) -> Found {
        if family(address) != kind {
            return Found::NoData;
        }
        self.add_address(Section::Answer, Owner::Question, address, ttl_s);
        Found::Records { vip: None }
    }

    fn vip(&mut self, scene: &Scene<'_>, service: &Service, tag: Option<&str>) -> Found {
        let vip = match tag {
            None if service.has_vip() => service.vip,
            // The name is there; without a port there is nothing to call.
            None => return Found::NoData,
            Some(tag) => match service.tag_vips.get(tag) {
                Some(vip) => *vip,
                None => return Found::NoName,
            },
        };
        match scene.query.kind {
            RecordType::A => {
                self.add_address(Section::Answer, Owner::Question, IpAddr::V4(vip), VIP_TTL_S);
            }
            RecordType::SRV => {
                let name = &scene.query.name;
                let srv = SRV::new(1, 1, service.vip_port, name.clone());
                self.reply.add(Section::Answer, Owner::Question, RecordType::SRV, VIP_TTL_S, &srv);
                self.add_address(Section::Additional, Owner::Name(name), IpAddr::V4(vip), VIP_TTL_S);
            }
            // A VIP has no IPv6 address: NODATA, so that clients go on with A at once.
            _ => return Found::NoData,
        }
        Found::Records { vip: Some(vip) }
    }

    /// Healthy instances as plain discovery knows them: the mesh port plays no part in a direct call, so whether it is
    /// reachable does not either.
    fn instances(&mut self, scene: &Scene<'_>, service: &Service, tag: Option<&str>) -> Found {
        let tagged = |instance: &Instance| {
            tag.is_none_or(|tag| instance.tags.iter().any(|have| have.as_str().eq_ignore_ascii_case(tag)))
        };
        let mut exists = tag.is_none();
        self.targets.clear();
        for (node, instance) in service.instances.iter().filter(|(_, instance)| tagged(instance)) {
            exists = true;
            let health = Service::health(node, instance);
            if health != Health::Critical {
                let (address, weight) = (instance_address(node, instance), instance.weights.at(health));
                self.targets.push(Target { address, port: instance.port, node: node.id, weight });
            }
        }
        match scene.query.kind {
            _ if !exists => Found::NoName,
            RecordType::A | RecordType::AAAA => self.instance_addresses(scene.query.kind),
            RecordType::SRV => self.instance_targets(scene),
            _ => Found::NoData,
        }
    }

    fn instance_addresses(&mut self, kind: RecordType) -> Found {
        self.addresses.clear();
        self.addresses.extend(self.targets.iter().map(|target| target.address).filter(|&it| family(it) == kind));
        // A record set holds no record twice (RFC 2181 §5).
        self.addresses.sort_unstable();
        self.addresses.dedup();
        let count = self.addresses.len();
        for at in 0..count {
            let chosen = self.rng.random_range(at..count);
            self.addresses.swap(at, chosen);
            if !self.add_address(Section::Answer, Owner::Question, self.addresses[at], INSTANCE_TTL_S) {
                break;
            }
        }
        Found::any(count > 0)
    }

    fn instance_targets(&mut self, scene: &Scene<'_>) -> Found {
        self.targets.sort_unstable();
        self.targets.dedup_by_key(|target| (target.address, target.port));
        let count = self.targets.len();
        let mut written = 0;
        for at in 0..count {
            let chosen = self.rng.random_range(at..count);
            self.targets.swap(at, chosen);
            let Some(name) = target_name(scene, self.targets[at]) else {
                continue;
            };
            let srv = SRV::new(1, self.targets[at].weight, self.targets[at].port, name);
            if !self.reply.add(Section::Answer, Owner::Question, RecordType::SRV, INSTANCE_TTL_S, &srv) {
                break;
            }
            written = at + 1;
        }
        self.target_addresses(scene, written);
        Found::any(count > 0)
    }

    /// The addresses of the first `count` targets, each once, while they fit.
    fn target_addresses(&mut self, scene: &Scene<'_>, count: usize) {
        self.addresses.clear();
        for at in 0..count {
            let target = self.targets[at];
            if self.addresses.len() >= ADDITIONAL_RECORDS_MAX || self.addresses.contains(&target.address) {
                continue;
            }
            self.addresses.push(target.address);
            let Some(name) = target_name(scene, target) else {
                continue;
            };
            if !self.courtesy(&name, target.address) {
                break;
            }
        }
    }

    fn courtesy(&mut self, name: &Name, address: IpAddr) -> bool {
        self.add_address(Section::Additional, Owner::Name(name), address, INSTANCE_TTL_S)
    }

    fn add_address(&mut self, section: Section, owner: Owner<'_>, address: IpAddr, ttl_s: u32) -> bool {
        match address {
            IpAddr::V4(v4) => self.reply.add(section, owner, RecordType::A, ttl_s, &A(v4)),
            IpAddr::V6(v6) => self.reply.add(section, owner, RecordType::AAAA, ttl_s, &AAAA(v6)),
        }
    }
}

fn family(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

/// Where others reach the instance: on its host's address if it listens on loopback or everywhere.
fn instance_address(node: &Node, instance: &Instance) -> IpAddr {
    match instance.address {
        Some(address) if !address.is_loopback() && !address.is_unspecified() => address,
        _ => node.facts.address,
    }
}

/// `NODE.node.D`, or `HEX.addr.D` where the instance has an address of its own.
fn target_name(scene: &Scene<'_>, target: Target) -> Option<Name> {
    match scene.directory.nodes.get(&target.node) {
        Some(node) if node.facts.address == target.address => {
            name_under(node.facts.name.as_str(), "node", scene.domain)
        }
        _ => name_under(&address_label(target.address), "addr", scene.domain),
    }
}

fn name_under(label: &str, branch: &str, domain: &Name) -> Option<Name> {
    let name = Name::new().append_label(label.as_bytes()).ok()?.append_label(branch.as_bytes()).ok()?;
    name.append_domain(domain).ok()
}

/// This host is the name server; the domain itself stands in until the host knows its own name.
fn name_server(domain: &Name, directory: &Directory) -> Name {
    let local = directory.nodes.get(&directory.local);
    let name = local.and_then(|node| name_under(node.facts.name.as_str(), "node", domain));
    name.unwrap_or_else(|| domain.clone())
}

fn soa(domain: &Name, directory: &Directory) -> SOA {
    let mailbox = domain.prepend_label(&b"hostmaster"[..]).unwrap_or_else(|_| domain.clone());
    let serial = u32::try_from(directory.index & u64::from(u32::MAX)).unwrap_or_default();
    let server = name_server(domain, directory);
    SOA::new(server, mailbox, serial, SOA_REFRESH_S, SOA_RETRY_S, SOA_EXPIRE_S, NEGATIVE_TTL_S)
}

/// The name behind a VIP, where a VIP's reverse name was asked for.
fn vip_name<'a>(query: &Query, directory: &Directory, zone: &'a Zone) -> Option<(&'a Name, Name)> {
    if query.kind != RecordType::PTR || query.class != DNSClass::IN {
        return None;
    }
    let target = directory.vips.get(&reverse_v4(&query.name)?)?;
    let domain = zone.domain()?;
    let mut name = Name::new();
    if let Some(tag) = &target.tag {
        name = name.append_label(tag.as_str().as_bytes()).ok()?;
    }
    let name = name.append_label(target.service.as_str().as_bytes()).ok()?.append_domain(domain).ok()?;
    Some((domain, name))
}

fn close(reply: Reply<'_>, code: ResponseCode, vip: Option<Ipv4Addr>) -> Result<Verdict, ProtoError> {
    Ok(Verdict::Reply { vip, truncated: reply.finish(code)? })
}

fn refuse(reply: Reply<'_>, verdict: Verdict) -> Result<Verdict, ProtoError> {
    reply.finish(ResponseCode::Refused)?;
    Ok(verdict)
}

/// "There is none", with the SOA that says for how long that may be believed (RFC 2308).
fn deny(mut reply: Reply<'_>, code: ResponseCode, domain: &Name, directory: &Directory) -> Result<Verdict, ProtoError> {
    let soa = soa(domain, directory);
    reply.add(Section::Authority, Owner::Name(domain), RecordType::SOA, NEGATIVE_TTL_S, &soa);
    close(reply, code, None)
}

/// Writes the reply to a foreign query that no upstream answered. False: `packet` is no query.
pub(super) fn write_failure(packet: &[u8], buffer: &mut Vec<u8>) -> bool {
    let Ok(query) = Query::read(packet) else {
        return false;
    };
    Reply::start(&query, packet, TCP_REPLY_BYTES_MAX, buffer).is_ok_and(|mut reply| {
        reply.flags().recursion_available = true;
        reply.finish(ResponseCode::ServFail).is_ok()
    })
}
