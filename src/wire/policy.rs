//! Bodies of policy records: what an operator decided, signed by the operator, whoever carries it.
//!
//! ```text
//! POLICY, any format   count of certificates 1 │ each: length 2, big endian, DER │ signer 1 │ signature 64 │ statement
//! signer               0 the operator, 1 an issuer that vouches for what an operator signed
//! statement, format 1  1 │ bincode; nothing may follow
//! signed               "weft policy 1\0" │ length of the cluster's name 1 │ the name │ statement
//! ```
//!
//! Certificates and signature stand where every later format has them. Whether they are to be believed is not judged here.

use bytes::Bytes;

use super::body::{BODY_BYTES_MAX, BodyError, put_certificates, take_certificates};
use super::codec;
use crate::model::{Policy, SIGNATURE_BYTES, Statement};

/// The format of `POLICY` records written here, and the newest that is read.
pub const POLICY_FORMAT: u16 = 1;

/// Two of the longest traffic documents and what goes with them, beside four certificates in a record. 64 permissions of the
/// longest paths and methods would take 65 KiB; who needs those needs two intentions.
const STATEMENT_BYTES_MAX: usize = 40 * 1024;
const CONTEXT: &[u8] = b"weft policy 1\0";

/// What proves that an operator made a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The signer's certificate and its issuers', DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// An issuer signed it, which had the operator's signature before it.
    pub is_vouched: bool,
    /// Ed25519, over [`signed_bytes`].
    pub signature: [u8; SIGNATURE_BYTES],
}

/// A statement as it is signed.
pub fn encode_statement(statement: &Statement) -> Result<Vec<u8>, BodyError> {
    codec::encode(statement, STATEMENT_BYTES_MAX).map_err(|error| BodyError::Codec { what: "policy", error })
}

/// What the operator's signature covers: a statement holds in one cluster.
pub fn signed_bytes(cluster: &str, statement: &[u8]) -> Vec<u8> {
    // Names of clusters have at most 63 bytes.
    let length = u8::try_from(cluster.len()).unwrap_or(u8::MAX);
    [CONTEXT, &[length], cluster.as_bytes(), statement].concat()
}

/// A record's body, in [`POLICY_FORMAT`].
pub fn encode_policy(proof: &Proof, statement: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut body = put_certificates(&proof.certificates).ok_or(BodyError::Certificates)?;
    body.push(u8::from(proof.is_vouched));
    body.extend(proof.signature);
    body.extend(statement);
    if body.len() > BODY_BYTES_MAX {
        return Err(BodyError::Policy(format!("{} bytes do not fit a record; use fewer permissions", body.len())));
    }
    Ok(body)
}

/// Reads a record's body. The statement has been checked for sense, the proof has not been looked at.
pub fn decode_policy(format: u16, body: &[u8]) -> Result<(Policy, Proof), BodyError> {
    if format != POLICY_FORMAT {
        return Err(BodyError::NewerFormat { what: "policy", format, known: POLICY_FORMAT });
    }
    let (certificates, rest) = take_certificates(body).ok_or(BodyError::Certificates)?;
    let (is_vouched, rest) = match rest.split_first() {
        Some((0, rest)) => (false, rest),
        Some((1, rest)) => (true, rest),
        _ => return Err(BodyError::Policy("it does not say who signed it".to_owned())),
    };
    let (signature, signed) = rest
        .split_first_chunk::<SIGNATURE_BYTES>()
        .ok_or_else(|| BodyError::Policy("it has no signature".to_owned()))?;
    let statement: Statement =
        codec::decode(signed, STATEMENT_BYTES_MAX).map_err(|error| BodyError::Codec { what: "policy", error })?;
    statement.check().map_err(|error| BodyError::Policy(error.to_string()))?;
    let proof = Proof { certificates, is_vouched, signature: *signature };
    let (body, signed) = (Bytes::copy_from_slice(body), Bytes::copy_from_slice(signed));
    Ok((Policy { statement, is_vouched, body, signed }, proof))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Action, Change, Dot, Intention, NodeId, Permission};

    fn statement() -> Statement {
        let permission =
            Permission { action: Action::Deny, methods: vec!["GET".into()], path: Some("/v1/*".parse().unwrap()) };
        let intention = Intention {
            source: "web-*".parse().unwrap(),
            destination: "billing".parse().unwrap(),
            action: Action::Allow,
            permissions: vec![permission],
            description: "nobody but the front".into(),
        };
        Statement {
            dot: Dot { lamport: 7, writer: NodeId([1; 16]) },
            seen: vec![(NodeId([1; 16]), 6), (NodeId([2; 16]), 3)],
            operator: "anna".into(),
            at_unix_s: 1_800_000_000,
            change: Change::Intention(intention),
        }
    }

    fn body() -> Vec<u8> {
        let proof = Proof { certificates: vec![vec![1; 300], vec![2; 200]], is_vouched: true, signature: [7; 64] };
        encode_policy(&proof, &encode_statement(&statement()).unwrap()).unwrap()
    }

    #[test]
    fn a_policy_reads_back() {
        let (policy, proof) = decode_policy(POLICY_FORMAT, &body()).unwrap();
        assert_eq!(policy.statement, statement());
        assert_eq!(encode_policy(&proof, &policy.signed).unwrap(), policy.body);
        assert!(signed_bytes("prod", &policy.signed).starts_with(b"weft policy 1\0\x04prod\x01"));
        assert_ne!(signed_bytes("a", b"bc"), signed_bytes("ab", b"c"));
    }

    #[test]
    fn a_newer_format_nonsense_and_what_is_cut_off_are_errors() {
        assert!(matches!(decode_policy(2, &body()), Err(BodyError::NewerFormat { .. })));
        for end in 0..body().len() {
            assert!(decode_policy(POLICY_FORMAT, &body()[..end]).is_err(), "{end}");
        }
        let proof = Proof { certificates: vec![vec![1]], is_vouched: false, signature: [7; 64] };
        let senseless = Statement { seen: vec![(NodeId([1; 16]), 7)], ..statement() };
        let body = encode_policy(&proof, &encode_statement(&senseless).unwrap()).unwrap();
        assert!(matches!(decode_policy(POLICY_FORMAT, &body), Err(BodyError::Policy(_))));
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_decoder_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), junk in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = body();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode_policy(POLICY_FORMAT, &bytes);
            let _ = decode_policy(POLICY_FORMAT, &junk);
        }
    }
}
