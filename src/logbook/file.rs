//! Files of the data directory that are written line by line at the end, so that their owner can read them also where root
//! writes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Gives the file to whom its folder belongs, where root made it in somebody's folder.
pub fn give_away(file: &File, path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = fs::metadata(folder)?;
    let there = file.metadata()?;
    let is_foreign = (there.uid(), there.gid()) != (folder.uid(), folder.gid());
    if is_foreign && rustix::process::geteuid().is_root() {
        fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Opens a file to be appended to; makes it where it is missing. Its mode is `mode`, whatever the umask.
pub fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    let make = || OpenOptions::new().read(true).append(true).create_new(true).mode(mode).open(path);
    match OpenOptions::new().read(true).append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = make()?;
            file.set_permissions(Permissions::from_mode(mode))?;
            give_away(&file, path)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// True if the file of that length does not end with a whole line.
pub(super) fn is_torn(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    Ok(file.read_at(&mut byte, last)? == 1 && byte != [b'\n'])
}

/// A file's content; `None` if there is no such file, an error if it is larger than `bytes_max`.
pub fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}
