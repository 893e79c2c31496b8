//! The gossip keyring as it lies on disk: `DATA_DIR/keyring.json`, beside the identity and not in it, so that a renewal,
//! which replaces the identity's files whole, cannot bring an older keyring back.
//!
//! The file names the CA that its keys belong to, by the first root that this host knew of it, which a rotation of roots does
//! not change: with another CA's identity in force it does not count. It
//! is written whole, synced, and readable by its owner only. Keyrings come in from the agent and from the issuer; they
//! go out with [`super::Identity`]. `identity/gossip.key` repeats the primary, for an agent that knows no keyring.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::files::{self, Home};
use super::installed::{self, GOSSIP_KEY};
use super::{Identity, IdentityError};
use crate::wire::keyring::Keyring;
use crate::wire::seal::GossipKey;

const KEYRING: &str = "keyring.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// `Identity`'s lineage, hex.
    root_sha256: String,
    /// Base64 of `wire::keyring`'s bytes.
    keyring: String,
}

/// A new gossip key.
pub fn new_gossip_key() -> Result<GossipKey, IdentityError> {
    let mut key = [0; 32];
    rand::fill(&mut key).map_err(|_| IdentityError::Crypto("give random bytes"))?;
    Ok(GossipKey(key))
}

/// Puts a keyring on disk for this identity's CA; it is there when this returns.
pub fn save_keyring(data_dir: &Path, identity: &Identity, keyring: &Keyring) -> Result<(), IdentityError> {
    let home = Home::open(data_dir)?;
    write(&home, &identity.lineage, keyring)?;
    // Another CA's identity, enrolled while this agent runs, has a key of its own.
    let in_force = Identity::load(data_dir).is_ok_and(|current| current.lineage == identity.lineage);
    let path = data_dir.join("identity").join(GOSSIP_KEY);
    let primary = installed::gossip_key_text(keyring.primary_key());
    if in_force && fs::read(&path).ok().as_deref() != Some(&primary) {
        home.write(&path, &primary)?;
    }
    Ok(())
}

/// Writes what the issuer gave. What this host has learned under the same CA already is not lost by it.
pub(super) fn adopt(home: &Home, lineage: &[u8; 32], given: &Keyring) -> Result<(), IdentityError> {
    let held = read(home.path(), lineage).and_then(|held| held.merge(given).ok());
    write(home, lineage, held.as_ref().unwrap_or(given))
}

/// The keyring that counts under this CA. `first` is the key to begin with where none is kept.
pub(super) fn load(data_dir: &Path, lineage: &[u8; 32], first: GossipKey) -> Keyring {
    read(data_dir, lineage).unwrap_or_else(|| Keyring::new(first))
}

fn write(home: &Home, lineage: &[u8; 32], keyring: &Keyring) -> Result<(), IdentityError> {
    let path = home.path().join(KEYRING);
    let bytes = keyring.encode().map_err(|error| IdentityError::damaged(&path, &error))?;
    let kept = Kept {
        version: VERSION,
        root_sha256: data_encoding::HEXLOWER.encode(lineage),
        keyring: data_encoding::BASE64.encode(&bytes),
    };
    let json = serde_json::to_vec_pretty(&kept).map_err(|error| IdentityError::damaged(&path, &error))?;
    home.write(&path, &json)
}

/// `None` where there is none for this CA. One that cannot be read is no reason not to start: other hosts have it, and
/// hand it over by stream, for which no gossip key is needed.
fn read(data_dir: &Path, lineage: &[u8; 32]) -> Option<Keyring> {
    let path = data_dir.join(KEYRING);
    let bytes = match files::read(&path) {
        Ok(bytes) => bytes,
        Err(IdentityError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%error, "the gossip keyring is taken from other hosts again");
            return None;
        }
    };
    let unreadable = |why: &str| {
        warn!(path = %path.display(), why, "the gossip keyring cannot be read; it is taken from other hosts again");
    };
    let Ok(kept) = serde_json::from_slice::<Kept>(&bytes).inspect_err(|error| unreadable(&error.to_string())) else {
        return None;
    };
    if kept.root_sha256 != data_encoding::HEXLOWER.encode(lineage) {
        return None;
    }
    let Ok(bytes) = data_encoding::BASE64.decode(kept.keyring.as_bytes()) else {
        unreadable("it is not base64");
        return None;
    };
    Keyring::decode(&bytes).inspect_err(|error| unreadable(&error.to_string())).ok()
}
