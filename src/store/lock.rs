//! One agent a data directory. The kernel releases the lock with the process, however it ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::file::{SMALL_FILE_BYTES_MAX, read_bounded};
use super::{StoreError, file_error};

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `directory`, which is made if it is not there.
    pub(super) fn take(directory: &Path) -> Result<Lock, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| file_error(directory, "made", error))?;
        let path = directory.join("lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| file_error(&path, "opened", error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { directory: directory.to_path_buf(), pid: owner(&path) });
            }
            Err(error) => return Err(file_error(&path, "locked", error.into())),
        }
        write_pid(&mut file).map_err(|error| file_error(&path, "written", error))?;
        Ok(Lock { _file: file })
    }
}

/// For the message of the next one who tries; nothing is decided by it.
fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn owner(path: &Path) -> Option<u32> {
    let bytes = read_bounded(path, SMALL_FILE_BYTES_MAX).ok()??;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}
