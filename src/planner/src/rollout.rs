//! Updates: a changed app's instances are replaced a few at a time, and it goes back to what ran before when a
//! new one does not become ready in time.
//!
//! ```text
//!  apply ──► rolling: outdated ──surge──► successor ready ──► old one retires ──► all have it: done
//!              │              └─max_unavailable──► old one retires ──► new one starts
//!              └ one is not ready within update.within ──► previous spec and revision again ──► rolling
//! ```

use crate::core::Core;
use model::{App, AppSpec, Instance, InstanceId, Name, PlannedMove, Rollout, Severity};

impl Core {
    /// A new spec for a known app. Answers whether its instances are to be replaced.
    pub(crate) fn revise(&mut self, mut app: App, spec: AppSpec, service_address: String) -> bool {
        // These alone leave the running instances as they are.
        let same = AppSpec {
            replicas: spec.replicas,
            service: spec.service,
            update: spec.update,
            start: spec.start,
            end: spec.end,
            duration: spec.duration,
            after: spec.after.clone(),
            code: spec.code.clone(),
            ..app.spec.clone()
        } == spec;
        if !same {
            let last = app.last_revision.max(app.revision);
            if app.rollout.is_none() {
                let previous = Rollout { previous: app.spec.clone(), previous_revision: app.revision };
                app.rollout = Some(Box::new(previous));
            }
            app.revision = last + 1;
            app.last_revision = app.revision;
            app.note = format!("updating to revision {}", app.revision);
        }
        app.spec = spec;
        app.service_address = service_address;
        self.put_app(app);
        !same
    }

    /// Ends rollouts: all instances have the new revision, or one does not get ready.
    pub(crate) fn watch_rollouts(&mut self) {
        let ready: Vec<InstanceId> = self
            .unproven
            .keys()
            .filter(|id| self.instances.get(*id).is_none_or(Instance::is_ready))
            .cloned()
            .collect();
        for id in ready {
            self.unproven.remove(&id);
        }
        let rolling: Vec<App> = self.apps.values().filter(|a| a.rollout.is_some()).cloned().collect();
        for app in rolling {
            let new = |i: &&Instance| i.revision == app.revision;
            let late = self.instances_of(app.name()).filter(new).find(|i| {
                let began = self.unproven.get(&i.id);
                !i.is_leaving()
                    && began.is_some_and(|at| self.now.mono.saturating_sub(*at) > app.spec.update.within.0)
            });
            if let Some(late) = late.cloned() {
                if app.spec.update.roll_back {
                    self.roll_back(app, &late);
                }
                continue;
            }
            let own = self.instances_of(app.name());
            let all: Vec<bool> =
                own.map(|i| i.revision == app.revision && i.is_ready() && !i.draining).collect();
            // One that has stopped may not have its successor yet. An app without replicas proves nothing: what ran before
            // stays what it goes back to.
            let proven = app.spec.replicas > 0;
            if proven && all.len() == count(app.spec.replicas) && all.iter().all(|done| *done) {
                let text = format!("revision {} runs everywhere", app.revision);
                self.event(Severity::Normal, app.name(), "Updated", text.clone());
                self.put_app(App { rollout: None, note: text, ..app });
            }
        }
    }

    fn roll_back(&mut self, app: App, late: &Instance) {
        let Some(rollout) = app.rollout.clone() else { return };
        let why = if late.message.is_empty() { late.phase.as_str() } else { &late.message };
        let text = format!(
            "revision {} rolled back to {}: {} was not ready in {}: {why}",
            app.revision, rollout.previous_revision, late.id, app.spec.update.within
        );
        self.event(Severity::Warning, app.name(), "RolledBack", text.clone());
        // What changed meanwhile without new instances stays.
        let spec = AppSpec {
            replicas: app.spec.replicas,
            service: app.spec.service,
            update: app.spec.update,
            ..rollout.previous
        };
        let name = app.name().clone();
        self.put_app(App { spec, revision: rollout.previous_revision, rollout: None, note: text, ..app });
        let successors: Vec<InstanceId> =
            self.instances_of(&name).filter(|i| i.replaces.is_some()).map(|i| i.id.clone()).collect();
        for id in successors {
            self.stop(&id);
        }
    }

    /// Whether a new instance that does not become ready is seen to by a roll-back.
    pub(crate) fn rolls_back(&self, new: &Instance) -> bool {
        self.apps.get(&new.spec.name).is_some_and(|app| {
            app.rollout.is_some() && app.spec.update.roll_back && app.revision == new.revision
        })
    }

    /// Replaces outdated instances, as many at once as each app allows.
    pub(crate) fn roll(&mut self) {
        let names: Vec<Name> = self.apps.keys().cloned().collect();
        for name in names {
            let Some(app) = self.apps.get(&name).cloned() else { continue };
            self.roll_one(&app);
        }
    }

    fn roll_one(&mut self, app: &App) {
        let own: Vec<&Instance> = self.instances_of(app.name()).collect();
        let mut outdated: Vec<Instance> = own
            .iter()
            .filter(|i| i.revision != app.revision && !i.is_leaving() && !self.moving(&i.id))
            .map(|i| (*i).clone())
            .collect();
        if outdated.is_empty() {
            return;
        }
        let mut surging = own.iter().filter(|i| i.replaces.is_some()).count();
        let serving: std::collections::BTreeSet<u32> =
            own.iter().filter(|i| i.is_ready() && !i.draining).map(|i| i.id.replica().number).collect();
        let mut missing = count(app.spec.replicas).saturating_sub(serving.len());
        let stop_first = self.planned_move(&app.spec) == PlannedMove::StopFirst;
        let surge = if stop_first { 0 } else { count(app.spec.update.surge) };
        let unavailable = count(app.spec.update.max_unavailable).max(usize::from(surge == 0));
        // What is not ready serves nobody: it goes first.
        outdated.sort_by_key(|i| (i.is_ready(), i.id.clone()));
        let cause = format!("update to revision {}", app.revision);
        for old in outdated {
            if !old.is_ready() {
                self.stop(&old.id);
            } else if surging < surge {
                if self.busy() {
                    return;
                }
                surging += 1;
                if let Some(new) = self.create(old.id.replica(), Some(old.id.clone()), &cause) {
                    self.place(&new, None);
                }
            } else if missing < unavailable && !self.busy() {
                missing += 1;
                self.event(Severity::Normal, old.id.replica(), "Stopping", format!("{cause}: stop first"));
                self.retire(&old.id);
            } else {
                return;
            }
        }
    }
}

fn count(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
