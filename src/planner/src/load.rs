//! The core's state out of the records, and what others may see of it.

use crate::{core::Core, link::Link};
use model::{App, Event as EventRecord, Instance, Liveness, Module, Now, Record, ServiceTable, Timing};
use std::collections::{BTreeMap, BTreeSet};

impl Core {
    /// The state as the store has it; every known module gets a whole lease to show up.
    pub fn load(records: Vec<Record>, timing: Timing, now: Now) -> Self {
        let mut core = Self {
            timing,
            apps: BTreeMap::new(),
            modules: BTreeMap::new(),
            instances: BTreeMap::new(),
            events: BTreeMap::new(),
            links: BTreeMap::new(),
            stopped_by: BTreeMap::new(),
            moves: BTreeMap::new(),
            intended: BTreeMap::new(),
            drains: BTreeMap::new(),
            unproven: BTreeMap::new(),
            table: ServiceTable::default(),
            prefetched: BTreeMap::new(),
            plans: BTreeMap::new(),
            resources: BTreeMap::new(),
            runs: BTreeMap::new(),
            successes: BTreeMap::new(),
            open_runs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            volume_watch: crate::volumes::Watch::default(),
            touched: BTreeSet::new(),
            policy: crate::pool::unit::UnitPolicy::default(),
            now,
            changed: BTreeMap::new(),
            reorder: BTreeSet::new(),
        };
        for record in records {
            match record {
                Record::App(app) => drop(core.apps.insert(app.name().clone(), app)),
                Record::Module(module) => {
                    core.links.insert(module.name.clone(), Link::unheard(now));
                    core.resume_leave(&module);
                    core.touched.insert(module.name.clone());
                    core.modules.insert(module.name.clone(), module);
                }
                Record::Instance(instance) => {
                    if instance.replaces.is_some() {
                        core.moves.insert(instance.id.clone(), now.mono);
                    }
                    if !instance.is_ready() {
                        core.unproven.insert(instance.id.clone(), now.mono);
                    }
                    core.instances.insert(instance.id.clone(), *instance);
                }
                Record::Event(event) => drop(core.events.insert(event.number, event)),
                Record::Plan(plan) => drop(core.plans.insert(plan.task.clone(), *plan)),
                Record::Resource(state) => {
                    core.resources.insert((state.module.clone(), state.resource), state);
                }
                Record::Run(run) => {
                    if run.outcome == model::Outcome::Running {
                        core.open_runs.insert(run.instance.clone(), run.number);
                    }
                    core.runs.insert(run.number, run);
                }
                Record::Success(success) => drop(core.successes.insert(success.code.clone(), success)),
                Record::Volume(volume) => drop(core.volumes.insert(volume.name().clone(), volume)),
            }
        }
        core
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl Iterator<Item = &App> {
        self.apps.values()
    }

    /// All instances, by id.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// All modules with what is thought of them.
    pub fn modules(&self) -> impl Iterator<Item = (&Module, Liveness)> {
        self.modules
            .values()
            .map(|m| (m, self.links.get(&m.name).map_or(Liveness::Lost, |link| link.liveness)))
    }

    /// The last events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &EventRecord> {
        self.events.values()
    }
}
