//! What should be, compared with what is: replicas, losses, updates, drains, moves. Runs after every event.

use crate::core::Core;
use model::{App, Instance, InstanceId, Name, OnDisconnect, Phase, PlannedMove, ReplicaId, Severity};

impl Core {
    pub(crate) fn reconcile(&mut self) {
        self.run_tasks();
        self.stop_unwanted();
        self.finish_moves();
        self.finish_drains();
        self.watch_rollouts();
        self.fill_replicas();
        self.place_pending();
        self.keep_reservations();
        self.roll();
        self.empty_modules();
        self.leave_accelerators();
        self.rebalance();
        self.erase_volumes();
    }

    /// A module's lease and the margin have run out: nothing of kind `stop` runs there any more.
    pub(crate) fn lose(&mut self, name: &Name) {
        let there: Vec<Instance> =
            self.instances.values().filter(|i| i.module.as_ref() == Some(name)).cloned().collect();
        self.event(
            Severity::Warning,
            name,
            "Lost",
            format!("not heard; {} instances are replaced", there.len()),
        );
        self.touched.insert(name.clone());
        for instance in there {
            self.close_run(&instance.id, Some(model::Outcome::Lost));
            self.remove_instance(&instance.id);
            let kept = instance.spec.migration.on_disconnect == OnDisconnect::Keep;
            let word = if kept {
                "its module keeps it running; a second one is started"
            } else {
                "its module was lost"
            };
            self.event(
                Severity::Warning,
                instance.id.replica(),
                "Replaced",
                format!("{} on {name}: {word}", instance.id),
            );
        }
    }

    /// Instances of deleted apps and of replicas above the wanted number.
    fn stop_unwanted(&mut self) {
        let unwanted: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| !i.is_stopping())
            .filter(|i| !i.draining || !self.apps.contains_key(&i.spec.name))
            .filter(|i| {
                self.apps.get(&i.spec.name).is_none_or(|app| i.id.replica().number > self.wanted(app))
            })
            .map(|i| i.id.clone())
            .collect();
        for id in unwanted {
            if self.apps.contains_key(&id.replica().app) { self.retire(&id) } else { self.stop(&id) }
        }
    }

    pub(crate) fn stop(&mut self, id: &InstanceId) {
        self.moves.remove(id);
        self.drains.remove(id);
        let Some(instance) = self.instances.get(id).cloned() else { return };
        if instance.module.is_none() {
            self.remove_instance(id);
        } else {
            self.put_instance(Instance { phase: Phase::Stopping, replaces: None, ..instance });
        }
    }

    /// A move ends when the new instance is ready, is given up when that takes too long, and is an ordinary
    /// instance when the old one is gone.
    fn finish_moves(&mut self) {
        let moving: Vec<Instance> =
            self.instances.values().filter(|i| i.replaces.is_some() && !i.is_stopping()).cloned().collect();
        for new in moving {
            let Some(old_id) = new.replaces.clone() else { continue };
            let old = self.instances.get(&old_id).cloned();
            let began = self.moves.get(&new.id).copied().unwrap_or(self.now.mono);
            match old {
                None => self.settle_in(new),
                Some(old) if self.has_taken(&new) => self.taken_over(new, &old),
                Some(old) if old.is_leaving() => self.settle_in(new),
                Some(old) if new.is_ready() => {
                    let place =
                        |i: &Instance| i.module.as_ref().map_or("nowhere".to_owned(), ToString::to_string);
                    let text = format!("from {} to {}: {}", place(&old), place(&new), new.decision.cause);
                    self.event(Severity::Normal, new.id.replica(), "Moved", text);
                    self.settle_in(new);
                    self.retire(&old.id);
                }
                // The app has been changed once more: this successor is of no use.
                Some(_) if self.apps.get(&new.spec.name).is_some_and(|app| app.revision != new.revision) => {
                    self.stop(&new.id);
                }
                // An update has a limit of its own.
                Some(old) if old.revision != new.revision && self.rolls_back(&new) => {}
                Some(_) if self.now.mono.saturating_sub(began) > self.timing.move_limit.0 => {
                    let text =
                        format!("{} was not ready in {}: {}", new.id, self.timing.move_limit, new.message);
                    if let Some(old) = &new.takes {
                        self.remember_unmovable(old, &text);
                    }
                    self.event(Severity::Warning, new.id.replica(), "MoveGivenUp", text);
                    self.stop(&new.id);
                }
                Some(_) => {}
            }
        }
    }

    pub(crate) fn settle_in(&mut self, instance: Instance) {
        self.moves.remove(&instance.id);
        let keeps = crate::roaming::settled(&instance);
        self.put_instance(Instance { replaces: None, takes: None, keeps, ..instance });
    }

    /// Every wanted replica has an instance; one that still stops is waited for, so that none runs twice.
    fn fill_replicas(&mut self) {
        let apps: Vec<App> = self.apps.values().cloned().collect();
        for app in apps {
            for number in 1..=self.wanted(&app) {
                let replica = ReplicaId { app: app.name().clone(), number };
                if self.instances_of_replica(&replica).next().is_none() {
                    self.create(&replica, None, "new replica");
                }
            }
        }
    }

    /// A new pending instance of a replica.
    pub(crate) fn create(
        &mut self,
        replica: &ReplicaId,
        replaces: Option<InstanceId>,
        cause: &str,
    ) -> Option<InstanceId> {
        let mut app = self.apps.get(&replica.app)?.clone();
        let id = InstanceId::new(replica.clone(), app.next_incarnation);
        app.next_incarnation += 1;
        let (spec, revision) = (app.spec.clone(), app.revision);
        self.put_app(app);
        if replaces.is_some() {
            self.moves.insert(id.clone(), self.now.mono);
        }
        let decision = model::Decision { cause: cause.to_owned(), ..Default::default() };
        self.put_instance(Instance {
            id: id.clone(),
            spec,
            revision,
            module: None,
            binding: model::Binding::default(),
            phase: Phase::Pending,
            replaces,
            restarts: 0,
            address: String::new(),
            message: String::new(),
            started: 0,
            draining: false,
            takes: None,
            keeps: None,
            unmovable: String::new(),
            decision,
        });
        self.unproven.insert(id.clone(), self.now.mono);
        Some(id)
    }

    /// Most important first.
    fn place_pending(&mut self) {
        let mut pending: Vec<(i32, InstanceId)> = self
            .instances
            .values()
            .filter(|i| i.phase == Phase::Pending)
            .map(|i| (-i.spec.priority, i.id.clone()))
            .collect();
        pending.sort();
        for (_, id) in pending {
            self.place(&id, None);
        }
    }

    pub(crate) fn place(&mut self, id: &InstanceId, only: Option<&Name>) {
        let Some(mut instance) = self.instances.get(id).cloned() else { return };
        let from = instance.replaces.as_ref().and_then(|old| self.instances.get(old)).and_then(|old| {
            // An update may stay where it is, and so may what leaves one accelerator; a drain or a rebalance may not.
            let stays = old.revision != instance.revision || self.out_of_use(old).is_some();
            if stays { None } else { old.module.clone() }
        });
        let intended = self.intended.remove(instance.id.replica());
        let only = only.or(intended.as_ref());
        let decision = self.decide_placement(&instance, from.as_ref(), only).shortened();
        let mut message = decision.refusal();
        if decision.chosen.is_none()
            && let Some(waits) = self.preempt(&instance)
        {
            message = format!("{waits} ({message})");
        }
        if decision.chosen.is_none()
            && message == instance.message
            && !instance.decision.candidates.is_empty()
        {
            return;
        }
        if decision.chosen.is_some() {
            instance.phase = Phase::Starting;
        } else {
            self.event(Severity::Warning, instance.id.replica(), "Pending", message.clone());
        }
        if decision.chosen.is_some() && !decision.alarm.is_empty() {
            self.event(Severity::Warning, instance.id.replica(), "Reserve", decision.alarm.clone());
        }
        instance.module.clone_from(&decision.chosen);
        instance.binding.clone_from(&decision.binding);
        instance.message = message;
        instance.decision = decision;
        self.placed(&instance);
        self.attach_volumes(&instance);
        self.put_instance(instance);
    }

    /// What runs on draining modules moves; a few at a time.
    fn empty_modules(&mut self) {
        let wanting: Vec<(InstanceId, String, PlannedMove)> = self
            .instances
            .values()
            .filter(|i| !i.is_leaving() && !self.moving(&i.id))
            .filter_map(|i| {
                let module = i.module.as_ref().and_then(|m| self.modules.get(m)).filter(|m| m.draining)?;
                let app = self.apps.get(&i.spec.name)?;
                Some((i.id.clone(), format!("drain of {}", module.name), self.planned_move(&app.spec)))
            })
            .collect();
        for (id, cause, planned) in wanting {
            if self.busy() {
                return;
            }
            match planned {
                PlannedMove::StopFirst => self.stop_first(&id, &cause),
                PlannedMove::MakeBeforeBreak | PlannedMove::Live => self.succeed(&id, &cause, None),
            }
        }
    }

    /// As many moves are under way as are allowed at once. One that waits for room counts: it is next.
    pub(crate) fn busy(&self) -> bool {
        let moving = self.instances.values().filter(|i| i.replaces.is_some() || self.stops_first(i)).count();
        moving >= usize::try_from(self.timing.moves).unwrap_or(usize::MAX)
    }

    fn stops_first(&self, instance: &Instance) -> bool {
        instance.is_leaving()
            && self.planned_move(&instance.spec) == PlannedMove::StopFirst
            && self.apps.contains_key(&instance.spec.name)
    }

    /// Only when nothing else is being started.
    fn rebalance(&mut self) {
        while !self.busy()
            && !self.instances.values().any(|i| i.phase == Phase::Starting && i.replaces.is_none())
        {
            let Some(plan) = self.plan_rebalance() else { return };
            let Some(old) = self.instances.get(&plan.instance).cloned() else { return };
            if self.planned_move(&old.spec) == PlannedMove::StopFirst {
                let cause = format!("rebalance to {}", plan.to);
                self.intended.insert(old.id.replica().clone(), plan.to);
                self.stop_first(&old.id, &cause);
            } else {
                self.succeed(&old.id, "rebalance", Some(&plan.to));
            }
        }
    }
}
