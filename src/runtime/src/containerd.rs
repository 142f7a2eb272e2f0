//! Instances as containerd's containers and tasks, in a namespace of our own.

mod exec;
mod live;
mod removal;
mod set_up;
mod update;

use crate::{
    Accelerators, Balance, Found, LiveMoves, Network, Runtime, RuntimeError, Volumes, image::KnownImages,
    logs::Logs,
};
use async_trait::async_trait;
use containerd_client::{
    services::v1::{
        Container, GetRequest, ListContainersRequest, ResumeTaskRequest, WaitRequest,
        containers_client::ContainersClient,
        content_client::ContentClient,
        images_client::ImagesClient,
        snapshots::{UsageRequest, snapshots_client::SnapshotsClient},
        tasks_client::TasksClient,
        transfer_client::TransferClient,
    },
    types::v1::Status as TaskStatus,
};
use futures_util::future::try_join_all;
use model::{Desired, ImageRef, InstanceId, Roaming, ServicePort, ServiceTable};
use removal::Leftovers;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task::AbortHandle;
use tonic::{Code, Request, transport::Channel};

const NAMESPACE: &str = "spacecloud";
pub(crate) const SNAPSHOTTER: &str = "overlayfs";
const SHIM: &str = "io.containerd.runc.v2";
const DESIRED: &str = "spacecloud.desired";
const ADDRESS: &str = "spacecloud.address";
const STARTED: &str = "spacecloud.started";
/// How often logs are looked after.
const TIDY_EVERY: Duration = Duration::from_secs(10);
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// containerd asks the shims, and one that hangs would be waited for without end. A process with much memory takes
/// minutes to come to life again.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a shim that is too busy to say how its process is doing is asked again; containerd gives it two seconds
/// each time.
const ASKED_AGAIN: u32 = 3;

/// One connection to containerd.
#[derive(Clone)]
pub(crate) struct Calls {
    channel: Channel,
    pub(crate) known: KnownImages,
}

impl Calls {
    /// Every request names the namespace.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.patient_request(message);
        request.set_timeout(LIMIT);
        request
    }

    /// One that takes as long as it takes.
    pub(crate) fn patient_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
        request
    }
    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }
    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }
    pub(crate) fn transfers(&self) -> TransferClient<Channel> {
        TransferClient::new(self.channel.clone())
    }
    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }
    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }
}

/// containerd on this module.
pub struct Containerd {
    calls: Calls,
    network: Network,
    logs: Logs,
    tidying: AbortHandle,
    module: String,
    engine: Engine,
    leftovers: Leftovers,
}

/// What the configuration says of images and containers.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The one registry that images may come from, as `HOST:PORT`.
    pub registry: String,
    /// Registries that follow it, as `HOST:PORT`: asked, in order, when it does not answer or lacks an image.
    pub mirrors: Vec<String>,
    /// The program that runs containers: runc or crun.
    pub oci_runtime: String,
    /// The module's slot map.
    pub accelerators: Accelerators,
    /// The module's volumes.
    pub volumes: Volumes,
}

impl Containerd {
    /// Connects. `logs` is a directory of ours.
    ///
    /// # Errors
    /// containerd does not answer, or the log directory cannot be made.
    pub async fn connect(
        socket: &Path,
        network: Network,
        logs: &Path,
        module: &str,
        engine: Engine,
    ) -> Result<Self, RuntimeError> {
        let logs = Logs::open(logs)?;
        let channel = containerd_client::connect(socket)
            .await
            .map_err(|source| RuntimeError::Connect { socket: socket.to_owned(), source })?;
        let calls = Calls { channel, known: KnownImages::default() };
        let tidying = tokio::spawn(tidy(calls.clone(), logs.clone())).abort_handle();
        let (module, leftovers) = (module.to_owned(), Leftovers::default());
        Ok(Self { calls, network, logs, tidying, module, engine, leftovers })
    }

    async fn create(&self, desired: &Desired) -> Result<String, RuntimeError> {
        let (address, mounts) = self.set_up(desired).await?;
        self.launch(desired, mounts, None).await?;
        Ok(address)
    }

    /// An instance's address, as it was made with.
    async fn address(&self, id: &InstanceId) -> Result<String, RuntimeError> {
        let request = ListContainersRequest { filters: vec![format!("id=={id}")] };
        let answer = self.calls.containers().list(self.calls.request(request)).await;
        let containers = answer.map_err(RuntimeError::call("look up", id))?.into_inner().containers;
        Ok(containers.iter().find_map(|c| c.labels.get(ADDRESS).cloned()).unwrap_or_default())
    }

    /// How the process of a container is doing; nothing if it has none.
    async fn status(&self, id: &str) -> Result<Option<i32>, RuntimeError> {
        let mut last = None;
        for _ in 0..ASKED_AGAIN {
            let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
            last = match self.calls.tasks().get(self.calls.request(request)).await {
                Ok(answer) => answer.into_inner().process.map(|p| p.status),
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => return Err(RuntimeError::call("look up", id)(status)),
            };
            if last != Some(TaskStatus::Unknown as i32) {
                break;
            }
        }
        Ok(last)
    }

    async fn known(&self, id: &InstanceId) -> Result<Option<Desired>, RuntimeError> {
        let request = ListContainersRequest { filters: vec![format!("id=={id}")] };
        let answer = self.calls.containers().list(self.calls.request(request)).await;
        let containers = answer.map_err(RuntimeError::call("look up", id))?.into_inner().containers;
        Ok(containers.iter().find_map(read_desired))
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn pull(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        if image.host() != self.engine.registry {
            return Err(RuntimeError::ForeignImage {
                image: image.to_string(),
                registry: self.engine.registry.clone(),
            });
        }
        if self.calls.image(image.as_str()).await.is_ok() {
            return Ok(());
        }
        self.calls.pull(image, &self.engine.mirrors).await
    }

    async fn start(&self, desired: &Desired) -> Result<String, RuntimeError> {
        let started = self.create(desired).await;
        if started.is_err() {
            // The first error is the one that tells; what cannot be removed now is removed before the next start.
            let _ = self.kill(&desired.id, SIGKILL).await;
            let _ = self.remove(&desired.id, Some(desired)).await;
        }
        started
    }

    async fn update(&self, desired: &Desired) -> Result<(), RuntimeError> {
        self.change_limits(desired).await
    }

    async fn wait(&self, id: &InstanceId) -> Result<u32, RuntimeError> {
        let request =
            self.calls.patient_request(WaitRequest { container_id: id.to_string(), exec_id: String::new() });
        let answer = self.calls.tasks().wait(request).await.map_err(RuntimeError::call("wait for", id))?;
        Ok(answer.into_inner().exit_status)
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), RuntimeError> {
        let desired = self.known(id).await?;
        self.kill(id, SIGTERM).await?;
        if tokio::time::timeout(grace, self.wait(id)).await.is_err() {
            self.kill(id, SIGKILL).await?;
            // What is frozen dies when it is let go, before it does anything else.
            let resume = self.calls.request(ResumeTaskRequest { container_id: id.to_string() });
            let _ = self.calls.tasks().resume(resume).await;
            // Only a process stuck in the kernel survives this.
            let _ = tokio::time::timeout(Duration::from_secs(30), self.wait(id)).await;
        }
        self.remove(id, desired.as_ref()).await
    }

    async fn exec(
        &self,
        id: &InstanceId,
        command: &[String],
        limit: Duration,
    ) -> Result<Option<u32>, RuntimeError> {
        self.calls.exec(id, command, limit).await
    }

    async fn route(&self, table: &ServiceTable) -> Result<(), RuntimeError> {
        self.network.services().set(table).await
    }

    async fn balance(&self, table: &ServiceTable, last: &mut Balance) -> Result<(), RuntimeError> {
        self.network.services().balance(table, last).await
    }

    async fn reserve(&self, roaming: &[Roaming]) -> Result<(), RuntimeError> {
        let mut here = BTreeMap::new();
        if self.network.reserves() {
            let request = self.calls.request(ListContainersRequest::default());
            let answer = self.calls.containers().list(request).await;
            let all = answer.map_err(RuntimeError::call("list", "instances"))?.into_inner().containers;
            let address = |c: &Container| c.labels.get(ADDRESS)?.parse().ok();
            here = all.iter().filter_map(|c| Some((address(c)?, c.id.clone()))).collect();
        }
        self.network.reserve(roaming, &here)
    }

    async fn disk(&self, id: &InstanceId) -> Result<u64, RuntimeError> {
        let key = id.to_string();
        let request = self.calls.request(UsageRequest { snapshotter: SNAPSHOTTER.into(), key });
        let usage = self.calls.snapshots().usage(request).await;
        let size = usage.map_err(RuntimeError::call("measure the file system of", id))?.into_inner().size;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    async fn connections(&self, ports: &[ServicePort]) -> Result<BTreeMap<InstanceId, u32>, RuntimeError> {
        self.network.services().connections(ports).await
    }

    async fn strays(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        self.without_container().await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let request = self.calls.request(ListContainersRequest::default());
        let answer =
            self.calls.containers().list(request).await.map_err(RuntimeError::call("list", "instances"))?;
        let mut found = Vec::new();
        let containers = answer.into_inner().containers;
        // At once: one that is slow to answer holds up no other.
        let statuses = try_join_all(containers.iter().map(|container| self.status(&container.id))).await?;
        for (container, status) in containers.into_iter().zip(statuses) {
            let Some(desired) = read_desired(&container) else { continue };
            self.engine.volumes.adopt(&desired);
            let is = |all: &[TaskStatus]| all.iter().any(|wanted| status == Some(*wanted as i32));
            let frozen = is(&[TaskStatus::Paused, TaskStatus::Pausing]);
            let running = frozen || is(&[TaskStatus::Running]);
            let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
            found.push(Found {
                desired,
                running,
                frozen,
                address: label(ADDRESS),
                started: label(STARTED).parse().unwrap_or(0),
            });
        }
        Ok(found)
    }

    fn live(&self) -> Option<&dyn LiveMoves> {
        live::is_possible().then_some(self as &dyn LiveMoves)
    }

    fn log(&self, id: &InstanceId) -> PathBuf {
        self.logs.path(id)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.tidying.abort();
    }
}

/// Looks after the logs now and then, for as long as the connection is used.
async fn tidy(calls: Calls, logs: Logs) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let all = calls.request(ListContainersRequest::default());
        // Without the list nothing may be called past; the next look will have it.
        let Ok(answer) = calls.containers().list(all).await else { continue };
        let alive = answer.into_inner().containers.iter().filter_map(|c| c.id.parse().ok()).collect();
        let logs = logs.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || logs.tidy(&alive)).await {
            tracing::warn!(%error, "cannot look after the instances' logs");
        }
    }
}

/// Without its part in a move, which is over when somebody reads this again.
fn settled(desired: &Desired) -> Desired {
    Desired { live: None, ..desired.clone() }
}

fn read_desired(container: &Container) -> Option<Desired> {
    serde_json::from_slice(&container.extensions.get(DESIRED)?.value).ok()
}

fn to_json<T: serde::Serialize>(value: &T, desired: &Desired) -> Result<Vec<u8>, RuntimeError> {
    serde_json::to_vec(value)
        .map_err(|e| RuntimeError::BadImage { image: desired.spec.image.to_string(), reason: e.to_string() })
}

pub(crate) fn any(type_url: &str, value: Vec<u8>) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value }
}

fn gone_is_fine<T>(answer: Result<T, tonic::Status>) -> Result<(), tonic::Status> {
    match answer {
        Ok(_) => Ok(()),
        Err(status)
            if status.code() == Code::NotFound || status.message().contains("process already finished") =>
        {
            Ok(())
        }
        Err(status) => Err(status),
    }
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

/// containerd wants some time stamp as the label's value.
fn timestamp() -> String {
    millis().to_string()
}
