//! What a client's bytes ask: header, the one question, and EDNS, checked once.
//!
//! Pure. Bytes come in from the servers; a [`Query`] goes out to `answer`. Records that clients may add are stepped over,
//! never interpreted.

use hickory_proto::op::{Header, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// The header (RFC 1035 §4.1.1); the question follows it.
pub(super) const HEADER_BYTES: usize = 12;
/// A client without EDNS takes at most this over UDP (RFC 1035 §2.3.4).
const UDP_PAYLOAD_BYTES_MIN: u16 = 512;
/// What is sent over UDP at most, whatever the client offers: fits every path without fragments (DNS flag day 2020).
pub(super) const UDP_PAYLOAD_BYTES_MAX: u16 = 1232;

/// One well-formed query.
#[derive(Debug)]
pub(super) struct Query {
    /// Id and flags as they came.
    pub(super) metadata: Metadata,
    /// The name in lower case.
    pub(super) name: Name,
    /// The type asked for.
    pub(super) kind: RecordType,
    /// The class asked for.
    pub(super) class: DNSClass,
    /// Where the question ends in the packet. It begins after the header and holds no compression pointer, so that its
    /// bytes mean the same in a reply.
    pub(super) question_end: usize,
    /// What the client said by EDNS, if it speaks it.
    pub(super) edns: Option<EdnsAsked>,
}

/// The client's OPT record (RFC 6891).
#[derive(Debug, Clone, Copy)]
pub(super) struct EdnsAsked {
    /// The largest UDP reply that it takes.
    pub(super) payload_bytes: u16,
    /// The EDNS version that it speaks.
    pub(super) version: u8,
    /// Whether it wants DNSSEC records; echoed (RFC 3225).
    pub(super) dnssec_ok: bool,
}

/// Why bytes are not a query.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Not even a header, or a response: answering it could start a loop between two servers.
    Silence,
    /// The client is told so by this code.
    Refuse(Metadata, ResponseCode),
}

impl Query {
    /// Reads a packet.
    pub(super) fn read(packet: &[u8]) -> Result<Query, Unusable> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| Unusable::Silence)?;
        let metadata = header.metadata;
        if metadata.message_type == MessageType::Response {
            return Err(Unusable::Silence);
        }
        if metadata.op_code != OpCode::Query {
            return Err(Unusable::Refuse(metadata, ResponseCode::NotImp));
        }
        let counts = header.counts;
        if counts.queries != 1 || counts.answers != 0 || counts.authorities != 0 {
            return Err(Unusable::Refuse(metadata, ResponseCode::FormErr));
        }
        Query::read_body(metadata, counts.additionals, decoder).ok_or(Unusable::Refuse(metadata, ResponseCode::FormErr))
    }

    fn read_body(metadata: Metadata, additionals: u16, mut decoder: BinDecoder<'_>) -> Option<Query> {
        let name = Name::read(&mut decoder).ok()?;
        let name_bytes = name.iter().map(|label| label.len() + 1).sum::<usize>() + 1;
        if decoder.index() != HEADER_BYTES + name_bytes {
            return None; // a compression pointer into the header
        }
        let kind = RecordType::from(decoder.read_u16().ok()?.unverified());
        let class = DNSClass::from(decoder.read_u16().ok()?.unverified());
        let question_end = decoder.index();
        let edns = read_edns(&mut decoder, additionals).ok()?;
        Some(Query { metadata, name: name.to_lowercase(), kind, class, question_end, edns })
    }

    /// The largest reply that the client takes over UDP.
    pub(super) fn udp_payload_bytes(&self) -> u16 {
        let offered = self.edns.map_or(UDP_PAYLOAD_BYTES_MIN, |edns| edns.payload_bytes);
        offered.clamp(UDP_PAYLOAD_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX)
    }
}

/// Steps over the additional records and picks out OPT. Each takes at least 11 bytes of the packet, which bounds the loop.
fn read_edns(decoder: &mut BinDecoder<'_>, records: u16) -> Result<Option<EdnsAsked>, DecodeError> {
    let mut edns = None;
    for _ in 0..records {
        let owner = Name::read(decoder)?;
        let kind = RecordType::from(decoder.read_u16()?.unverified());
        let class = decoder.read_u16()?.unverified();
        let [_, version, flags, _] = decoder.read_u32()?.unverified().to_be_bytes();
        let data_bytes = usize::from(decoder.read_u16()?.unverified());
        decoder.read_slice(data_bytes)?;
        if kind != RecordType::OPT {
            continue;
        }
        if edns.is_some() {
            return Err(DecodeError::DuplicateEdns);
        }
        if !owner.is_root() {
            return Err(DecodeError::EdnsNameNotRoot(Box::new(owner)));
        }
        edns = Some(EdnsAsked { payload_bytes: class, version, dnssec_ok: flags & 0x80 != 0 });
    }
    Ok(edns)
}
