//! What runs on an accelerator that is not to be used any more goes elsewhere.

use crate::core::Core;
use model::{Instance, InstanceId, PlannedMove, Severity};

/// An accelerator of an instance is not to be used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutOfUse {
    pub(crate) cause: String,
    /// There is nothing left to keep running.
    pub(crate) device_is_gone: bool,
}

impl Core {
    /// Whether there is another place for what it has, beside what it has.
    pub(crate) fn could_move(&self, instance: &Instance) -> bool {
        self.decide_placement(instance, None, None).chosen.is_some()
    }

    /// The first of its accelerators that an operator has set to maintenance, or that is gone.
    pub(crate) fn out_of_use(&self, instance: &Instance) -> Option<OutOfUse> {
        let module = instance.module.as_ref().and_then(|name| self.modules.get(name))?;
        instance.binding.numbers().find_map(|number| {
            let why = self.unusable(module, number)?;
            let of = module.capacity.accelerators.iter().find(|a| a.number == number);
            let device_is_gone = of.is_none_or(|a| !a.fault.is_empty());
            Some(OutOfUse {
                cause: format!("accelerator {number} of {}: {why}", module.name),
                device_is_gone,
            })
        })
    }

    /// Maintenance is a planned move, to another module or to other accelerators of the same one; it waits where it is
    /// for as long as there is no other place. A device that is gone leaves nothing to wait for.
    pub(crate) fn leave_accelerators(&mut self) {
        let leaving: Vec<(InstanceId, OutOfUse)> = self
            .instances
            .values()
            .filter(|i| i.module.is_some() && !i.is_leaving() && !self.moving(&i.id))
            .filter_map(|i| Some((i.id.clone(), self.out_of_use(i)?)))
            .collect();
        for (id, out) in leaving {
            let Some(instance) = self.instances.get(&id) else { continue };
            let stop_first = self.planned_move(&instance.spec) == PlannedMove::StopFirst;
            if out.device_is_gone {
                self.event(Severity::Warning, id.replica(), "Stopping", out.cause);
                self.stop(&id);
                continue;
            }
            if self.busy() {
                return;
            }
            if !self.could_move(instance) {
                continue;
            }
            if stop_first {
                self.event(Severity::Normal, id.replica(), "Stopping", format!("{}: stop first", out.cause));
                self.retire(&id);
            } else if let Some(new) = self.create(id.replica(), Some(id.clone()), &out.cause) {
                self.place(&new, None);
            }
        }
    }
}
