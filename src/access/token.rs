//! Tokens of the API: made and deleted in `DATA_DIR/acl.json` by the command line, looked up by the agent.
//!
//! A secret is 32 random bytes, so that nobody guesses one: it needs no salt and no slow hash, which are for secrets that
//! people choose. The file holds SHA-256 of each, of use to nobody who reads it. Each host has its own file, as each has its
//! own API. The agent looks at the file when a token is presented, and reads it again where it has changed: what was deleted
//! opens nothing from then on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::file;
use super::role::{GLOBS_MAX, Role};
use crate::logbook::read_bounded;

const FILE: &str = "acl.json";
const LOCK: &str = "acl.lock";
/// Keys of every HTTP client of the host are told by it; nobody else needs it.
const MODE: u32 = 0o600;
const VERSION: u32 = 1;
/// One for each program of a host that registers something, with room; all are compared for each request that shows one.
const TOKENS_MAX: usize = 256;
/// All of [`TOKENS_MAX`] with all of their globs fit in it.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
const NAME_BYTES_MAX: usize = 63;
const SECRET_BYTES: usize = 32;
/// Found by scanners for secrets that were committed by mistake.
const PREFIX: &str = "weft-acl-";
/// A token has 52; whatever is longer is none, and is not hashed.
pub const TOKEN_CHARS_MAX: usize = 128;

/// Why the tokens could not be read or changed. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    /// The file system.
    #[error("cannot {what} {}: {error}; run as root or as the owner of the data directory", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("{} cannot be read ({why}); no token is taken until it is mended or removed", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It cannot be as asked.
    #[error("{0}")]
    Invalid(String),
    /// There is no token of that name.
    #[error("no token is called {0:?}; `weft acl list` shows them")]
    NotFound(String),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Unique on this host; what the audit log says.
    pub name: String,
    /// What it is good for.
    #[serde(flatten)]
    pub role: Role,
    /// SHA-256 of the whole secret, in hex.
    sha256: String,
    /// In Unix time.
    pub created_unix_s: u64,
    /// In Unix time; without it, it never ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
}

impl Token {
    fn ended(&self, now: SystemTime) -> bool {
        self.expires_unix_s.is_some_and(|end| unix_s(now) >= end)
    }
}

/// A token that was made, and its secret, which is kept nowhere.
#[derive(Debug)]
pub struct Created {
    /// To be shown once.
    pub secret: String,
    /// What is kept.
    pub token: Token,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Ledger {
    version: u32,
    tokens: Vec<Token>,
}

/// Why a presented token is good for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Never made, or deleted.
    #[error("this token is not known on this host; each host has its own (`weft acl list`)")]
    No,
    /// Over.
    #[error("the token {0:?} has expired; make another with `weft acl create`")]
    Expired(String),
    /// The file is broken.
    #[error("this host's tokens cannot be read; see the agent's log")]
    Unreadable,
}

fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hash(secret: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, secret.as_bytes()).as_ref())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AclError {
    let path = path.to_owned();
    move |error| AclError::Io { what, path, error }
}

fn read(path: &Path) -> Result<Vec<Token>, AclError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(io_error("read", path))?;
    let Some(bytes) = bytes else { return Ok(Vec::new()) };
    let form = |why: String| AclError::Form { path: path.to_owned(), why };
    let ledger: Ledger = serde_json::from_slice(&bytes).map_err(|error| form(error.to_string()))?;
    if ledger.version != VERSION {
        return Err(form(format!("its version is {}, and this weft knows {VERSION}", ledger.version)));
    }
    Ok(ledger.tokens)
}

/// Changes the file, under a lock that keeps two who change it from losing one of the changes.
fn change<T>(data_dir: &Path, change: impl FnOnce(&mut Vec<Token>) -> Result<T, AclError>) -> Result<T, AclError> {
    let (path, lock_path) = (data_dir.join(FILE), data_dir.join(LOCK));
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(&lock_path);
    let lock: File = lock.map_err(io_error("open", &lock_path))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| io_error("lock", &lock_path)(error.into()))?;
    let mut tokens = read(&path)?;
    let done = change(&mut tokens)?;
    let text = serde_json::to_vec_pretty(&Ledger { version: VERSION, tokens });
    let text = text.map_err(|error| AclError::Form { path: path.clone(), why: error.to_string() })?;
    file::replace(&path, &text, MODE).map_err(io_error("write", &path))?;
    Ok(done)
}

fn check_name(name: &str) -> Result<(), AclError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let sentence = format!("{name:?} is no name for a token; use letters, digits, '-', '_' and '.', at most 63");
        return Err(AclError::Invalid(sentence));
    }
    Ok(())
}

/// Makes a token.
pub fn acl_create(data_dir: &Path, name: &str, role: Role, ttl: Option<Duration>) -> Result<Created, AclError> {
    check_name(name)?;
    if let Role::Register { services } = &role
        && (services.is_empty() || services.len() > GLOBS_MAX)
    {
        let sentence = format!("say which services it may register: --service NAME, at most {GLOBS_MAX} times");
        return Err(AclError::Invalid(sentence));
    }
    let mut bytes = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AclError::Random)?;
    let secret = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
    let now = unix_s(SystemTime::now());
    let token = Token {
        name: name.to_owned(),
        role,
        sha256: hash(&secret),
        created_unix_s: now,
        expires_unix_s: ttl.map(|ttl| now.saturating_add(ttl.as_secs())),
    };
    let kept = token.clone();
    change(data_dir, |tokens| {
        if tokens.iter().any(|there| there.name == kept.name) {
            let sentence = format!("there is a token {:?}; choose another name, or delete that one first", kept.name);
            return Err(AclError::Invalid(sentence));
        }
        if tokens.len() >= TOKENS_MAX {
            return Err(AclError::Invalid(format!("there are {TOKENS_MAX} tokens; delete some (`weft acl delete`)")));
        }
        tokens.push(kept);
        Ok(())
    })?;
    Ok(Created { secret, token })
}

/// Deletes a token, by its name.
pub fn acl_delete(data_dir: &Path, name: &str) -> Result<Token, AclError> {
    change(data_dir, |tokens| {
        let at = tokens.iter().position(|token| token.name == name);
        at.map(|at| tokens.remove(at)).ok_or_else(|| AclError::NotFound(name.chars().take(NAME_BYTES_MAX).collect()))
    })
}

/// Every token.
pub fn acl_list(data_dir: &Path) -> Result<Vec<Token>, AclError> {
    read(&data_dir.join(FILE))
}

/// What tells that the file is another: it is only ever replaced whole.
type Stamp = (u64, u64, i64, i64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let there = std::fs::metadata(path).ok()?;
    Some((there.dev(), there.ino(), there.ctime(), there.ctime_nsec(), there.size()))
}

#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    /// `Err`: the file cannot be read.
    tokens: Result<Arc<Vec<Token>>, ()>,
}

/// The tokens of this host, as the file says now.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl Tokens {
    /// Those of a data directory; it need not hold any.
    pub fn of(data_dir: &Path) -> Tokens {
        Tokens { path: data_dir.join(FILE), seen: Mutex::new(Seen { stamp: None, tokens: Ok(Arc::default()) }) }
    }

    /// Whether there is one that may be used.
    pub fn any(&self) -> bool {
        let now = SystemTime::now();
        self.now().is_ok_and(|tokens| tokens.iter().any(|token| !token.ended(now)))
    }

    /// The token that this is the secret of.
    pub fn find(&self, presented: &str) -> Result<Token, Unknown> {
        let tokens = self.now().map_err(|()| Unknown::Unreadable)?;
        if presented.len() > TOKEN_CHARS_MAX {
            return Err(Unknown::No);
        }
        let hash = hash(presented);
        let mut found = None;
        for token in tokens.iter() {
            if verify_slices_are_equal(token.sha256.as_bytes(), hash.as_bytes()).is_ok() {
                found = Some(token);
            }
        }
        match found {
            Some(token) if token.ended(SystemTime::now()) => Err(Unknown::Expired(token.name.clone())),
            Some(token) => Ok(token.clone()),
            None => Err(Unknown::No),
        }
    }

    fn now(&self) -> Result<Arc<Vec<Token>>, ()> {
        let stamp = stamp(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.stamp != stamp {
            let read = read(&self.path).map_err(|error| tracing::error!(%error, "API tokens"));
            *seen = Seen { stamp, tokens: read.map(Arc::new) };
        }
        seen.tokens.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::access::ServiceGlob;

    #[test]
    fn a_token_opens_from_its_creation_to_its_deletion_and_no_other_text_does() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(dir.path());
        assert!(!tokens.any());
        let made = acl_create(dir.path(), "ci", Role::Operator, None).unwrap();
        assert!(made.secret.starts_with(PREFIX) && made.secret.len() == PREFIX.len() + 43, "{}", made.secret);
        assert_eq!(tokens.find(&made.secret), Ok(made.token.clone()));
        for other in
            ["", PREFIX, &made.secret[1..], &format!("{} ", made.secret), &made.token.sha256, &"x".repeat(4096)]
        {
            assert_eq!(tokens.find(other), Err(Unknown::No), "{other:?}");
        }
        let path = dir.path().join(FILE);
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&made.secret), "the secret is kept nowhere");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = acl_create(dir.path(), "ci", Role::Read, None).unwrap_err().to_string();
        assert!(again.contains("there is a token"), "{again}");
        acl_delete(dir.path(), "ci").unwrap();
        assert_eq!(tokens.find(&made.secret), Err(Unknown::No));
        assert!(matches!(acl_delete(dir.path(), "ci"), Err(AclError::NotFound(_))));
    }

    #[test]
    fn a_token_ends_when_it_was_said_to() {
        let dir = tempfile::tempdir().unwrap();
        let made = acl_create(dir.path(), "short", Role::Read, Some(Duration::ZERO)).unwrap();
        let tokens = Tokens::of(dir.path());
        assert_eq!(tokens.find(&made.secret), Err(Unknown::Expired("short".into())));
        assert!(!tokens.any());
    }

    #[test]
    fn a_file_that_cannot_be_read_opens_nothing_and_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let made = acl_create(dir.path(), "ci", Role::Operator, None).unwrap();
        let tokens = Tokens::of(dir.path());
        assert!(tokens.any());
        for broken in ["{", "[]", r#"{"version":2,"tokens":[]}"#] {
            std::fs::write(dir.path().join(FILE), broken).unwrap();
            assert_eq!(tokens.find(&made.secret), Err(Unknown::Unreadable), "{broken}");
            assert!(acl_create(dir.path(), "two", Role::Read, None).is_err());
            assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), broken);
        }
    }

    #[test]
    fn there_are_limits() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a b", "a/b", &"x".repeat(64)] {
            assert!(matches!(acl_create(dir.path(), name, Role::Read, None), Err(AclError::Invalid(_))), "{name:?}");
        }
        for count in [0, GLOBS_MAX + 1] {
            let services = vec![ServiceGlob::parse("web").unwrap(); count];
            let refused = acl_create(dir.path(), "x", Role::Register { services }, None);
            assert!(matches!(refused, Err(AclError::Invalid(_))), "{count} globs");
        }
        let one = acl_create(dir.path(), "one", Role::Read, None).unwrap().token;
        let many = (0..TOKENS_MAX).map(|at| Token { name: format!("t{at}"), ..one.clone() }).collect();
        let text = serde_json::to_vec(&Ledger { version: VERSION, tokens: many }).unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        assert!(acl_create(dir.path(), "more", Role::Read, None).unwrap_err().to_string().contains("delete some"));
    }
}
