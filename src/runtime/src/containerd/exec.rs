//! One more process in an instance's container, for probes.

use super::{Calls, any, gone_is_fine};
use crate::RuntimeError;
use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, StartRequest, WaitRequest,
};
use model::InstanceId;
use oci_spec::runtime::Spec;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const SIGKILL: u32 = 9;
/// A killed process is gone at once, unless it hangs in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// No two processes of one container have the same name, also across restarts of the daemon.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Calls {
    /// Runs `command` as the instance's own process would run, without output; answers its exit code, or
    /// nothing when it had not ended after `limit`: it is killed then.
    pub(super) async fn exec(
        &self,
        id: &InstanceId,
        command: &[String],
        limit: Duration,
    ) -> Result<Option<u32>, RuntimeError> {
        let container_id = id.to_string();
        let exec_id = format!("probe-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let failed = RuntimeError::call("run a command in", id);
        let spec = self.process(id, command).await?;
        let request = ExecProcessRequest {
            container_id: container_id.clone(),
            exec_id: exec_id.clone(),
            spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Process", spec)),
            ..ExecProcessRequest::default()
        };
        self.tasks().exec(self.request(request)).await.map_err(failed)?;
        let ended = tokio::time::timeout(limit, self.run_exec(id, &exec_id)).await;
        if !matches!(ended, Ok(Ok(_))) {
            let request = KillRequest {
                container_id: container_id.clone(),
                exec_id: exec_id.clone(),
                signal: SIGKILL,
                all: false,
            };
            // What could not be killed cannot be removed either, and that is what is told.
            let _ = self.tasks().kill(self.request(request)).await;
            let wait = WaitRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
            let _ = tokio::time::timeout(KILL_LIMIT, self.tasks().wait(self.request(wait))).await;
        }
        let request = self.request(DeleteProcessRequest { container_id, exec_id });
        let removed = gone_is_fine(self.tasks().delete_process(request).await)
            .map_err(RuntimeError::call("remove a probe's process of", id));
        match ended {
            Ok(outcome) => outcome.map(Some),
            Err(_) => removed.map(|()| None),
        }
    }

    async fn run_exec(&self, id: &InstanceId, exec_id: &str) -> Result<u32, RuntimeError> {
        let (container_id, exec_id) = (id.to_string(), exec_id.to_owned());
        let start = StartRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
        self.tasks().start(self.request(start)).await.map_err(RuntimeError::call("run a command in", id))?;
        let wait = WaitRequest { container_id, exec_id };
        let answer = self.tasks().wait(self.patient_request(wait)).await;
        Ok(answer.map_err(RuntimeError::call("wait for a command in", id))?.into_inner().exit_status)
    }

    /// The container's own process, with other arguments.
    async fn process(&self, id: &InstanceId, command: &[String]) -> Result<Vec<u8>, RuntimeError> {
        let request = self.request(GetContainerRequest { id: id.to_string() });
        let answer = self.containers().get(request).await.map_err(RuntimeError::call("look up", id))?;
        let spec = answer.into_inner().container.and_then(|c| c.spec).map(|any| any.value);
        let unusable = |reason: String| RuntimeError::BadContainer { instance: id.to_string(), reason };
        let spec = spec.ok_or_else(|| unusable("containerd has no specification of it".to_owned()))?;
        let spec: Spec = serde_json::from_slice(&spec).map_err(|e| unusable(e.to_string()))?;
        let process = spec.process().clone();
        let mut process = process.ok_or_else(|| unusable("its specification names no process".to_owned()))?;
        process.set_args(Some(command.to_vec())).set_terminal(Some(false));
        serde_json::to_vec(&process).map_err(|e| unusable(e.to_string()))
    }
}
