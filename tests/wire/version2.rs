//! Version 2: every datagram tells the versions of its sender, and what follows a message is a later version's addition.

use weft::wire::body;
use weft::wire::codec::CodecError;
use weft::wire::packet::{self, Content, Datagram, Heard};
use weft::wire::stream::{self, StreamReply, StreamRequest};

use super::fixtures::fixture;
use super::messages::{self, since2};

const NOT_IN_1: CodecError = CodecError::NotInVersion { since: 2, version: 1 };

#[test]
fn every_datagram_reads_and_writes_to_the_same_bytes() {
    for (name, datagram) in messages::datagrams().into_iter().chain(since2::datagrams()) {
        let bytes = fixture("v2", name, || datagram.encode_in(2, 2).unwrap());
        let heard = packet::read(&bytes, 2).unwrap();
        assert_eq!(
            heard,
            Heard { version: 2, highest: Some(2), content: Content::Message(datagram.clone()) },
            "{name}"
        );
        assert_eq!(datagram.encode_in(2, 2).unwrap(), bytes, "{name}");
    }
    let hello = fixture("v2", "hello", || packet::hello(2));
    assert_eq!(packet::read(&hello, 2).unwrap(), Heard { version: 2, highest: Some(2), content: Content::Hello });
    assert_eq!(packet::hello(2), hello);
}

#[test]
fn every_stream_message_reads_and_writes_to_the_same_bytes() {
    for (name, request) in messages::requests().into_iter().chain(since2::requests()) {
        let bytes = fixture("v2", name, || stream::encode_in(&request, 2).unwrap());
        assert_eq!(stream::decode_in::<StreamRequest>(&bytes[stream::PREFIX_BYTES..], 2).unwrap(), request, "{name}");
        assert_eq!(stream::encode_in(&request, 2).unwrap(), bytes, "{name}");
    }
    for (name, reply) in messages::replies().into_iter().chain(since2::replies()) {
        let bytes = fixture("v2", name, || stream::encode_in(&reply, 2).unwrap());
        assert_eq!(stream::decode_in::<StreamReply>(&bytes[stream::PREFIX_BYTES..], 2).unwrap(), reply, "{name}");
        assert_eq!(stream::encode_in(&reply, 2).unwrap(), bytes, "{name}");
    }
}

#[test]
fn a_node_body_of_format_2_reads_and_writes_to_the_same_bytes() {
    let facts = messages::facts();
    let bytes = fixture("v2", "body-node", || body::encode_node_in(&facts, 2).unwrap());
    assert_eq!(body::decode_node(2, &bytes).unwrap(), facts);
    assert_eq!(body::encode_node_in(&facts, 2).unwrap(), bytes);
}

#[test]
fn version_1_neither_writes_nor_reads_what_only_version_2_has() {
    for (name, datagram) in since2::datagrams() {
        assert_eq!(datagram.encode_in(1, 2), Err(NOT_IN_1), "{name}");
        let variant = [&[1, 1], &datagram.encode_in(2, 2).unwrap()[3..]].concat();
        assert_eq!(packet::read(&variant, 2), Err(NOT_IN_1), "{name}");
    }
    for (name, request) in since2::requests() {
        assert_eq!(stream::encode_in(&request, 1), Err(NOT_IN_1), "{name}");
    }
    for (name, reply) in since2::replies() {
        assert_eq!(stream::encode_in(&reply, 1), Err(NOT_IN_1), "{name}");
    }
}

/// As an agent of version 3 would write to one of version 2 when it has more to say at a message's end.
#[test]
fn the_known_part_of_a_longer_message_is_read() {
    for (name, datagram) in messages::datagrams().into_iter().chain(since2::datagrams()) {
        let mut bytes = datagram.encode_in(2, 3).unwrap();
        bytes.extend(b"what version 3 adds");
        assert_eq!(Datagram::decode(&bytes).unwrap(), datagram, "{name}");
    }
    for (name, request) in messages::requests().into_iter().chain(since2::requests()) {
        let mut bytes = stream::encode_in(&request, 2).unwrap();
        bytes.extend(b"what version 3 adds");
        let read: StreamRequest = stream::decode_in(&bytes[stream::PREFIX_BYTES..], 2).unwrap();
        assert_eq!(read, request, "{name}");
    }
}
