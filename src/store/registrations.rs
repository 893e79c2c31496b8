//! What came by the API and must survive a restart: services, checks and maintenance, one small fsynced file each.
//!
//! ```text
//! registrations/services/HEX.json   the body of a registration, as it came; HEX is the SHA-256 of the service's id
//! registrations/checks/HEX.json     the same of a check
//! maintenance.json                  what is in maintenance, and why
//! policies.json                     what operators decided on this host, and what it carries for hosts that are gone
//! policy-history/HEX.json           what was stated about a service's traffic; HEX is the SHA-256 of its name
//! ```
//!
//! What is in the files is not read here: bytes come in and go out. A file that turns out to be of no use is set aside
//! under another ending, and never removed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::file::{place_beside, read_bounded, write_beside};
use super::{Store, StoreError, file_error};

/// The longest body that is kept.
pub const REGISTRATION_BYTES_MAX: u64 = 1024 * 1024;
/// Reasons of 4,096 services and more.
const MAINTENANCE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// 4,096 policies of 12 KiB, in base64.
const POLICIES_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// More files of a kind than there can be registrations.
const FILES_MAX: usize = 50_000;
/// Earlier files of one name that were set aside.
const ASIDE_MAX: u32 = 1000;

/// Names one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// A service, by its id.
    Service(String),
    /// A check, by its id.
    Check(String),
    /// All maintenance.
    Maintenance,
    /// The policies that this host carries.
    Policies,
    /// What was stated about the traffic of a service, by its name.
    History(String),
}

/// What is to become of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// It holds these bytes from now on.
    Put(Registration, Bytes),
    /// It is removed, if it is there.
    Remove(Registration),
    /// It is kept under an ending that says why nobody reads it.
    SetAside(Registration, &'static str),
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Kept {
    /// True if the file has the name that `registration` would be kept under.
    pub fn is_of(&self, registration: &Registration) -> bool {
        self.path.file_name() == Path::new(&registration.file()).file_name()
    }
}

/// Everything that was kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Of services, by file name.
    pub services: Vec<Kept>,
    /// Of checks, by file name.
    pub checks: Vec<Kept>,
    /// What is in maintenance.
    pub maintenance: Option<Kept>,
    /// The policies that this host carries.
    pub policies: Option<Kept>,
    /// What was stated about each service's traffic, by file name.
    pub histories: Vec<Kept>,
}

impl Registration {
    fn file(&self) -> String {
        let hex = |id: &str| data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, id.as_bytes()).as_ref());
        match self {
            Registration::Service(id) => format!("registrations/services/{}.json", hex(id)),
            Registration::Check(id) => format!("registrations/checks/{}.json", hex(id)),
            Registration::Maintenance => "maintenance.json".to_owned(),
            Registration::Policies => "policies.json".to_owned(),
            Registration::History(service) => format!("policy-history/{}.json", hex(service)),
        }
    }
}

impl Store {
    /// Reads what was kept. A file that cannot be read is named in the log and left where it is.
    pub fn registrations(&self) -> Result<Registrations, StoreError> {
        let kept = |registration: Registration, bytes_max| {
            let path = self.directory.join(registration.file());
            let bytes = read_bounded(&path, bytes_max).map_err(|error| file_error(&path, "read", error))?;
            Ok::<_, StoreError>(bytes.map(|bytes| Kept { path, bytes }))
        };
        Ok(Registrations {
            services: kept_in(&self.directory.join("registrations/services"))?,
            checks: kept_in(&self.directory.join("registrations/checks"))?,
            maintenance: kept(Registration::Maintenance, MAINTENANCE_BYTES_MAX)?,
            policies: kept(Registration::Policies, POLICIES_BYTES_MAX)?,
            histories: kept_in(&self.directory.join("policy-history"))?,
        })
    }

    /// Changes the files together: what is new is on disk under another name before any of it takes its place, so that a
    /// full disk changes nothing. Everything is on disk when this returns.
    pub fn change_files(&self, changes: &[FileChange]) -> Result<(), StoreError> {
        let mut written: Vec<(PathBuf, PathBuf)> = Vec::new();
        let done = self.write_new_ones(changes, &mut written).and_then(|()| self.take_places(changes, &written));
        if done.is_err() {
            for (beside, _) in &written {
                // What took its place is gone from here; what did not is nobody's.
                let _ = fs::remove_file(beside);
            }
        }
        done
    }

    fn write_new_ones(&self, changes: &[FileChange], written: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), StoreError> {
        for change in changes {
            let FileChange::Put(registration, bytes) = change else { continue };
            let path = self.directory.join(registration.file());
            if let Some(parent) = path.parent() {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
                made.map_err(|error| file_error(parent, "made", error))?;
            }
            let beside = write_beside(&path, bytes, 0o600).map_err(|error| file_error(&path, "written", error))?;
            written.push((beside, path));
        }
        Ok(())
    }

    fn take_places(&self, changes: &[FileChange], written: &[(PathBuf, PathBuf)]) -> Result<(), StoreError> {
        for (beside, path) in written {
            place_beside(beside, path).map_err(|error| file_error(path, "written", error))?;
        }
        for change in changes {
            let (registration, why) = match change {
                FileChange::Put(..) => continue,
                FileChange::Remove(registration) => (registration, None),
                FileChange::SetAside(registration, why) => (registration, Some(*why)),
            };
            let path = self.directory.join(registration.file());
            let done = match why {
                None => fs::remove_file(&path),
                Some(why) => set_aside(&path, why).map(drop),
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error(&path, "removed", error));
                }
                _ => sync_parent(&path).map_err(|error| file_error(&path, "removed", error))?,
            }
        }
        Ok(())
    }
}

/// Keeps `path` under another ending: `.WHY`, or `.WHY-N` where there is one already.
pub fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{why}"));
        if number > 0 {
            name.push(format!("-{number}"));
        }
        PathBuf::from(name)
    };
    let free = (0..ASIDE_MAX).map(named).find(|aside| matches!(aside.try_exists(), Ok(false)));
    let aside = free.ok_or_else(|| io::Error::other("there are too many of its name that were set aside"))?;
    fs::rename(path, &aside)?;
    sync_parent(&aside)?;
    Ok(aside)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.exists() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn kept_in(directory: &Path) -> Result<Vec<Kept>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(directory, "read", error)),
    };
    let mut kept = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| file_error(directory, "read", error))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        if kept.len() >= FILES_MAX {
            tracing::error!(path = %directory.display(), "more than {FILES_MAX} registrations; the rest does not count");
            break;
        }
        match read_bounded(&path, REGISTRATION_BYTES_MAX) {
            Ok(Some(bytes)) => kept.push(Kept { path, bytes }),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a registration cannot be read and does not count");
            }
        }
    }
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(kept)
}
