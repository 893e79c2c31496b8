//! Files of the data directory, written so that its owner can read them also where root writes: whole or not at all, or line
//! by line at the end.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Gives the file to whom its folder belongs, where root made it in somebody's folder.
fn give_away(file: &File, path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = fs::metadata(folder)?;
    let there = file.metadata()?;
    let is_foreign = (there.uid(), there.gid()) != (folder.uid(), folder.gid());
    if is_foreign && rustix::process::geteuid().is_root() {
        fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Replaces `path` by `bytes`; after a crash at any point it holds the old content or the new.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        give_away(&file, path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Opens a file to be appended to; makes it where it is missing. Its mode is `mode`, whatever the umask.
pub(super) fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    let make = || OpenOptions::new().append(true).create_new(true).mode(mode).open(path);
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = make()?;
            file.set_permissions(Permissions::from_mode(mode))?;
            give_away(&file, path)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// A file's content; `None` if there is no such file, an error if it is larger than `bytes_max`.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
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
