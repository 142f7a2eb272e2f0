//! The server's state and its one entrance, [`Core::step`].

use crate::{
    Refusal,
    link::Link,
    service::Drain,
    step::{AgentReport, Change, Event, Order, Output, Reply},
};
use model::{
    App, Event as EventRecord, ImageRef, Instance, InstanceId, Liveness, Module, Name, Now, Observed, Plan,
    Record, RecordKind, ReplicaId, ResourceName, ResourceState, Run, ServiceTable, Severity, Success, Timing,
    Volume,
};
use std::collections::{BTreeMap, BTreeSet};

/// The server's whole state.
#[derive(Debug, Clone)]
pub struct Core {
    pub(crate) timing: Timing,
    pub(crate) apps: BTreeMap<Name, App>,
    pub(crate) modules: BTreeMap<Name, Module>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) events: BTreeMap<u64, EventRecord>,
    pub(crate) links: BTreeMap<Name, Link>,
    /// The order from which on each stopping instance is no longer wanted.
    pub(crate) stopped_by: BTreeMap<InstanceId, u64>,
    /// When each move under way began.
    pub(crate) moves: BTreeMap<InstanceId, u64>,
    /// Where a replica that has stopped for a rebalance is to start again.
    pub(crate) intended: BTreeMap<ReplicaId, Name>,
    /// What leaves its service.
    pub(crate) drains: BTreeMap<InstanceId, Drain>,
    /// Since when each instance that was never ready has been there.
    pub(crate) unproven: BTreeMap<InstanceId, u64>,
    /// Where services lead, as the modules are told.
    pub(crate) table: ServiceTable,
    /// Which images each module is told to have ready.
    pub(crate) prefetched: BTreeMap<Name, Vec<ImageRef>>,
    /// Windows of tasks.
    pub(crate) plans: BTreeMap<Name, Plan>,
    /// The resource-state table.
    pub(crate) resources: BTreeMap<(Name, ResourceName), ResourceState>,
    /// The history queue.
    pub(crate) runs: BTreeMap<u64, Run>,
    /// The device-level queue.
    pub(crate) successes: BTreeMap<String, Success>,
    /// The runs that are not over.
    pub(crate) open_runs: BTreeMap<InstanceId, u64>,
    /// Volumes.
    pub(crate) volumes: BTreeMap<Name, Volume>,
    pub(crate) volume_watch: crate::volumes::Watch,
    /// Modules whose resource states may have changed.
    pub(crate) touched: BTreeSet<Name>,
    /// Weights and constraints of the unit level.
    pub(crate) policy: crate::pool::unit::UnitPolicy,
    pub(crate) now: Now,
    pub(crate) changed: BTreeMap<(RecordKind, String), Option<Record>>,
    pub(crate) reorder: BTreeSet<Name>,
}

/// Events kept.
const EVENTS: usize = 1000;

impl Core {
    /// Takes one event in and says what is to be done about it.
    ///
    /// # Errors
    /// A request that is refused; nothing has changed then.
    pub fn step(&mut self, event: Event, now: Now) -> Result<(Reply, Output), Refusal> {
        self.now = now;
        let mut output = Output::default();
        let reply = match event {
            Event::Request(request) => self.request(request)?,
            Event::Hello(module, observed) => {
                output.ack = Some(module.name.clone());
                self.hello(*module, &observed);
                Reply::default()
            }
            Event::Heartbeat(name, report) => {
                if self.heartbeat(&name, &report) {
                    output.ack = Some(name);
                } else {
                    output.disconnect.insert(name);
                }
                Reply::default()
            }
            Event::Root(name, root) => {
                self.take_root(&name, root);
                Reply::default()
            }
            Event::Tick => Reply::default(),
        };
        self.pass_time(&mut output);
        self.announce_absence(&mut output);
        self.reconcile();
        self.route();
        self.prefetch();
        self.refresh_resources();
        self.emit(&mut output);
        Ok((reply, output))
    }

    fn hello(&mut self, mut module: Module, observed: &[Observed]) {
        let name = module.name.clone();
        match self.modules.get(&name) {
            Some(known) => {
                (module.cordoned, module.draining) = (known.cordoned, known.draining);
                (module.before_update, module.lease) = (known.before_update, known.lease);
                module.absence = known.absence;
            }
            None => self.event(Severity::Normal, &name, "Joined", format!("in slot {}", module.slot)),
        }
        if let Some(root) = &module.root {
            let before = self.modules.get(&name).and_then(|known| known.root.clone());
            self.tell_root(&name, before.as_ref(), root);
        }
        if self.modules.get(&name) != Some(&module) {
            self.put_module(module);
        }
        self.touched.insert(name.clone());
        let now = self.now;
        self.links.entry(name.clone()).or_insert_with(|| Link::unheard(now)).hello(now);
        // Order numbers start anew with each connection.
        let instances = &self.instances;
        self.stopped_by.retain(|id, _| instances.get(id).is_some_and(|i| i.module.as_ref() != Some(&name)));
        self.forget_told(&name);
        self.miss(&name, observed);
        self.observe(&name, observed);
        self.reorder.insert(name);
    }

    /// Answers whether the heartbeat is acknowledged.
    fn heartbeat(&mut self, name: &Name, report: &AgentReport) -> bool {
        let strays = report.observed.iter().any(|o| !self.wants(name, &o.id));
        let now = self.now;
        let Some(link) = self.links.get_mut(name) else { return false };
        let before = link.liveness;
        if !link.heartbeat(now, report.taken, strays) {
            return false;
        }
        link.routed = report.routed;
        let after = link.liveness;
        self.observe_lease(name, report.lease);
        if before != after {
            self.touched.insert(name.clone());
        }
        if before != after && before == Liveness::Returning {
            self.event(Severity::Normal, name, "Ready", "takes work".to_owned());
        }
        self.observe(name, &report.observed);
        self.observe_volumes(name, &report.volumes);
        self.forget_stopped(name, report);
        true
    }

    fn wants(&self, module: &Name, id: &InstanceId) -> bool {
        self.instances.get(id).is_some_and(|i| i.module.as_ref() == Some(module))
    }

    fn observe(&mut self, module: &Name, observed: &[Observed]) {
        for seen in observed {
            self.count(&seen.id, seen.connections);
            let Some(instance) = self.instances.get(&seen.id).cloned() else { continue };
            if instance.module.as_ref() != Some(module) || instance.is_stopping() {
                continue;
            }
            let mut next = instance.clone();
            next.phase = seen.phase;
            next.restarts = seen.restarts;
            next.address.clone_from(&seen.address);
            next.message.clone_from(&seen.message);
            next.started = seen.started;
            self.follow_address(&mut next);
            if next != instance {
                if next.restarts > instance.restarts || next.phase == model::Phase::BackOff {
                    self.event(Severity::Warning, next.id.replica(), "BackOff", next.message.clone());
                }
                self.put_instance(next);
            }
            if !seen.refused.is_empty() {
                self.fall_back(&seen.id, &seen.refused);
            }
        }
    }

    /// What an agent that says hello does not have, it has yet to start: it must have been fenced or rebooted.
    fn miss(&mut self, module: &Name, observed: &[Observed]) {
        let missing: Vec<Instance> = self
            .instances
            .values()
            .filter(|i| i.module.as_ref() == Some(module) && !i.is_stopping())
            .filter(|i| observed.iter().all(|o| o.id != i.id))
            .cloned()
            .collect();
        for instance in missing {
            if instance.draining {
                self.stop(&instance.id);
            } else if instance.phase != model::Phase::Starting {
                self.put_instance(Instance { phase: model::Phase::Starting, ..instance });
            }
        }
    }

    /// Stopping instances that the agent no longer has are gone.
    fn forget_stopped(&mut self, module: &Name, report: &AgentReport) {
        let gone: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| i.is_stopping() && i.module.as_ref() == Some(module))
            .filter(|i| self.stopped_by.get(&i.id).is_some_and(|order| report.taken >= *order))
            .filter(|i| report.observed.iter().all(|o| o.id != i.id))
            .map(|i| i.id.clone())
            .collect();
        for id in gone {
            self.remove_instance(&id);
        }
    }

    fn pass_time(&mut self, output: &mut Output) {
        let (now, timing) = (self.now, self.timing);
        let changed: Vec<(Name, Liveness)> = self
            .links
            .iter_mut()
            .filter_map(|(name, link)| link.tick(now, &timing).map(|liveness| (name.clone(), liveness)))
            .collect();
        for (name, liveness) in changed {
            if liveness == Liveness::Lost {
                output.disconnect.insert(name.clone());
                self.forget_told(&name);
                self.end_leave(&name);
                self.lose(&name);
            }
        }
    }

    fn emit(&mut self, output: &mut Output) {
        for name in std::mem::take(&mut self.reorder) {
            let Some(link) = self.links.get_mut(&name) else { continue };
            if link.liveness == Liveness::Lost {
                continue;
            }
            link.ordered += 1;
            let number = link.ordered;
            let mut desired = Vec::new();
            for instance in self.instances.values().filter(|i| i.module.as_ref() == Some(&name)) {
                if instance.is_stopping() {
                    self.stopped_by.entry(instance.id.clone()).or_insert(number);
                } else {
                    desired.push(self.desired(instance));
                }
            }
            self.tell(&name, number);
            let images = self.prefetched.get(&name).cloned().unwrap_or_default();
            let (services, erase) = (self.table.clone(), self.erasures(&name));
            output.orders.insert(name, Order { number, desired, services, images, erase });
        }
        let changed = std::mem::take(&mut self.changed);
        output.changes =
            changed.into_iter().map(|((kind, key), record)| Change { kind, key, record }).collect();
    }

    pub(crate) fn put_app(&mut self, app: App) {
        self.note(Record::App(app.clone()));
        self.apps.insert(app.name().clone(), app);
    }

    pub(crate) fn remove_app(&mut self, name: &Name) {
        self.apps.remove(name);
        self.changed.insert((RecordKind::App, name.to_string()), None);
    }

    pub(crate) fn put_module(&mut self, module: Module) {
        self.note(Record::Module(module.clone()));
        self.touched.insert(module.name.clone());
        self.modules.insert(module.name.clone(), module);
    }

    /// Records an instance; its module is sent a new order when what it should run changes.
    pub(crate) fn put_instance(&mut self, instance: Instance) {
        let wanted = |i: &Instance| {
            let has = (i.is_stopping(), i.spec.resources, i.binding.clone(), i.keeps);
            i.module.clone().map(|m| (m, has))
        };
        let before = self.instances.get(&instance.id).and_then(wanted);
        let after = wanted(&instance);
        if before != after {
            let modules: Vec<Name> = before.into_iter().chain(after).map(|(module, _)| module).collect();
            self.touched.extend(modules.iter().cloned());
            self.reorder.extend(modules);
        }
        self.follow_run(&instance);
        self.follow_live(&instance.id, Some(&instance));
        self.note(Record::Instance(Box::new(instance.clone())));
        self.instances.insert(instance.id.clone(), instance);
    }

    pub(crate) fn remove_instance(&mut self, id: &InstanceId) {
        self.close_run(id, None);
        self.follow_live(id, None);
        if let Some(old) = self.instances.remove(id) {
            self.touched.extend(old.module.clone());
            // Cores that nobody is pinned to any more are everybody's again.
            if !old.is_stopping() || !old.binding.cores.is_empty() {
                self.reorder.extend(old.module);
            }
        }
        self.stopped_by.remove(id);
        self.moves.remove(id);
        self.drains.remove(id);
        self.unproven.remove(id);
        self.changed.insert((RecordKind::Instance, id.to_string()), None);
    }

    pub(crate) fn event(
        &mut self,
        severity: Severity,
        subject: impl ToString,
        reason: &str,
        message: String,
    ) {
        let number = self.events.last_key_value().map_or(1, |(number, _)| number + 1);
        let event = EventRecord {
            number,
            at: self.now.wall,
            severity,
            subject: subject.to_string(),
            reason: reason.to_owned(),
            message,
        };
        self.note(Record::Event(event.clone()));
        self.events.insert(number, event);
        while self.events.len() > EVENTS
            && let Some((number, _)) = self.events.pop_first()
        {
            self.changed.insert((RecordKind::Event, EventRecord::key_of(number)), None);
        }
    }

    /// The instances of one app: neighbours in the order of their ids, so that no look goes past all the others.
    pub(crate) fn instances_of(&self, app: &Name) -> impl Iterator<Item = &Instance> {
        let own = app.clone();
        self.instances
            .range(InstanceId::new(ReplicaId { app: app.clone(), number: 0 }, 0)..)
            .take_while(move |(id, _)| id.replica().app == own)
            .map(|(_, instance)| instance)
    }

    /// The instances of one replica: one, and for the time of a move or of a start anew another.
    pub(crate) fn instances_of_replica(&self, replica: &ReplicaId) -> impl Iterator<Item = &Instance> {
        let own = replica.clone();
        self.instances
            .range(InstanceId::new(replica.clone(), 0)..)
            .take_while(move |(id, _)| *id.replica() == own)
            .map(|(_, instance)| instance)
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(crate) fn note(&mut self, record: Record) {
        self.changed.insert((record.kind(), record.key()), Some(record));
    }

    pub(crate) fn forget(&mut self, kind: RecordKind, key: String) {
        self.changed.insert((kind, key), None);
    }
}
