//! The API's unix socket as a file: made over a dead one but never over a living one, and removed on the way out.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::ApiError;

/// The owner and the group (`weft`) may ask; others may not.
const MODE: u32 = 0o660;

/// A listening socket that takes its file with it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds. A file left by an agent that died is replaced; a socket that answers is somebody's and is left alone.
    pub(super) fn bind(path: &Path) -> Result<Socket, ApiError> {
        let failed = |error, advice| ApiError::Socket { path: path.to_owned(), error, advice };
        let other = "remove it, or set another `[api] socket`";
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            let advice = "make its folder writable for this user, or set another `[api] socket` (\"\" for none)";
            std::fs::create_dir_all(parent).map_err(|error| failed(error, advice))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(failed(io::ErrorKind::AlreadyExists.into(), other));
            }
            Ok(_) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    let advice = "another agent answers on it; stop that one, or set another `[api] socket`";
                    return Err(failed(io::ErrorKind::AddrInUse.into(), advice));
                }
                std::fs::remove_file(path).map_err(|error| failed(error, other))?;
            }
            Err(_) => {}
        }
        let advice = "make its folder writable for this user, or set another `[api] socket` (\"\" for none)";
        let listener = UnixListener::bind(path).map_err(|error| failed(error, advice))?;
        let socket = Socket { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(|error| failed(error, advice))?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_living_one_is_not_and_the_file_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/weft.sock");
        drop(std::fs::create_dir(dir.path().join("run")));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let second = Socket::bind(&path).unwrap_err().to_string();
        assert!(second.contains("another agent answers on it"), "{second}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
