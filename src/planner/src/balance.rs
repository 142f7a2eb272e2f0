//! Rebalancing: read the loads, plan one move that makes them more even, or none.

use crate::{
    core::Core,
    place::{Load, loads, share},
};
use model::{Instance, InstanceId, Kind, Module, Name, Strategy};

/// An instance that asks for nothing still weighs this share of a module.
const LEAST_WEIGHT: f64 = 1.0 / 100.0;
/// A move must close a gap of at least this many times what it moves, else two modules would swap for ever.
const HYSTERESIS: f64 = 1.5;

/// One planned move.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Move {
    pub(crate) instance: InstanceId,
    pub(crate) to: Name,
}

/// What an instance weighs on a module: its largest share of a resource.
fn weight(instance: &Instance, module: &Module) -> f64 {
    let asked = &instance.spec.resources;
    share(asked.cpu.0, module.capacity.cpu.0)
        .max(share(asked.memory.0, module.capacity.memory.0))
        .max(LEAST_WEIGHT)
}

impl Core {
    /// The move that evens the fullest module out best, if one is worth it. What another strategy than `spread` has
    /// packed stays packed.
    pub(crate) fn plan_rebalance(&self) -> Option<Move> {
        let ready = |m: &&Module| {
            !m.cordoned
                && self.links.get(&m.name).is_some_and(|link| link.refusal(self.now, &self.timing).is_none())
        };
        let weights = |module: &Module| -> f64 {
            self.instances
                .values()
                .filter(|i| i.module.as_ref() == Some(&module.name) && !self.leaves(i))
                .map(|i| weight(i, module))
                .sum()
        };
        let mut modules: Vec<(f64, &Module)> =
            self.modules.values().filter(ready).map(|m| (weights(m), m)).collect();
        modules.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let (highest, from) = modules.first()?;
        let settled =
            |m: &Module| self.links.get(&m.name).is_some_and(|l| l.settling(self.now, &self.timing) == 0);
        for (lowest, to) in modules.iter().rev().filter(|(_, m)| m.name != from.name && settled(m)) {
            let gap = highest - lowest;
            let mut fitting: Vec<(f64, &Instance)> = self
                .instances
                .values()
                .filter(|i| {
                    i.module.as_ref() == Some(&from.name)
                        && i.is_ready()
                        && i.spec.kind == Kind::App
                        && i.spec.chosen_strategy() == Strategy::Spread
                        && !i.draining
                        && !self.moving(&i.id)
                })
                .map(|i| (weight(i, from), i))
                .filter(|(weight, i)| weight * HYSTERESIS <= gap && self.takes(to, i))
                .collect();
            // The one that comes closest to halving the gap; among equals the least important, then the newest.
            fitting.sort_by(|a, b| {
                let rest = |w: f64| (gap / 2.0 - w).abs();
                rest(a.0)
                    .total_cmp(&rest(b.0))
                    .then_with(|| a.1.spec.priority.cmp(&b.1.spec.priority))
                    .then_with(|| b.1.id.cmp(&a.1.id))
            });
            if let Some((_, instance)) = fitting.first() {
                return Some(Move { instance: instance.id.clone(), to: to.name.clone() });
            }
        }
        None
    }

    /// Whether `to` would be chosen were it the only other module.
    fn takes(&self, to: &Module, instance: &Instance) -> bool {
        let decision = self.decide(instance, "rebalance");
        decision.fits(&to.name)
    }

    /// It is stopping, or its successor is on the way: its weight no longer counts.
    fn leaves(&self, instance: &Instance) -> bool {
        instance.is_leaving()
            || self
                .instances_of_replica(instance.id.replica())
                .any(|i| i.replaces.as_ref() == Some(&instance.id))
    }

    /// Its replica has another instance, starting or stopping: one move at a time.
    pub(crate) fn moving(&self, id: &InstanceId) -> bool {
        self.instances_of_replica(id.replica()).any(|other| other.id != *id)
    }

    /// For status displays: every module's load.
    pub fn module_loads(&self) -> std::collections::BTreeMap<Name, Load> {
        loads(self.instances.values())
    }
}
