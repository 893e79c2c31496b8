//! What programs ask, and what upstream servers say, for the fuzzer. Nothing here is called by the agent.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::answer::{Answerer, Transport, Verdict, write_failure};
use super::forwarder::read_reply;
use super::query::{HEADER_BYTES, Query};
use super::zone::Zone;
use crate::model::Directory;

/// A query, over either transport, to an agent that sees `directory`.
pub fn query(data: &[u8], directory: &Directory) {
    let zone = Zone::new("mesh.internal", true).expect("a zone");
    let mut answerer = Answerer::new(zone, true, ChaCha8Rng::seed_from_u64(1));
    let mut reply = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        reply.clear();
        if let Verdict::Reply { .. } | Verdict::Refused | Verdict::Malformed =
            answerer.answer(data, transport, directory, &mut reply)
        {
            assert!(reply.len() >= HEADER_BYTES && reply.len() <= usize::from(u16::MAX));
            assert_eq!(reply[..2], data[..2], "another id than the query's");
            assert!(reply[2] & 0x80 != 0, "no response");
        }
    }
    write_failure(data, &mut reply);
}

/// A query and what an upstream says to it: the first byte tells how long the query is.
pub fn upstream(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else { return };
    let (query, reply) = rest.split_at(rest.len().min(length.into()));
    if Query::read(query).is_ok() {
        // As it comes, and as an answer to this very question.
        read_reply(query, reply);
        read_reply(query, &[query, reply].concat());
        let mut answer = [query, reply].concat();
        answer[2] |= 0x80;
        read_reply(query, &answer);
    }
}
