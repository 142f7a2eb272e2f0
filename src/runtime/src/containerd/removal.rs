//! How an instance is removed, in whatever state it is; and what containerd leaves of one whose making was cut short.
//!
//! When its client dies in the middle of a create, containerd tidies up, but grants itself only some seconds for it. On
//! a slow module that may not do, and then the folder of the process stays, which containerd itself forgets: every
//! later create of that name is refused, and a shim or a process that never began may stay as well. So what is still
//! there after that time is removed here.

use super::{Containerd, SIGKILL, SNAPSHOTTER, gone_is_fine};
use crate::RuntimeError;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteTaskRequest, KillRequest, ListContainersRequest,
    snapshots::{Kind, ListSnapshotsRequest, RemoveSnapshotRequest},
};
use model::{Desired, InstanceId};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{process::Command, time::Instant};
use tonic::Code;

/// Where containerd keeps a folder for every process of ours.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/spacecloud";
/// Where its shim keeps the state of what runs containers.
pub(super) const STATES: &str = "/run/containerd/runc/spacecloud";
const SHIM_PROGRAM: &str = "containerd-shim-runc-v2";
/// A signal is sent in no time.
const KILL_LIMIT: Duration = Duration::from_secs(60);
/// Longer than containerd tries: five seconds each for the process, its shim, and what is left then.
const TIDYING: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);
/// A program that removes one container; one that hangs is not waited for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Since when containerd may be at it.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<HashMap<InstanceId, Instant>>);

impl Leftovers {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether containerd has had its time.
    fn is_abandoned(&self, id: &InstanceId) -> bool {
        self.lock().entry(id.clone()).or_insert_with(Instant::now).elapsed() >= TIDYING
    }
}

impl Containerd {
    pub(super) async fn kill(&self, id: &InstanceId, signal: u32) -> Result<(), RuntimeError> {
        let container_id = id.to_string();
        let request = KillRequest { container_id, signal, all: signal == SIGKILL, ..KillRequest::default() };
        let mut request = self.calls.request(request);
        request.set_timeout(KILL_LIMIT);
        match gone_is_fine(self.calls.tasks().kill(request).await) {
            // Without its shim containerd ends the process itself.
            Err(status) if signal == SIGKILL && is_late(&status) => kill_shims(id).await,
            // SIGKILL comes next.
            Err(status) if is_late(&status) => Ok(()),
            answer => answer.map_err(RuntimeError::call("signal", id)),
        }
    }

    /// Removes what there is of an instance, whatever state it is in. Each piece may be missing.
    pub(super) async fn remove(
        &self,
        id: &InstanceId,
        desired: Option<&Desired>,
    ) -> Result<(), RuntimeError> {
        let name = id.to_string();
        let request = self.calls.request(DeleteTaskRequest { container_id: name.clone() });
        let deleted = self.calls.tasks().delete(request).await;
        let had_task = deleted.is_ok();
        gone_is_fine(deleted).map_err(RuntimeError::call("remove the task of", id))?;
        self.clear_leftover(id, had_task).await?;
        let detached = self.network.detach(id, desired.map(|d| &d.spec)).await;
        let (snapshotter, key) = (SNAPSHOTTER.into(), name.clone());
        let request = self.calls.request(RemoveSnapshotRequest { snapshotter, key });
        gone_is_fine(self.calls.snapshots().remove(request).await)
            .map_err(RuntimeError::call("remove the file system of", id))?;
        self.engine.volumes.detach(id).await;
        detached?;
        // At the end: by its name all of it is found again if the daemon dies meanwhile.
        let request = self.calls.request(DeleteContainerRequest { id: name });
        gone_is_fine(self.calls.containers().delete(request).await).map_err(RuntimeError::call("remove", id))
    }

    /// Removes what is left of an instance that containerd has no process of any longer: nearly always nothing.
    async fn clear_leftover(&self, id: &InstanceId, had_task: bool) -> Result<(), RuntimeError> {
        let bundle = Path::new(BUNDLES).join(id.to_string());
        let is_there = bundle.exists();
        if is_there && !self.leftovers.is_abandoned(id) {
            return Err(RuntimeError::Tidying { instance: id.to_string() });
        }
        if is_there {
            tracing::warn!(instance = %id, "containerd has left a start that was cut short; removing it");
        }
        if is_there || !had_task {
            self.remove_leftover(id, &bundle).await?;
        }
        self.leftovers.lock().remove(id);
        Ok(())
    }

    async fn remove_leftover(&self, id: &InstanceId, bundle: &Path) -> Result<(), RuntimeError> {
        // Its shim first, or it would go on with what it was at.
        kill_shims(id).await?;
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

    /// What is there without a container, which is made last and removed last.
    pub(super) async fn without_container(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        let list = self.calls.request(ListContainersRequest::default());
        let all = self.calls.containers().list(list).await;
        let all = all.map_err(RuntimeError::call("list", "instances"))?.into_inner().containers;
        let known: BTreeSet<String> = all.into_iter().map(|container| container.id).collect();
        let mut there = self.network.namespaces();
        let list = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: vec![] };
        let failed = |status| RuntimeError::call("list", "file systems")(status);
        let pages = self.calls.snapshots().list(self.calls.request(list)).await;
        let mut pages = pages.map_err(failed)?.into_inner();
        while let Some(page) = pages.message().await.map_err(failed)? {
            let writable = page.info.into_iter().filter(|info| info.kind == Kind::Active as i32);
            there.extend(writable.filter_map(|info| info.name.parse::<InstanceId>().ok()));
        }
        Ok(there.into_iter().filter(|id| !known.contains(&id.to_string())).collect())
    }
}

/// Ends the shims of an instance: one at most.
async fn kill_shims(id: &InstanceId) -> Result<(), RuntimeError> {
    let until = Instant::now() + LIMIT;
    loop {
        let shims = shims(id).map_err(RuntimeError::io("look for a shim in", "/proc"))?;
        if shims.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let (instance, reason) = (id.to_string(), "its shim does not end".to_owned());
            return Err(RuntimeError::Leftover { instance, reason });
        }
        for shim in shims {
            // One that has ended by now is what was wanted.
            let _ = kill(shim, Signal::SIGKILL);
        }
        tokio::time::sleep(AGAIN).await;
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

/// By the arguments that containerd starts it with. The same program is what containerd clears away after a shim with.
fn is_shim_of(command_line: &[u8], id: &str) -> bool {
    let line = String::from_utf8_lossy(command_line);
    let mut arguments = line.split('\0');
    let program = arguments.next().map(PathBuf::from).unwrap_or_default();
    let arguments: Vec<&str> = arguments.collect();
    let says = |name: &str, value: &str| arguments.windows(2).any(|pair| pair == [name, value]);
    program.file_name().is_some_and(|name| name == SHIM_PROGRAM)
        && says("-namespace", super::NAMESPACE)
        && says("-id", id)
        && !arguments.contains(&"delete")
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

/// Whether the limit of a request ended it.
fn is_late(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
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
        assert!(!is_shim_of((line("web-1-1") + "delete\0").as_bytes(), "web-1-1"), "containerd's broom");
        assert!(!is_shim_of(b"/bin/sh\0-namespace\0spacecloud\0-id\0web-1-1\0", "web-1-1"));
        assert!(!is_shim_of(b"", "web-1-1"));
    }
}
