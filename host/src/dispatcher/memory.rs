//! One bound on the memory of all attempts that run together. Pure, but for [`of_machine`].
//!
//! - An attempt takes what it may need at most, before it begins: its limits, and the event where it is a large one. It gives
//!   that back at its end, but for what has yet to be stored. It never waits for more while it runs, so no two can wait for
//!   each other.
//! - **Large ones** need more than a plugin has by default. Together they take at most three quarters, so that the others
//!   always go on; and for the first of them that waits its part is left free as it becomes free, so that many small ones
//!   can't keep it out.

use std::path::Path;

use crate::plugin::{KINDS, Limits, LimitsPatch};

/// The memory of all attempts.
#[derive(Debug)]
pub(super) struct Memory {
    all: u64,
    /// What large ones take at most.
    most_large: u64,
    used: u64,
    used_large: u64,
}

/// What an attempt with the default limits holds at most.
fn small() -> u64 {
    Limits::default().held()
}

fn is_large(bytes: u64) -> bool {
    bytes > small()
}

impl Memory {
    /// So much for all; at least what the largest plugin and one with the default limits hold.
    pub(super) fn new(all: u64) -> Self {
        let largest = Limits::default().with(&LimitsPatch::of(KINDS.map(|kind| Some(kind.most)))).held();
        let all = all.max(largest + small());
        Self { all, most_large: (all - all / 4).max(largest), used: 0, used_large: 0 }
    }

    /// What an attempt is counted with that needs so much: one that needs more than large ones may have waits until it has all
    /// of that, and not for ever.
    pub(super) fn at_most(&self, bytes: u64) -> u64 {
        bytes.min(self.most_large)
    }

    /// Whether it is no large one.
    pub(super) fn is_common(&self, bytes: u64) -> bool {
        !is_large(bytes)
    }

    /// What is left free for a large one that waits, if it is its turn among the large ones.
    pub(super) fn kept_for(&self, bytes: u64) -> Option<u64> {
        let may = is_large(bytes) && self.used_large.saturating_add(bytes) <= self.most_large;
        may.then_some(bytes)
    }

    /// Whether an attempt can begin; `kept` is left free beside it, for the large one whose turn it is.
    pub(super) fn fits(&self, bytes: u64, kept: u64) -> bool {
        if is_large(bytes) {
            // It is the one that is waited for, or none is.
            return self.kept_for(bytes).is_some() && self.used.saturating_add(bytes) <= self.all;
        }
        let used_small = self.used - self.used_large;
        let left = self.all.saturating_sub(self.used_large).saturating_sub(kept);
        self.used.saturating_add(bytes) <= self.all && used_small.saturating_add(bytes) <= left
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        if is_large(bytes) {
            self.used_large = self.used_large.saturating_add(bytes);
        }
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        if is_large(bytes) {
            self.used_large = self.used_large.saturating_sub(bytes);
        }
    }

    /// Bytes for all, and bytes that are taken.
    pub(super) fn standing(&self) -> (u64, u64) {
        (self.all, self.used)
    }
}

/// What plugins may hold together at most where the configuration says nothing.
const MOST_BY_DEFAULT: u64 = 2_560 << 20;

/// What plugins may hold together where the configuration says nothing: a quarter of what the machine, or the group of
/// processes that the host runs in, has; at most 2.5 GiB, which are all places with the default limits.
pub fn of_machine() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let all = line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) << 10;
    let group =
        group_bound(Path::new("/sys/fs/cgroup"), &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    (group.map_or(all, |bound| bound.min(all)) / 4).min(MOST_BY_DEFAULT)
}

/// The smallest bound on memory of a group and those around it; of both versions of the system's groups.
fn group_bound(root: &Path, groups: &str) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut folder = Some(Path::new(path));
        while let Some(group) = folder {
            let file = root.join(group.strip_prefix("/").unwrap_or(group)).join(file);
            let bound = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
            least = [least, bound].into_iter().flatten().min();
            folder = group.parent();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_bound_of_the_groups_counts() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path().join("a/b");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("memory.max"), "max\n").unwrap();
        std::fs::write(folder.path().join("a/memory.max"), "2147483648\n").unwrap();
        assert_eq!(group_bound(folder.path(), "0::/a/b\n"), Some(2 << 30));
        assert_eq!(group_bound(folder.path(), "0::/\n"), None);
        let old = folder.path().join("memory/c");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("memory.limit_in_bytes"), "1073741824\n").unwrap();
        assert_eq!(group_bound(folder.path(), "9:cpu:/c\n7:memory:/c\n0::/a\n"), Some(1 << 30));
    }
}
