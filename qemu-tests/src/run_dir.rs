//! The run directory: sockets, disks, consoles and the log of one chassis. One process at a time has it.

use crate::backplane::PortPaths;
use crate::{SimError, Times, wait_for, within};
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// `sun_path` has 108 bytes, the last of them a NUL.
const SOCKET_PATH_LIMIT: usize = 107;

/// Where a module's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModulePaths {
    pub(crate) qmp: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) backplane: PortPaths,
    pub(crate) console: PathBuf,
    pub(crate) said: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) identity: PathBuf,
    /// The folder of a module that is a namespace: mount points, and the data disk's content.
    pub(crate) place: PathBuf,
}

impl ModulePaths {
    pub(crate) fn new(dir: &Path, slot: u16) -> Self {
        let file = |suffix: &str| dir.join(format!("{slot}.{suffix}"));
        Self {
            qmp: file("qmp"),
            control: file("ctl"),
            backplane: PortPaths { switch: file("sw"), module: file("bp") },
            console: console(dir, slot),
            said: dir.join(format!("console/module-{slot}.qemu.log")),
            data: file("data"),
            identity: file("identity"),
            place: file("module"),
        }
    }

    /// What is of no use once the chassis is down. Console and QEMU's own words stay.
    pub(crate) fn remove_transient(&self) {
        let sockets = [&self.qmp, &self.control, &self.backplane.switch, &self.backplane.module];
        for path in sockets.into_iter().chain([&self.data, &self.identity]) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// The console's file of the module in a slot.
pub fn console(dir: &Path, slot: u16) -> PathBuf {
    dir.join(format!("console/module-{slot}.log"))
}

/// The socket that a supervisor listens on.
pub fn supervisor_socket(dir: &Path) -> PathBuf {
    dir.join("spacesim.sock")
}

/// The supervisor's log.
pub fn supervisor_log(dir: &Path) -> PathBuf {
    dir.join("spacesim.log")
}

/// Where the chassis of that name runs unless told otherwise: `$SPACECLOUD_RUN`, else a folder of the
/// user's in `$XDG_RUNTIME_DIR` or `/tmp`.
pub fn default_dir(chassis: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SPACECLOUD_RUN").unwrap_or_else(|| {
        let base = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| PathBuf::from("/tmp"));
        base.join(format!("spacesim-{}", nix::unistd::getuid())).join(chassis)
    })
}

/// The sockets in a run directory of that path have room for their names.
pub(crate) fn check_length(dir: &Path) -> Result<(), SimError> {
    let longest = supervisor_socket(dir);
    let length = longest.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_LIMIT { Err(SimError::LongPath { path: longest, length }) } else { Ok(()) }
}

/// Whether a process has that run directory.
pub fn is_taken(dir: &Path) -> bool {
    // Looking takes the lock for a moment, for which `RunDir::take` waits.
    File::open(dir.join("lock"))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The run directories in `folder` that are taken.
pub(crate) fn taken_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|dir| is_taken(dir)).collect()
}

/// A run directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory, private to its owner, and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self, SimError> {
        check_length(path)?;
        let consoles = path.join("console");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&consoles)
            .map_err(SimError::io("create", &consoles))?;
        let lock = path.join("lock");
        let file = File::create(&lock).map_err(SimError::io("create", &lock))?;
        // Somebody may be looking, see `is_taken`.
        let settled = || match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            outcome => Some(outcome),
        };
        match wait_for("the run directory is free", within(100.ms()), settled) {
            Ok((Ok(()), _)) => Ok(Self { path: path.to_owned(), _lock: file }),
            Ok((Err(error), _)) => Err(SimError::io("lock", &lock)(error.into())),
            Err(_) => Err(SimError::AlreadyUp { dir: path.to_owned() }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_by_one_and_free_again_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("three");
        let ours = RunDir::take(&path).unwrap();
        assert!(is_taken(&path));
        assert_eq!(taken_below(dir.path()), std::slice::from_ref(&path));
        let error = RunDir::take(&path).unwrap_err();
        assert!(matches!(error, SimError::AlreadyUp { .. }), "{error}");
        drop(ours);
        assert!(!is_taken(&path) && taken_below(dir.path()).is_empty());
        RunDir::take(&path).unwrap();
    }

    #[test]
    fn a_path_that_no_socket_fits_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120));
        assert!(matches!(RunDir::take(&path), Err(SimError::LongPath { .. })));
        assert!(!path.exists());
    }
}
