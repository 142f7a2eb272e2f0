//! What containerd leaves of an instance whose making was cut short.
//!
//! When its client dies in the middle of a create, containerd tidies up, but grants itself only some seconds for it. On
//! a slow module that may not do, and then the folder of the process stays, which containerd itself forgets: every
//! later create of that name is refused, and a shim or a process that never began may stay as well. So what is still
//! there after that time is removed here.

use super::Containerd;
use crate::RuntimeError;
use model::InstanceId;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{process::Command, time::Instant};

/// Where containerd keeps a folder for every process of ours.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/spacecloud";
/// Where its shim keeps the state of what runs containers.
pub(super) const STATES: &str = "/run/containerd/runc/spacecloud";
const SHIM_PROGRAM: &str = "containerd-shim-runc-v2";
/// Longer than containerd tries: five seconds each for the process, its shim, and what is left then.
const TIDYING: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);
/// A program that removes one container; one that hangs is not waited for longer.
const LIMIT: Duration = Duration::from_secs(60);

impl Containerd {
    /// Removes what is left of an instance that containerd has no process of. Nearly always there is nothing.
    pub(super) async fn clear_leftover(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let bundle = Path::new(BUNDLES).join(id.to_string());
        let until = Instant::now() + TIDYING;
        while bundle.exists() {
            if Instant::now() >= until {
                tracing::warn!(instance = %id, "containerd has left a start that was cut short; removing it");
                return self.remove_leftover(id, &bundle).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    async fn remove_leftover(&self, id: &InstanceId, bundle: &Path) -> Result<(), RuntimeError> {
        // Its shim first, or it would go on with what it was at; what it has started ends with it.
        for shim in shims(id).map_err(RuntimeError::io("look for a shim in", "/proc"))? {
            // One that has ended by now is what was wanted.
            let _ = kill(shim, Signal::SIGKILL);
        }
        let state = Path::new(STATES).join(id.to_string());
        if state.exists() {
            // The shim has written down what it has run.
            let program = fs::read_to_string(bundle.join("runtime")).unwrap_or_default();
            let program = if program.is_empty() { &self.engine.oci_runtime } else { &program };
            delete_container(program, id).await?;
            // One that was not yet a container is none to be deleted, and would be in the way.
            absent_is_fine(fs::remove_dir_all(&state)).map_err(RuntimeError::io("remove", &state))?;
        }
        // Never through a mount: behind it are the instance's files.
        let rootfs = bundle.join("rootfs");
        unmount(&rootfs).map_err(RuntimeError::io("unmount", &rootfs))?;
        absent_is_fine(fs::remove_dir(&rootfs)).map_err(RuntimeError::io("remove", &rootfs))?;
        if let Ok(work) = fs::read_link(bundle.join("work")) {
            absent_is_fine(fs::remove_dir_all(&work)).map_err(RuntimeError::io("remove", &work))?;
        }
        absent_is_fine(fs::remove_dir_all(bundle)).map_err(RuntimeError::io("remove", bundle))
    }
}

async fn delete_container(program: &str, id: &InstanceId) -> Result<(), RuntimeError> {
    let mut command = Command::new(program);
    command.args(["--root", STATES, "delete", "--force", &id.to_string()]).kill_on_drop(true);
    let failed = |reason: String| RuntimeError::Leftover { instance: id.to_string(), reason };
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(output) => output.map_err(RuntimeError::io("run", program))?,
        Err(_) => return Err(failed(format!("{program} was not done after {} s", LIMIT.as_secs()))),
    };
    let said = || String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    if output.status.success() { Ok(()) } else { Err(failed(said())) }
}

/// The shims of an instance: one at most.
fn shims(id: &InstanceId) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let Ok(number) = process.file_name().to_string_lossy().parse() else { continue };
        // One that has ended since has no command line.
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if is_shim_of(&line, &id.to_string()) {
            found.push(Pid::from_raw(number));
        }
    }
    Ok(found)
}

/// By the arguments that containerd starts it with.
fn is_shim_of(command_line: &[u8], id: &str) -> bool {
    let line = String::from_utf8_lossy(command_line);
    let mut arguments = line.split('\0');
    let program = arguments.next().map(PathBuf::from).unwrap_or_default();
    let arguments: Vec<&str> = arguments.collect();
    let says = |name: &str, value: &str| arguments.windows(2).any(|pair| pair == [name, value]);
    program.file_name().is_some_and(|name| name == SHIM_PROGRAM)
        && says("-namespace", super::NAMESPACE)
        && says("-id", id)
}

/// Everything that is mounted there, one over the other.
fn unmount(place: &Path) -> io::Result<()> {
    loop {
        match umount2(place, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_whole_name() {
        let line = |id: &str| {
            format!("/usr/bin/{SHIM_PROGRAM}\0-namespace\0spacecloud\0-id\0{id}\0-address\0/run/c.sock\0")
        };
        assert!(is_shim_of(line("web-1-1").as_bytes(), "web-1-1"));
        for other in ["web-1-12", "my-web-1-1", ""] {
            assert!(!is_shim_of(line(other).as_bytes(), "web-1-1"), "{other}");
        }
        let elsewhere = line("web-1-1").replace("spacecloud", "moby");
        assert!(!is_shim_of(elsewhere.as_bytes(), "web-1-1"));
        assert!(!is_shim_of(b"/bin/sh\0-namespace\0spacecloud\0-id\0web-1-1\0", "web-1-1"));
        assert!(!is_shim_of(b"", "web-1-1"));
    }
}
