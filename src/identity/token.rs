//! Join tokens: the text that an operator carries to a new host, and what it pins. The ledger that makes them single-use
//! is `ledger`; here text comes in and goes out, and `weft token create` and `list` have their entry.
//!
//! The text is `weft1.` and base64url (no padding) of:
//!
//! ```text
//! id 8 ‖ secret 16 ‖ expiry 8 (unix seconds, big endian) ‖ SHA-256 of the CA's root 32 ‖ issuer's node id 16
//! ‖ address family 1 (4 or 6) ‖ address 4 or 16 ‖ port 2 (big endian) ‖ cluster, the rest
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::ca::fingerprint;
use super::certificate::{check_cluster, check_grants, unix_s};
use super::ledger::{Entry, Ledger};
use super::{Identity, IdentityError};
use crate::model::{NodeId, NodeName};

pub(super) const TOKEN_ID_BYTES: usize = 8;
pub(super) const TOKEN_SECRET_BYTES: usize = 16;

const PREFIX: &str = "weft1.";
/// The longest token there is has about 300 characters.
const TEXT_BYTES_MAX: usize = 1024;
/// One token may serve a rack or an image roll-out. What enrols more hosts than this wants a tighter leash.
const USES_MAX: u32 = 1000;
/// A token is a key to the cluster; a month is the longest it may lie around.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A join token, read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct JoinToken {
    pub(super) id: [u8; TOKEN_ID_BYTES],
    pub(super) secret: Zeroizing<[u8; TOKEN_SECRET_BYTES]>,
    pub(super) expires_unix_s: u64,
    pub(super) root_sha256: [u8; 32],
    pub(super) issuer: NodeId,
    pub(super) issuer_address: SocketAddr,
    pub(super) cluster: String,
}

/// What the ledger knows of a token. The secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Names the token.
    pub id: String,
    /// When it was made, seconds since 1970.
    pub created_unix_s: u64,
    /// When it ends, seconds since 1970.
    pub expires_unix_s: u64,
    /// How many hosts may still enrol with it.
    pub uses_left: u32,
    /// Service grants of the hosts that enrol with it.
    pub services: Vec<String>,
    /// The only name that may enrol with it, if it is bound to one.
    pub node: Option<NodeName>,
    /// Who has enrolled with it.
    pub enrolled: Vec<NodeName>,
}

/// Makes a token on an issuer and writes it into the ledger. `issuer_address` is this host's mesh address as the new
/// host sees it; `services` are globs over the services that the new host may speak for. Returns the text, which is
/// kept nowhere.
pub fn token_create(
    data_dir: &Path,
    issuer_address: SocketAddr,
    ttl: Duration,
    uses: u32,
    services: Vec<String>,
    node: Option<NodeName>,
) -> Result<(String, TokenInfo), IdentityError> {
    create(data_dir, issuer_address, SystemTime::now(), ttl, uses, services, node)
}

pub(super) fn create(
    data_dir: &Path,
    issuer_address: SocketAddr,
    now: SystemTime,
    ttl: Duration,
    uses: u32,
    services: Vec<String>,
    node: Option<NodeName>,
) -> Result<(String, TokenInfo), IdentityError> {
    check_limits(issuer_address, ttl, uses)?;
    check_grants(&services)?;
    let ledger = Ledger::of(data_dir)?;
    let identity = Identity::load(data_dir)?;
    let root = identity.root_certificates.first().ok_or(IdentityError::Crypto("find this cluster's root"))?;
    let (mut id, mut secret) = ([0; TOKEN_ID_BYTES], [0; TOKEN_SECRET_BYTES]);
    for random in [&mut id[..], &mut secret[..]] {
        aws_lc_rs::rand::fill(random).map_err(|_| IdentityError::Crypto("give random bytes"))?;
    }
    let token = JoinToken {
        id,
        secret: Zeroizing::new(secret),
        expires_unix_s: unix_s(now + ttl),
        root_sha256: fingerprint(root),
        issuer: identity.node,
        issuer_address,
        cluster: identity.cluster,
    };
    let entry = Entry::new(&token, unix_s(now), uses, services, node);
    let info = TokenInfo::from(&entry);
    ledger.add(entry, unix_s(now))?;
    Ok((token.to_text(), info))
}

/// Every token in the ledger, used and expired ones of the last month included.
pub fn token_list(data_dir: &Path) -> Result<Vec<TokenInfo>, IdentityError> {
    Ok(Ledger::of(data_dir)?.entries()?.iter().map(TokenInfo::from).collect())
}

/// Lets nobody enrol with a token any more. False if there is none of this id.
pub fn token_revoke(data_dir: &Path, id: &str) -> Result<bool, IdentityError> {
    Ledger::of(data_dir)?.revoke(id)
}

fn check_limits(issuer_address: SocketAddr, ttl: Duration, uses: u32) -> Result<(), IdentityError> {
    let wrong = if issuer_address.ip().is_unspecified() || issuer_address.port() == 0 {
        "a token names the address under which other hosts reach this one; set [mesh] advertise or [node] advertise"
    } else if ttl.as_secs() == 0 || ttl > TTL_MAX {
        "a token lasts between one second and 30 days; choose a --ttl in between"
    } else if uses == 0 || uses > USES_MAX {
        "a token can be used between 1 and 1000 times; choose a number of uses in between"
    } else {
        return Ok(());
    };
    Err(IdentityError::TokenLimits(wrong))
}

impl JoinToken {
    /// The text to carry.
    pub(super) fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.id);
        bytes.extend(*self.secret);
        bytes.extend(self.expires_unix_s.to_be_bytes());
        bytes.extend(self.root_sha256);
        bytes.extend(self.issuer.as_bytes());
        match self.issuer_address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(6);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(self.issuer_address.port().to_be_bytes());
        bytes.extend(self.cluster.as_bytes());
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads the text; white space around it does not matter.
    pub(super) fn parse(text: &str) -> Result<JoinToken, IdentityError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(IdentityError::TokenText("it is too long"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(IdentityError::TokenText("it does not begin with `weft1.`"))?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes());
        let bytes = bytes.map_err(|_| IdentityError::TokenText("a part of it is missing or changed"))?;
        JoinToken::from_bytes(&bytes).ok_or(IdentityError::TokenText("it ends too early or says impossible things"))
    }

    fn from_bytes(bytes: &[u8]) -> Option<JoinToken> {
        let (&id, rest) = bytes.split_first_chunk()?;
        let (&secret, rest) = rest.split_first_chunk()?;
        let (&expires, rest) = rest.split_first_chunk()?;
        let (&root_sha256, rest) = rest.split_first_chunk()?;
        let (&issuer, rest) = rest.split_first_chunk()?;
        let (ip, rest) = match rest.split_first()? {
            (4, rest) => rest.split_first_chunk::<4>().map(|(&ip, rest)| (IpAddr::from(ip), rest))?,
            (6, rest) => rest.split_first_chunk::<16>().map(|(&ip, rest)| (IpAddr::from(ip), rest))?,
            _ => return None,
        };
        let (&port, rest) = rest.split_first_chunk()?;
        let cluster = std::str::from_utf8(rest).ok()?;
        check_cluster(cluster).ok()?;
        Some(JoinToken {
            id,
            secret: Zeroizing::new(secret),
            expires_unix_s: u64::from_be_bytes(expires),
            root_sha256,
            issuer: NodeId(issuer),
            issuer_address: SocketAddr::new(ip, u16::from_be_bytes(port)),
            cluster: cluster.to_owned(),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} of {} at {})", id_text(&self.id), self.cluster, self.issuer_address)
    }
}

/// A token's id as people see it.
pub(super) fn id_text(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(address: &str) -> JoinToken {
        JoinToken {
            id: [1; TOKEN_ID_BYTES],
            secret: Zeroizing::new([2; TOKEN_SECRET_BYTES]),
            expires_unix_s: 1_800_000_000,
            root_sha256: [3; 32],
            issuer: NodeId([4; 16]),
            issuer_address: address.parse().unwrap(),
            cluster: "prod".to_owned(),
        }
    }

    #[test]
    fn a_token_reads_back_and_does_not_print_its_secret() {
        for address in ["10.0.0.1:7947", "[2001:db8::1]:7947"] {
            let text = token(address).to_text();
            assert_eq!(JoinToken::parse(&format!(" {text}\n")).unwrap(), token(address));
        }
        assert_eq!(format!("{:?}", token("10.0.0.1:7947")), "JoinToken(0101010101010101 of prod at 10.0.0.1:7947)");
    }

    #[test]
    fn a_cut_or_foreign_text_is_refused_with_a_reason() {
        let text = token("10.0.0.1:7947").to_text();
        assert!(JoinToken::parse(&text[..60]).is_err());
        assert!(JoinToken::parse("eyJhbGciOi").unwrap_err().to_string().contains("weft1."));
        assert!(JoinToken::parse(&"x".repeat(5000)).is_err());
    }

    #[test]
    fn limits_are_checked_before_anything_is_written() {
        let (hour, address) = (Duration::from_secs(3600), "10.0.0.1:7947".parse().unwrap());
        assert!(check_limits(address, hour, 1).is_ok());
        assert!(check_limits("0.0.0.0:7947".parse().unwrap(), hour, 1).is_err());
        assert!(check_limits(address, Duration::ZERO, 1).is_err());
        assert!(check_limits(address, hour * 24 * 31, 1).is_err());
        assert!(check_limits(address, hour, 0).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = JoinToken::parse(&text);
            let _ = JoinToken::parse(&format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)));
        }
    }
}
