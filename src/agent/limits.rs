//! What the system allows this process: as many file descriptors as there may be, since every connection is one; and no image
//! of its memory, which holds keys.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Connections that have proven nothing can hold some 8,000 when all ports are flooded at once; calls need theirs beside
/// them. systemd/weft.service allows 524,288.
const ENOUGH_FILES: u64 = 18_000;

/// Sets both.
pub(super) fn set() {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, nothing) {
        warn!(%error, "core dumps cannot be turned off: one would hold this host's keys");
    }
    // Many systems start programs with a soft limit of 1,024, for the sake of those that use select(2).
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(%error, "the limit of open files cannot be raised to what is allowed");
    }
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < ENOUGH_FILES => {
            warn!(files, enough = ENOUGH_FILES, "few open files are allowed; raise LimitNOFILE (`ulimit -Hn`)");
        }
        files => info!(files, "open files allowed"),
    }
}
