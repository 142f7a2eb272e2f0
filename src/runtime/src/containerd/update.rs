//! Limits of an instance changed while it runs.

use super::{Container, Containerd, DESIRED, any, to_json};
use crate::{RuntimeError, spec};
use containerd_client::services::v1::{UpdateContainerRequest, UpdateTaskRequest};
use model::Desired;
use std::collections::HashMap;

const LIMITS: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Containerd {
    /// CPU, memory and cores by its cgroup; what a later process of the daemon finds is what runs.
    pub(super) async fn change_limits(&self, desired: &Desired) -> Result<(), RuntimeError> {
        let id = desired.id.to_string();
        let refuse =
            |e: oci_spec::OciSpecError| RuntimeError::Limits { instance: id.clone(), reason: e.to_string() };
        let limits = spec::limits(&desired.spec.resources, &desired.binding).and_then(|l| l.build());
        let resources = to_json(&limits.map_err(refuse)?, desired)?;
        let request = UpdateTaskRequest {
            container_id: id.clone(),
            resources: Some(any(LIMITS, resources)),
            ..UpdateTaskRequest::default()
        };
        let answer = self.calls.tasks().update(self.calls.request(request)).await;
        answer.map_err(RuntimeError::call("change the limits of", &id))?;
        self.record(&super::settled(desired)).await
    }

    /// What a later process of the daemon finds.
    pub(super) async fn record(&self, desired: &Desired) -> Result<(), RuntimeError> {
        let id = desired.id.to_string();
        let container = Container {
            id: id.clone(),
            extensions: HashMap::from([(DESIRED.to_owned(), any(DESIRED, to_json(desired, desired)?))]),
            ..Container::default()
        };
        let mask = prost_types::FieldMask { paths: vec![format!("extensions.{DESIRED}")] };
        let request = UpdateContainerRequest { container: Some(container), update_mask: Some(mask) };
        let answer = self.calls.containers().update(self.calls.request(request)).await;
        answer.map(drop).map_err(RuntimeError::call("record what is wanted of", &id))
    }
}
