//! Live moves by CRIU. Checkpoints are runc's own, since containerd asks it for no rounds and keeps no frozen process;
//! a restored one is containerd's from its start, as every other.
//!
//! containerd's pause freezes the cgroup, and CRIU leaves it frozen when it is done. So between the checkpoint and the
//! word of the server the process is there, whole, and does nothing.

use super::{Calls, Containerd, SIGKILL, removal::STATES};
use crate::{LiveMoves, RuntimeError, live::cause};
use async_trait::async_trait;
use containerd_client::services::v1::{PauseTaskRequest, ResumeTaskRequest, snapshots::MountsRequest};
use model::{Desired, InstanceId, Live, OnDisconnect};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::process::Command;

/// A process with much memory on a slow disk; one that hangs is not waited for longer.
const LIMIT: Duration = Duration::from_secs(300);
/// What containerd says of a process that does not wait to be let go on.
const NOT_FROZEN: [&str; 3] = ["not paused", "a running process", "a stopped process"];
/// Established connections go along with the address, and are held by our own rules meanwhile. Those in a listening
/// socket's queue that nobody has accepted in time are their clients' to open again. A restored process stays in the
/// cgroup that runc has made for it: left to itself CRIU would make the one anew that it had, where neither its limits
/// nor a freeze would reach it.
const KEEPS: (&str, &str) = ("criu.conf", "skip-in-flight\ntcp-established\nmanage-cgroups=ignore\n");
/// Without the address no connection can go on: they are closed.
const CLOSES: (&str, &str) = ("criu-close.conf", "skip-in-flight\ntcp-close\nmanage-cgroups=ignore\n");

/// Name and text of the file that tells criu how to move an instance.
pub(super) fn criu_options(desired: &Desired) -> (&'static str, &'static str) {
    let comes_without = matches!(desired.live, Some(Live::Takes { .. })) && desired.keeps.is_none();
    let keeps = desired.spec.migration.on_disconnect != OnDisconnect::Keep && !comes_without;
    if keeps { KEEPS } else { CLOSES }
}
/// What runc reads the name of that file from.
pub(super) const CRIU_CONFIG: &str = "org.criu.config";

/// Whether this module has what is needed.
pub(super) fn is_possible() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).collect();
    ["criu", "runc", "tar", "nft"].iter().all(|name| folders.iter().any(|folder| folder.join(name).is_file()))
}

impl Containerd {
    async fn dump(
        &self,
        id: &InstanceId,
        to: &Path,
        since: Option<&str>,
        round: bool,
    ) -> Result<(), RuntimeError> {
        fs::create_dir_all(to).map_err(RuntimeError::io("create", to))?;
        let mut runc = Command::new("runc");
        runc.args(["--root", STATES, "checkpoint", "--leave-running"]);
        if round {
            runc.arg("--pre-dump");
        }
        runc.arg("--image-path").arg(to).arg("--work-path").arg(to);
        if let Some(since) = since {
            runc.arg("--parent-path").arg(Path::new("..").join(since));
        }
        runc.arg(id.to_string()).kill_on_drop(true);
        let unmovable = |reason: String| RuntimeError::Checkpoint { instance: id.to_string(), reason };
        let output = match tokio::time::timeout(LIMIT, runc.output()).await {
            Ok(output) => output.map_err(RuntimeError::io("run", "runc"))?,
            Err(_) => return Err(unmovable(format!("criu was not done after {} s", LIMIT.as_secs()))),
        };
        if output.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(to.join("dump.log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        Err(unmovable(cause(&log).unwrap_or(said)))
    }
}

impl Calls {
    /// The writable folder of an instance's file system.
    async fn upper(&self, id: &InstanceId) -> Result<PathBuf, RuntimeError> {
        let request =
            self.request(MountsRequest { snapshotter: super::SNAPSHOTTER.into(), key: id.to_string() });
        let answer = self.snapshots().mounts(request).await;
        let mounts =
            answer.map_err(RuntimeError::call("look up the file system of", id))?.into_inner().mounts;
        let options = mounts.iter().flat_map(|mount| &mount.options);
        let mut upper = options.filter_map(|option| option.strip_prefix("upperdir="));
        upper.next().map(PathBuf::from).ok_or_else(|| RuntimeError::BadContainer {
            instance: id.to_string(),
            reason: "its file system has no writable folder".to_owned(),
        })
    }
}

#[async_trait]
impl LiveMoves for Containerd {
    async fn copy(&self, id: &InstanceId, to: &Path, since: Option<&str>) -> Result<(), RuntimeError> {
        self.dump(id, to, since, true).await
    }

    async fn freeze(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        // First the network: what reaches a frozen process would be answered by its kernel and then be lost.
        self.network.hold(id, &self.address(id).await?).await?;
        let request = self.calls.request(PauseTaskRequest { container_id: id.to_string() });
        self.calls.tasks().pause(request).await.map(drop).map_err(RuntimeError::call("freeze", id))
    }

    async fn checkpoint(&self, id: &InstanceId, to: &Path, since: Option<&str>) -> Result<(), RuntimeError> {
        self.dump(id, to, since, false).await
    }

    async fn thaw(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let request = self.calls.request(ResumeTaskRequest { container_id: id.to_string() });
        // One that was never frozen has only its network to get back.
        if let Err(status) = self.calls.tasks().resume(request).await
            && !NOT_FROZEN.iter().any(|words| status.message().contains(words))
        {
            return Err(RuntimeError::call("thaw", id)(status));
        }
        self.network.release(id, &self.address(id).await?).await
    }

    async fn files(&self, id: &InstanceId) -> Result<PathBuf, RuntimeError> {
        self.calls.upper(id).await
    }

    async fn prepare(&self, desired: &Desired) -> Result<String, RuntimeError> {
        // Its first look at a kernel takes criu longer than all the rest; what it finds it keeps for later.
        let checked = Command::new("criu").arg("check").kill_on_drop(true).output();
        let set_up = async {
            let prepared = self.set_up(desired).await?;
            // Who speaks with the process must not be answered by a kernel that does not have it yet.
            self.network.expect(&desired.id).await?;
            Ok(prepared)
        };
        let (prepared, _) = tokio::join!(set_up, tokio::time::timeout(LIMIT, checked));
        if prepared.is_err() {
            let _ = self.remove(&desired.id, Some(desired)).await;
        }
        prepared.map(|(address, _)| address)
    }

    async fn restore(&self, desired: &Desired, from: &Path) -> Result<(), RuntimeError> {
        let id = &desired.id;
        let request = MountsRequest { snapshotter: super::SNAPSHOTTER.into(), key: id.to_string() };
        let mounts = self.calls.snapshots().mounts(self.calls.request(request)).await;
        let mounts =
            mounts.map_err(RuntimeError::call("look up the file system of", id))?.into_inner().mounts;
        let restored = async {
            if let Some(address) = desired.keeps {
                self.network.bring(id, address).await?;
            }
            self.launch(desired, mounts, Some(from)).await?;
            // Until now it was one that is to come: whoever finds it so knows that it has not come.
            self.record(&super::settled(desired)).await?;
            if let Some(address) = desired.keeps {
                self.network.welcome(id, address).await?;
            }
            // No address: what is kept for the old instance is handed over when the server says that it is here.
            self.network.release(id, "").await
        };
        let Err(error) = restored.await else { return Ok(()) };
        let _ = self.kill(id, SIGKILL).await;
        let log = fs::read_to_string(from.join("restore.log")).unwrap_or_default();
        Err(match cause(&log) {
            Some(reason) => RuntimeError::Restore { instance: id.to_string(), reason },
            None => error,
        })
    }
}
