//! What a node certificate says and how it is made: SPIFFE URI, the DNS name that all nodes share, and Weft's extension
//! with record key and service grants. Pure bytes in and out; `ca` signs, `peer` reads.
//!
//! The extension (OID 2.25.5189301774925206117, not critical) holds a DER OCTET STRING: a version byte, then fields of
//! tag (1 byte), length (2 bytes, big endian), value. Unknown tags are skipped, so that older agents accept newer
//! certificates:
//!
//! ```text
//! tag 1  the host's Ed25519 record key, 32 bytes, exactly once
//! tag 2  a service grant: a glob over service names, any number of times
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::IdentityError;
pub(super) use crate::model::glob_matches;
use crate::model::{NodeId, NodeName};

/// The DNS name in every node certificate. It is the same for all, so that any TLS stack's own verifier does: who the
/// peer is, the SPIFFE URI says.
pub const NODE_DNS_NAME: &str = "node.weft.internal";

/// How long a node certificate lasts: long enough to repair an issuer in, short enough to do without revocation lists.
pub(super) const NODE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Certificates begin this much in the past, for hosts whose clock is behind.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// The arcs of Weft's extension: 2.25 is the arc of UUIDs (ITU-T X.667), which anyone may take from.
pub(super) const EXTENSION_OID: [u64; 3] = [2, 25, 5_189_301_774_925_206_117];

/// A host takes part in few groups of services; 32 globs keep a certificate under 4 KiB.
const GRANTS_MAX: usize = 32;
/// A glob over names of at most 63 bytes.
const GRANT_BYTES_MAX: usize = 63;
/// A cluster's name is the trust domain of its SPIFFE ids.
const CLUSTER_BYTES_MAX: usize = 63;

/// Stands before the host's id in the name of its issuer.
const ISSUER_MARK: &str = "issuer on ";
const EXTENSION_VERSION: u8 = 1;
const TAG_RECORD_KEY: u8 = 1;
const TAG_GRANT: u8 = 2;
const DER_OCTET_STRING: u8 = 0x04;

/// Checks that a cluster's name can stand in a SPIFFE id.
pub(super) fn check_cluster(name: &str) -> Result<(), IdentityError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let starts_plain = name.bytes().next().is_some_and(plain);
    let all = name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_'));
    if starts_plain && all && name.len() <= CLUSTER_BYTES_MAX {
        return Ok(());
    }
    Err(IdentityError::ClusterName(name.chars().take(80).collect()))
}

/// Checks that all grants are globs over service names, and not too many.
pub(super) fn check_grants(grants: &[String]) -> Result<(), IdentityError> {
    let glob = |grant: &&String| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'*');
        !grant.is_empty() && grant.len() <= GRANT_BYTES_MAX && grant.bytes().all(allowed)
    };
    match grants.iter().find(|grant| !glob(grant)).or(grants.get(GRANTS_MAX)) {
        Some(wrong) => Err(IdentityError::Grant(wrong.chars().take(80).collect())),
        None => Ok(()),
    }
}

/// The SPIFFE id of a node.
pub(super) fn spiffe_uri(cluster: &str, name: &NodeName) -> String {
    format!("spiffe://{cluster}/node/{name}")
}

/// Takes a node's SPIFFE id apart into cluster and node name.
pub(super) fn parse_spiffe_uri(uri: &str) -> Option<(&str, NodeName)> {
    let (cluster, name) = uri.strip_prefix("spiffe://")?.split_once("/node/")?;
    check_cluster(cluster).ok()?;
    Some((cluster, NodeName::parse(name).ok()?))
}

/// The common name of an issuer: the host that it issues on is in it, so that it can be found and revoked.
pub(super) fn issuer_name(cluster: &str, node: NodeId) -> String {
    format!("{cluster} {ISSUER_MARK}{node}")
}

/// The host that an issuer's certificate names.
pub(super) fn issuer_named_in(certificate: &[u8]) -> Option<NodeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    name.rsplit_once(ISSUER_MARK)?.1.parse().ok()
}

/// The content of Weft's extension.
pub(super) fn encode_extension(record_key: &[u8; 32], grants: &[String]) -> Vec<u8> {
    let mut fields = vec![EXTENSION_VERSION];
    push_field(&mut fields, TAG_RECORD_KEY, record_key);
    grants.iter().for_each(|grant| push_field(&mut fields, TAG_GRANT, grant.as_bytes()));
    let mut der = vec![DER_OCTET_STRING];
    match u16::try_from(fields.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ 0..=127] => der.push(short),
        [0, long] => der.extend([0x81, long]),
        [high, low] => der.extend([0x82, high, low]),
    }
    der.extend(fields);
    der
}

fn push_field(fields: &mut Vec<u8>, tag: u8, value: &[u8]) {
    // Keys and checked grants have at most 63 bytes.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    fields.push(tag);
    fields.extend(length.to_be_bytes());
    fields.extend_from_slice(value);
}

/// Reads Weft's extension: record key and grants. `None` if it is not what this version writes, plus unknown fields.
pub(super) fn decode_extension(content: &[u8]) -> Option<([u8; 32], Vec<String>)> {
    let mut rest = der_octet_string(content)?.strip_prefix(&[EXTENSION_VERSION])?;
    let (mut record_key, mut grants) = (None, Vec::new());
    while let Some((&[tag, high, low], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        match tag {
            TAG_RECORD_KEY if record_key.is_none() => record_key = Some(value.try_into().ok()?),
            TAG_RECORD_KEY => return None,
            TAG_GRANT => grants.push(std::str::from_utf8(value).ok()?.to_owned()),
            _ => {}
        }
    }
    check_grants(&grants).ok()?;
    rest.is_empty().then_some((record_key?, grants))
}

/// The value of a DER OCTET STRING of less than 64 KiB that fills `der`.
fn der_octet_string(der: &[u8]) -> Option<&[u8]> {
    let (length, value) = match der.strip_prefix(&[DER_OCTET_STRING])? {
        [short @ 0..=127, value @ ..] => (usize::from(*short), value),
        [0x81, long @ 128..=255, value @ ..] => (usize::from(*long), value),
        [0x82, high @ 1..=255, low, value @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), value),
        _ => return None,
    };
    (value.len() == length).then_some(value)
}

/// What a node certificate is to say. Its key comes with the request.
pub(super) fn node_params(
    cluster: &str,
    name: &NodeName,
    record_key: &[u8; 32],
    grants: &[String],
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, IdentityError> {
    check_cluster(cluster)?;
    check_grants(grants)?;
    // What lasts minutes must not seem to have lived for an hour.
    let mut params = params(name.as_str(), now - CLOCK_SLACK.min(lifetime / 4), now + lifetime)?;
    params.subject_alt_names = vec![
        SanType::URI(Ia5String::try_from(spiffe_uri(cluster, name))?),
        SanType::DnsName(Ia5String::try_from(NODE_DNS_NAME)?),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let content = encode_extension(record_key, grants);
    params.custom_extensions = vec![CustomExtension::from_oid_content(&EXTENSION_OID, content)];
    Ok(params)
}

/// A certificate of that name and time with a random serial number; otherwise blank.
pub(super) fn params(
    common_name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, IdentityError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IdentityError::Crypto("give random bytes"))?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let start = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = start + Duration::from_secs(unix_s(not_before));
    params.not_after = start + Duration::from_secs(unix_s(not_after));
    Ok(params)
}

/// Seconds since 1970; 0 before.
pub(super) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grants(globs: &[&str]) -> Vec<String> {
        globs.iter().map(|&glob| glob.to_owned()).collect()
    }

    #[test]
    fn a_star_stands_for_any_characters_and_all_else_for_itself() {
        for (glob, name) in [("*", "web"), ("web", "web"), ("web-*", "web-1"), ("*-db", "pg-db"), ("a*b*c", "a-b-b-c")]
        {
            assert!(glob_matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [("web", "web-1"), ("web-*", "web"), ("", "web"), ("a*b*c", "a-b-c-d"), ("we?", "web")] {
            assert!(!glob_matches(glob, name), "{glob} {name}");
        }
    }

    #[test]
    fn extensions_of_every_length_read_back() {
        for count in 0..=GRANTS_MAX {
            let grants = vec!["x".repeat(GRANT_BYTES_MAX); count];
            assert_eq!(decode_extension(&encode_extension(&[7; 32], &grants)), Some(([7; 32], grants)));
        }
    }

    #[test]
    fn an_unknown_field_is_skipped_but_a_missing_or_second_key_is_refused() {
        let with = |field: &[u8]| {
            let mut content = encode_extension(&[7; 32], &grants(&["*"]));
            content.extend_from_slice(field);
            content[1] += u8::try_from(field.len()).unwrap();
            content
        };
        assert_eq!(decode_extension(&with(&[99, 0, 2, 1, 2])), Some(([7; 32], grants(&["*"]))));
        assert_eq!(decode_extension(&with(&[99, 0, 3, 1, 2])), None, "cut short");
        assert_eq!(decode_extension(&with(&[2, 0, 1, b'A'])), None, "a grant that is no glob");
        assert_eq!(decode_extension(&with(&[&[1, 0, 32][..], &[7; 32]].concat())), None, "a second key");
        assert_eq!(decode_extension(&[4, 1, 1]), None, "no key");
    }

    #[test]
    fn cluster_names_and_grants_are_held_to_their_alphabet() {
        assert!(check_cluster("prod-eu-1").is_ok());
        assert!(check_cluster("prod.eu").is_err(), "the configuration takes one label");
        for wrong in ["", "Prod", "a/b", ".x", "a b", &"a".repeat(64)] {
            assert!(check_cluster(wrong).is_err(), "{wrong}");
        }
        assert!(check_grants(&grants(&["*", "web-*"])).is_ok());
        for wrong in ["", "Web", "a.b", "a b"] {
            assert!(check_grants(&grants(&[wrong])).is_err(), "{wrong}");
        }
        assert!(check_grants(&vec!["*".to_owned(); GRANTS_MAX + 1]).is_err());
    }

    #[test]
    fn only_a_nodes_spiffe_id_is_taken() {
        let (cluster, name) = parse_spiffe_uri("spiffe://prod/node/web-01").unwrap();
        assert_eq!((cluster, name.as_str()), ("prod", "web-01"));
        for wrong in
            ["spiffe://prod/service/web", "https://prod/node/a", "spiffe:///node/a", "spiffe://p/node/a/node/b"]
        {
            assert!(parse_spiffe_uri(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in ".{0,80}") {
            let _ = decode_extension(&bytes);
            let mut framed = vec![4, 0x82, 1, 144, 1];
            framed.resize(404, 0);
            framed.iter_mut().skip(5).zip(&bytes).for_each(|(to, from)| *to = *from);
            let _ = decode_extension(&framed);
            let _ = (parse_spiffe_uri(&text), glob_matches(&text, "web-1"), check_cluster(&text));
        }

        #[test]
        fn a_glob_matches_as_if_every_split_were_tried(glob in "[ab*]{0,6}", name in "[ab]{0,8}") {
            fn slow(glob: &[u8], name: &[u8]) -> bool {
                match glob.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|n| slow(rest, &name[n..])),
                    Some((c, rest)) => name.first() == Some(c) && slow(rest, &name[1..]),
                }
            }
            prop_assert_eq!(glob_matches(&glob, &name), slow(glob.as_bytes(), name.as_bytes()));
        }
    }
}
