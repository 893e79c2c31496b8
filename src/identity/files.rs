//! The files that keys, certificates and ledgers live in: written whole or not at all, readable by their owner only.
//!
//! `DATA_DIR/identity` is a link to the directory of the identity in force. A new identity is written beside it and the
//! link is switched last, so that a host always has all files of one identity and never files of two. Everything here
//! belongs to the owner of the data directory, also when root writes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::IdentityError;

/// Every file here; a chain of certificates takes about 3 KiB, a ledger of 1,000 tokens about 400 KiB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Locks are held for one file write. A holder that takes longer hangs on its disk, and waiting longer helps nobody.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);
const PRIVATE_FILE_MODE: u32 = 0o600;
const PRIVATE_DIR_MODE: u32 = 0o700;
const DATA_DIR_MODE: u32 = 0o750;

/// The link to the identity in force.
const IDENTITY: &str = "identity";

/// A data directory and the user who owns what is in it.
#[derive(Debug, Clone)]
pub(super) struct Home {
    data_dir: PathBuf,
    /// Set where files must be given away: root works in somebody's directory.
    owner: Option<(u32, u32)>,
}

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Home {
    /// Opens a data directory; makes it where it is missing.
    pub(super) fn open(data_dir: &Path) -> Result<Home, IdentityError> {
        let make = DirBuilder::new().recursive(true).mode(DATA_DIR_MODE).create(data_dir);
        make.map_err(IdentityError::io("create", data_dir))?;
        let there = fs::metadata(data_dir).map_err(IdentityError::io("read", data_dir))?;
        let give_away = rustix::process::geteuid().is_root() && there.uid() != 0;
        Ok(Home { data_dir: data_dir.to_owned(), owner: give_away.then(|| (there.uid(), there.gid())) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.data_dir
    }

    /// True once this host has an identity.
    pub(super) fn has_identity(&self) -> bool {
        fs::symlink_metadata(self.data_dir.join(IDENTITY)).is_ok()
    }

    /// Writes a file whole or not at all.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
        let temporary = beside(path)?;
        let written = self.write_new(&temporary, bytes).and_then(|()| {
            fs::rename(&temporary, path).map_err(IdentityError::io("replace", path))?;
            sync_directory_of(path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
        let open = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(path);
        let mut file = open.map_err(IdentityError::io("create", path))?;
        self.give_away(path)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(IdentityError::io("write", path))
    }

    /// Adds to a file, or makes it. In one write, so that lines of several processes do not mix.
    pub(super) fn append(&self, path: &Path, line: &[u8]) -> Result<(), IdentityError> {
        let is_new = fs::symlink_metadata(path).is_err();
        let open = OpenOptions::new().append(true).create(true).mode(PRIVATE_FILE_MODE).open(path);
        let mut file = open.map_err(IdentityError::io("open", path))?;
        if is_new {
            self.give_away(path)?;
        }
        file.write_all(line).map_err(IdentityError::io("write", path))
    }

    fn give_away(&self, path: &Path) -> Result<(), IdentityError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(IdentityError::io("change the owner of", path))
    }

    /// Makes a new directory of files beside `name`, synced, not yet in force. Returns its path.
    pub(super) fn stage(&self, name: &str, files: &[(&str, Vec<u8>)]) -> Result<PathBuf, IdentityError> {
        let staged = self.data_dir.join(format!("{name}.{}", random_hex()?));
        let fill = || {
            let make = DirBuilder::new().mode(PRIVATE_DIR_MODE).create(&staged);
            make.map_err(IdentityError::io("create", &staged))?;
            self.give_away(&staged)?;
            files.iter().try_for_each(|(file, bytes)| self.write_new(&staged.join(file), bytes))?;
            sync(&staged)
        };
        let filled = fill();
        if filled.is_err() {
            let _ = fs::remove_dir_all(&staged);
        }
        filled.map(|()| staged)
    }

    /// Puts an identity in force and removes the one before it.
    pub(super) fn install_identity(&self, files: &[(&str, Vec<u8>)]) -> Result<(), IdentityError> {
        let _lock = self.lock(&self.data_dir.join("identity.lock"))?;
        let staged = self.stage(IDENTITY, files)?;
        let switched = self.switch_identity(&staged);
        if switched.is_err() {
            let _ = fs::remove_dir_all(&staged);
        } else {
            self.remove_former_identities(&staged);
        }
        switched
    }

    fn switch_identity(&self, staged: &Path) -> Result<(), IdentityError> {
        let link = self.data_dir.join(IDENTITY);
        // A data directory that was restored by a copy that follows links holds a plain directory.
        if fs::symlink_metadata(&link).is_ok_and(|there| there.is_dir()) {
            let aside = beside(&link)?;
            fs::rename(&link, &aside).map_err(IdentityError::io("move aside", &link))?;
        }
        let new_link = beside(&link)?;
        let target = staged.file_name().unwrap_or_default();
        symlink(target, &new_link).map_err(IdentityError::io("create", &new_link))?;
        if let Some((uid, gid)) = self.owner {
            lchown(&new_link, Some(uid), Some(gid)).map_err(IdentityError::io("change the owner of", &new_link))?;
        }
        fs::rename(&new_link, &link).map_err(IdentityError::io("replace", &link))?;
        sync_directory_of(&link)
    }

    /// Also clears what a crash left half-made. Failure leaves rubbish, nothing worse.
    fn remove_former_identities(&self, current: &Path) {
        let Ok(entries) = fs::read_dir(&self.data_dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let random = name.strip_prefix("identity.").or_else(|| name.strip_prefix(".identity."));
            let ours = random.is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
            if ours && path != current {
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
    }

    /// Waits for a lock, but not for ever.
    pub(super) fn lock(&self, path: &Path) -> Result<Lock, IdentityError> {
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE_FILE_MODE).open(path);
        let file = open.map_err(IdentityError::io("open", path))?;
        self.give_away(path)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL_INTERVAL);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(IdentityError::Locked { path: path.to_owned() }),
                Err(error) => return Err(IdentityError::io("lock", path)(error.into())),
            }
        }
    }
}

/// The directory of the identity in force, links resolved, so that one reader sees the files of one identity.
pub(super) fn identity_directory(data_dir: &Path) -> Result<PathBuf, IdentityError> {
    let link = data_dir.join(IDENTITY);
    link.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => IdentityError::NotEnrolled { data_dir: data_dir.to_owned() },
        _ => IdentityError::io("read", &link)(error),
    })
}

/// Reads a file of bounded size. Most hold a key: the bytes are wiped when they are dropped.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    // Whole from the start: a buffer that grows leaves copies behind.
    let size = fs::metadata(path).map_err(IdentityError::io("read", path))?.len();
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size.min(FILE_BYTES_MAX)).unwrap_or(0) + 32));
    let file = File::open(path).map_err(IdentityError::io("read", path))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(IdentityError::io("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(IdentityError::damaged(path, &"it is larger than anything that is kept here"));
    }
    Ok(bytes)
}

/// Reads a file of bounded size as text, without the line end.
pub(super) fn read_text(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| IdentityError::damaged(path, &"it is not text"))?;
    Ok(Zeroizing::new(text.trim_end().to_owned()))
}

/// The same of a file that may be missing.
pub(super) fn text_if_there(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    match read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(IdentityError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renames a staged directory into place. Fails where something is in place already.
pub(super) fn put_in_place(staged: &Path, place: &Path) -> Result<(), IdentityError> {
    let renamed = fs::rename(staged, place).map_err(|error| match error.kind() {
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            IdentityError::AlreadyThere { path: place.to_owned() }
        }
        _ => IdentityError::io("create", place)(error),
    });
    if renamed.is_err() {
        let _ = fs::remove_dir_all(staged);
    }
    renamed.and_then(|()| sync_directory_of(place))
}

fn sync(path: &Path) -> Result<(), IdentityError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(IdentityError::io("sync", path))
}

fn sync_directory_of(path: &Path) -> Result<(), IdentityError> {
    path.parent().map_or(Ok(()), sync)
}

/// A name beside `path` that nothing has.
fn beside(path: &Path) -> Result<PathBuf, IdentityError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}", random_hex()?)))
}

fn random_hex() -> Result<String, IdentityError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::Crypto("give random bytes"))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// One PEM block (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    // 48 bytes make a line of 64 characters.
    let lines: String = der.chunks(48).map(|line| data_encoding::BASE64.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn entries(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_identity_is_switched_whole_and_the_former_one_and_a_crashs_leftovers_vanish() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        home.install_identity(&[("a", b"1".to_vec())]).unwrap();
        home.stage(IDENTITY, &[("a", b"half".to_vec())]).unwrap();
        assert_eq!(
            *read_text(&identity_directory(dir.path()).unwrap().join("a")).unwrap(),
            "1",
            "staged is not in force"
        );
        home.install_identity(&[("a", b"2\n".to_vec())]).unwrap();
        assert_eq!(*read_text(&dir.path().join("identity/a")).unwrap(), "2");
        let left = entries(dir.path());
        assert_eq!(left.len(), 3, "link, one directory, lock: {left:?}");
    }

    #[test]
    fn a_plain_identity_directory_is_replaced_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(IDENTITY)).unwrap();
        Home::open(dir.path()).unwrap().install_identity(&[("a", b"2".to_vec())]).unwrap();
        assert_eq!(*read_text(&dir.path().join("identity/a")).unwrap(), "2");
    }

    #[test]
    fn files_are_private_and_a_failed_write_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let path = dir.path().join("file");
        home.write(&path, b"old").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE_FILE_MODE);
        assert!(home.write(&dir.path().join("no/such/file"), b"new").is_err());
        assert_eq!(entries(dir.path()), ["file"]);
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let path = dir.path().join("lock");
        let lock = home.lock(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(lock);
        home.lock(&path).unwrap();
    }
}
