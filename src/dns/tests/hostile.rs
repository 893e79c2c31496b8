//! Bytes that no client would send must not panic, loop, or be answered out of bounds.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::answer::{Answerer, Transport, Verdict, write_failure};
use super::super::zone::Zone;
use super::fleet::{fleet, question, with_edns};

fn check(packet: &[u8]) {
    let mut answerer = Answerer::new(Zone::new("mesh.internal", true).unwrap(), true, ChaCha8Rng::seed_from_u64(2));
    let mut reply = Vec::new();
    let verdict = answerer.answer(packet, Transport::Udp, &fleet(), &mut reply);
    if matches!(verdict, Verdict::Reply { .. } | Verdict::Refused | Verdict::Malformed) {
        assert!(reply.len() <= 1232, "{} bytes", reply.len());
        assert_eq!(reply[..2], packet[..2], "the id");
        Message::from_vec(&reply).expect("a reply that parses");
    }
    answerer.answer(packet, Transport::Tcp, &fleet(), &mut reply);
    write_failure(packet, &mut reply);
}

fn queries() -> impl Strategy<Value = Vec<u8>> {
    let names =
        vec!["billing.mesh.internal.", "big.service.consul.", "_pg._tcp.service.mesh.internal.", "example.com."];
    let kinds = vec![RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::SOA, RecordType::PTR];
    let parts = (proptest::sample::select(names), proptest::sample::select(kinds), any::<Option<u16>>());
    parts.prop_map(|(name, kind, payload_bytes)| {
        let query = question(name, kind);
        payload_bytes.map_or(query.clone(), |bytes| with_edns(query, bytes)).to_vec().unwrap()
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&packet);
    }

    #[test]
    fn arbitrary_bytes_behind_a_querys_header_never_panic(
        counts in any::<[u8; 2]>(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, counts[0] % 2, counts[1]];
        check(&[&header[..], &body].concat());
    }

    #[test]
    fn a_good_query_with_bytes_changed_or_cut_never_panics(
        query in queries(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut packet = query;
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if cuts {
            packet.truncate(cut.index(packet.len()));
        }
        check(&packet);
    }
}

#[test]
fn a_question_that_points_into_the_header_is_malformed() {
    // A compression pointer to offset 2, where the flags are: as a length it would read "1".
    let packet = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 0x02, 0, 1, 0, 1];
    let mut answerer = Answerer::new(Zone::new("mesh.internal", true).unwrap(), true, ChaCha8Rng::seed_from_u64(2));
    assert_eq!(answerer.answer(&packet, Transport::Udp, &fleet(), &mut Vec::new()), Verdict::Malformed);
}
