//! Numbered resources: which accelerators and which cores, once a module is chosen.

use crate::{
    core::Core,
    place::Ask,
    usage::{Except, Usage, Window},
};
use model::{
    AcceleratorShare, AppSpec, Binding, Decision, Desired, Instance, InstanceId, Kind, Milli, Module, Name,
};
use std::collections::BTreeSet;

/// What one accelerator of a module has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) number: u32,
    /// Thousandths.
    pub(crate) free: u64,
}

impl Core {
    /// The accelerators that may be given to somebody, with what is left of each, by number.
    pub(crate) fn left(&self, module: &Module, usage: &Usage) -> Vec<Left> {
        let mut left: Vec<Left> = module
            .capacity
            .accelerators
            .iter()
            .filter(|a| self.unusable(module, a.number).is_none())
            .map(|a| {
                let used = usage.accelerators.get(&a.number).copied().unwrap_or(0);
                Left { number: a.number, free: Milli::WHOLE.saturating_sub(used) }
            })
            .collect();
        left.sort_by_key(|l| l.number);
        left
    }

    /// Numbers for what `spec` asks of `module`; those of `wanted` before others. None when there are too few.
    pub(crate) fn bind(
        &self,
        module: &Module,
        usage: &Usage,
        spec: &AppSpec,
        wanted: &Binding,
    ) -> Option<Binding> {
        let left = self.left(module, usage);
        let accelerators = choose_accelerators(&left, spec.resources.gpu, wanted)?;
        let cores = choose_cores(module, usage, spec.resources.cpu, wanted)?;
        Some(Binding { accelerators, cores })
    }

    /// Where an instance goes. A task goes to what is kept for it; `only` is the end of a planned move.
    pub(crate) fn decide_placement(
        &self,
        instance: &Instance,
        from: Option<&Name>,
        only: Option<&Name>,
    ) -> Decision {
        let spec = &instance.spec;
        let plan = self.plans.get(&spec.name).filter(|_| spec.kind == Kind::Task);
        let own = [&spec.name];
        let nothing = Binding::default();
        let kept = plan.and_then(|p| p.reservation.as_ref());
        // What the plan was decided by belongs to the explanation of what it became.
        let planned = plan.map(|p| p.decision.level.as_str()).filter(|words| !words.is_empty());
        let ahead = match planned {
            Some(words) => format!("{words}; reserved ahead for its window"),
            None => "reserved ahead for its window".to_owned(),
        };
        let prefer = match (only, kept) {
            (Some(only), _) => Some((only, &nothing, "")),
            (None, Some(kept)) => Some((&kept.module, &kept.binding, ahead.as_str())),
            (None, None) => None,
        };
        let now = self.now.wall;
        self.decide_on(&Ask {
            spec,
            window: plan.map_or(Window::for_good(now), |p| Window { from: now, until: p.end.max(now + 1) }),
            avoid: from,
            cause: &instance.decision.cause,
            code: spec.code(instance.id.replica().number),
            except: Except { reservations: &own, ..Except::default() },
            own: Some(&instance.id),
            extra: &[],
            prefer,
        })
    }

    /// What an agent is told of an instance. One that is pinned nowhere keeps off the cores of those that are,
    /// unless there are no others.
    pub(crate) fn desired(&self, instance: &Instance) -> Desired {
        let mut binding = instance.binding.clone();
        let module = instance.module.as_ref().and_then(|name| self.modules.get(name));
        if let (true, Some(module)) = (binding.cores.is_empty(), module) {
            binding.cores = self.shared_cores(module);
        }
        let id: InstanceId = instance.id.clone();
        let (volumes, live) = (self.attachments(&instance.spec), self.live_part(instance));
        Desired { id, spec: instance.spec.clone(), binding, volumes, live, keeps: instance.keeps }
    }

    fn shared_cores(&self, module: &Module) -> BTreeSet<u32> {
        let there = self.instances.values().filter(|i| i.module.as_ref() == Some(&module.name));
        let pinned: BTreeSet<u32> = there.flat_map(|i| i.binding.cores.iter().copied()).collect();
        if pinned.is_empty() {
            return BTreeSet::new();
        }
        module.capacity.cores().filter(|core| !pinned.contains(core)).collect()
    }
}

/// Whole ones in the order of their numbers; a part where the least is left over, so that whole ones stay whole.
fn choose_accelerators(left: &[Left], asked: Milli, wanted: &Binding) -> Option<Vec<AcceleratorShare>> {
    if asked.0 == 0 {
        return Some(Vec::new());
    }
    let known: BTreeSet<u32> = wanted.numbers().collect();
    if let Some(count) = asked.wholes() {
        let mut idle: Vec<u32> = left.iter().filter(|l| l.free == Milli::WHOLE).map(|l| l.number).collect();
        idle.sort_by_key(|number| (!known.contains(number), *number));
        idle.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        idle.sort_unstable();
        let shares: Vec<AcceleratorShare> =
            idle.into_iter().map(|number| AcceleratorShare { number, share: Milli(Milli::WHOLE) }).collect();
        return (shares.len() as u64 == count).then_some(shares);
    }
    let best = left
        .iter()
        .filter(|l| l.free >= asked.0)
        .min_by_key(|l| (!known.contains(&l.number), l.free, l.number))?;
    Some(vec![AcceleratorShare { number: best.number, share: asked }])
}

/// The paper's rule: by the number of cores asked, in the order of the free ones. Parts of cores are not pinned.
fn choose_cores(module: &Module, usage: &Usage, asked: Milli, wanted: &Binding) -> Option<BTreeSet<u32>> {
    let Some(count) = asked.wholes() else { return Some(BTreeSet::new()) };
    let mut free: Vec<u32> = module.capacity.cores().filter(|core| !usage.cores.contains(core)).collect();
    free.sort_by_key(|core| (!wanted.cores.contains(core), *core));
    free.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    (free.len() as u64 == count).then(|| free.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(free: &[u64]) -> Vec<Left> {
        free.iter()
            .enumerate()
            .map(|(n, free)| Left { number: u32::try_from(n).unwrap(), free: *free })
            .collect()
    }

    fn numbers(free: &[u64], asked: u64, wanted: &[u32]) -> Option<Vec<u32>> {
        let share = |number: &u32| AcceleratorShare { number: *number, share: Milli(Milli::WHOLE) };
        let wanted = Binding { accelerators: wanted.iter().map(share).collect(), ..Binding::default() };
        choose_accelerators(&left(free), Milli(asked), &wanted)
            .map(|list| list.into_iter().map(|a| a.number).collect())
    }

    #[test]
    fn whole_accelerators_are_taken_in_order_and_the_wanted_first() {
        assert_eq!(numbers(&[1000, 500, 1000, 1000], 2000, &[]), Some(vec![0, 2]));
        assert_eq!(numbers(&[1000, 500, 1000, 1000], 2000, &[3]), Some(vec![0, 3]));
        assert_eq!(numbers(&[1000, 500, 1000, 1000], 4000, &[]), None);
        assert_eq!(numbers(&[], 0, &[]), Some(vec![]));
    }

    #[test]
    fn a_part_goes_where_the_least_is_left_over() {
        assert_eq!(numbers(&[1000, 500, 300], 300, &[]), Some(vec![2]));
        assert_eq!(numbers(&[1000, 500, 300], 400, &[]), Some(vec![1]));
        assert_eq!(numbers(&[1000, 500, 300], 400, &[0]), Some(vec![0]));
        assert_eq!(numbers(&[200, 300], 400, &[]), None);
    }
}
