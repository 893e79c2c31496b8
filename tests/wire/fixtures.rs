//! The files of one version: one message each, as it stands on the wire.

use std::path::PathBuf;

/// The bytes of the fixture `version/name`. `write` makes them, if the file is missing and fixtures are to be written.
pub(crate) fn fixture(version: &str, name: &str, write: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/wire/{version}/{name}.bin"));
    if !path.exists() && std::env::var("WEFT_FIXTURES").is_ok_and(|asked| asked == "write") {
        std::fs::write(&path, write()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
