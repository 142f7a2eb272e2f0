use crate::{AppSpec, Instance, Module, Name, Plan, ResourceState, Run, Success, Volume};
use serde::{Deserialize, Serialize};

/// An app as the server records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// What its user wants.
    pub spec: AppSpec,
    /// Counts the changes of `spec` that need new instances.
    pub revision: u64,
    /// The incarnation that its next instance gets.
    pub next_incarnation: u64,
    /// Unix milliseconds of its first apply.
    pub created: u64,
    /// Its virtual address, when a port asks for a service.
    pub service_address: String,
    /// The highest revision that it ever had: one that was rolled back is not used again.
    #[serde(default)]
    pub last_revision: u64,
    /// The change under way, as long as not all instances have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Box<Rollout>>,
    /// For people: how the last change went.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A change of an app that is being carried out, and what to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// What ran before.
    pub previous: AppSpec,
    /// Its revision.
    pub previous_revision: u64,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As expected.
    Normal,
    /// Look at it.
    Warning,
}

/// Something that an operator may want to read later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up for ever.
    pub number: u64,
    /// Unix milliseconds.
    pub at: u64,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: `module-3`, `telemetry/1`.
    pub subject: String,
    /// One word for filters: `Lost`, `Moved`.
    pub reason: String,
    /// One line for people.
    pub message: String,
}

/// The kinds of record, each a table of its own in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// [`App`], by name.
    App,
    /// [`Module`], by name.
    Module,
    /// [`Instance`], by id.
    Instance,
    /// [`Event`], by number.
    Event,
    /// [`Plan`], by its task's name.
    Plan,
    /// [`ResourceState`], by module and resource.
    Resource,
    /// [`Run`], by number: the history queue.
    Run,
    /// [`Success`], by task code: the device-level queue.
    Success,
    /// [`Volume`], by name.
    Volume,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::App,
        Self::Module,
        Self::Instance,
        Self::Event,
        Self::Plan,
        Self::Resource,
        Self::Run,
        Self::Success,
        Self::Volume,
    ];

    /// The name of its table.
    pub fn table(self) -> &'static str {
        match self {
            Self::App => "apps",
            Self::Module => "modules",
            Self::Instance => "instances",
            Self::Event => "events",
            Self::Plan => "plans",
            Self::Resource => "resources",
            Self::Run => "history",
            Self::Success => "device_queue",
            Self::Volume => "volumes",
        }
    }
}

/// One record of any kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // records are few and short-lived
pub enum Record {
    /// An app.
    App(App),
    /// A module.
    Module(Module),
    /// An instance.
    Instance(Box<Instance>),
    /// An event.
    Event(Event),
    /// A task's window.
    Plan(Box<Plan>),
    /// A line of the resource-state table.
    Resource(ResourceState),
    /// A line of the history queue.
    Run(Run),
    /// A line of the device-level queue.
    Success(Success),
    /// A volume.
    Volume(Volume),
}

impl Record {
    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::App(_) => RecordKind::App,
            Self::Module(_) => RecordKind::Module,
            Self::Instance(_) => RecordKind::Instance,
            Self::Event(_) => RecordKind::Event,
            Self::Plan(_) => RecordKind::Plan,
            Self::Resource(_) => RecordKind::Resource,
            Self::Run(_) => RecordKind::Run,
            Self::Success(_) => RecordKind::Success,
            Self::Volume(_) => RecordKind::Volume,
        }
    }

    /// Its key in its table.
    pub fn key(&self) -> String {
        match self {
            Self::App(app) => app.spec.name.to_string(),
            Self::Module(module) => module.name.to_string(),
            Self::Instance(instance) => instance.id.to_string(),
            Self::Event(event) => event_key(event.number),
            Self::Plan(plan) => plan.task.to_string(),
            Self::Resource(state) => state.key(),
            Self::Run(run) => Run::key_of(run.number),
            Self::Success(success) => success.code.clone(),
            Self::Volume(volume) => volume.spec.name.to_string(),
        }
    }

    /// As JSON text, readable in the database's shell.
    ///
    /// # Errors
    /// Never in practice: every record is plain data.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::App(app) => serde_json::to_string(app),
            Self::Module(module) => serde_json::to_string(module),
            Self::Instance(instance) => serde_json::to_string(instance),
            Self::Event(event) => serde_json::to_string(event),
            Self::Plan(plan) => serde_json::to_string(plan),
            Self::Resource(state) => serde_json::to_string(state),
            Self::Run(run) => serde_json::to_string(run),
            Self::Success(success) => serde_json::to_string(success),
            Self::Volume(volume) => serde_json::to_string(volume),
        }
    }

    /// Reads what [`Record::to_json`] wrote.
    ///
    /// # Errors
    /// The text is no record of that kind.
    pub fn from_json(kind: RecordKind, text: &str) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            RecordKind::App => Self::App(serde_json::from_str(text)?),
            RecordKind::Module => Self::Module(serde_json::from_str(text)?),
            RecordKind::Instance => Self::Instance(serde_json::from_str(text)?),
            RecordKind::Event => Self::Event(serde_json::from_str(text)?),
            RecordKind::Plan => Self::Plan(serde_json::from_str(text)?),
            RecordKind::Resource => Self::Resource(serde_json::from_str(text)?),
            RecordKind::Run => Self::Run(serde_json::from_str(text)?),
            RecordKind::Success => Self::Success(serde_json::from_str(text)?),
            RecordKind::Volume => Self::Volume(serde_json::from_str(text)?),
        })
    }
}

/// An event's key sorts as its number does.
pub(crate) fn event_key(number: u64) -> String {
    format!("{number:012}")
}

impl Event {
    /// The key of the event with this number.
    pub fn key_of(number: u64) -> String {
        event_key(number)
    }
}

impl App {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.spec.name
    }
}
