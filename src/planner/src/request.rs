//! What an operator may ask of the core, and how it is refused.

use crate::core::{Core, Reply, Request};
use model::{App, AppSpec, Name, Severity, SpecError};
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
        port: u16,
        /// Who has it.
        other: Name,
    },
    /// No such app.
    #[error("there is no app {0}; `spacectl get apps` lists them")]
    NoApp(Name),
    /// No such module.
    #[error("there is no module {0}; `spacectl get modules` lists them")]
    NoModule(Name),
}

impl Core {
    pub(crate) fn request(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Apply(specs) => self.apply(specs),
            Request::Delete(names) => self.delete(&names),
            Request::Scale(name, replicas) => self.scale(&name, replicas),
            Request::Cordon { module, cordoned, draining } => self.cordon(&module, cordoned, draining),
        }
    }

    fn apply(&mut self, specs: Vec<AppSpec>) -> Result<Reply, Refusal> {
        let mut seen = BTreeSet::new();
        for spec in &specs {
            spec.check()?;
            if !seen.insert(&spec.name) {
                return Err(SpecError::Duplicate { name: spec.name.to_string() }.into());
            }
            self.refuse_too_large(spec)?;
            self.refuse_published(spec, &specs)?;
        }
        self.refuse_too_many_services(&specs)?;
        let mut lines = Vec::new();
        for spec in specs {
            let name = spec.name.clone();
            let word = match self.apps.get(&name) {
                Some(app) if app.spec == spec => "unchanged",
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
            if word != "unchanged" {
                self.event(Severity::Normal, &name, "Applied", format!("app {word}"));
            }
            lines.push(format!("app {name} {word}"));
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

    fn delete(&mut self, names: &[Name]) -> Result<Reply, Refusal> {
        if let Some(missing) = names.iter().find(|name| !self.apps.contains_key(*name)) {
            return Err(Refusal::NoApp(missing.clone()));
        }
        let mut lines = Vec::new();
        for name in names {
            self.remove_app(name);
            self.event(Severity::Normal, name, "Deleted", "app deleted".to_owned());
            lines.push(format!("app {name} deleted"));
        }
        Ok(Reply { lines })
    }

    fn scale(&mut self, name: &Name, replicas: u32) -> Result<Reply, Refusal> {
        let mut app = self.apps.get(name).cloned().ok_or_else(|| Refusal::NoApp(name.clone()))?;
        app.spec.replicas = replicas;
        app.spec.check()?;
        self.put_app(app);
        self.event(Severity::Normal, name, "Scaled", format!("to {replicas} replicas"));
        Ok(Reply { lines: vec![format!("app {name} scaled to {replicas}")] })
    }

    fn cordon(&mut self, name: &Name, cordoned: bool, draining: bool) -> Result<Reply, Refusal> {
        let mut module = self.modules.get(name).cloned().ok_or_else(|| Refusal::NoModule(name.clone()))?;
        (module.cordoned, module.draining) = (cordoned || draining, draining);
        let word = match (cordoned, draining) {
            (_, true) => "draining",
            (true, false) => "cordoned",
            (false, false) => "uncordoned",
        };
        self.put_module(module);
        self.event(Severity::Normal, name, "Operator", word.to_owned());
        Ok(Reply { lines: vec![format!("module {name} {word}")] })
    }
}
