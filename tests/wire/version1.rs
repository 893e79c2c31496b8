//! Version 1, as agents 0.1.0 write and read it.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft::model::{NodeId, Record};
use weft::wire::body;
use weft::wire::frame::{FrameHeader, HEADER_BYTES, Open, RstReason};
use weft::wire::packet::Datagram;
use weft::wire::protocol::Versioned;
use weft::wire::seal::{GossipKey, Opener, Sealer};
use weft::wire::stream;

use super::fixtures::fixture;
use super::messages;

#[test]
fn every_datagram_reads_and_writes_to_the_same_bytes() {
    for (name, datagram) in messages::datagrams() {
        let bytes = fixture("v1", name, || datagram.encode_in(1, 2).unwrap());
        let read = Datagram::decode(&bytes).unwrap();
        assert_eq!(read, datagram, "{name}");
        assert_eq!(read.encode_in(1, 2).unwrap(), bytes, "{name}");
    }
}

#[test]
fn a_sealed_packet_opens_and_seals_to_the_same_bytes() {
    let (key, sender, receiver) = (GossipKey([0x4b; 32]), NodeId([0xa1; 16]), NodeId([0xb2; 16]));
    let (_, datagram) = messages::datagrams().swap_remove(0);
    let seal = || {
        let mut sealer = Sealer::new(&key, "prod", sender, 7);
        sealer.seal(&datagram.encode_in(1, 2).unwrap()).unwrap()
    };
    let bytes = fixture("v1", "packet", seal);
    let (opened, payload) = Opener::new(std::slice::from_ref(&key), "prod", receiver).open(&bytes).unwrap();
    assert_eq!((opened, Datagram::decode(&payload).unwrap()), (sender, datagram.clone()));
    assert_eq!(seal(), bytes);
}

#[test]
fn every_stream_message_reads_and_writes_to_the_same_bytes() {
    messages::requests().iter().for_each(|(name, request)| stream_message(name, request));
    messages::replies().iter().for_each(|(name, reply)| stream_message(name, reply));
}

fn stream_message<T: Serialize + DeserializeOwned + Versioned + PartialEq + Debug>(name: &str, message: &T) {
    let bytes = fixture("v1", name, || stream::encode_in(message, 1).unwrap());
    let (prefix, body) = bytes.split_first_chunk().unwrap();
    assert_eq!(stream::length(*prefix).unwrap(), body.len(), "{name}");
    let read: T = stream::decode(body).unwrap();
    assert_eq!(&read, message, "{name}");
    assert_eq!(stream::encode_in(&read, 1).unwrap(), bytes, "{name}");
}

#[test]
fn every_body_reads_and_writes_to_the_same_bytes() {
    let (facts, instance) = (messages::facts(), messages::instance());
    let bytes = fixture("v1", "body-node", || body::encode_node(&facts).unwrap());
    assert_eq!(body::decode_node(1, &bytes).unwrap(), facts);
    assert_eq!(body::encode_node(&facts).unwrap(), bytes);
    let bytes = fixture("v1", "body-instance", || body::encode_instance(&instance).unwrap());
    assert_eq!(body::decode_instance(1, &bytes).unwrap(), instance);
    assert_eq!(body::encode_instance(&instance).unwrap(), bytes);
}

#[test]
fn every_record_reads_and_is_kept_byte_for_byte() {
    let records = [
        ("record", messages::record()),
        ("record-tombstone", messages::tombstone()),
        ("record-floor", messages::floor()),
        ("record-unheard-of", messages::unheard_of()),
    ];
    for (name, record) in records {
        let bytes = fixture("v1", name, || record.encoded().to_vec());
        let read = Record::decode(bytes.clone().into()).unwrap();
        assert_eq!(read, record, "{name}");
        assert_eq!(read.encoded()[..], bytes, "{name}");
    }
}

#[test]
fn every_frame_of_the_mesh_reads_and_writes_to_the_same_bytes() {
    let open = messages::open();
    let bytes = fixture("v1", "frame-open", || open.encode().unwrap());
    let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    assert_eq!(FrameHeader::decode(*head).unwrap().length as usize, body.len());
    assert_eq!(Open::decode(body).unwrap(), open);
    assert_eq!(open.encode().unwrap(), bytes);
    let headers = [FrameHeader::ACCEPT, FrameHeader::FIN, FrameHeader::data(1).unwrap()];
    for (name, header) in ["frame-accept", "frame-fin", "frame-data"].into_iter().zip(headers) {
        let bytes = fixture("v1", name, || header.encode().to_vec());
        assert_eq!(FrameHeader::decode(bytes.clone().try_into().unwrap()).unwrap(), header, "{name}");
        assert_eq!(header.encode()[..], bytes, "{name}");
    }
    let reset = RstReason::decode(2);
    let bytes = fixture("v1", "frame-rst", || reset.encode().to_vec());
    assert_eq!(RstReason::decode(bytes[HEADER_BYTES]), reset);
    assert_eq!(reset.encode()[..], bytes);
}
