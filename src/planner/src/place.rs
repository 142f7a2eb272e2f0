//! Placement of one instance: filter, score, choose, and keep the whole table as the explanation.

use crate::core::Core;
use model::{AppSpec, Candidate, Decision, Instance, Module, Name, Strategy, Verdict};
use std::collections::BTreeMap;

/// What is asked for on one module, by everything that is placed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Thousandths of cores.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    /// Thousandths of accelerators.
    pub gpu: u64,
    /// How many.
    pub instances: u64,
}

impl Load {
    pub(crate) fn add(&mut self, spec: &AppSpec) {
        let asked = &spec.resources;
        self.cpu = self.cpu.saturating_add(asked.cpu.0);
        self.memory = self.memory.saturating_add(asked.memory.0);
        self.disk = self.disk.saturating_add(asked.disk.0);
        self.gpu = self.gpu.saturating_add(asked.gpu.0);
        self.instances += 1;
    }

    pub(crate) fn subtract(&mut self, spec: &AppSpec) {
        let asked = &spec.resources;
        self.cpu = self.cpu.saturating_sub(asked.cpu.0);
        self.memory = self.memory.saturating_sub(asked.memory.0);
        self.disk = self.disk.saturating_sub(asked.disk.0);
        self.gpu = self.gpu.saturating_sub(asked.gpu.0);
        self.instances = self.instances.saturating_sub(1);
    }

    /// The mean share of CPU and memory that is taken, from 0 to 1.
    pub fn share(&self, module: &Module) -> f64 {
        (share(self.cpu, module.capacity.cpu.0) + share(self.memory, module.capacity.memory.0)) / 2.0
    }
}

/// The load of every module with anything on it.
pub fn loads<'a>(instances: impl Iterator<Item = &'a Instance>) -> BTreeMap<Name, Load> {
    let mut loads: BTreeMap<Name, Load> = BTreeMap::new();
    for instance in instances {
        if let Some(module) = &instance.module {
            loads.entry(module.clone()).or_default().add(&instance.spec);
        }
    }
    loads
}

pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { if part == 0 { 0.0 } else { 1.0 } } else { part as f64 / whole as f64 }
}

/// Why `module` can never hold `spec`, whatever else runs there.
pub(crate) fn too_small(module: &Module, spec: &AppSpec) -> Option<String> {
    short_of(module, &Load::default(), spec)
}

pub(crate) fn short_of(module: &Module, load: &Load, spec: &AppSpec) -> Option<String> {
    let (has, asked) = (&module.capacity, &spec.resources);
    let lacks = |used: u64, asked: u64, has: u64| asked > 0 && used.saturating_add(asked) > has;
    if lacks(load.cpu, asked.cpu.0, has.cpu.0) {
        return Some(format!(
            "cpu: asks {}, free {}",
            asked.cpu,
            model::Milli(has.cpu.0.saturating_sub(load.cpu))
        ));
    }
    if lacks(load.memory, asked.memory.0, has.memory.0) {
        let free = has.memory.0.saturating_sub(load.memory) >> 20;
        return Some(format!("memory: asks {}, free {free}MiB", asked.memory));
    }
    if lacks(load.disk, asked.disk.0, has.disk.0) {
        let free = has.disk.0.saturating_sub(load.disk) >> 20;
        return Some(format!("disk: asks {}, free {free}MiB", asked.disk));
    }
    if lacks(load.gpu, asked.gpu.0, has.gpu().0) {
        return Some(format!(
            "gpu: asks {}, free {}",
            asked.gpu,
            model::Milli(has.gpu().0.saturating_sub(load.gpu))
        ));
    }
    None
}

impl Core {
    /// Finds a module for `spec`. `avoid` is where a moved instance comes from.
    pub(crate) fn decide(&self, spec: &AppSpec, avoid: Option<&Name>, cause: &str) -> Decision {
        let loads = loads(self.instances.values());
        let empty = Load::default();
        let mut candidates = Vec::with_capacity(self.modules.len());
        let mut best: Option<(f64, u64, u64, &Name)> = None;
        for module in self.modules.values() {
            let load = loads.get(&module.name).unwrap_or(&empty);
            let verdict = match self.filter(module, load, spec, avoid) {
                Some(why) => Verdict::Filtered(why),
                None => Verdict::Score(score(spec.strategy, module, load, spec)),
            };
            if let Verdict::Score(score) = verdict {
                let siblings = self.count_on(&module.name, |i| i.spec.name == spec.name);
                let better = match best {
                    None => true,
                    Some((top, top_siblings, top_load, _)) => match spec.strategy {
                        // Replicas of one app apart first: that is what spreading is for.
                        Strategy::Spread => {
                            (siblings, -score, load.instances) < (top_siblings, -top, top_load)
                        }
                        _ => (-score, load.instances) < (-top, top_load),
                    },
                };
                if better {
                    best = Some((score, siblings, load.instances, &module.name));
                }
            }
            candidates.push(Candidate { module: module.name.clone(), verdict });
        }
        let chosen = best.map(|(.., name)| name.clone());
        Decision { cause: cause.to_owned(), chosen, candidates, at: self.now.wall }
    }

    fn count_on(&self, module: &Name, test: impl Fn(&Instance) -> bool) -> u64 {
        self.instances
            .values()
            .filter(|i| i.module.as_ref() == Some(module) && !i.is_stopping() && test(i))
            .count() as u64
    }

    fn filter(&self, module: &Module, load: &Load, spec: &AppSpec, avoid: Option<&Name>) -> Option<String> {
        self.unfit(module, spec, avoid).or_else(|| short_of(module, load, spec))
    }

    /// Why a module is out of the question, whatever room it has.
    pub(crate) fn unfit(&self, module: &Module, spec: &AppSpec, avoid: Option<&Name>) -> Option<String> {
        if avoid == Some(&module.name) {
            return Some("it moves away from here".to_owned());
        }
        let Some(link) = self.links.get(&module.name) else { return Some("never heard".to_owned()) };
        if let Some(why) = link.refusal(self.now, &self.timing) {
            return Some(why);
        }
        if module.cordoned {
            return Some(if module.draining { "draining" } else { "cordoned" }.to_owned());
        }
        let wanted = &spec.placement;
        if !wanted.modules.is_empty() && !wanted.modules.contains(&module.name) {
            return Some("not among placement.modules".to_owned());
        }
        if let Some((key, value)) =
            wanted.labels.iter().find(|(key, value)| module.labels.get(*key) != Some(value))
        {
            return Some(format!("has no label {key} = {value:?}"));
        }
        if let Some(host) = own_host_ports(spec).find(|host| self.port_taken(&module.name, *host)) {
            return Some(format!("host port {host} is taken"));
        }
        if let Some(app) =
            wanted.apart.iter().find(|app| self.count_on(&module.name, |i| i.spec.name == **app) > 0)
        {
            return Some(format!("runs {app}, which it keeps apart from"));
        }
        if let Some(other) = self.instances.values().find(|i| {
            i.module.as_ref() == Some(&module.name)
                && i.spec.name != spec.name
                && i.spec.placement.apart.contains(&spec.name)
        }) {
            return Some(format!("runs {}, which keeps apart from it", other.spec.name));
        }
        if let Some(app) =
            wanted.near.iter().find(|app| self.count_on(&module.name, |i| i.spec.name == **app) == 0)
        {
            return Some(format!("does not run {app}, which it wants to be near"));
        }
        None
    }

    fn port_taken(&self, module: &Name, host: u16) -> bool {
        self.instances
            .values()
            .any(|i| i.module.as_ref() == Some(module) && own_host_ports(&i.spec).any(|own| own == host))
    }
}

/// Those that are published by a service belong to no module.
fn own_host_ports(spec: &AppSpec) -> impl Iterator<Item = u16> {
    spec.ports.iter().filter(|p| p.service.is_none()).filter_map(|p| p.host)
}

/// 0 to 100. Spread and binpack are Kubernetes' LeastAllocated and MostAllocated over CPU and memory; an app
/// that asks for nothing is still seen through the number of instances.
fn score(strategy: Strategy, module: &Module, load: &Load, spec: &AppSpec) -> f64 {
    let cpu = share(load.cpu.saturating_add(spec.resources.cpu.0), module.capacity.cpu.0);
    let memory = share(load.memory.saturating_add(spec.resources.memory.0), module.capacity.memory.0);
    let taken = 50.0 * (cpu + memory);
    let score = if strategy == Strategy::Binpack { taken } else { 100.0 - taken };
    (score * 100.0).round() / 100.0
}
