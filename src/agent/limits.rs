//! What the system allows this process: as many file descriptors as there may be, since every connection is one; and no image
//! of its memory, which holds keys.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tracing::{info, warn};

/// Connections that have proven nothing can hold some 8,000 when all ports are flooded at once; calls need theirs beside
/// them. systemd/weft.service allows 524,288.
const ENOUGH_FILES: u64 = 18_000;

/// No core dump of this process is written, wherever core_pattern(5) sends it: a limit of 0 does not hold for a pattern that is a
/// pipe. Nor may other programs of its user look into its memory (ptrace(2)). What it starts is as any program. It can read its own files below
/// /proc all the same, though they are root's now.
pub fn hide_memory() {
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = hidden.and_then(|()| setrlimit(Resource::Core, nothing)) {
        warn!(%error, "core dumps cannot be turned off: one would hold this host's keys");
    }
}

/// Raises the limit of files.
pub(super) fn set() {
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

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn memory_is_hidden_wherever_dumps_are_sent_and_what_the_agent_asks_of_itself_is_still_told() {
        hide_memory();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        for path in ["/proc/self/mountinfo", "/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            assert!(std::fs::read_to_string(path).is_ok(), "{path}");
        }
    }
}
