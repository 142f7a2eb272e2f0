use crate::{
    RuntimeError,
    routes::block,
    volumes::{abandon, connected, is_mounted},
};
use model::Span;
use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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
///
/// With a storage module the fence also keeps what they have written from arriving later, beside their successors:
///
/// ```text
///  lease over ─► no route to it ─► processes killed ─► unmounted by force ─► its connections have ended ─► route again
///                (nothing leaves)                      (requests given up)
/// ```
#[derive(Debug, Clone)]
pub struct Fence {
    cgroup: PathBuf,
    lease: PathBuf,
    storage: Option<(PathBuf, Ipv4Addr)>,
    /// A thread takes the storage module away: it may have to wait in the kernel.
    leaving: Arc<AtomicBool>,
}

/// Between two tries of taking the storage module away.
const AGAIN: Duration = Duration::from_millis(50);

impl Fence {
    /// `cgroup` is the tree above all instances, `lease` a file on a tmpfs.
    pub fn new(cgroup: &Path, lease: &Path) -> Self {
        let leaving = Arc::default();
        Self { cgroup: cgroup.to_owned(), lease: lease.to_owned(), storage: None, leaving }
    }

    /// The storage module is mounted here, from this address.
    #[must_use]
    pub fn with_storage(mut self, mounted: PathBuf, server: Ipv4Addr) -> Self {
        self.storage = Some((mounted, server));
        self
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
        self.leave_storage();
        let path = self.stop_tree().join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(RuntimeError::io("write", path)),
        }
    }

    fn leave_storage(&self) {
        let Some((mounted, server)) = self.storage.clone().filter(|(at, _)| is_mounted(at)) else { return };
        if self.leaving.swap(true, Ordering::SeqCst) {
            return;
        }
        let fence = self.clone();
        std::thread::spawn(move || {
            fence.route(server, true);
            while fence.has_processes() {
                std::thread::sleep(AGAIN);
            }
            while is_mounted(&mounted) {
                // Whatever it says, it is tried again for as long as it is mounted.
                if let Err(error) = abandon(&mounted) {
                    tracing::debug!(%error, "the storage module is still mounted");
                }
                std::thread::sleep(AGAIN);
            }
            while connected(server) {
                std::thread::sleep(AGAIN);
            }
            fence.route(server, false);
            fence.leaving.store(false, Ordering::SeqCst);
        });
    }

    fn route(&self, server: Ipv4Addr, blocked: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = match runtime {
            Ok(runtime) => runtime.block_on(block(server, blocked)),
            Err(error) => Err(RuntimeError::io("start", "a runtime for netlink")(error)),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, blocked, "cannot change the route to the storage module");
        }
    }

    /// Whether anything is left that must not outlive the lease: a process, or the storage module.
    pub fn populated(&self) -> bool {
        let storage = || self.storage.as_ref().is_some_and(|(at, _)| is_mounted(at));
        self.has_processes() || self.leaving.load(Ordering::SeqCst) || storage()
    }

    fn has_processes(&self) -> bool {
        fs::read_to_string(self.stop_tree().join("cgroup.events"))
            .is_ok_and(|text| text.contains("populated 1"))
    }

    /// Leaves the lease's end, on the boot clock, for the guard and for the next process; and its length for the latter.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, deadline: u64, length: Span) -> Result<(), RuntimeError> {
        // Fixed width and one write over what was there: a reader sees neither half a number nor none.
        let text = format!("{deadline:020} {:020}\n", length.0);
        let file = fs::File::options().write(true).create(true).truncate(false).open(&self.lease);
        let written = file.and_then(|file| file.write_all_at(text.as_bytes(), 0));
        written.map_err(RuntimeError::io("write", &self.lease))
    }

    /// The end and the length that were kept in this boot.
    pub fn kept(&self) -> Option<(u64, Span)> {
        let text = fs::read_to_string(&self.lease).ok()?;
        let mut words = text.split_whitespace().map(str::parse);
        let deadline = words.next()?.ok()?;
        // One that has no length, of an earlier version, is not made longer.
        Some((deadline, Span(words.next().and_then(Result::ok).unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_reads_back_and_nothing_to_kill_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::new(&dir.path().join("tree"), &dir.path().join("lease"));
        assert_eq!(fence.kept(), None);
        fence.keep(42, Span(500)).unwrap();
        assert_eq!(fence.kept(), Some((42, Span(500))));
        fs::write(dir.path().join("lease"), "00043\n").unwrap();
        assert_eq!(fence.kept(), Some((43, Span(0))));
        fence.kill().unwrap();
        assert!(!fence.populated());
        let before = boot_clock();
        assert!(before > 0 && boot_clock() >= before);
    }
}
