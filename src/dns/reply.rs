//! Writes one reply: the header, the client's question byte for byte, records as long as they fit, and OPT.
//!
//! Pure. Called by `answer`; the bytes go into the caller's buffer, which is reused from query to query. Echoing the
//! question as it came keeps the mixed case that resolvers use against forged replies ("0x20").

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, EncodedSize, Place};

use super::query::{EdnsAsked, HEADER_BYTES, Query, UDP_PAYLOAD_BYTES_MAX};

/// A compression pointer to the question's name, which always begins right after the header.
const QUESTION_POINTER: u16 = 0xC000 | 12;
/// What an OPT record without options takes; kept free while records are written.
const OPT_BYTES: u16 = 11;

/// The section that a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// What was asked for.
    Answer,
    /// Why there is nothing.
    Authority,
    /// What the client would ask next.
    Additional,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner<'a> {
    /// The name in the question.
    Question,
    /// Another.
    Name(&'a Name),
}

/// A reply being written.
pub(super) struct Reply<'a> {
    encoder: BinEncoder<'a>,
    header_place: Place<Header>,
    header: Header,
    edns: Option<EdnsAsked>,
    bytes_max: u16,
}

impl<'a> Reply<'a> {
    /// Begins a reply of at most `bytes_max` bytes to `query`, which was read from `packet`.
    pub(super) fn start(
        query: &Query,
        packet: &[u8],
        bytes_max: u16,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Reply<'a>, ProtoError> {
        buffer.clear();
        let mut encoder = BinEncoder::new(buffer);
        let records_bytes_max = bytes_max - if query.edns.is_some() { OPT_BYTES } else { 0 };
        encoder.set_max_size(records_bytes_max);
        let header_place = encoder.place::<Header>()?;
        encoder.emit_vec(packet.get(HEADER_BYTES..query.question_end).unwrap_or_default())?;
        let metadata = answering(&query.metadata);
        let counts = HeaderCounts { queries: 1, answers: 0, authorities: 0, additionals: 0 };
        Ok(Reply { encoder, header_place, header: Header { metadata, counts }, edns: query.edns, bytes_max })
    }

    /// The flags, to be changed before `finish`.
    pub(super) fn flags(&mut self) -> &mut Metadata {
        &mut self.header.metadata
    }

    /// Adds a record. False: it did not fit and was left out; what was left out of the answer is marked by TC, additional
    /// records are a courtesy (RFC 2181 §9).
    pub(super) fn add(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: RecordType,
        ttl_s: u32,
        data: &impl BinEncodable,
    ) -> bool {
        let start = self.encoder.offset();
        if emit_record(&mut self.encoder, owner, kind, ttl_s, data).is_err() {
            self.encoder.set_offset(start);
            self.encoder.trim();
            self.header.metadata.truncation |= section == Section::Answer;
            return false;
        }
        let counts = &mut self.header.counts;
        let count = match section {
            Section::Answer => &mut counts.answers,
            Section::Authority => &mut counts.authorities,
            Section::Additional => &mut counts.additionals,
        };
        // Cannot saturate: 65,535 records do not fit 65,535 bytes.
        *count = count.saturating_add(1);
        true
    }

    /// Ends the reply. True: it was truncated.
    pub(super) fn finish(mut self, code: ResponseCode) -> Result<bool, ProtoError> {
        self.header.metadata.response_code = code;
        // Only these speak of the zone's content.
        self.header.metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        if let Some(asked) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD_BYTES_MAX);
            edns.set_dnssec_ok(asked.dnssec_ok);
            edns.set_rcode_high(code.high());
            self.encoder.set_max_size(self.bytes_max);
            edns.emit(&mut self.encoder)?;
            self.header.counts.additionals = self.header.counts.additionals.saturating_add(1);
        }
        let truncated = self.header.metadata.truncation;
        self.header_place.replace(&mut self.encoder, self.header)?;
        Ok(truncated)
    }
}

fn emit_record(
    encoder: &mut BinEncoder<'_>,
    owner: Owner<'_>,
    kind: RecordType,
    ttl_s: u32,
    data: &impl BinEncodable,
) -> Result<(), ProtoError> {
    match owner {
        Owner::Question => encoder.emit_u16(QUESTION_POINTER)?,
        Owner::Name(name) => name.emit(encoder)?,
    }
    kind.emit(encoder)?;
    DNSClass::IN.emit(encoder)?;
    encoder.emit_u32(ttl_s)?;
    let length = encoder.place::<u16>()?;
    data.emit(encoder)?;
    let data_bytes = u16::try_from(encoder.len_since_place(&length));
    length.replace(encoder, data_bytes.map_err(|_| ProtoError::from("record data over 65535 bytes"))?)
}

/// Writes a reply that is a header only: for queries whose question could not be read.
pub(super) fn write_error(asked: &Metadata, code: ResponseCode, buffer: &mut Vec<u8>) -> Result<(), ProtoError> {
    buffer.clear();
    let mut metadata = answering(asked);
    metadata.response_code = code;
    let counts = HeaderCounts { queries: 0, answers: 0, authorities: 0, additionals: 0 };
    debug_assert_eq!(Header::LEN, HEADER_BYTES);
    Header { metadata, counts }.emit(&mut BinEncoder::new(buffer))
}

/// The flags of a reply: id, opcode, RD and CD are the client's.
fn answering(asked: &Metadata) -> Metadata {
    let mut metadata = Metadata::new(asked.id, MessageType::Response, asked.op_code);
    metadata.recursion_desired = asked.recursion_desired;
    metadata.checking_disabled = asked.checking_disabled;
    metadata
}
