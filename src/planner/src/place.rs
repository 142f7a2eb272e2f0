//! Placement of one instance: filter, score, choose, bind, and keep the whole table as the explanation.
//!
//! ```text
//!  Ask ─► usages over its window ─► filters ─► scores ─► device-level queue ─► bind numbers ─► Decision
//!         (placed and reserved)     (all of them, for     (only what succeeded
//!                                    the table)            before)
//! ```

use crate::{
    core::Core,
    device_queue::DeviceLevel,
    strategies::{filters, pooled, score},
    usage::{Except, Hold, Usage, Window, by_module},
};
use model::{
    AppSpec, Binding, Candidate, Decision, Failed, Instance, InstanceId, Milli, Module, Name, Port, PortId,
    Strategy, Verdict,
};
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

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            disk: self.disk.max(other.disk),
            gpu: self.gpu.max(other.gpu),
            instances: self.instances.max(other.instances),
        }
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
    let empty = Usage::default();
    let accelerators = module.capacity.accelerators.len() as u64;
    let mut failed = short_of_amounts(module, &empty, spec);
    let asked = spec.resources.gpu;
    if asked.0.div_ceil(Milli::WHOLE) > accelerators {
        failed.push(fail("accelerators", format!("gpu: asks {asked}, has {accelerators}"), String::new()));
    }
    (!failed.is_empty()).then(|| failed.into_iter().map(|f| f.why).collect::<Vec<_>>().join(", "))
}

/// Everything that a decision depends on besides the state.
pub(crate) struct Ask<'a> {
    pub(crate) spec: &'a AppSpec,
    /// When it needs what it asks for.
    pub(crate) window: Window,
    /// Where a moved instance comes from.
    pub(crate) avoid: Option<&'a Name>,
    pub(crate) cause: &'a str,
    /// What the queues know it by.
    pub(crate) code: String,
    /// Whose own resources do not count.
    pub(crate) except: Except<'a>,
    /// The instance that is placed, once there is one.
    pub(crate) own: Option<&'a InstanceId>,
    /// What is about to be reserved in the same request.
    pub(crate) extra: &'a [Hold<'a>],
    /// A place that is taken if it passes the filters, with the words for why.
    pub(crate) prefer: Option<(&'a Name, &'a Binding, &'a str)>,
}

/// The filters, in the order in which they are told.
pub(crate) const FILTERS: [&str; 13] = [
    "leaving",
    "liveness",
    "cordon",
    "modules",
    "labels",
    "ports",
    "apart",
    "near",
    "volumes",
    "cpu",
    "memory",
    "disk",
    "accelerators",
];

fn fail(filter: &str, why: impl Into<String>, remedy: impl Into<String>) -> Failed {
    Failed { filter: filter.to_owned(), why: why.into(), remedy: remedy.into() }
}

pub(crate) fn short_of_amounts(module: &Module, usage: &Usage, spec: &AppSpec) -> Vec<Failed> {
    let (has, asked, load) = (&module.capacity, &spec.resources, &usage.load);
    let lacking = |used: u64, asked: u64, has: u64| {
        let short = used.saturating_add(asked).saturating_sub(has);
        (asked > 0 && short > 0).then_some((short, has.saturating_sub(used)))
    };
    let mut failed = Vec::new();
    let mut told = lacking(load.cpu, asked.cpu.0, has.cpu.0);
    let free_cores = has.cores().filter(|core| !usage.cores.contains(core)).count() as u64;
    if let (None, Some(count)) = (told, asked.cpu.wholes())
        && free_cores < count
    {
        told = Some(((count - free_cores) * Milli::WHOLE, free_cores * Milli::WHOLE));
    }
    if let Some((short, free)) = told {
        let why = format!("cpu: asks {}, free {}", asked.cpu, Milli(free));
        failed.push(fail("cpu", why, format!("{} more of its cpu is free", Milli(short))));
    }
    for (what, asked, used, has) in
        [("memory", asked.memory, load.memory, has.memory.0), ("disk", asked.disk, load.disk, has.disk.0)]
    {
        if let Some((short, free)) = lacking(used, asked.0, has) {
            let why = format!("{what}: asks {asked}, free {}MiB", free >> 20);
            let short = short.div_ceil(1 << 20);
            failed.push(fail(what, why, format!("{short}MiB more of its {what} are free")));
        }
    }
    failed
}

impl Core {
    /// Finds another module for an instance, from now on and for good.
    pub(crate) fn decide(&self, instance: &Instance, cause: &str) -> Decision {
        let (spec, avoid, own) = (&instance.spec, instance.module.as_ref(), Some(&instance.id));
        let window = Window::for_good(self.now.wall);
        let except = Except::default();
        let code = spec.code(1);
        self.decide_on(&Ask { spec, window, avoid, cause, code, except, own, extra: &[], prefer: None })
    }

    /// Finds a module and numbers there.
    pub(crate) fn decide_on(&self, ask: &Ask<'_>) -> Decision {
        let holds = self.holds(ask.except);
        let held = by_module(holds.iter().chain(ask.extra));
        let usages: BTreeMap<&Name, Usage> = self
            .modules
            .keys()
            .map(|name| {
                let holds = held.get(name).map(Vec::as_slice).unwrap_or_default();
                (name, self.usage_on(name, holds, ask.window))
            })
            .collect();
        let nothing = Usage::default();
        let strategy = ask.spec.chosen_strategy();
        let mut candidates = Vec::with_capacity(self.modules.len());
        let mut best: Option<(f64, u64, u64, &Name)> = None;
        for module in self.modules.values() {
            let usage = usages.get(&module.name).unwrap_or(&nothing);
            let failed = self.filter(module, usage, ask);
            if let Some(first) = failed.first() {
                let verdict = Verdict::Filtered(first.why.clone());
                let (module, scores) = (module.name.clone(), BTreeMap::new());
                candidates.push(Candidate { module, verdict, failed, scores });
                continue;
            }
            let load = &usage.load;
            let (score, scores) = score(strategy, module, load, ask.spec);
            let sibling = |i: &Instance| i.spec.name == ask.spec.name && Some(&i.id) != ask.except.instance;
            let siblings = self.count_on(&module.name, sibling);
            let better = match best {
                None => true,
                Some((top, top_siblings, top_load, _)) => match strategy {
                    // Replicas of one app apart first: that is what spreading is for.
                    Strategy::Spread => (siblings, -score, load.instances) < (top_siblings, -top, top_load),
                    _ => (-score, load.instances) < (-top, top_load),
                },
            };
            if better {
                best = Some((score, siblings, load.instances, &module.name));
            }
            let verdict = Verdict::Score(score);
            candidates.push(Candidate { module: module.name.clone(), verdict, failed, scores });
        }
        let (mut alarm, mut policy_words) = (String::new(), String::new());
        let mut wanted = Binding::default();
        let mut best = best.map(|(.., name)| name.clone());
        if let Some(pooled) = pooled(strategy) {
            let (policy, words) = self.weighing(ask.spec);
            policy_words = words;
            let chosen = self.choose_by_pool(ask, pooled, policy, &usages, &mut candidates);
            best = chosen.as_ref().map(|c| c.module.clone());
            if let Some(chosen) = chosen {
                (wanted, alarm) = (chosen.wanted, chosen.alarm.unwrap_or_default());
            }
        }
        let level = self
            .preferred(ask, &candidates, &usages)
            .or_else(|| self.device_level(ask, &candidates, &usages))
            .unwrap_or_default();
        let (chosen, binding) = match level.taken {
            Some((name, binding)) => (Some(name), binding),
            None => match best.and_then(|name| self.modules.get(&name)) {
                Some(module) => {
                    let usage = usages.get(&module.name).unwrap_or(&nothing);
                    let bound = self.bind(module, usage, ask.spec, &wanted);
                    (bound.is_some().then(|| module.name.clone()), bound.unwrap_or_default())
                }
                None => (None, Binding::default()),
            },
        };
        Decision {
            cause: ask.cause.to_owned(),
            chosen,
            binding,
            level: level.words,
            strategy: format!("{strategy:?}").to_lowercase(),
            filters: filters(strategy),
            policy: policy_words,
            alarm,
            candidates,
            others: BTreeMap::new(),
            at: self.now.wall,
        }
    }

    /// The preferred place, if it passes the filters and its numbers can be had.
    fn preferred(
        &self,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        usages: &BTreeMap<&Name, Usage>,
    ) -> Option<DeviceLevel> {
        let (name, wanted, why) = ask.prefer?;
        candidates.iter().find(|c| c.module == *name && c.failed.is_empty())?;
        let nothing = Usage::default();
        let usage = usages.get(name).unwrap_or(&nothing);
        let binding = self.bind(self.modules.get(name)?, usage, ask.spec, wanted)?;
        Some(DeviceLevel { words: why.to_owned(), taken: Some((name.clone(), binding)) })
    }

    fn count_on(&self, module: &Name, test: impl Fn(&Instance) -> bool) -> u64 {
        self.instances
            .values()
            .filter(|i| i.module.as_ref() == Some(module) && !i.is_stopping() && test(i))
            .count() as u64
    }

    /// Every filter that takes the module out, in their order.
    fn filter(&self, module: &Module, usage: &Usage, ask: &Ask<'_>) -> Vec<Failed> {
        let mut failed = self.unfit(module, usage, ask.spec, ask.avoid);
        failed.extend(self.short_of_volumes(module, usage, ask));
        failed.extend(self.short_of(module, usage, ask.spec));
        failed
    }

    /// What it lacks there of amounts and of numbered resources.
    pub(crate) fn short_of(&self, module: &Module, usage: &Usage, spec: &AppSpec) -> Vec<Failed> {
        let mut failed = short_of_amounts(module, usage, spec);
        failed.extend(self.short_of_accelerators(module, usage, spec));
        failed
    }

    /// Why a module is out of the question, whatever room it has.
    pub(crate) fn unfit(
        &self,
        module: &Module,
        usage: &Usage,
        spec: &AppSpec,
        avoid: Option<&Name>,
    ) -> Vec<Failed> {
        let name = &module.name;
        let mut failed = Vec::new();
        if avoid == Some(name) {
            failed.push(fail("leaving", "it moves away from here", "it need not move away from there"));
        }
        match self.links.get(name) {
            None => failed.push(fail("liveness", "never heard", "it is heard")),
            Some(link) => failed.extend(
                link.refusal(self.now, &self.timing)
                    .map(|why| fail("liveness", why, "it is heard and has settled")),
            ),
        }
        if module.cordoned {
            let why = if module.draining { "draining" } else { "cordoned" };
            failed.push(fail("cordon", why, format!("`spacectl uncordon {name}` is given")));
        }
        if module.root.as_ref().is_some_and(model::RootSlot::is_in_update) {
            failed.push(fail("update", "is about to restart, or on trial", "its update has ended"));
        }
        let wanted = &spec.placement;
        if !wanted.modules.is_empty() && !wanted.modules.contains(name) {
            failed.push(fail("modules", "not among placement.modules", "placement.modules names it"));
        }
        if let Some((key, value)) =
            wanted.labels.iter().find(|(key, value)| module.labels.get(*key) != Some(value))
        {
            let why = format!("has no label {key} = {value:?}");
            failed.push(fail("labels", why, format!("it has the label {key} = {value:?}")));
        }
        if let Some(host) = own_host_ports(spec).find(|host| usage.ports.contains(host)) {
            let why = format!("host port {host} is taken");
            failed.push(fail("ports", why, format!("its port {host} is free")));
        }
        failed.extend(self.companions(module, spec));
        failed
    }

    fn companions(&self, module: &Module, spec: &AppSpec) -> Vec<Failed> {
        let mut failed = Vec::new();
        let wanted = &spec.placement;
        if let Some(app) =
            wanted.apart.iter().find(|app| self.count_on(&module.name, |i| i.spec.name == **app) > 0)
        {
            let why = format!("runs {app}, which it keeps apart from");
            failed.push(fail("apart", why, format!("{app} runs elsewhere")));
        } else if let Some(other) = self.instances.values().find(|i| {
            i.module.as_ref() == Some(&module.name)
                && i.spec.name != spec.name
                && i.spec.placement.apart.contains(&spec.name)
        }) {
            let other = &other.spec.name;
            let why = format!("runs {other}, which keeps apart from it");
            failed.push(fail("apart", why, format!("{other} runs elsewhere")));
        }
        if let Some(app) =
            wanted.near.iter().find(|app| self.count_on(&module.name, |i| i.spec.name == **app) == 0)
        {
            let why = format!("does not run {app}, which it wants to be near");
            failed.push(fail("near", why, format!("{app} runs there")));
        }
        failed
    }

    fn short_of_accelerators(&self, module: &Module, usage: &Usage, spec: &AppSpec) -> Option<Failed> {
        let asked = spec.resources.gpu;
        if asked.0 == 0 {
            return None;
        }
        let (left, all) = (self.left(module, usage), module.capacity.accelerators.len());
        let out = all.saturating_sub(left.len());
        let out = if out == 0 { String::new() } else { format!(", {out} in maintenance") };
        if let Some(count) = asked.wholes() {
            let idle = left.iter().filter(|l| l.free == Milli::WHOLE).count() as u64;
            let short = count.saturating_sub(idle);
            let why = format!("accelerators: asks {count}, idle {idle} of {all}{out}");
            return (short > 0)
                .then(|| fail("accelerators", why, format!("{short} more of its accelerators idle")));
        }
        let most = left.iter().map(|l| l.free).max().unwrap_or(0);
        let why = format!(
            "accelerators: asks {asked} of one, the most free on one of {all} is {}{out}",
            Milli(most)
        );
        (most < asked.0)
            .then(|| fail("accelerators", why, format!("{asked} of one of its accelerators are free")))
    }
}

/// Those that are published by a service belong to no module.
pub(crate) fn own_host_ports(spec: &AppSpec) -> impl Iterator<Item = PortId> {
    spec.ports.iter().filter(|p| p.service.is_none()).filter_map(Port::host_id)
}
