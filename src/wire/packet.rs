//! One gossip datagram before it is sealed, in each version of the protocol, and how large it may be.
//!
//! Messages of the cores come in and payloads for [`super::seal`] go out; opened payloads come in and messages go out.
//!
//! ```text
//! version 1    1 │ bincode of Datagram; nothing may follow
//! version 2    version │ highest version its sender reads │ kind │ bincode of the kind's message │ later additions
//! ```
//!
//! The first two bytes of version 2 stand in every later version too: what cannot be read is still understood to be newer.

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::protocol::{PROTOCOL_MAX, Versioned};
use super::seal::OVERHEAD_BYTES;
use crate::model::{CatalogMessage, SwimMessage};

/// A sealed datagram's limit: it fits the smallest path MTU of IPv6 (1,280) with its headers, so it is never fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;

/// What is left for the encoded message when the seal has taken its part.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES;

/// What the encoding adds to a message, in the version that adds most: two versions and the kind of datagram.
pub const ENVELOPE_BYTES: usize = 3;

/// Kinds of version 2.
const KIND_HELLO: u8 = 0;
const KIND_SWIM: u8 = 1;
const KIND_CATALOG: u8 = 2;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Datagram {
    /// For `swim`.
    Swim(SwimMessage),
    /// For `catalog`.
    Catalog(CatalogMessage),
}

/// An opened payload, read as far as this agent can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The version it is written in.
    pub version: u8,
    /// The highest version that its sender reads; version 1 does not tell.
    pub highest: Option<u8>,
    /// What it says.
    pub content: Content,
}

/// What a payload says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A message for one of the cores.
    Message(Datagram),
    /// Nothing but the versions.
    Hello,
    /// Something that only later versions read.
    Newer,
}

impl Versioned for Datagram {
    fn since(&self) -> u8 {
        match self {
            Datagram::Swim(_) => 1,
            Datagram::Catalog(message) => message.since(),
        }
    }
}

impl Datagram {
    /// The payload to be sealed, of at most [`PAYLOAD_BYTES_MAX`], in the newest version.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        self.encode_in(PROTOCOL_MAX, PROTOCOL_MAX)
    }

    /// The payload in `version`, for a receiver that speaks it; `highest` is what this host reads.
    pub fn encode_in(&self, version: u8, highest: u8) -> Result<Vec<u8>, CodecError> {
        if self.since() > version {
            return Err(CodecError::NotInVersion { since: self.since(), version });
        }
        match self {
            _ if version == 1 => codec::encode(self, PAYLOAD_BYTES_MAX),
            Datagram::Swim(message) => {
                codec::encode_after(vec![version, highest, KIND_SWIM], message, PAYLOAD_BYTES_MAX)
            }
            Datagram::Catalog(message) => {
                codec::encode_after(vec![version, highest, KIND_CATALOG], message, PAYLOAD_BYTES_MAX)
            }
        }
    }

    /// Reads an opened payload of any known version that holds a message.
    pub fn decode(payload: &[u8]) -> Result<Datagram, CodecError> {
        match read(payload, PROTOCOL_MAX)?.content {
            Content::Message(datagram) => Ok(datagram),
            Content::Hello | Content::Newer => Err(CodecError::Malformed("no message of a known kind".to_owned())),
        }
    }
}

/// The payload that says nothing but how far this host reads, for one that may not know it yet.
pub fn hello(highest: u8) -> Vec<u8> {
    vec![2, highest, KIND_HELLO]
}

/// Reads an opened payload. `highest` is the highest version that is read here.
pub fn read(payload: &[u8], highest: u8) -> Result<Heard, CodecError> {
    match *payload {
        [] => Err(CodecError::Empty),
        [1, ..] => {
            let datagram: Datagram = codec::decode(payload, PAYLOAD_BYTES_MAX)?;
            match datagram.since() {
                1 => Ok(Heard { version: 1, highest: None, content: Content::Message(datagram) }),
                since => Err(CodecError::NotInVersion { since, version: 1 }),
            }
        }
        [version, told, kind, ref body @ ..] if version >= 2 && highest >= 2 => {
            let content = if version > highest { Content::Newer } else { read_kind(kind, body)? };
            Ok(Heard { version, highest: Some(told.max(version)), content })
        }
        [version, ..] => Err(CodecError::Version(version)),
    }
}

fn read_kind(kind: u8, body: &[u8]) -> Result<Content, CodecError> {
    Ok(match kind {
        KIND_HELLO => Content::Hello,
        KIND_SWIM => Content::Message(Datagram::Swim(codec::decode_known(body, PAYLOAD_BYTES_MAX)?)),
        KIND_CATALOG => Content::Message(Datagram::Catalog(codec::decode_known(body, PAYLOAD_BYTES_MAX)?)),
        _ => Content::Newer,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::super::seal::{GossipKey, Sealer};
    use super::*;
    use crate::model::NodeId;

    fn sealed_bytes(datagram: &Datagram) -> usize {
        let mut sealer = Sealer::new(&GossipKey([1; 32]), "prod", NodeId([2; 16]), 3);
        sealer.seal(&datagram.encode().unwrap()).unwrap().len()
    }

    #[test]
    fn every_kind_of_datagram_at_its_fullest_fits_once_sealed() {
        for datagram in samples::full_datagrams() {
            let size_bytes = sealed_bytes(&datagram);
            assert!(size_bytes <= DATAGRAM_BYTES_MAX, "{size_bytes} bytes: {datagram:?}");
            assert_eq!(Datagram::decode(&datagram.encode().unwrap()).unwrap(), datagram);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_not_a_fragment() {
        let message = SwimMessage { probe: crate::model::Probe::Gossip, claims: vec![samples::claim(1); 40] };
        assert!(matches!(Datagram::Swim(message).encode(), Err(CodecError::TooLarge { .. })));
    }

    #[test]
    fn each_version_is_read_as_what_it_is() {
        for datagram in samples::full_datagrams() {
            match datagram.encode_in(1, 2) {
                Ok(encoded) => {
                    let old = read(&encoded, 2).unwrap();
                    assert_eq!(old, Heard { version: 1, highest: None, content: Content::Message(datagram.clone()) });
                }
                Err(error) => assert_eq!(error, CodecError::NotInVersion { since: 2, version: 1 }, "{datagram:?}"),
            }
            let new = read(&datagram.encode_in(2, 7).unwrap(), 2).unwrap();
            assert_eq!(new, Heard { version: 2, highest: Some(7), content: Content::Message(datagram) });
        }
        assert_eq!(read(&hello(2), 2).unwrap(), Heard { version: 2, highest: Some(2), content: Content::Hello });
    }

    #[test]
    fn an_agent_of_version_1_refuses_what_is_newer_as_it_always_did() {
        let (_, newest) = (hello(2), samples::full_datagrams().remove(0).encode().unwrap());
        assert_eq!(read(&newest, 1), Err(CodecError::Version(2)));
        assert_eq!(read(&hello(2), 1), Err(CodecError::Version(2)));
        assert!(matches!(read(&[1, 0, 4, 0, 0], 1), Err(CodecError::Trailing(1))), "nothing follows in version 1");
    }

    #[test]
    fn a_newer_version_is_understood_to_be_newer_and_what_it_adds_is_passed_over() {
        let newer = Heard { version: 3, highest: Some(9), content: Content::Newer };
        assert_eq!(read(&[3, 9, KIND_SWIM, 0xff, 0xff], 2).unwrap(), newer);
        let unheard_of = Heard { version: 2, highest: Some(3), content: Content::Newer };
        assert_eq!(read(&[2, 3, 200, 1, 2, 3], 2).unwrap(), unheard_of);
        for datagram in samples::full_datagrams() {
            let mut payload = datagram.encode_in(2, 3).unwrap();
            payload.truncate(PAYLOAD_BYTES_MAX - 2);
            if let Ok(Heard { content: Content::Message(read), .. }) = read(&payload, 2) {
                payload.extend([0xde, 0xad]);
                assert_eq!(Datagram::decode(&payload).unwrap(), read);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
            let _ = Datagram::decode(&bytes);
        }

        #[test]
        fn no_damage_to_a_lawful_payload_makes_the_decoder_panic(which in 0usize..8, at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let datagrams = samples::full_datagrams();
            let mut payload = datagrams[which % datagrams.len()].encode().unwrap();
            let at = at.index(payload.len());
            payload[at] = to;
            let _ = Datagram::decode(&payload);
            let _ = Datagram::decode(&payload[..at]);
        }
    }
}
