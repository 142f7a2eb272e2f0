//! Live moves: when one is tried, how it ends, and what the two agents are told meanwhile.
//!
//! A successor takes over from the instance that it replaces, as in every move; here it also has `takes`. States are
//! drawn at [`model::Live`]; what each end leads to:
//!
//! | what happens | what follows |
//! | --- | --- |
//! | the successor runs | the old one is stopped in the same step: it is frozen, and never told to go on |
//! | the successor's agent refuses | the reason is kept, the old one goes on, the successor starts afresh |
//! | the successor is not needed any more, or took too long | it is stopped; the old one goes on once it is gone |
//! | the target is lost | the old one goes on once the target's lease has killed what it had |
//! | the source is lost | the successor is an ordinary instance: it runs, or starts afresh |
//! | the server is started again | nothing: `takes` is a record |

use crate::core::Core;
use model::{Instance, InstanceId, Live, Name, Phase, PlannedMove, Severity};

impl Core {
    /// Gives an instance a successor: with its process if its app asks for that and nothing stands against it, else
    /// made before break. `only` is the module that was chosen already.
    pub(crate) fn succeed(&mut self, old: &InstanceId, cause: &str, only: Option<&Name>) {
        let Some(leaving) = self.instances.get(old).cloned() else { return };
        let asked = leaving.spec.migration.planned == PlannedMove::Live;
        let obstacle = if asked { self.live_obstacle(&leaving) } else { None };
        let cause = match &obstacle {
            Some(why) => {
                let text = format!("{old} is made before break: {why}");
                self.event(Severity::Warning, old.replica(), "NotLive", text);
                format!("{cause}; not live: {why}")
            }
            None => cause.to_owned(),
        };
        let Some(new) = self.create(old.replica(), Some(old.clone()), &cause) else { return };
        if asked
            && obstacle.is_none()
            && let Some(created) = self.instances.get(&new).cloned()
        {
            let brought = self.brought_along(&leaving);
            if let Err(why) = &brought {
                let text = format!("{old} leaves its address and its connections behind: {why}");
                self.event(Severity::Warning, old.replica(), "AddressStays", text);
            }
            self.put_instance(Instance { takes: Some(old.clone()), keeps: brought.ok(), ..created });
        }
        self.place(&new, only);
    }

    /// Ends an instance so that its replica begins anew elsewhere. An app that asked for live moves and gets this, for
    /// the sake of its volumes, hears why.
    pub(crate) fn stop_first(&mut self, id: &InstanceId, cause: &str) {
        self.event(Severity::Normal, id.replica(), "Stopping", format!("{cause}: stop first"));
        let asked = self.instances.get(id).filter(|i| i.spec.migration.planned == PlannedMove::Live);
        if let Some(why) = asked.and_then(|old| self.live_obstacle(old)) {
            self.event(Severity::Warning, id.replica(), "NotLive", format!("{id} is stopped first: {why}"));
        }
        self.retire(id);
    }

    /// Why its process cannot be moved, as far as that is known without trying.
    fn live_obstacle(&self, old: &Instance) -> Option<String> {
        if !old.unmovable.is_empty() {
            return Some(old.unmovable.clone());
        }
        if let Some(number) = old.binding.numbers().next() {
            return Some(format!("it holds accelerator {number}, whose state stays on the board"));
        }
        if let Some(mount) = old.spec.volumes.first() {
            return Some(format!(
                "it mounts volume {}, and a mount does not move with a process",
                mount.name
            ));
        }
        if !old.is_ready() {
            return Some(format!("it is {}", old.phase.as_str()));
        }
        let module = old.module.as_ref().and_then(|name| self.modules.get(name))?;
        module.live.is_empty().then(|| format!("{} has no criu, runc, tar or nft", module.name))
    }

    /// What the instance's agent is told of a live move: whose process it takes, or who takes its own.
    pub(crate) fn live_part(&self, instance: &Instance) -> Option<Live> {
        if let Some(from) = &instance.takes {
            let old = self.instances.get(from)?;
            let module = self.modules.get(old.module.as_ref()?)?;
            let (module, address) = (module.name.clone(), module.live.clone());
            return Some(Live::Takes { from: from.clone(), module, address });
        }
        let successor = self.instances.values().find(|i| i.takes.as_ref() == Some(&instance.id))?;
        let to = successor.module.clone()?;
        Some(Live::Gives { to, successor: successor.id.clone() })
    }

    /// An instance is about to be recorded as `after`, or removed: both agents of a live move hear what changes.
    pub(crate) fn follow_live(&mut self, id: &InstanceId, after: Option<&Instance>) {
        let part = |i: &Instance| i.takes.clone().map(|taken| (taken, i.module.clone()));
        let before = self.instances.get(id).and_then(part);
        let after = after.and_then(part);
        if before == after {
            return;
        }
        for (taken, module) in before.into_iter().chain(after) {
            let source = self.instances.get(&taken).and_then(|i| i.module.clone());
            self.reorder.extend(module.into_iter().chain(source));
        }
    }

    /// Whether the process is known to go on as this instance.
    pub(crate) fn has_taken(&self, new: &Instance) -> bool {
        new.takes.is_some() && matches!(new.phase, Phase::Running | Phase::Ready)
    }

    /// The process goes on as `new`. The frozen one is stopped before anybody could let it go on.
    pub(crate) fn taken_over(&mut self, new: Instance, old: &Instance) {
        let place = |i: &Instance| i.module.as_ref().map_or("nowhere".to_owned(), ToString::to_string);
        let (from, to, cause) = (place(old), place(&new), new.decision.cause.clone());
        let how = if new.message.is_empty() { String::new() } else { format!(" ({})", new.message) };
        let text = format!("live from {from} to {to}: {cause}{how}");
        self.event(Severity::Normal, new.id.replica(), "Moved", text);
        self.settle_in(new);
        self.stop(&old.id);
    }

    /// The target's agent does not run the process and never will: what was frozen goes on, and the successor starts
    /// afresh.
    pub(crate) fn fall_back(&mut self, new: &InstanceId, why: &str) {
        let Some(mut instance) = self.instances.get(new).cloned() else { return };
        let Some(old) = instance.takes.take() else { return };
        instance.keeps = None;
        let text = format!("{old} is made before break: {why}");
        self.event(Severity::Warning, new.replica(), "NotLive", text);
        instance.decision.cause = format!("{}; not live: {why}", instance.decision.cause);
        self.moves.insert(new.clone(), self.now.mono);
        self.put_instance(instance);
        self.remember_unmovable(&old, why);
    }

    /// The next move of it is made before break at once.
    pub(crate) fn remember_unmovable(&mut self, old: &InstanceId, why: &str) {
        if let Some(instance) = self.instances.get(old).cloned() {
            self.put_instance(Instance { unmovable: why.to_owned(), ..instance });
        }
    }
}

#[cfg(test)]
mod tests;
