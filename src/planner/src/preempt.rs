//! Pre-emption: an instance that fits nowhere takes the room of less important ones.
//!
//! ```text
//!  pending, short of room ─► per module: is there room once those that stop are gone? ─► wait
//!                                        else the fewest, least important victims     ─► stop them, wait
//! ```

use crate::{
    core::Core,
    usage::{Except, Hold, Window},
};
use model::{Instance, InstanceId, Module, Name, Severity};
use std::collections::BTreeSet;

/// Who has to go so that another fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preemption {
    pub(crate) module: Name,
    /// None when what stops there already is enough.
    pub(crate) victims: Vec<InstanceId>,
}

impl Core {
    /// Makes room for a pending instance at the cost of less important ones. Answers what it waits for.
    pub(crate) fn preempt(&mut self, pending: &Instance) -> Option<String> {
        // A planned move can wait: what it replaces still runs.
        if pending.replaces.is_some() {
            return None;
        }
        let plan = self.plan_preemption(pending)?;
        for id in &plan.victims {
            let text = format!("{id} on {} makes room for {}", plan.module, pending.id);
            self.event(Severity::Warning, id.replica(), "Preempted", text);
            self.stop(id);
        }
        Some(format!("waits for room on {}: less important instances stop there", plan.module))
    }

    /// The module where the least is lost.
    pub(crate) fn plan_preemption(&self, pending: &Instance) -> Option<Preemption> {
        let own = [&pending.spec.name];
        let holds = self.holds(Except { reservations: &own, ..Except::default() });
        let mut best: Option<((i32, usize), Preemption)> = None;
        for module in self.modules.values() {
            let there: Vec<&Hold<'_>> = holds.iter().filter(|h| h.module == &module.name).collect();
            let Some(victims) = self.victims(module, &there, pending) else { continue };
            let worst = victims.iter().map(|i| i.spec.priority).max().unwrap_or(i32::MIN);
            let cost = (worst, victims.len());
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let victims = victims.iter().map(|i| i.id.clone()).collect();
                best = Some((cost, Preemption { module: module.name.clone(), victims }));
            }
        }
        best.map(|(_, plan)| plan)
    }

    /// The least important instances on `module` without which `pending` fits there; nothing when it cannot be
    /// made to fit, or when it is not resources that it lacks.
    fn victims(&self, module: &Module, holds: &[&Hold<'_>], pending: &Instance) -> Option<Vec<&Instance>> {
        let until = self.plans.get(&pending.spec.name).map_or(u64::MAX, |plan| plan.end);
        let window = Window { from: self.now.wall, until };
        let usage = |gone: &BTreeSet<&InstanceId>| {
            let stays = |h: &&&Hold<'_>| h.instance.is_none_or(|id| !gone.contains(id));
            self.usage_on(&module.name, &holds.iter().filter(stays).copied().collect::<Vec<_>>(), window)
        };
        if !self.unfit(module, &usage(&BTreeSet::new()), &pending.spec, None).is_empty()
            || !self.unmountable(module, &pending.spec, None, false).is_empty()
        {
            return None;
        }
        let there = || self.instances.values().filter(|i| i.module.as_ref() == Some(&module.name));
        // What stops already is as good as gone.
        let mut gone: BTreeSet<&InstanceId> = there().filter(|i| i.is_stopping()).map(|i| &i.id).collect();
        let lacks =
            |gone: &BTreeSet<&InstanceId>| !self.short_of(module, &usage(gone), &pending.spec).is_empty();
        let mut less: Vec<&Instance> =
            there().filter(|i| !i.is_stopping() && i.spec.priority < pending.spec.priority).collect();
        less.sort_by_key(|i| (i.spec.priority, std::cmp::Reverse(i.spec.resources.memory), i.id.clone()));
        let mut victims: Vec<&Instance> = Vec::new();
        let mut rest = less.into_iter();
        while lacks(&gone) {
            let victim = rest.next()?;
            gone.insert(&victim.id);
            victims.push(victim);
        }
        // Some of the first may have been in vain: a later, larger one was enough.
        let mut kept = 0;
        while let Some(victim) = victims.get(kept).copied() {
            gone.remove(&victim.id);
            if lacks(&gone) {
                gone.insert(&victim.id);
                kept += 1;
            } else {
                victims.remove(kept);
            }
        }
        Some(victims)
    }
}
