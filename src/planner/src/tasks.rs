//! Tasks in their windows: started on time, ended on time, and reserved anew when a reservation cannot be kept.

use crate::{
    core::Core,
    place::{Ask, too_small},
    usage::{Except, Window},
};
use model::{
    App, AppSpec, Instance, Kind, Liveness, Name, Outcome, Phase, Plan, PlanState, Reservation, Severity, utc,
};

impl Core {
    /// How many replicas there are to be at this moment.
    pub(crate) fn wanted(&self, app: &App) -> u32 {
        match app.spec.kind {
            Kind::App => app.spec.replicas,
            Kind::Task => {
                let plan = self.plans.get(app.name());
                u32::from(plan.is_some_and(|plan| plan.state == PlanState::Running))
            }
        }
    }

    /// Opens and closes windows.
    pub(crate) fn run_tasks(&mut self) {
        let open: Vec<Name> =
            self.plans.values().filter(|p| !p.state.is_over()).map(|p| p.task.clone()).collect();
        for task in &open {
            self.bring_forward(task);
            self.run_task(task);
        }
    }

    /// After everything that is to run now has its place.
    pub(crate) fn keep_reservations(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let planned = self.plans.values().filter(|p| p.state == PlanState::Planned);
        for task in planned.map(|p| p.task.clone()).collect::<Vec<_>>() {
            self.keep_reservation(&task);
        }
    }

    fn run_task(&mut self, task: &Name) {
        let Some(plan) = self.plans.get(task).cloned() else { return };
        let now = self.now.wall;
        match plan.state {
            PlanState::Planned if now >= plan.end => {
                self.finish_task(plan, PlanState::Missed, "its window passed before it could start");
            }
            PlanState::Planned if now >= plan.start && self.comes_next(task) => {
                let until = utc(plan.end);
                self.put_plan(Plan { state: PlanState::Running, ..plan });
                self.event(Severity::Normal, task, "Started", format!("its window is open until {until}"));
            }
            PlanState::Running => {
                let of_task = |i: &&Instance| i.spec.name == *task && !i.is_stopping();
                let seen: Vec<Phase> = self.instances.values().filter(of_task).map(|i| i.phase).collect();
                if seen.contains(&Phase::Succeeded) {
                    self.finish_task(plan, PlanState::Succeeded, "it exited with 0");
                } else if now >= plan.end {
                    let runs = seen.iter().any(|p| matches!(p, Phase::Ready | Phase::Running));
                    let (state, why) = match (runs, plan.started) {
                        (true, _) => (PlanState::Succeeded, "it ran until its end"),
                        (false, 0) => (PlanState::Missed, "no module had room for it in its window"),
                        (false, _) => (PlanState::Failed, "it did not run at its end"),
                    };
                    self.finish_task(plan, state, why);
                }
            }
            _ => {}
        }
    }

    /// A task without a start of its own, all of whose predecessors are over before their windows are: it need not wait
    /// for what was planned when there is room for it now. Looked at whenever something has become free.
    fn bring_forward(&mut self, task: &Name) {
        let now = self.now.wall;
        let waits = |plan: &&Plan| plan.state == PlanState::Planned && now < plan.start;
        let Some(plan) = self.plans.get(task).filter(waits).cloned() else { return };
        let Some(app) = self.apps.get(task) else { return };
        let follows = app.spec.start.is_none() && !app.spec.after.is_empty() && self.comes_next(task);
        if self.touched.is_empty() || !follows {
            return;
        }
        let spec = app.spec.clone();
        let until = spec.duration.map_or(plan.end, |length| now.saturating_add(length.0));
        let own = [task];
        let decision = self.decide_on(&Ask {
            spec: &spec,
            window: Window { from: now, until },
            avoid: None,
            cause: "what it comes after is over",
            code: spec.code(1),
            except: Except { reservations: &own, instances: &own, instance: None },
            own: None,
            extra: &[],
            prefer: plan
                .reservation
                .as_ref()
                .map(|kept| (&kept.module, &kept.binding, "reserved ahead, and free already")),
        });
        let Some(module) = decision.chosen.clone() else { return };
        let decision = decision.shortened();
        let text = format!("what it comes after is over: from {} to {} on {module}", utc(now), utc(until));
        self.event(Severity::Normal, task, "BroughtForward", text);
        let reservation = Some(Reservation { module, binding: decision.binding.clone() });
        self.put_plan(Plan { start: now, end: until, reservation, decision, ..plan });
    }

    /// All that it comes after are over.
    fn comes_next(&self, task: &Name) -> bool {
        let Some(app) = self.apps.get(task) else { return false };
        app.spec.after.iter().all(|name| self.plans.get(name).is_none_or(|plan| plan.state.is_over()))
    }

    fn finish_task(&mut self, plan: Plan, state: PlanState, why: &str) {
        let outcome = if state == PlanState::Succeeded { Outcome::Succeeded } else { Outcome::Failed };
        let ids: Vec<_> = self
            .instances
            .values()
            .filter(|i| i.spec.name == plan.task && !i.is_stopping())
            .map(|i| i.id.clone())
            .collect();
        for id in ids {
            self.close_run(&id, Some(outcome));
        }
        let severity = if state == PlanState::Succeeded { Severity::Normal } else { Severity::Warning };
        let reason = match state {
            PlanState::Succeeded => "Succeeded",
            PlanState::Missed => "Missed",
            _ => "Failed",
        };
        self.event(severity, &plan.task, reason, why.to_owned());
        self.put_plan(Plan { state, reservation: None, ended: self.now.wall, ..plan });
    }

    /// An instance of a task has got its place: nothing needs to be kept for it any more.
    pub(crate) fn placed(&mut self, instance: &Instance) {
        if instance.module.is_none() || instance.spec.kind == Kind::App {
            return;
        }
        let Some(plan) = self.plans.get(&instance.spec.name).cloned() else { return };
        let started = if plan.started == 0 { self.now.wall } else { plan.started };
        self.put_plan(Plan { reservation: None, started, decision: instance.decision.clone(), ..plan });
    }

    /// A reservation on a module that is lost, cordoned, or whose accelerator is out of use, goes elsewhere now: a
    /// conflict is said before it happens.
    fn keep_reservation(&mut self, task: &Name) {
        let Some(plan) = self.plans.get(task).filter(|p| p.state == PlanState::Planned).cloned() else {
            return;
        };
        let Some(app) = self.apps.get(task) else { return };
        if plan.reservation.as_ref().is_some_and(|kept| self.can_keep(kept, &app.spec)) {
            return;
        }
        let spec = app.spec.clone();
        let own = [task];
        let ask = Ask {
            spec: &spec,
            window: Window { from: plan.start.max(self.now.wall), until: plan.end },
            avoid: None,
            cause: "its reservation could not be kept",
            code: spec.code(1),
            except: Except { reservations: &own, instances: &own, instance: None },
            own: None,
            extra: &[],
            prefer: None,
        };
        let decision = self.decide_on(&ask).shortened();
        let reservation =
            decision.chosen.clone().map(|module| Reservation { module, binding: decision.binding.clone() });
        if reservation == plan.reservation {
            return;
        }
        match &reservation {
            Some(kept) => self.event(Severity::Normal, task, "Reserved", format!("on {}", kept.module)),
            None => {
                let words = self.conflict_words(&ask, &decision);
                self.event(Severity::Warning, task, "Conflict", words);
            }
        }
        self.put_plan(Plan { reservation, decision, ..plan });
    }

    fn can_keep(&self, kept: &Reservation, spec: &AppSpec) -> bool {
        let Some(module) = self.modules.get(&kept.module) else { return false };
        if too_small(module, spec).is_some() {
            return false;
        }
        let lost = self.links.get(&kept.module).is_none_or(|l| l.liveness == Liveness::Lost);
        !lost && !module.cordoned && kept.binding.numbers().all(|n| self.unusable(module, n).is_none())
    }
}

#[cfg(test)]
mod tests;
