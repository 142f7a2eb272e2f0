use crate::RuntimeError;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Milliseconds since boot, suspended time included: the same for every process of this boot.
pub fn boot_clock() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    let (seconds, nanos) =
        (u64::try_from(now.tv_sec()).unwrap_or(0), u64::try_from(now.tv_nsec()).unwrap_or(0));
    seconds * 1000 + nanos / 1_000_000
}

/// The two cgroups that instances live under, and the lease that is kept for whoever must kill one of them.
///
/// `stop` holds the instances that end with the lease, `keep` the others. Killing a cgroup is one write and
/// needs neither containerd nor the agent: the guard does it when the agent is dead.
#[derive(Debug, Clone)]
pub struct Fence {
    cgroup: PathBuf,
    lease: PathBuf,
}

impl Fence {
    /// `cgroup` is the tree above all instances, `lease` a file on a tmpfs.
    pub fn new(cgroup: &Path, lease: &Path) -> Self {
        Self { cgroup: cgroup.to_owned(), lease: lease.to_owned() }
    }

    /// Where an instance's cgroup goes, as a path under the cgroup root.
    pub fn branch(keep: bool) -> &'static str {
        if keep { "/spacecloud/keep" } else { "/spacecloud/stop" }
    }

    fn stop_tree(&self) -> PathBuf {
        self.cgroup.join("stop")
    }

    /// Kills every process that ends with the lease. No instance yet is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        let path = self.stop_tree().join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(RuntimeError::io("write", path)),
        }
    }

    /// Whether any process that ends with the lease is left.
    pub fn populated(&self) -> bool {
        fs::read_to_string(self.stop_tree().join("cgroup.events"))
            .is_ok_and(|text| text.contains("populated 1"))
    }

    /// Leaves the lease's end, on the boot clock, for the guard and for the next process.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_deadline(&self, deadline: u64) -> Result<(), RuntimeError> {
        // Fixed width and one write: a reader never sees half a number.
        fs::write(&self.lease, format!("{deadline:020}\n")).map_err(RuntimeError::io("write", &self.lease))
    }

    /// The deadline that was kept in this boot.
    pub fn kept_deadline(&self) -> Option<u64> {
        fs::read_to_string(&self.lease).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_reads_back_and_nothing_to_kill_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::new(&dir.path().join("tree"), &dir.path().join("lease"));
        assert_eq!(fence.kept_deadline(), None);
        fence.keep_deadline(42).unwrap();
        assert_eq!(fence.kept_deadline(), Some(42));
        fence.kill().unwrap();
        assert!(!fence.populated());
        let before = boot_clock();
        assert!(before > 0 && boot_clock() >= before);
    }
}
