//! The ledger of join tokens, `DATA_DIR/ca/tokens.json` on the issuer that made them: what each may still do. It holds
//! no secrets, only their SHA-256. Every change happens under a lock and is on disk before it counts, so a token that was
//! spent stays spent whatever crashes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use super::IdentityError;
use super::ca::{self, Authority, fingerprint};
use super::exchange::RefusalCode;
use super::files::{self, Home};
use super::token::{JoinToken, TokenInfo, id_text};
use crate::model::{NodeId, NodeName};

const LEDGER: &str = "tokens.json";
const LOCK: &str = "tokens.lock";
/// Entries stay this long after their end, so that `weft token list` can tell what became of them.
const KEPT_AFTER_END_S: u64 = 30 * 24 * 3600;
/// Far more than operators make in a month; keeps the file small whatever a script does.
const ENTRIES_MAX: usize = 1000;

/// One token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    id: String,
    secret_sha256: String,
    created_unix_s: u64,
    expires_unix_s: u64,
    uses_left: u32,
    services: Vec<String>,
    node: Option<NodeName>,
    enrolled: Vec<Enrolled>,
}

/// Who used it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Enrolled {
    node: String,
    name: NodeName,
    at_unix_s: u64,
}

impl Entry {
    pub(super) fn new(
        token: &JoinToken,
        created_unix_s: u64,
        uses_left: u32,
        services: Vec<String>,
        node: Option<NodeName>,
    ) -> Entry {
        Entry {
            id: id_text(&token.id),
            secret_sha256: data_encoding::HEXLOWER.encode(&fingerprint(&token.secret[..])),
            created_unix_s,
            expires_unix_s: token.expires_unix_s,
            uses_left,
            services,
            node,
            enrolled: Vec::new(),
        }
    }

    /// What the token lets a host of that name do at that time.
    fn check(&self, attempt: &Attempt<'_>) -> Result<(), RefusalCode> {
        let secret = data_encoding::HEXLOWER.encode(&fingerprint(attempt.secret));
        // Who does not know the secret learns nothing about the token.
        verify_slices_are_equal(secret.as_bytes(), self.secret_sha256.as_bytes())
            .map_err(|_| RefusalCode::UnknownToken)?;
        if self.uses_left == 0 {
            return Err(RefusalCode::UsedToken);
        }
        if attempt.now_unix_s >= self.expires_unix_s {
            return Err(RefusalCode::ExpiredToken);
        }
        match &self.node {
            Some(name) if name != attempt.name => Err(RefusalCode::OtherName),
            _ => Ok(()),
        }
    }
}

impl From<&Entry> for TokenInfo {
    fn from(entry: &Entry) -> TokenInfo {
        TokenInfo {
            id: entry.id.clone(),
            created_unix_s: entry.created_unix_s,
            expires_unix_s: entry.expires_unix_s,
            uses_left: entry.uses_left,
            services: entry.services.clone(),
            node: entry.node.clone(),
            enrolled: entry.enrolled.iter().map(|who| who.name.clone()).collect(),
        }
    }
}

/// A host that wants to use a token.
pub(super) struct Attempt<'a> {
    pub(super) token_id: &'a [u8],
    pub(super) secret: &'a [u8],
    pub(super) name: &'a NodeName,
    pub(super) node: NodeId,
    pub(super) now_unix_s: u64,
}

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    tokens: Vec<Entry>,
}

/// The ledger of one issuer.
pub(super) struct Ledger {
    home: Home,
    path: PathBuf,
    lock_path: PathBuf,
}

impl Ledger {
    /// The ledger under a data directory; there must be a CA in it.
    pub(super) fn of(data_dir: &Path) -> Result<Ledger, IdentityError> {
        if !Authority::is_in(data_dir) {
            return Err(IdentityError::NotIssuer { data_dir: data_dir.to_owned() });
        }
        let ca = ca::directory(data_dir);
        Ok(Ledger { home: Home::open(data_dir)?, path: ca.join(LEDGER), lock_path: ca.join(LOCK) })
    }

    /// Every token.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, IdentityError> {
        match files::read(&self.path) {
            Ok(json) => {
                let content: Content =
                    serde_json::from_slice(&json).map_err(|error| IdentityError::damaged(&self.path, &error))?;
                Ok(content.tokens)
            }
            Err(IdentityError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Enters a new token and forgets those that ended long ago.
    pub(super) fn add(&self, entry: Entry, now_unix_s: u64) -> Result<(), IdentityError> {
        let _lock = self.home.lock(&self.lock_path)?;
        let mut tokens = self.entries()?;
        tokens.retain(|old| old.expires_unix_s.saturating_add(KEPT_AFTER_END_S) > now_unix_s);
        if tokens.len() >= ENTRIES_MAX {
            return Err(IdentityError::TokenLimits(
                "the ledger holds 1000 tokens of the last 30 days; use one token for several hosts (--uses)",
            ));
        }
        tokens.push(entry);
        self.store(tokens)
    }

    /// Says whether a token would be accepted, without using it.
    pub(super) fn check(&self, attempt: &Attempt<'_>) -> Result<Result<(), RefusalCode>, IdentityError> {
        Ok(find(&mut self.entries()?, attempt).map(|_| ()))
    }

    /// Uses a token once: on disk when this returns. Gives the services that it grants.
    pub(super) fn spend(&self, attempt: &Attempt<'_>) -> Result<Result<Vec<String>, RefusalCode>, IdentityError> {
        let _lock = self.home.lock(&self.lock_path)?;
        let mut tokens = self.entries()?;
        let entry = match find(&mut tokens, attempt) {
            Ok(entry) => entry,
            Err(code) => return Ok(Err(code)),
        };
        entry.uses_left -= 1;
        entry.enrolled.push(Enrolled {
            node: attempt.node.to_string(),
            name: attempt.name.clone(),
            at_unix_s: attempt.now_unix_s,
        });
        let services = entry.services.clone();
        self.store(tokens)?;
        Ok(Ok(services))
    }

    /// Takes away what uses a token has left. False if it is not here.
    pub(super) fn revoke(&self, id: &str) -> Result<bool, IdentityError> {
        let _lock = self.home.lock(&self.lock_path)?;
        let mut tokens = self.entries()?;
        let Some(entry) = tokens.iter_mut().find(|entry| entry.id == id) else { return Ok(false) };
        entry.uses_left = 0;
        self.store(tokens)?;
        Ok(true)
    }

    fn store(&self, tokens: Vec<Entry>) -> Result<(), IdentityError> {
        let json = serde_json::to_vec_pretty(&Content { tokens });
        let mut json = json.map_err(|error| IdentityError::damaged(&self.path, &error))?;
        json.push(b'\n');
        self.home.write(&self.path, &json)
    }
}

fn find<'a>(tokens: &'a mut [Entry], attempt: &Attempt<'_>) -> Result<&'a mut Entry, RefusalCode> {
    let id = id_text(attempt.token_id);
    let entry = tokens.iter_mut().find(|entry| entry.id == id).ok_or(RefusalCode::UnknownToken)?;
    entry.check(attempt)?;
    Ok(entry)
}
