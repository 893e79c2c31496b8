//! Every name form and type, answered from a directory built by hand.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::answer::{Answerer, Transport, Verdict};
use super::super::zone::Zone;
use super::fleet::{BIG, LOCAL, data, fleet, question, with_edns};
use crate::model::Directory;

fn answerer(forwards: bool) -> Answerer {
    Answerer::new(Zone::new("mesh.internal", true).unwrap(), forwards, ChaCha8Rng::seed_from_u64(1))
}

fn ask_bytes(packet: &[u8], transport: Transport, directory: &Directory) -> (Verdict, Vec<u8>) {
    let mut reply = Vec::new();
    let verdict = answerer(true).answer(packet, transport, directory, &mut reply);
    (verdict, reply)
}

fn ask_message(query: &Message) -> Message {
    let (verdict, reply) = ask_bytes(&query.to_vec().unwrap(), Transport::Udp, &fleet());
    assert!(matches!(verdict, Verdict::Reply { .. }), "{verdict:?}");
    Message::from_vec(&reply).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Message {
    ask_message(&question(name, kind))
}

/// The answer section of a NOERROR reply.
fn found(name: &str, kind: RecordType) -> Vec<String> {
    let reply = ask(name, kind);
    assert_eq!(reply.response_code, ResponseCode::NoError, "{name} {kind}");
    assert!(reply.authoritative, "{name} {kind}");
    data(&reply.answers)
}

/// Asserts a denial with the SOA that keeps caches from holding it.
fn denied(name: &str, kind: RecordType, code: ResponseCode) {
    let reply = ask(name, kind);
    assert_eq!((reply.response_code, reply.answers.len()), (code, 0), "{name} {kind}");
    let soa = reply.authorities.first().expect("an SOA");
    assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 0), "{name} {kind}");
    let domain = if name.to_lowercase().contains("consul") { "consul." } else { "mesh.internal." };
    assert_eq!(soa.name.to_string(), domain);
}

fn no_data(name: &str, kind: RecordType) {
    denied(name, kind, ResponseCode::NoError);
}

fn no_name(name: &str, kind: RecordType) {
    denied(name, kind, ResponseCode::NXDomain);
}

#[test]
fn a_service_resolves_to_its_vip_and_says_which_so_that_it_can_be_bound() {
    let vip = Ipv4Addr::new(127, 64, 0, 1);
    let query = question("billing.mesh.internal.", RecordType::A).to_vec().unwrap();
    let (verdict, reply) = ask_bytes(&query, Transport::Udp, &fleet());
    assert_eq!(verdict, Verdict::Reply { vip: Some(vip), truncated: false });
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(data(&reply.answers), [vip.to_string()]);
    assert_eq!(reply.answers[0].ttl, 5);
    assert_eq!((reply.id, reply.recursion_desired, reply.recursion_available), (0x5eed, true, true));
}

#[test]
fn a_vip_has_no_ipv6_address() {
    no_data("billing.mesh.internal.", RecordType::AAAA);
    no_data("primary.pg.mesh.internal.", RecordType::AAAA);
}

#[test]
fn a_service_without_usable_instances_keeps_its_vip() {
    assert_eq!(found("asleep.mesh.internal.", RecordType::A), ["127.64.0.3"]);
}

#[test]
fn a_tag_resolves_to_a_vip_of_its_own() {
    assert_eq!(found("primary.pg.mesh.internal.", RecordType::A), ["127.64.0.21"]);
    no_name("nosuch.pg.mesh.internal.", RecordType::A);
    no_name("primary.nosuch.mesh.internal.", RecordType::A);
}

#[test]
fn the_port_of_a_vip_is_told_by_srv() {
    let reply = ask("Primary.pg.mesh.internal.", RecordType::SRV);
    assert_eq!(data(&reply.answers), ["1 1 5432 primary.pg.mesh.internal."]);
    assert_eq!(data(&reply.additionals), ["127.64.0.21"]);
}

#[test]
fn plain_discovery_gives_each_healthy_address_once() {
    let wanted = ["10.0.0.11", "10.0.0.12"];
    assert_eq!(found("billing.service.mesh.internal.", RecordType::A), wanted, "loopback stands for the host");
    assert_eq!(found("_billing._tcp.service.mesh.internal.", RecordType::A), wanted);
    assert_eq!(found("billing.service.consul.", RecordType::A), wanted);
    assert_eq!(found("v1.billing.service.mesh.internal.", RecordType::A), ["10.0.0.11"]);
    assert_eq!(found("canary.billing.service.mesh.internal.", RecordType::A), ["10.0.0.12"], "tags ignore case");
    assert_eq!(ask("billing.service.mesh.internal.", RecordType::A).answers[0].ttl, 0);
}

#[test]
fn plain_discovery_tells_ipv4_from_ipv6() {
    assert_eq!(found("pg.service.mesh.internal.", RecordType::A), ["10.9.9.9"]);
    assert_eq!(found("pg.service.mesh.internal.", RecordType::AAAA), ["fd00::3"]);
    no_data("replica.pg.service.mesh.internal.", RecordType::AAAA);
}

#[test]
fn a_known_service_or_tag_without_healthy_instances_has_no_data_and_an_unknown_one_no_name() {
    no_data("asleep.service.mesh.internal.", RecordType::A);
    no_data("asleep.service.mesh.internal.", RecordType::SRV);
    no_data("old.asleep.service.mesh.internal.", RecordType::A);
    no_data("billing.service.mesh.internal.", RecordType::TXT);
    no_name("nosuch.service.mesh.internal.", RecordType::A);
    no_name("nosuch.billing.service.mesh.internal.", RecordType::SRV);
}

#[test]
fn srv_names_hosts_where_the_address_is_theirs_and_spells_it_out_where_it_is_not() {
    let reply = ask("billing.service.mesh.internal.", RecordType::SRV);
    let targets = [
        "1 1 8080 web-01.node.mesh.internal.",
        "1 1 8080 web-02.node.mesh.internal.",
        "1 1 8081 web-02.node.mesh.internal.",
    ];
    assert_eq!(data(&reply.answers), targets);
    assert_eq!(data(&reply.additionals), ["10.0.0.11", "10.0.0.12"], "each target's address once");

    let reply = ask("_pg._tcp.service.consul.", RecordType::SRV);
    assert_eq!(data(&reply.answers), ["1 1 5432 db-01.node.consul.", "1 1 5433 0a090909.addr.consul."]);
    assert_eq!(data(&reply.additionals), ["10.9.9.9", "fd00::3"]);
    assert_eq!(
        found("_pg._replica.service.mesh.internal.", RecordType::SRV),
        ["1 1 5433 0a090909.addr.mesh.internal."]
    );
}

#[test]
fn srv_tells_the_weight_of_an_instances_health_and_leaves_hosts_in_maintenance_out() {
    let reply = ask("weighed.service.mesh.internal.", RecordType::SRV);
    let told = data(&reply.answers);
    let wanted = ["1 3 9100 0a070002.addr.mesh.internal.", "1 7 9100 0a070001.addr.mesh.internal."];
    assert_eq!(told, wanted);
}

#[test]
fn a_service_without_a_port_is_found_by_name_and_has_no_vip() {
    no_data("portless.mesh.internal.", RecordType::A);
    no_data("portless.mesh.internal.", RecordType::SRV);
    found("portless.service.mesh.internal.", RecordType::A);
}

#[test]
fn every_srv_target_resolves() {
    assert_eq!(found("0a090909.addr.mesh.internal.", RecordType::A), ["10.9.9.9"]);
    assert_eq!(found("fd000000000000000000000000000003.addr.mesh.internal.", RecordType::AAAA), ["fd00::3"]);
    no_data("0a090909.addr.mesh.internal.", RecordType::AAAA);
    no_name("0a0909.addr.mesh.internal.", RecordType::A);
}

#[test]
fn hosts_resolve_unless_they_left() {
    assert_eq!(found("web-01.node.mesh.internal.", RecordType::A), ["10.0.0.11"]);
    assert_eq!(found("dead-01.node.mesh.internal.", RecordType::A), ["10.0.0.14"]);
    assert_eq!(found("db-01.node.consul.", RecordType::AAAA), ["fd00::3"]);
    no_data("db-01.node.mesh.internal.", RecordType::A);
    no_name("gone-01.node.mesh.internal.", RecordType::A);
    no_name("nosuch.node.mesh.internal.", RecordType::A);
}

#[test]
fn the_apex_has_soa_and_ns_and_branches_exist_without_data() {
    let soa = found("mesh.internal.", RecordType::SOA);
    assert!(soa[0].starts_with("web-01.node.mesh.internal. hostmaster.mesh.internal. 7 "), "{soa:?}");
    let reply = ask("mesh.internal.", RecordType::NS);
    assert_eq!(data(&reply.answers), ["web-01.node.mesh.internal."]);
    assert_eq!(data(&reply.additionals), ["10.0.0.11"]);
    for name in ["mesh.internal.", "service.mesh.internal.", "node.consul.", "_tcp.service.mesh.internal."] {
        no_data(name, RecordType::A);
    }
    no_name("a.b.c.d.mesh.internal.", RecordType::A);
}

#[test]
fn a_vip_has_a_reverse_name_and_other_addresses_are_forwarded() {
    assert_eq!(found("1.0.64.127.in-addr.arpa.", RecordType::PTR), ["billing.mesh.internal."]);
    assert_eq!(found("21.0.64.127.in-addr.arpa.", RecordType::PTR), ["primary.pg.mesh.internal."]);
    let query = question("11.0.0.10.in-addr.arpa.", RecordType::PTR).to_vec().unwrap();
    assert_eq!(ask_bytes(&query, Transport::Udp, &fleet()).0, Verdict::Forward);
}

#[test]
fn the_question_comes_back_byte_for_byte() {
    let query = question("biLLing.SERVICE.Mesh.InTernal.", RecordType::A).to_vec().unwrap();
    let (_, reply) = ask_bytes(&query, Transport::Udp, &fleet());
    assert_eq!(reply[12..query.len()], query[12..]);
    let reply = Message::from_vec(&reply).unwrap();
    assert!(reply.answers.iter().all(|record| record.name.to_string() == "biLLing.SERVICE.Mesh.InTernal."));
}

#[test]
fn without_edns_a_reply_has_512_bytes_at_most_and_says_that_it_was_cut() {
    for (payload_bytes, bytes_max) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(4096), 1232)] {
        for kind in [RecordType::A, RecordType::SRV] {
            let mut query = question("big.service.mesh.internal.", kind);
            if let Some(payload_bytes) = payload_bytes {
                query = with_edns(query, payload_bytes);
            }
            let (verdict, reply) = ask_bytes(&query.to_vec().unwrap(), Transport::Udp, &fleet());
            assert_eq!(verdict, Verdict::Reply { vip: None, truncated: true });
            assert!(reply.len() <= bytes_max && reply.len() > bytes_max - 70, "{} of {bytes_max}", reply.len());
            let reply = Message::from_vec(&reply).unwrap();
            assert!(reply.truncation && !reply.answers.is_empty());
            assert_eq!(reply.edns.is_some(), payload_bytes.is_some());
        }
    }
}

#[test]
fn over_tcp_a_large_answer_is_whole() {
    for kind in [RecordType::A, RecordType::SRV] {
        let query = question("big.service.mesh.internal.", kind).to_vec().unwrap();
        let (verdict, reply) = ask_bytes(&query, Transport::Tcp, &fleet());
        assert_eq!(verdict, Verdict::Reply { vip: None, truncated: false });
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!((reply.answers.len(), reply.truncation), (usize::from(BIG), false));
    }
}

#[test]
fn addresses_come_in_another_order_each_time() {
    let (mut answerer, directory) = (answerer(true), fleet());
    let query = question("billing.service.mesh.internal.", RecordType::A).to_vec().unwrap();
    let mut reply = Vec::new();
    let firsts = (0..64).map(|_| {
        answerer.answer(&query, Transport::Udp, &directory, &mut reply);
        Message::from_vec(&reply).unwrap().answers[0].data.to_string()
    });
    let web1 = firsts.filter(|first| first == "10.0.0.11").count();
    assert!((16..48).contains(&web1), "{web1} of 64");
}

#[test]
fn edns_is_answered_by_edns_and_unknown_versions_by_badvers() {
    let reply = ask_message(&with_edns(question("billing.mesh.internal.", RecordType::A), 4096));
    let edns = reply.edns.as_ref().expect("OPT");
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true));

    let mut query = with_edns(question("billing.mesh.internal.", RecordType::A), 4096);
    query.edns.as_mut().unwrap().set_version(1);
    let reply = ask_message(&query);
    assert_eq!((reply.edns.as_ref().unwrap().rcode_high(), reply.response_code.low()), (1, 0), "code 16, in two parts");
}

#[test]
fn any_transfers_and_other_classes_are_refused() {
    let refused = |query: &Message| {
        let reply = ask_message(query);
        assert_eq!((reply.response_code, reply.authoritative), (ResponseCode::Refused, false));
    };
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        refused(&question("mesh.internal.", kind));
    }
    refused(&question("example.com.", RecordType::AXFR));
    let mut chaos = question("billing.mesh.internal.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    refused(&chaos);
}

#[test]
fn what_is_no_single_question_is_refused_with_the_code_for_it() {
    let code = |query: &Message| {
        let (verdict, reply) = ask_bytes(&query.to_vec().unwrap(), Transport::Udp, &fleet());
        assert_eq!(verdict, Verdict::Malformed);
        Message::from_vec(&reply).unwrap().response_code
    };
    let mut two = question("billing.mesh.internal.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut none = question("billing.mesh.internal.", RecordType::A);
    none.queries.clear();
    assert_eq!(code(&none), ResponseCode::FormErr);
    let mut update = question("billing.mesh.internal.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
}

#[test]
fn responses_and_fragments_of_a_header_are_never_answered() {
    let query = question("billing.mesh.internal.", RecordType::A).to_vec().unwrap();
    let mut response = query.clone();
    response[2] |= 0x80;
    for packet in [&response[..], &query[..11], &[]] {
        assert_eq!(ask_bytes(packet, Transport::Udp, &fleet()).0, Verdict::Drop);
    }
}

#[test]
fn foreign_names_are_forwarded_or_refused_never_answered() {
    let query = question("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(ask_bytes(&query, Transport::Udp, &fleet()).0, Verdict::Forward);
    let mut reply = Vec::new();
    assert_eq!(answerer(false).answer(&query, Transport::Udp, &fleet(), &mut reply), Verdict::Refused);
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((reply.response_code, reply.recursion_available), (ResponseCode::Refused, false));
    assert_eq!(reply.queries[0].name(), &Name::from_ascii("example.com.").unwrap());
}

#[test]
fn before_the_first_directory_names_fail_instead_of_not_existing() {
    let empty = Directory::empty(LOCAL);
    let query = question("billing.mesh.internal.", RecordType::A).to_vec().unwrap();
    let (_, reply) = ask_bytes(&query, Transport::Udp, &empty);
    assert_eq!(Message::from_vec(&reply).unwrap().response_code, ResponseCode::ServFail);
    let query = question("mesh.internal.", RecordType::NS).to_vec().unwrap();
    let (_, reply) = ask_bytes(&query, Transport::Udp, &empty);
    assert_eq!(data(&Message::from_vec(&reply).unwrap().answers), ["mesh.internal."]);
}
