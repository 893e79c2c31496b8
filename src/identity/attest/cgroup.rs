//! Control groups by their ids. The kernel names a socket's group by its id, which is the inode number of the group's
//! directory and is never given twice; what it is called is found by walking the tree once and remembered.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

/// A busy host has some hundred groups, one of Kubernetes some thousand.
const GROUPS_MAX: usize = 32_768;
/// systemd nests about eight.
const DEPTH_MAX: usize = 32;
/// A group that is not known is looked for at once, but the tree is walked no more often than this.
const WALK_INTERVAL: Duration = Duration::from_millis(100);
/// No question waits longer; it is not answered then.
const WAIT_MAX: Duration = Duration::from_secs(1);
const MOUNTINFO: &str = "/proc/self/mountinfo";

type Tree = HashMap<u64, Arc<str>>;

/// The tree as it was last walked. Shared by all threads; none waits but for a group that is new.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: Option<PathBuf>,
    known: ArcSwap<Tree>,
    walks: Mutex<Walks>,
}

#[derive(Debug, Default)]
struct Walks {
    /// When the last one began.
    begun: Option<Instant>,
}

impl Cgroups {
    /// Finds where cgroup2 is mounted.
    pub(super) fn find() -> Cgroups {
        let root = fs::read_to_string(MOUNTINFO).ok().and_then(|text| mount_point(&text));
        if root.is_none() {
            warn!("no cgroup2 is mounted here: programs are told apart by their users alone, not by their units");
        }
        Cgroups::at(root)
    }

    fn at(root: Option<PathBuf>) -> Cgroups {
        Cgroups { root, known: ArcSwap::default(), walks: Mutex::default() }
    }

    /// The group's path from the root of the tree; `None` if it is not there any more.
    pub(super) async fn path(&self, id: u64) -> Option<Arc<str>> {
        if let Some(path) = self.known.load().get(&id) {
            return Some(path.clone());
        }
        let root = self.root.clone()?;
        tokio::time::timeout(WAIT_MAX, self.look_for(id, root)).await.ok().flatten()
    }

    async fn look_for(&self, id: u64, root: PathBuf) -> Option<Arc<str>> {
        let asked = Instant::now();
        let mut walks = self.walks.lock().await;
        if let Some(path) = self.known.load().get(&id) {
            return Some(path.clone());
        }
        match walks.begun {
            // The socket was there before that walk, and its group was not: it is gone.
            Some(begun) if begun > asked => return None,
            Some(begun) => sleep_until(begun + WALK_INTERVAL).await,
            None => {}
        }
        walks.begun = Some(Instant::now());
        let tree = tokio::task::spawn_blocking(move || walk(&root)).await.ok()?;
        debug!(groups = tree.len(), "control groups read");
        let path = tree.get(&id).cloned();
        self.known.store(Arc::new(tree));
        path
    }
}

/// Where cgroup2 is mounted (proc(5): the file system's type is the first word after ` - `).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (rest.split(' ').next() == Some("cgroup2")).then(|| unescape(point).into())
    })
}

/// proc(5): space, tab, newline and backslash stand there in octal.
fn unescape(text: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

/// Every group below `root`, as far as the limits go; those nearer to the root first.
fn walk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    if let Ok(metadata) = fs::metadata(root) {
        tree.insert(metadata.ino(), "/".into());
    }
    let mut level = vec![String::new()];
    for _ in 0..DEPTH_MAX {
        let mut below = Vec::new();
        for parent in &level {
            // A group may go while it is read.
            let read = children(root, parent, &mut tree, &mut below);
            if let Err(error) = read {
                debug!(%error, parent, "a control group could not be read");
            }
        }
        if below.is_empty() || tree.len() >= GROUPS_MAX {
            break;
        }
        level = below;
    }
    tree
}

fn children(root: &Path, parent: &str, tree: &mut Tree, below: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(parent.trim_start_matches('/')))? {
        let entry = entry?;
        if tree.len() >= GROUPS_MAX {
            break;
        }
        if entry.file_type()?.is_dir()
            && let Some(name) = entry.file_name().to_str()
        {
            let path = format!("{parent}/{name}");
            tree.insert(entry.ino(), path.as_str().into());
            below.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_among_the_mounts_of_old_and_new_hosts() {
        let hybrid = "25 24 0:22 / /sys/fs/cgroup rw shared:7 - tmpfs tmpfs rw\n\
                      26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:8 - cgroup2 cgroup2 rw\n\
                      27 25 0:24 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,name=systemd\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("30 1 0:26 / /a\\040b rw - cgroup2 none rw"), Some("/a b".into()));
        for none in ["", "x", "1 2 3:4 / /x rw - cgroup cgroup rw", " - cgroup2", "a - cgroup2 x"] {
            assert_eq!(mount_point(none), None, "{none:?}");
        }
    }

    #[tokio::test]
    async fn a_group_is_found_by_its_id_also_when_it_is_made_later_and_not_when_it_is_gone() {
        // Any tree of directories will do: ids are inode numbers.
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            fs::create_dir_all(folder.path().join(path)).unwrap();
            fs::metadata(folder.path().join(path)).unwrap().ino()
        };
        let billing = make("system.slice/billing.service");
        let groups = Cgroups::at(Some(folder.path().to_owned()));
        assert_eq!(groups.path(billing).await.as_deref(), Some("/system.slice/billing.service"));
        let later = make("system.slice/later.service");
        let (one, other) = tokio::join!(groups.path(later), groups.path(later));
        assert_eq!((one.as_deref(), other.as_deref()), (Some("/system.slice/later.service"), one.as_deref()));
        assert_eq!(groups.path(u64::MAX).await, None);
        assert_eq!(Cgroups::at(None).path(billing).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_tree_is_not_walked_for_every_group_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Cgroups::at(Some(folder.path().to_owned()));
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(groups.path(u64::MAX).await, None);
        }
        assert!(begun.elapsed() >= 4 * WALK_INTERVAL);
    }
}
