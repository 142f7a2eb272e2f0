//! What an operator may ask of the core, and how it is refused.

use crate::{
    core::Core,
    pool::unit::PolicyError,
    step::{Reply, Request},
};
use model::{App, AppSpec, Cordon, Name, PortId, Severity, SpecError};
use std::collections::BTreeSet;
use thiserror::Error;

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// The spec itself.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No module could ever hold it.
    #[error("{app}: no module is large enough ({reasons}); lower resources in the app file")]
    TooLarge {
        /// The app.
        app: Name,
        /// Per module, what it lacks.
        reasons: String,
    },
    /// Numbers of its own for the unit level that do not go together, or not with the cluster's.
    #[error("{app}: placement.{error}")]
    Weighing {
        /// The app or task.
        app: Name,
        /// The key and the reason.
        error: PolicyError,
    },
    /// All service addresses are taken.
    #[error("{app}: no service address is left in {range}; widen `services` in the server's configuration")]
    NoServiceAddress {
        /// The app.
        app: Name,
        /// Where addresses come from.
        range: String,
    },
    /// A port that a service publishes on every module.
    #[error(
        "{app}: host port {port} is used by {other} too; a service publishes it on every module: take another"
    )]
    PublishedTwice {
        /// The app.
        app: Name,
        /// The port.
        port: PortId,
        /// Who has it.
        other: Name,
    },
    /// No such app.
    #[error("there is no app {0}; `spacectl get apps` lists them")]
    NoApp(Name),
    /// No such module.
    #[error("there is no module {0}; `spacectl get modules` lists them")]
    NoModule(Name),
    /// No such accelerator.
    #[error("{module} has no accelerator {number}; `spacectl get resources` lists them")]
    NoAccelerator {
        /// Where.
        module: Name,
        /// Which.
        number: u32,
    },
    /// It is not lost.
    #[error("{0} is still heard; take its power away, or drain it, before it is forgotten")]
    StillThere(Name),
    /// It is not there to be updated.
    #[error("{0} is not ready; `spacectl get modules` says how it is")]
    NotReady(Name),
    /// It has one root only.
    #[error(
        "{0} was not started from a root slot, so it has no other one to write; flash its disk (docs/building.md)"
    )]
    NoSlots(Name),
    /// An update is not over yet.
    #[error("{0} is being updated; wait for its end, which `spacectl get events` says")]
    UpdateUnderWay(Name),
    /// It is not heard before the update is over: it restarts, or will never be back.
    #[error(
        "{0} is away in the middle of an update; wait until it has restarted, or, if its board is gone, say `spacectl forget {0}`"
    )]
    AwayInUpdate(Name),
    /// The other slot is the one to fall back to.
    #[error(
        "{0} runs from a slot that has not proven good yet, and the other slot is what it falls back to; wait until it has"
    )]
    NotProven(Name),
    /// It does not have the bundle.
    #[error("{0} has not checked this bundle; let it fetch the bundle first, as `spacectl update` does")]
    NotChecked(Name),
    /// It would be used again at once.
    #[error("{0} is not drained; drain it first, as `spacectl update` does")]
    NotDrained(Name),
    /// Something runs there.
    #[error("{module} still has {instance}; drain it first, as `spacectl update` does")]
    NotEmpty {
        /// Where.
        module: Name,
        /// What.
        instance: String,
    },
    /// Plans that cannot be kept.
    #[error("{}", .0.join("; "))]
    Conflict(Vec<String>),
    /// Tasks that wait for each other.
    #[error("after: {0} come after each other in a circle; leave out one of them")]
    Circle(String),
    /// A task comes after one that does not exist.
    #[error("after: {after:?}, which {task} comes after, is no task; apply it in the same request or before")]
    NoTask {
        /// Who says so.
        task: Name,
        /// Who is missing.
        after: Name,
    },
    /// A window that is over already.
    #[error("{task}: end: {end} is not after {start}, when it could start; give it a later end")]
    Over {
        /// Whose.
        task: Name,
        /// Its end.
        end: String,
        /// Its start.
        start: String,
    },
    /// No such volume.
    #[error("there is no volume {0}; `spacectl get volumes` lists them")]
    NoVolume(Name),
    /// An app mounts what does not exist.
    #[error(
        "{app}: volumes.name: there is no volume {volume}; apply a [[volume]] of that name, in the same file or before"
    )]
    UnknownVolume {
        /// Who mounts it.
        app: Name,
        /// What is missing.
        volume: Name,
    },
    /// Two volumes of one name in one request.
    #[error("volume {0} appears twice; give each volume a name of its own")]
    VolumeTwice(Name),
    /// It is being deleted.
    #[error(
        "volume {0} is being deleted; wait until `spacectl get volumes` no longer lists it, or take another name"
    )]
    VolumeGoing(Name),
    /// Somebody has it.
    #[error("volume {volume} is used by {by}; delete or change what uses it first")]
    VolumeInUse {
        /// Which.
        volume: Name,
        /// By an app, or by an instance that has not ended yet.
        by: String,
    },
    /// Only one instance may have it.
    #[error(
        "{app}: replicas: {replicas} would write to volume {volume}, which is single-writer; use 1, or a volume with access = \"shared\""
    )]
    OneWriter {
        /// Who mounts it.
        app: Name,
        /// Which.
        volume: Name,
        /// How many were asked for.
        replicas: u32,
    },
    /// No module can mount volumes of this class.
    #[error(
        "{app}: volume {volume} is of class chassis, and no module has a storage module; set [storage] in spacecloud.toml, or use class = \"local\""
    )]
    NoStorage {
        /// Who mounts it.
        app: Name,
        /// Which.
        volume: Name,
    },
    /// An instance that goes on while its successor runs would write beside it.
    #[error(
        "{app}: migration.on_disconnect: \"keep\" would go on writing to volume {volume} while a replacement runs; use \"stop\""
    )]
    KeepsWriting {
        /// Who mounts it.
        app: Name,
        /// Which.
        volume: Name,
    },
    /// What is asked for is not free where the instance is.
    #[error("{instance}: {reason}; free some there, or move it by changing its app file")]
    NoRoom {
        /// Whose.
        instance: String,
        /// What is short.
        reason: String,
    },
}

impl Core {
    pub(crate) fn request(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Apply(specs) => self.apply(specs),
            Request::ApplyAll(volumes, specs) => self.apply_all(volumes, specs),
            Request::Delete(names) => self.delete(&names),
            Request::DeleteWithVolumes(names) => self.delete_with_volumes(&names),
            Request::DeleteVolumes(names) => self.delete_volumes(&names),
            Request::Scale(name, replicas) => self.scale(&name, replicas),
            Request::Cordon { module, cordoned, draining } => self.cordon(&module, cordoned, draining),
            Request::SetAside(module, before) => self.set_aside(&module, before),
            Request::Maintenance { module, number, maintenance } => {
                self.set_maintenance(&module, number, maintenance)
            }
            Request::Resize(name, amounts) => self.resize(&name, amounts),
            Request::Forget(module) => self.forget_module(&module),
            Request::Update { module, bundle, attempt, install } => {
                self.update_module(&module, &bundle, &attempt, install)
            }
        }
    }

    pub(crate) fn apply(&mut self, mut specs: Vec<AppSpec>) -> Result<Reply, Refusal> {
        let mut seen = BTreeSet::new();
        for spec in &mut specs {
            spec.check()?;
            self.resolve_window(spec);
        }
        for spec in &specs {
            if !seen.insert(&spec.name) {
                return Err(SpecError::Duplicate { name: spec.name.to_string() }.into());
            }
            self.refuse_too_large(spec)?;
            self.refuse_weighing(spec)?;
            self.refuse_published(spec, &specs)?;
        }
        self.refuse_too_many_services(&specs)?;
        self.refuse_mounts(&specs)?;
        let mut plans = self.plan_set(&specs)?;
        let mut lines = Vec::new();
        for spec in specs {
            let name = spec.name.clone();
            let kind = spec.kind.as_str();
            let word = match self.apps.get(&name) {
                Some(app) if app.spec == spec && !plans.contains_key(&name) => "unchanged",
                Some(app) => {
                    let (app, address) = (app.clone(), self.allot(&spec)?);
                    self.revise(app, spec, address);
                    "changed"
                }
                None => {
                    let (created, service_address) = (self.now.wall, self.allot(&spec)?);
                    self.put_app(App {
                        spec,
                        revision: 1,
                        next_incarnation: 1,
                        created,
                        service_address,
                        last_revision: 1,
                        rollout: None,
                        note: String::new(),
                    });
                    "created"
                }
            };
            if kind == "app" {
                self.drop_plan(&name);
            }
            if word != "unchanged" {
                self.event(Severity::Normal, &name, "Applied", format!("{kind} {word}"));
            }
            lines.push(match plans.remove(&name) {
                Some(plan) => format!("{kind} {name} {word}: {}", self.adopt_plan(plan)),
                None => format!("{kind} {name} {word}"),
            });
        }
        Ok(Reply { lines })
    }

    /// With modules known, an app that fits none of them even when empty will never run.
    fn refuse_too_large(&self, spec: &AppSpec) -> Result<(), Refusal> {
        let reasons: Vec<_> = self
            .modules
            .values()
            .map(|m| crate::place::too_small(m, spec).map(|why| format!("{}: {why}", m.name)))
            .collect();
        if reasons.is_empty() || reasons.iter().any(Option::is_none) {
            return Ok(());
        }
        let reasons = reasons.into_iter().flatten().collect::<Vec<_>>().join("; ");
        Err(Refusal::TooLarge { app: spec.name.clone(), reasons })
    }

    pub(crate) fn delete(&mut self, names: &[Name]) -> Result<Reply, Refusal> {
        if let Some(missing) = names.iter().find(|name| !self.apps.contains_key(*name)) {
            return Err(Refusal::NoApp(missing.clone()));
        }
        let mut lines = Vec::new();
        for name in names {
            let kind = if self.drop_plan(name) { "task" } else { "app" };
            self.remove_app(name);
            self.event(Severity::Normal, name, "Deleted", format!("{kind} deleted"));
            lines.push(format!("{kind} {name} deleted"));
        }
        Ok(Reply { lines })
    }

    fn scale(&mut self, name: &Name, replicas: u32) -> Result<Reply, Refusal> {
        let mut app = self.apps.get(name).cloned().ok_or_else(|| Refusal::NoApp(name.clone()))?;
        app.spec.replicas = replicas;
        app.spec.check()?;
        self.refuse_mounts(std::slice::from_ref(&app.spec))?;
        self.put_app(app);
        self.event(Severity::Normal, name, "Scaled", format!("to {replicas} replicas"));
        Ok(Reply { lines: vec![format!("app {name} scaled to {replicas}")] })
    }

    fn cordon(&mut self, name: &Name, cordoned: bool, draining: bool) -> Result<Reply, Refusal> {
        let mut module = self.modules.get(name).cloned().ok_or_else(|| Refusal::NoModule(name.clone()))?;
        (module.cordoned, module.draining, module.before_update) = (cordoned || draining, draining, None);
        let word = match (cordoned, draining) {
            (_, true) => "draining",
            (true, false) => "cordoned",
            (false, false) => "uncordoned",
        };
        self.put_module(module);
        self.event(Severity::Normal, name, "Operator", word.to_owned());
        Ok(Reply { lines: vec![format!("module {name} {word}")] })
    }

    /// Drained, by an update that gives it back later as the operator had it.
    fn set_aside(&mut self, name: &Name, before: Cordon) -> Result<Reply, Refusal> {
        let mut module = self.modules.get(name).cloned().ok_or_else(|| Refusal::NoModule(name.clone()))?;
        (module.cordoned, module.draining, module.before_update) = (true, true, Some(before));
        self.put_module(module);
        self.event(Severity::Normal, name, "Operator", "draining for an update".to_owned());
        Ok(Reply { lines: vec![format!("module {name} draining for an update")] })
    }
}
