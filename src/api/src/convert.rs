use crate::tables::view_decision;
use crate::v1;
use crate::volumes::{from_json, to_json};
use model::{
    App, Desired, Event, Instance, Liveness, Module, Observed, Phase, RootSlot, ServiceTable, SpecError,
};
use thiserror::Error;

/// A message of the other side makes no sense.
#[derive(Debug, Error)]
pub enum BadMessage {
    /// A name or an id.
    #[error("bad value in a message")]
    Value(#[from] SpecError),
    /// JSON inside a message.
    #[error("bad JSON in field {field}")]
    Json {
        /// Which.
        field: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A phase that this version does not know.
    #[error("unknown phase {0:?}")]
    Phase(String),
}

/// For an order.
///
/// # Errors
/// Never in practice.
pub fn to_desired(desired: &Desired) -> Result<v1::Desired, BadMessage> {
    let spec_json = serde_json::to_string(&desired.spec)
        .map_err(|source| BadMessage::Json { field: "spec_json", source })?;
    let binding_json = serde_json::to_string(&desired.binding)
        .map_err(|source| BadMessage::Json { field: "binding_json", source })?;
    let volumes_json = match desired.volumes.as_slice() {
        [] => String::new(),
        volumes => to_json("volumes_json", &volumes)?,
    };
    let live_json = match &desired.live {
        None => String::new(),
        Some(live) => to_json("live_json", live)?,
    };
    let keeps = desired.keeps.map(|address| address.to_string()).unwrap_or_default();
    Ok(v1::Desired { id: desired.id.to_string(), spec_json, binding_json, volumes_json, live_json, keeps })
}

/// From an order.
///
/// # Errors
/// A bad id or spec.
pub fn from_desired(desired: &v1::Desired) -> Result<Desired, BadMessage> {
    let spec = serde_json::from_str(&desired.spec_json)
        .map_err(|source| BadMessage::Json { field: "spec_json", source })?;
    let binding = match desired.binding_json.as_str() {
        "" => model::Binding::default(),
        text => {
            serde_json::from_str(text).map_err(|source| BadMessage::Json { field: "binding_json", source })?
        }
    };
    let volumes = from_json("volumes_json", &desired.volumes_json)?;
    let live = from_json("live_json", &desired.live_json)?;
    let keeps = desired.keeps.parse().ok();
    Ok(Desired { id: desired.id.parse()?, spec, binding, volumes, live, keeps })
}

/// For an order.
///
/// # Errors
/// Never in practice.
pub fn to_services(table: &ServiceTable) -> Result<String, BadMessage> {
    serde_json::to_string(table).map_err(|source| BadMessage::Json { field: "services_json", source })
}

/// From an order. A server that knows no services says nothing of them.
///
/// # Errors
/// A bad table.
pub fn from_services(text: &str) -> Result<ServiceTable, BadMessage> {
    if text.is_empty() {
        return Ok(ServiceTable::default());
    }
    serde_json::from_str(text).map_err(|source| BadMessage::Json { field: "services_json", source })
}

/// For a heartbeat.
pub fn to_observed(seen: &Observed) -> v1::Observed {
    v1::Observed {
        id: seen.id.to_string(),
        phase: seen.phase.as_str().to_owned(),
        restarts: seen.restarts,
        address: seen.address.clone(),
        message: seen.message.clone(),
        started: seen.started,
        connections: seen.connections,
        refused: seen.refused.clone(),
    }
}

/// From a heartbeat.
///
/// # Errors
/// A bad id or phase.
pub fn from_observed(seen: v1::Observed) -> Result<Observed, BadMessage> {
    let phases =
        [Phase::Starting, Phase::Running, Phase::Ready, Phase::BackOff, Phase::Succeeded, Phase::Stopping];
    let phase = phases
        .into_iter()
        .find(|p| p.as_str() == seen.phase)
        .ok_or_else(|| BadMessage::Phase(seen.phase.clone()))?;
    let id = seen.id.parse()?;
    Ok(Observed {
        id,
        phase,
        restarts: seen.restarts,
        address: seen.address,
        message: seen.message,
        started: seen.started,
        connections: seen.connections,
        refused: seen.refused,
    })
}

/// For people: a module.
pub fn view_module(module: &Module, liveness: Liveness, cpu: u64, memory: u64, instances: u64) -> v1::Module {
    let state = match liveness {
        Liveness::Ready => "ready",
        Liveness::Returning => "returning",
        Liveness::Suspect => "suspect",
        Liveness::Lost => "lost",
    };
    v1::Module {
        name: module.name.to_string(),
        slot: module.slot.into(),
        state: state.to_owned(),
        cordoned: module.cordoned,
        draining: module.draining,
        address: module.address.clone(),
        pods: module.pods.clone(),
        kernel: module.kernel.clone(),
        cpu_milli: module.capacity.cpu.0,
        memory: module.capacity.memory.0,
        disk: module.capacity.disk.0,
        accelerators: u32::try_from(module.capacity.accelerators.len()).unwrap_or(u32::MAX),
        cpu_milli_asked: cpu,
        memory_asked: memory,
        instances: u32::try_from(instances).unwrap_or(u32::MAX),
        labels: module.labels.clone().into_iter().collect(),
        server: module.server,
        root: module.root.as_ref().map(view_root),
        before_update: module
            .before_update
            .map(|c| v1::Cordon { cordoned: c.cordoned, draining: c.draining }),
        storage: module.storage.clone(),
    }
}

/// For people: a root slot and the update that is under way. How far its phase is only the shell knows.
fn view_root(root: &RootSlot) -> v1::RootSlot {
    let update = root.update.as_ref().map(|update| v1::SlotUpdate {
        attempt: update.attempt.clone(),
        bundle: update.bundle.clone(),
        version: update.version.clone(),
        phase: update.phase.to_string(),
        message: update.message.clone(),
        done: 0,
        total: 0,
    });
    v1::RootSlot {
        slot: root.slot.clone(),
        version: root.version.clone(),
        proven: root.proven,
        compatible: root.compatible.clone(),
        update,
    }
}

/// For the server, after each change of it.
///
/// # Errors
/// Never in practice.
pub fn to_root(root: &RootSlot, (done, total): (u64, u64)) -> Result<v1::RootState, BadMessage> {
    let root_json =
        serde_json::to_string(root).map_err(|source| BadMessage::Json { field: "root_json", source })?;
    Ok(v1::RootState { root_json, done, total })
}

/// From an agent.
///
/// # Errors
/// Bad JSON.
pub fn from_root(state: &v1::RootState) -> Result<RootSlot, BadMessage> {
    serde_json::from_str(&state.root_json).map_err(|source| BadMessage::Json { field: "root_json", source })
}

/// For people: an app, with how many of its instances are ready.
pub fn view_app(app: &App, ready: usize) -> v1::App {
    v1::App {
        name: app.spec.name.to_string(),
        image: app.spec.image.to_string(),
        replicas: app.spec.replicas,
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        revision: app.revision,
        created: app.created,
        strategy: format!("{:?}", app.spec.strategy).to_lowercase(),
        service: app
            .spec
            .ports
            .iter()
            .filter_map(|p| Some(format!("{}:{}", app.service_address, p.service_id()?)))
            .collect::<Vec<_>>()
            .join(","),
        note: app.note.clone(),
    }
}

/// For people: an instance.
pub fn view_instance(instance: &Instance) -> v1::Instance {
    v1::Instance {
        id: instance.id.to_string(),
        replica: instance.id.replica().to_string(),
        app: instance.spec.name.to_string(),
        module: instance.module.as_ref().map(ToString::to_string).unwrap_or_default(),
        phase: if instance.draining && instance.is_ready() { "draining" } else { instance.phase.as_str() }
            .to_owned(),
        address: instance.address.clone(),
        restarts: instance.restarts,
        message: instance.message.clone(),
        started: instance.started,
        image: instance.spec.image.to_string(),
        replaces: instance.replaces.as_ref().map(ToString::to_string).unwrap_or_default(),
        decision: Some(view_decision(&instance.decision)),
        binding: instance.binding.words(),
    }
}

/// For people: an event.
pub fn view_event(event: &Event) -> v1::Event {
    v1::Event {
        number: event.number,
        at: event.at,
        severity: format!("{:?}", event.severity).to_lowercase(),
        subject: event.subject.clone(),
        reason: event.reason.clone(),
        message: event.message.clone(),
    }
}
