//! File descriptors: every connection is one, so the agent takes as many as it may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Connections that have proven nothing can hold some 11,000 when all ports are flooded at once; calls need theirs beside
/// them. systemd/weft.service allows 524,288.
const ENOUGH: u64 = 16_384;

/// Raises the soft limit to the hard one; many systems start programs with a soft limit of 1,024, for the sake of those that
/// use select(2).
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(%error, "the limit of open files cannot be raised to what is allowed");
    }
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < ENOUGH => {
            warn!(files, enough = ENOUGH, "few open files are allowed; raise LimitNOFILE (`ulimit -Hn`)");
        }
        files => info!(files, "open files allowed"),
    }
}
