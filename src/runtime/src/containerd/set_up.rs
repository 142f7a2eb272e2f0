//! How an instance is made: file system, network and container first, then its process.

use super::{
    ADDRESS, Containerd, DESIRED, SHIM, SNAPSHOTTER, STARTED, any, live, millis, timestamp, to_json,
};
use crate::{Runtime, RuntimeError, spec, volumes::VolumeBind};
use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, CreateTaskRequest, StartRequest, container::Runtime as Shim,
        snapshots::PrepareSnapshotRequest,
    },
    types::Mount,
};
use model::{Desired, PlannedMove};
use oci_spec::{image::ImageConfiguration, runtime::Spec};
use prost::Message;
use std::{collections::HashMap, path::Path};

/// What the shim reads of its options: which program runs containers.
#[derive(Clone, PartialEq, Message)]
struct ShimOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    /// For a process that goes on from a checkpoint: where that is, and where criu writes its log.
    #[prost(string, tag = "10")]
    criu_image_path: String,
    #[prost(string, tag = "11")]
    criu_work_path: String,
}

impl Containerd {
    /// Everything of an instance but its process; answers its address and its file system.
    pub(super) async fn set_up(&self, desired: &Desired) -> Result<(String, Vec<Mount>), RuntimeError> {
        let id = desired.id.to_string();
        let image = self.calls.image(desired.spec.image.as_str()).await?;
        let owner = spec::user(desired, &image.config)?;
        let volumes = self.engine.volumes.attach(desired, owner).await?;
        let spec = self.spec(desired, &image.config, &volumes)?;
        let labels = HashMap::from([("containerd.io/gc.root".to_owned(), timestamp())]);
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.clone(),
            parent: image.chain,
            labels,
        };
        // At once, and both to their ends: what is half made could not be taken back.
        let mut snapshots = self.calls.snapshots();
        let prepare = snapshots.prepare(self.calls.request(request));
        let (address, mounts) =
            tokio::join!(self.network.attach(&desired.id, &desired.spec, desired.keeps), prepare);
        let address = address?;
        // One that is to come has its address still elsewhere.
        if let (Some(address), None) = (desired.keeps, &desired.live) {
            self.network.bring(&desired.id, address).await?;
        }
        let mounts =
            mounts.map_err(RuntimeError::call("prepare the file system of", &id))?.into_inner().mounts;
        let labels = HashMap::from([
            (ADDRESS.to_owned(), address.clone()),
            (STARTED.to_owned(), millis().to_string()),
        ]);
        let container = Container {
            id: id.clone(),
            labels,
            image: desired.spec.image.to_string(),
            runtime: Some(Shim { name: SHIM.into(), options: Some(self.shim_options(desired, None)) }),
            spec: Some(any(
                "types.containerd.io/opencontainers/runtime-spec/1/Spec",
                to_json(&spec, desired)?,
            )),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: id.clone(),
            extensions: HashMap::from([(DESIRED.to_owned(), any(DESIRED, to_json(desired, desired)?))]),
            ..Container::default()
        };
        let request = self.calls.request(CreateContainerRequest { container: Some(container) });
        self.calls.containers().create(request).await.map_err(RuntimeError::call("create", &id))?;
        Ok((address, mounts))
    }

    /// Starts the process of an instance that is set up, or lets it go on from the checkpoint in `from`.
    pub(super) async fn launch(
        &self,
        desired: &Desired,
        rootfs: Vec<Mount>,
        from: Option<&Path>,
    ) -> Result<(), RuntimeError> {
        let id = desired.id.to_string();
        let log = format!("file://{}", self.log(&desired.id).display());
        // A restored process whose input is nothing at all could not be checkpointed once more.
        let stdin = match from {
            Some(_) => self.network.pipe(&desired.id)?.display().to_string(),
            None => String::new(),
        };
        let task = CreateTaskRequest {
            container_id: id.clone(),
            rootfs,
            stdin,
            stdout: log.clone(),
            stderr: log,
            options: from.map(|from| self.shim_options(desired, Some(from))),
            ..CreateTaskRequest::default()
        };
        self.calls
            .tasks()
            .create(self.calls.request(task))
            .await
            .map_err(RuntimeError::call("create", &id))?;
        let start = self.calls.request(StartRequest { container_id: id.clone(), exec_id: String::new() });
        self.calls.tasks().start(start).await.map(drop).map_err(RuntimeError::call("start", &id))
    }

    fn spec(
        &self,
        desired: &Desired,
        image: &ImageConfiguration,
        volumes: &[VolumeBind],
    ) -> Result<Spec, RuntimeError> {
        let resolv_conf = Some(self.network.resolv_conf()).filter(|path| path.exists());
        let netns = self.network.namespace(&desired.id);
        let grants = self.engine.accelerators.grants(&desired.binding)?;
        let (module, resolv_conf) = (self.module.as_str(), resolv_conf.as_deref());
        let place = spec::Place { netns: &netns, module, grants: &grants, resolv_conf, volumes };
        let mut spec = spec::build(desired, image, &place)?;
        if desired.spec.migration.planned == PlannedMove::Live {
            let (name, options) = live::criu_options(desired);
            let file = self.network.criu_config(name, options)?.display().to_string();
            spec.set_annotations(Some(HashMap::from([(live::CRIU_CONFIG.to_owned(), file)])));
        }
        Ok(spec)
    }

    fn shim_options(&self, desired: &Desired, from: Option<&Path>) -> prost_types::Any {
        // Checkpoints are runc's.
        let live = desired.spec.migration.planned == PlannedMove::Live;
        let binary_name = if live { "runc".to_owned() } else { self.engine.oci_runtime.clone() };
        let path = from.map(|from| from.display().to_string()).unwrap_or_default();
        let options = ShimOptions { binary_name, criu_image_path: path.clone(), criu_work_path: path };
        any("containerd.runc.v1.Options", options.encode_to_vec())
    }
}
