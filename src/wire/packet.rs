//! One gossip datagram before it is sealed, and how large it may be.
//!
//! Messages of the cores come in and payloads for [`super::seal`] go out; opened payloads come in and messages go out.

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::seal::OVERHEAD_BYTES;
use crate::model::{CatalogMessage, SwimMessage};

/// A sealed datagram's limit: it fits the smallest path MTU of IPv6 (1,280) with its headers, so it is never fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;

/// What is left for the encoded message when the seal has taken its part.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES;

/// What the encoding adds to a message: the codec's version byte and the kind of datagram.
pub const ENVELOPE_BYTES: usize = 2;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Datagram {
    /// For `swim`.
    Swim(SwimMessage),
    /// For `catalog`.
    Catalog(CatalogMessage),
}

impl Datagram {
    /// The payload to be sealed, of at most [`PAYLOAD_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, PAYLOAD_BYTES_MAX)
    }

    /// Reads an opened payload.
    pub fn decode(payload: &[u8]) -> Result<Datagram, CodecError> {
        codec::decode(payload, PAYLOAD_BYTES_MAX)
    }
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
