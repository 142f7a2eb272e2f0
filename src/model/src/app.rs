use crate::{
    ByResource, ByScore, Bytes, Cpu, Decimal, Health, ImageRef, Milli, Moment, Mount, Name, Port,
    ServiceSpec, Span, SpecError, Update, VolumeSpec,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Whether it runs for good or in a planned window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A long-running service with replicas.
    #[default]
    App,
    /// A job in a planned window.
    Task,
}

impl Kind {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Task => "task",
        }
    }
}

/// How a module is chosen among those that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// `multilevel` for what has weights or constraints of its own, else `spacecloud` for what asks for accelerators,
    /// and `spread` for the rest.
    #[default]
    Auto,
    /// The least allocated module, replicas of one app apart (Kubernetes' LeastAllocated).
    Spread,
    /// The most allocated module that still fits.
    Binpack,
    /// The pool paper's traditional strategy.
    Tiling,
    /// The pool paper's multi-level queue.
    Multilevel,
    /// Fragmentation gradient descent (Weng et al., 2023).
    Fgd,
    /// Ours: what keeps free accelerators worth the most.
    Spacecloud,
}

/// What one instance asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Cores.
    pub cpu: Cpu,
    /// Memory, a hard limit when not zero.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Accelerators.
    pub gpu: Milli,
}

/// Where it may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Only these modules, if any is named.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub modules: BTreeSet<Name>,
    /// Labels that the module must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Apps that must be on the same module.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub near: BTreeSet<Name>,
    /// Apps that must not be on the same module; its own name keeps its replicas apart.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub apart: BTreeSet<Name>,
    /// Weights of the unit level's balance, where they are not the cluster's.
    #[serde(skip_serializing_if = "is_default")]
    pub balance: ByResource,
    /// Loads that its placement must not push a module above, where they are not the cluster's.
    #[serde(skip_serializing_if = "is_default")]
    pub threshold: ByResource,
    /// The share of the modules, best balance first, that goes on to scoring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Decimal>,
    /// The least balance with which a module takes part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_balance: Option<Decimal>,
    /// So many free accelerators are to be kept on one module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gpu: Option<u16>,
    /// A module that would keep some but fewer free accelerators takes no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gpu: Option<u16>,
    /// Weights of the unit level's scores, where they are not the cluster's.
    #[serde(skip_serializing_if = "is_default")]
    pub score: ByScore,
}

/// How a planned move is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedMove {
    /// The new instance is ready before the old one stops.
    #[default]
    MakeBeforeBreak,
    /// The old instance is gone before the new one starts.
    StopFirst,
    /// The process itself moves, with its memory; make before break where that cannot be done.
    Live,
}

/// What the agent does with the instance when its lease runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It is stopped before a replacement can start: it never runs twice.
    #[default]
    Stop,
    /// It goes on serving its module; a replacement may run beside it until the module returns.
    Keep,
}

/// How it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Migration {
    /// Drain, rebalance, update.
    pub planned: PlannedMove,
    /// Cut off from the server.
    pub on_disconnect: OnDisconnect,
    /// How long connections of an instance that leaves its service may go on before it is told to end.
    pub drain: Span,
}

impl Default for Migration {
    fn default() -> Self {
        Self { planned: PlannedMove::default(), on_disconnect: OnDisconnect::default(), drain: Span(10_000) }
    }
}

/// What a user wants to run: the contents of an app file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// App or task.
    #[serde(default)]
    pub kind: Kind,
    /// Unique in the cluster.
    pub name: Name,
    /// What to run.
    pub image: ImageRef,
    /// How many instances.
    #[serde(default = "one")]
    pub replicas: u32,
    /// A task's start, at its earliest; without it, when it is taken, or when those that it comes after have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Moment>,
    /// A task's end: it is stopped then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Moment>,
    /// Instead of `end`: how long the task's window is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// Tasks that are over before this one starts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<Name>,
    /// What the device-level queue knows a task by, when several share their history; its name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Name>,
    /// How modules are chosen.
    #[serde(default)]
    pub strategy: Strategy,
    /// Higher goes first when room is short.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Instead of the image's entry point and command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Added to the image's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Between SIGTERM and SIGKILL.
    #[serde(default = "grace_default")]
    pub grace: Span,
    /// What each instance asks for.
    #[serde(default)]
    pub resources: Resources,
    /// Where it may run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What it keeps its data in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Mount>,
    /// When it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How it moves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub migration: Migration,
    /// How its service spreads connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: ServiceSpec,
    /// How its instances are replaced when it is changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: Update,
}

fn one() -> u32 {
    1
}

fn grace_default() -> Span {
    Span(5_000)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One app file: one app, task or volume at its top level, or several as `[[app]]`, `[[task]]` and `[[volume]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppFile {
    /// The apps in the order of the file.
    pub apps: Vec<AppSpec>,
    /// The volumes.
    pub volumes: Vec<VolumeSpec>,
}

impl AppFile {
    /// Parses and validates; `file` is named in errors.
    ///
    /// # Errors
    /// One line: file, place, key and what would be right.
    pub fn parse(file: &str, text: &str) -> Result<Self, SpecError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Several {
            #[serde(default)]
            app: Vec<AppSpec>,
            #[serde(default)]
            task: Vec<AppSpec>,
            #[serde(default)]
            volume: Vec<VolumeSpec>,
        }
        let syntax = |error: toml::de::Error| SpecError::Syntax {
            file: file.to_owned(),
            reason: one_line(text, &error),
        };
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        let several = ["app", "task", "volume"].iter().any(|kind| table.contains_key(*kind));
        let read = if several {
            let Several { mut app, task, volume } = toml::from_str::<Several>(text).map_err(syntax)?;
            app.extend(task.into_iter().map(|task| AppSpec { kind: Kind::Task, ..task }));
            Self { apps: app, volumes: volume }
        } else if table.get("kind").and_then(toml::Value::as_str) == Some("volume") {
            let volume = crate::volume::parse_one(text).map_err(syntax)?;
            Self { apps: Vec::new(), volumes: vec![volume] }
        } else {
            let app = toml::from_str::<AppSpec>(text).map_err(syntax)?;
            Self { apps: vec![app], volumes: Vec::new() }
        };
        for app in &read.apps {
            app.check().map_err(|e| e.in_file(file))?;
        }
        for volume in &read.volumes {
            volume.check().map_err(|e| e.in_file(file))?;
        }
        Ok(read)
    }
}

/// `line 3: unknown field ...` from a TOML error, on one line.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let key = text
                .lines()
                .nth(line - 1)
                .and_then(|l| l.split('=').next())
                .map(str::trim)
                .unwrap_or_default();
            if key.is_empty() {
                format!("line {line}: {message}")
            } else {
                format!("line {line}, {key}: {message}")
            }
        }
        None => message,
    }
}

impl AppSpec {
    /// The most replicas of one app.
    pub const REPLICA_LIMIT: u32 = 1000;

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// The first key that is refused.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.name.len() > 40 {
            return Err(SpecError::value(
                "name",
                &self.name,
                "is longer than 40 characters, which an instance's name needs",
            ));
        }
        self.check_window()?;
        self.check_accelerators()?;
        if self.replicas > Self::REPLICA_LIMIT {
            return Err(SpecError::value("replicas", self.replicas, "is more than 1000"));
        }
        if self.placement.near.contains(&self.name) {
            return Err(SpecError::value("placement.near", &self.name, "is the app itself"));
        }
        if let Some(both) = self.placement.near.intersection(&self.placement.apart).next() {
            return Err(SpecError::value("placement.near", both, "is in placement.apart too"));
        }
        self.check_weighing()?;
        crate::port::check_ports(&self.ports)?;
        self.check_health()?;
        crate::volume::check_mounts(&self.volumes)?;
        self.update.check()?;
        if self.env.keys().any(|key| key.is_empty() || key.contains(['=', '\0'])) {
            return Err(SpecError::value("env", "", "has a name that is empty or holds '='"));
        }
        Ok(())
    }

    /// Whether it has a service: a virtual address of its own.
    pub fn has_service(&self) -> bool {
        self.ports.iter().any(|port| port.service.is_some())
    }

    /// The port inside the container that is asked how the app is.
    pub fn first_tcp_port(&self) -> Option<u16> {
        self.ports.iter().find(|port| port.protocol.is_tcp()).map(|port| port.container)
    }

    fn check_health(&self) -> Result<(), SpecError> {
        let Some(health) = &self.health else { return Ok(()) };
        health.check()?;
        if let Some(path) = health.http.as_ref().filter(|_| self.first_tcp_port().is_none()) {
            return Err(SpecError::value("health.http", path, "needs a [[ports]] entry for TCP to ask at"));
        }
        Ok(())
    }
}

mod window;

#[cfg(test)]
mod tests;
