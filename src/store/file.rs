//! Small files, whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) use crate::logbook::read_bounded;

/// Counters and marks: one number and a newline, with room for an editor's additions.
pub(super) const SMALL_FILE_BYTES_MAX: u64 = 4096;

/// Replaces `path` by `bytes`: after a crash at any point it holds the old content or the new, and once this returns the
/// new is on disk. `mode` is the file's, whatever the umask.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = write_beside(path, bytes, mode)?;
    place_beside(&beside, path)
}

/// The first half of [`write_atomically`]: the new content is on disk beside `path`, which is as it was.
pub(super) fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let beside = temporary_beside(path)?;
    match write_new(&beside, bytes, mode) {
        Ok(()) => Ok(beside),
        Err(error) => {
            // What is left is a temporary file nobody reads; the first error is the one that tells.
            let _ = fs::remove_file(&beside);
            Err(error)
        }
    }
}

/// The second half.
pub(super) fn place_beside(beside: &Path, path: &Path) -> io::Result<()> {
    if let Err(error) = fs::rename(beside, path) {
        let _ = fs::remove_file(beside);
        return Err(error);
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("epoch");
        write_atomically(&path, b"a longer first", 0o644).unwrap();
        write_atomically(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomically(&path, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_its_limit_is_an_error_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert_eq!(read_bounded(&path, 4).unwrap(), None);
        fs::write(&path, "12345").unwrap();
        assert!(read_bounded(&path, 4).is_err());
        assert_eq!(read_bounded(&path, 5).unwrap().unwrap(), b"12345");
    }
}
