//! Records that this host does not touch: `quarantine.json`, replaced whole. One that cannot be understood is moved aside.

use serde::{Deserialize, Serialize};

use crate::model::Quarantined;

use super::file::{read_bounded, write_atomically};
use super::{Store, StoreError, file_error};

/// Far above what the owner keeps.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FILE: &str = "quarantine.json";

/// The whole file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The agent's version that could not handle them: another may.
    pub agent: String,
    /// The records.
    pub records: Vec<Quarantined>,
}

impl Store {
    /// What is kept of earlier starts.
    pub fn quarantine(&self) -> Result<Quarantine, StoreError> {
        let path = self.directory.join(FILE);
        let Some(bytes) = read_bounded(&path, FILE_BYTES_MAX).map_err(|error| file_error(&path, "read", error))? else {
            return Ok(Quarantine::default());
        };
        if let Ok(quarantine) = serde_json::from_slice(&bytes) {
            return Ok(quarantine);
        }
        let aside = path.with_extension("json.corrupt");
        tracing::warn!(path = %path.display(), aside = %aside.display(), "the list of quarantined records is corrupt: it begins anew");
        std::fs::rename(&path, &aside).map_err(|error| file_error(&path, "moved aside", error))?;
        Ok(Quarantine::default())
    }

    /// Keeps exactly these.
    pub fn save_quarantine(&self, quarantine: &Quarantine) -> Result<(), StoreError> {
        let path = self.directory.join(FILE);
        let json = serde_json::to_vec_pretty(quarantine).map_err(|error| file_error(&path, "written", error.into()))?;
        write_atomically(&path, &json, 0o600).map_err(|error| file_error(&path, "written", error))
    }

    /// The journal of what is in hand, and what was when the last run ended; see [`super::Journal`].
    pub fn journal(&self) -> Result<(super::Journal, Vec<super::InHand>), StoreError> {
        let failed = |error| file_error(&self.directory.join("in-hand"), "opened", error);
        super::Journal::open(&self.directory).map_err(failed)
    }
}
