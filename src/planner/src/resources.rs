//! The resource-state table, kept by events: what changed on a module is written with the change itself.

use crate::{
    Refusal,
    core::Core,
    step::Reply,
    usage::{Except, Hold, Window},
};
use model::{
    Availability, InstanceId, Liveness, Milli, Module, Name, Record, RecordKind, ResourceName, ResourceState,
    Severity,
};
use std::collections::BTreeMap;

impl Core {
    /// Brings the table up to date for the modules that something happened to.
    pub(crate) fn refresh_resources(&mut self) {
        for name in std::mem::take(&mut self.touched) {
            let fresh = self.modules.get(&name).map(|m| self.resource_states(m)).unwrap_or_default();
            let stale: Vec<ResourceName> = self
                .resources
                .range((name.clone(), ResourceName::Accelerator(0))..)
                .take_while(|((module, _), _)| *module == name)
                .map(|((_, resource), _)| *resource)
                .filter(|resource| !fresh.contains_key(resource))
                .collect();
            for resource in stale {
                self.resources.remove(&(name.clone(), resource));
                self.forget(RecordKind::Resource, ResourceState::key_of(&name, resource));
            }
            for (resource, mut state) in fresh {
                let key = (name.clone(), resource);
                if let Some(old) = self.resources.get(&key) {
                    if (old.state, old.used) == (state.state, state.used) {
                        state.since = old.since;
                    }
                    if *old == state {
                        continue;
                    }
                }
                self.note(Record::Resource(state.clone()));
                self.resources.insert(key, state);
            }
        }
    }

    fn resource_states(&self, module: &Module) -> BTreeMap<ResourceName, ResourceState> {
        let holds = self.holds(Except::default());
        // What is kept for a task is not occupied before an instance of the task is there.
        let placed = |h: &&Hold<'_>| h.module == &module.name && h.instance.is_some();
        let there: Vec<&Hold<'_>> = holds.iter().filter(placed).collect();
        let now = Window { from: self.now.wall, until: self.now.wall.saturating_add(1) };
        let usage = self.usage_on(&module.name, &there, now);
        let holders = |takes: &dyn Fn(&model::Instance) -> bool| -> Vec<InstanceId> {
            let placed = self.instances.values().filter(|i| i.module.as_ref() == Some(&module.name));
            placed.filter(|i| takes(i)).map(|i| i.id.clone()).collect()
        };
        let lost = self.links.get(&module.name).is_some_and(|l| l.liveness == Liveness::Lost);
        let line = |resource, capacity, used, why: String, holders: Vec<InstanceId>| ResourceState {
            module: module.name.clone(),
            resource,
            state: if lost {
                Availability::Maintenance
            } else if used > 0 {
                Availability::Occupied
            } else {
                Availability::Idle
            },
            capacity,
            used,
            maintenance: false,
            pcie_slot: String::new(),
            why: if lost { "its module is lost".to_owned() } else { why },
            holders,
            since: self.now.wall,
        };
        let mut states = Vec::new();
        for accelerator in &module.capacity.accelerators {
            let number = accelerator.number;
            let used = usage.accelerators.get(&number).copied().unwrap_or(0);
            let resource = ResourceName::Accelerator(number);
            let having = holders(&|i| i.binding.numbers().any(|n| n == number));
            let mut state = line(resource, Milli::WHOLE, used, String::new(), having);
            state.pcie_slot.clone_from(&accelerator.pcie_slot);
            let key = (module.name.clone(), resource);
            state.maintenance = self.resources.get(&key).is_some_and(|old| old.maintenance);
            if let Some(why) = self.unusable(module, number) {
                state.state = Availability::Maintenance;
                state.why = if state.maintenance { "set by an operator".to_owned() } else { why };
            }
            states.push(state);
        }
        let (has, load) = (&module.capacity, &usage.load);
        let pinned: Vec<String> = usage.cores.iter().map(ToString::to_string).collect();
        let pinned =
            if pinned.is_empty() { String::new() } else { format!("pinned cores: {}", pinned.join(" ")) };
        for (resource, capacity, used, why, having) in [
            (ResourceName::Cpu, has.cpu.0, load.cpu, pinned, holders(&|i| i.spec.resources.cpu.0 > 0)),
            (
                ResourceName::Memory,
                has.memory.0,
                load.memory,
                String::new(),
                holders(&|i| i.spec.resources.memory.0 > 0),
            ),
            (
                ResourceName::Disk,
                has.disk.0,
                load.disk,
                String::new(),
                holders(&|i| i.spec.resources.disk.0 > 0),
            ),
        ] {
            states.push(line(resource, capacity, used, why, having));
        }
        for port in usage.ports {
            let having = holders(&|i| i.spec.ports.iter().any(|p| p.host_id() == Some(port)));
            states.push(line(ResourceName::Port(port), 1, 1, String::new(), having));
        }
        states.into_iter().map(|state| (state.resource, state)).collect()
    }

    /// An operator takes one accelerator out of use, or gives it back.
    pub(crate) fn set_maintenance(
        &mut self,
        module: &Name,
        number: u32,
        maintenance: bool,
    ) -> Result<Reply, Refusal> {
        if !self.modules.contains_key(module) {
            return Err(Refusal::NoModule(module.clone()));
        }
        let key = (module.clone(), ResourceName::Accelerator(number));
        let Some(state) = self.resources.get(&key) else {
            return Err(Refusal::NoAccelerator { module: module.clone(), number });
        };
        let word = if maintenance { "in maintenance" } else { "in use again" };
        let line = format!("accelerator {number} of {module} {word}");
        if state.maintenance == maintenance {
            return Ok(Reply { lines: vec![format!("{line} already")] });
        }
        // The state is changed before anything is decided on it.
        let state = ResourceState { maintenance, since: self.now.wall, ..state.clone() };
        self.note(Record::Resource(state.clone()));
        self.resources.insert(key, state);
        self.touched.insert(module.clone());
        self.event(Severity::Normal, module, "Operator", format!("accelerator {number} {word}"));
        Ok(Reply { lines: vec![line] })
    }

    /// Forgets a module that is not there any more: its resources are taken off the register.
    pub(crate) fn forget_module(&mut self, name: &Name) -> Result<Reply, Refusal> {
        if !self.modules.contains_key(name) {
            return Err(Refusal::NoModule(name.clone()));
        }
        if self.links.get(name).is_some_and(|l| l.liveness != Liveness::Lost) {
            return Err(Refusal::StillThere(name.clone()));
        }
        self.modules.remove(name);
        self.links.remove(name);
        self.touched.insert(name.clone());
        self.forget(RecordKind::Module, name.to_string());
        self.event(Severity::Normal, name, "Forgotten", "by an operator".to_owned());
        Ok(Reply { lines: vec![format!("module {name} forgotten")] })
    }

    /// The resource-state table, by module and resource.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceState> {
        self.resources.values()
    }
}
