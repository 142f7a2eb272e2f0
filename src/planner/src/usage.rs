//! What is taken on each module over a span of time: by what is placed there, and by what is kept for tasks.

use crate::{
    core::Core,
    place::{Load, own_host_ports},
};
use model::{AppSpec, Binding, InstanceId, Kind, Module, Name, PlanState, PortId, ResourceName};
use std::collections::{BTreeMap, BTreeSet};

/// A span of Unix milliseconds, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Window {
    /// From `from` on, as an app has what it has.
    pub(crate) fn for_good(from: u64) -> Self {
        Self { from, until: u64::MAX }
    }

    fn overlaps(self, other: Self) -> bool {
        self.from < other.until && other.from < self.until
    }

    fn holds(self, at: u64) -> bool {
        self.from <= at && at < self.until
    }
}

/// Something that has resources of a module for a while.
#[derive(Debug, Clone)]
pub(crate) struct Hold<'a> {
    pub(crate) module: &'a Name,
    pub(crate) window: Window,
    pub(crate) spec: &'a AppSpec,
    pub(crate) binding: &'a Binding,
    /// The task or the replica, for people.
    pub(crate) who: String,
    /// Which instance; none for what is only reserved.
    pub(crate) instance: Option<&'a InstanceId>,
}

/// Whose own resources do not count: what is placed may have what it has already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Except<'a> {
    /// What is kept for these tasks.
    pub(crate) reservations: &'a [&'a Name],
    /// What instances of these have that are not stopping.
    pub(crate) instances: &'a [&'a Name],
    /// What this one has.
    pub(crate) instance: Option<&'a InstanceId>,
}

/// What is taken on one module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// The most at any moment of the window.
    pub(crate) load: Load,
    /// Thousandths of each accelerator, at any moment of the window.
    pub(crate) accelerators: BTreeMap<u32, u64>,
    /// Cores that somebody is pinned to at some moment of the window.
    pub(crate) cores: BTreeSet<u32>,
    /// Ports on the module's address.
    pub(crate) ports: BTreeSet<PortId>,
}

impl Usage {
    /// Of the holds of one module.
    pub(crate) fn of(holds: &[&Hold<'_>], window: Window) -> Self {
        let within: Vec<&&Hold<'_>> = holds.iter().filter(|h| h.window.overlaps(window)).collect();
        let mut usage = Self::default();
        for hold in &within {
            usage.cores.extend(hold.binding.cores.iter().copied());
            usage.ports.extend(own_host_ports(hold.spec));
        }
        for at in moments(within.iter().map(|h| h.window), window) {
            let mut load = Load::default();
            let mut accelerators: BTreeMap<u32, u64> = BTreeMap::new();
            for hold in within.iter().filter(|h| h.window.holds(at)) {
                load.add(hold.spec);
                for bound in &hold.binding.accelerators {
                    *accelerators.entry(bound.number).or_default() += bound.share.0;
                }
            }
            usage.load = usage.load.max(load);
            for (number, share) in accelerators {
                let most = usage.accelerators.entry(number).or_default();
                *most = share.max(*most);
            }
        }
        usage
    }
}

/// When the sum of the holds can be largest: at the window's start, and whenever one of them begins.
fn moments(holds: impl Iterator<Item = Window>, window: Window) -> BTreeSet<u64> {
    let mut moments: BTreeSet<u64> =
        holds.map(|h| h.from).filter(|from| *from > window.from && *from < window.until).collect();
    moments.insert(window.from);
    moments
}

impl Core {
    /// Everything that has something of a module, now or later.
    pub(crate) fn holds<'a>(&'a self, except: Except<'_>) -> Vec<Hold<'a>> {
        let mut holds = Vec::with_capacity(self.instances.len());
        let mut placed: BTreeSet<&Name> = BTreeSet::new();
        for instance in self.instances.values().filter(|i| Some(&i.id) != except.instance) {
            let Some(module) = &instance.module else { continue };
            if !instance.is_leaving() && except.instances.contains(&&instance.spec.name) {
                continue;
            }
            let until = if instance.is_leaving() {
                // It still has what it has, and will not have it for long.
                self.now.wall.saturating_add(1)
            } else {
                match self.plans.get(&instance.spec.name).filter(|_| instance.spec.kind == Kind::Task) {
                    Some(plan) => plan.end.max(self.now.wall.saturating_add(1)),
                    None => u64::MAX,
                }
            };
            if !instance.is_leaving() {
                placed.insert(&instance.spec.name);
            }
            let who = match instance.spec.kind {
                Kind::App => instance.id.replica().to_string(),
                Kind::Task => format!("task {}", instance.spec.name),
            };
            let window = Window { from: 0, until };
            let (spec, binding, instance) = (&instance.spec, &instance.binding, Some(&instance.id));
            holds.push(Hold { module, window, spec, binding, who, instance });
        }
        for plan in self.plans.values().filter(|p| !p.state.is_over()) {
            if except.reservations.contains(&&plan.task) {
                continue;
            }
            // What has been placed counts there.
            if plan.state == PlanState::Running && placed.contains(&plan.task) {
                continue;
            }
            let (Some(kept), Some(app)) = (&plan.reservation, self.apps.get(&plan.task)) else { continue };
            holds.push(Hold {
                module: &kept.module,
                window: Window { from: plan.start, until: plan.end },
                spec: &app.spec,
                binding: &kept.binding,
                who: format!("task {}", plan.task),
                instance: None,
            });
        }
        holds
    }

    /// Why nothing new is given to an accelerator, if that is so.
    pub(crate) fn unusable(&self, module: &Module, number: u32) -> Option<String> {
        let known = module.capacity.accelerators.iter().find(|a| a.number == number);
        let Some(accelerator) = known else { return Some("no longer in the slot map".to_owned()) };
        if !accelerator.fault.is_empty() {
            return Some(accelerator.fault.clone());
        }
        let key = (module.name.clone(), ResourceName::Accelerator(number));
        let set = self.resources.get(&key).is_some_and(|state| state.maintenance);
        set.then(|| "maintenance".to_owned())
    }
}

/// The holds, module by module.
pub(crate) fn by_module<'h, 'a>(
    holds: impl Iterator<Item = &'h Hold<'a>>,
) -> BTreeMap<&'a Name, Vec<&'h Hold<'a>>>
where
    'a: 'h,
{
    let mut modules: BTreeMap<&Name, Vec<&Hold<'_>>> = BTreeMap::new();
    for hold in holds {
        modules.entry(hold.module).or_default().push(hold);
    }
    modules
}

/// One resource that falls short on one module: when for the first time, and who has it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) resource: &'static str,
    pub(crate) at: u64,
    pub(crate) holders: Vec<String>,
}

/// The first moment of `window` at which `module` has too little of something that `spec` asks for.
pub(crate) fn first_conflict(
    module: &Module,
    usable: usize,
    holds: &[&Hold<'_>],
    spec: &AppSpec,
    window: Window,
) -> Option<Conflict> {
    let within: Vec<&&Hold<'_>> = holds.iter().filter(|h| h.window.overlaps(window)).collect();
    let (has, asked) = (&module.capacity, &spec.resources);
    let mut touched: BTreeSet<u32> = BTreeSet::new();
    for at in moments(within.iter().map(|h| h.window), window) {
        let there: Vec<&&&Hold<'_>> = within.iter().filter(|h| h.window.holds(at)).collect();
        let holders = |takes: &dyn Fn(&Hold<'_>) -> bool| -> Vec<String> {
            there.iter().filter(|h| takes(h)).map(|h| h.who.clone()).collect()
        };
        let mut load = Load::default();
        there.iter().for_each(|h| load.add(h.spec));
        for (resource, used, asked, has) in [
            ("cpu", load.cpu, asked.cpu.0, has.cpu.0),
            ("memory", load.memory, asked.memory.0, has.memory.0),
            ("disk", load.disk, asked.disk.0, has.disk.0),
        ] {
            if asked > 0 && used.saturating_add(asked) > has {
                let takes = |h: &Hold<'_>| match resource {
                    "cpu" => h.spec.resources.cpu.0 > 0,
                    "memory" => h.spec.resources.memory.0 > 0,
                    _ => h.spec.resources.disk.0 > 0,
                };
                return Some(Conflict { resource, at, holders: holders(&takes) });
            }
        }
        touched.extend(there.iter().flat_map(|h| h.binding.numbers()));
        let whole = usize::try_from(asked.gpu.wholes().unwrap_or(0)).unwrap_or(usize::MAX);
        let short = whole > usable.saturating_sub(touched.len());
        let part_short = asked.gpu.0 > 0 && asked.gpu.wholes().is_none() && {
            let usage = Usage::of(holds, Window { from: window.from, until: at.saturating_add(1) });
            let free = usage.accelerators.values().any(|used| used + asked.gpu.0 <= model::Milli::WHOLE);
            usage.accelerators.len() >= usable && !free
        };
        if short || part_short {
            let holders = within
                .iter()
                .filter(|h| h.window.from <= at && !h.binding.accelerators.is_empty())
                .map(|h| h.who.clone())
                .collect();
            return Some(Conflict { resource: "accelerators", at, holders });
        }
    }
    None
}

#[cfg(test)]
mod tests;
