//! Plans of tasks, checked when they are submitted: read the windows, order them, reserve, or name the conflicts.

use crate::{
    Refusal,
    core::Core,
    place::Ask,
    usage::{Except, Hold, Window, by_module, first_conflict},
};
use model::{
    AppSpec, Decision, Kind, Moment, Name, Plan, PlanState, Record, RecordKind, Reservation, minute, utc,
};
use std::collections::{BTreeMap, BTreeSet};

/// The filters of what a window can be short of; the others say no at any time.
const AMOUNTS: [&str; 4] = ["cpu", "memory", "disk", "accelerators"];

impl Core {
    /// Moments that count from now become fixed ones.
    pub(crate) fn resolve_window(&self, spec: &mut AppSpec) {
        for moment in [&mut spec.start, &mut spec.end].into_iter().flatten() {
            *moment = Moment::At(moment.resolve(self.now.wall));
        }
    }

    /// Plans for the new and changed tasks of a request; all of them or none.
    pub(crate) fn plan_set(&self, specs: &[AppSpec]) -> Result<BTreeMap<Name, Plan>, Refusal> {
        let tasks: BTreeMap<&Name, &AppSpec> =
            specs.iter().filter(|s| s.kind == Kind::Task).map(|s| (&s.name, s)).collect();
        let order = self.in_order(&tasks)?;
        let changed: Vec<&AppSpec> = order.into_iter().filter(|spec| !self.stays_planned(spec)).collect();
        let names: Vec<&Name> = changed.iter().map(|spec| &spec.name).collect();
        let mut plans: BTreeMap<Name, Plan> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for spec in &changed {
            let window = self.window_of(spec, &plans)?;
            let extra: Vec<Hold<'_>> = plans.values().filter_map(|plan| hold(plan, &tasks)).collect();
            let running = self.instances.values().find(|i| i.spec.name == spec.name && !i.is_stopping());
            let place = running.and_then(|i| i.module.as_ref().map(|m| (m, &i.binding)));
            let ask = Ask {
                spec,
                window,
                avoid: None,
                cause: "plan",
                code: spec.code(1),
                except: Except { reservations: &names, instances: &names, instance: None },
                own: running.map(|i| &i.id),
                extra: &extra,
                prefer: place.map(|(module, binding)| (module, binding, "where it runs already")),
            };
            let decision = self.decide_on(&ask).shortened();
            if decision.chosen.is_none() && !self.modules.is_empty() {
                conflicts.push(self.conflict_words(&ask, &decision));
            }
            let reservation = decision
                .chosen
                .clone()
                .map(|module| Reservation { module, binding: decision.binding.clone() });
            let plan = Plan {
                task: spec.name.clone(),
                start: window.from,
                end: window.until,
                state: PlanState::Planned,
                reservation,
                decision,
                started: 0,
                ended: 0,
            };
            plans.insert(spec.name.clone(), plan);
        }
        conflicts.extend(self.overtaken(&plans));
        if conflicts.is_empty() { Ok(plans) } else { Err(Refusal::Conflict(conflicts)) }
    }

    /// The same spec again is the same plan, unless it is over and its window is not fixed in time.
    fn stays_planned(&self, spec: &AppSpec) -> bool {
        let Some(plan) = self.plans.get(&spec.name) else { return false };
        let same = self.apps.get(&spec.name).is_some_and(|app| app.spec == *spec);
        let fixed = spec.start.is_some() || spec.end.is_some();
        same && (fixed || !plan.state.is_over())
    }

    /// Those that others come after first; else as they start, then the most important.
    fn in_order<'a>(&self, tasks: &BTreeMap<&'a Name, &'a AppSpec>) -> Result<Vec<&'a AppSpec>, Refusal> {
        for spec in tasks.values() {
            let known = |name: &&Name| tasks.contains_key(*name) || self.plans.contains_key(*name);
            if let Some(after) = spec.after.iter().find(|name| !known(name)) {
                return Err(Refusal::NoTask { task: spec.name.clone(), after: after.clone() });
            }
        }
        let after = |name: &Name| -> BTreeSet<Name> {
            match (tasks.get(name), self.apps.get(name)) {
                (Some(spec), _) => spec.after.clone(),
                (None, Some(app)) => app.spec.after.clone(),
                (None, None) => BTreeSet::new(),
            }
        };
        // Of everything that is known: a new task may close a circle through old ones.
        let mut waiting: BTreeMap<Name, BTreeSet<Name>> = tasks
            .keys()
            .map(|name| (*name).clone())
            .chain(self.plans.keys().cloned())
            .map(|name| (name.clone(), after(&name)))
            .collect();
        let known: BTreeSet<Name> = waiting.keys().cloned().collect();
        waiting.values_mut().for_each(|names| names.retain(|name| known.contains(name)));
        let rank = |name: &Name| {
            let spec = tasks.get(name);
            let start = spec.and_then(|s| s.start).map_or(0, |m| m.resolve(self.now.wall));
            (start, spec.map_or(0, |s| -i64::from(s.priority)), name.clone())
        };
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let next =
                waiting.iter().filter(|(_, after)| after.is_empty()).map(|(n, _)| n).min_by_key(|n| rank(n));
            let Some(next) = next.cloned() else {
                let circle: Vec<&str> = waiting.keys().map(Name::as_str).collect();
                return Err(Refusal::Circle(circle.join(", ")));
            };
            waiting.remove(&next);
            for after in waiting.values_mut() {
                after.remove(&next);
            }
            order.extend(tasks.get(&next));
        }
        Ok(order)
    }

    fn window_of(&self, spec: &AppSpec, plans: &BTreeMap<Name, Plan>) -> Result<Window, Refusal> {
        let now = self.now.wall;
        let end_of = |name: &Name| {
            let old = || self.plans.get(name).filter(|p| !p.state.is_over());
            plans.get(name).or_else(old).map(|p| p.end)
        };
        let latest = spec.after.iter().filter_map(end_of).max().unwrap_or(0);
        let start = spec.start.map_or(now, |m| m.resolve(now)).max(latest);
        let length = spec.duration.map_or(0, |d| d.0);
        let end = spec.end.map_or(start.saturating_add(length), |m| m.resolve(now));
        let first = start.max(now);
        if end <= first {
            return Err(Refusal::Over { task: spec.name.clone(), end: utc(end), start: utc(first) });
        }
        Ok(Window { from: start, until: end })
    }

    /// Which task, which resource, which minute.
    pub(crate) fn conflict_words(&self, ask: &Ask<'_>, decision: &Decision) -> String {
        let holds = self.holds(ask.except);
        let held = by_module(holds.iter().chain(ask.extra));
        let words = decision.candidates.iter().map(|candidate| {
            let name = &candidate.module;
            let amounts_only = candidate.failed.iter().all(|f| AMOUNTS.contains(&f.filter.as_str()));
            let first = candidate.failed.first().map_or("", |f| f.why.as_str());
            let there = held.get(name).map(Vec::as_slice).unwrap_or_default();
            let conflict = self.modules.get(name).filter(|_| amounts_only).and_then(|module| {
                let numbers: Vec<u32> = module.capacity.accelerators.iter().map(|a| a.number).collect();
                let usable = numbers.iter().filter(|n| self.unusable(module, **n).is_none()).count();
                first_conflict(module, usable, there, ask.spec, ask.window)
            });
            match conflict {
                Some(conflict) if !conflict.holders.is_empty() => format!(
                    "{name}: {first} at {}, taken by {}",
                    minute(conflict.at),
                    conflict.holders.join(", ")
                ),
                _ => format!("{name}: {first}"),
            }
        });
        let others = Some(decision.others_words()).filter(|words| !words.is_empty());
        let words: Vec<String> = words.chain(others).collect();
        format!(
            "task {} ({} to {}) has no room: {}",
            ask.spec.name,
            minute(ask.window.from),
            minute(ask.window.until),
            words.join(", ")
        )
    }

    /// Tasks that are planned already and would now start before one that they come after has ended.
    fn overtaken(&self, plans: &BTreeMap<Name, Plan>) -> Vec<String> {
        let planned = self.plans.values().filter(|p| p.state == PlanState::Planned);
        let mut words = Vec::new();
        for plan in planned.filter(|p| !plans.contains_key(&p.task)) {
            let Some(app) = self.apps.get(&plan.task) else { continue };
            let before = app.spec.after.iter().filter_map(|name| plans.get(name));
            for earlier in before.filter(|earlier| earlier.end > plan.start) {
                words.push(format!(
                    "task {} starts at {}, before task {}, which it comes after, would end at {}; apply both",
                    plan.task,
                    minute(plan.start),
                    earlier.task,
                    minute(earlier.end)
                ));
            }
        }
        words
    }

    /// Takes a checked plan; answers it in words.
    pub(crate) fn adopt_plan(&mut self, plan: Plan) -> String {
        let window = format!("{} to {}", utc(plan.start), utc(plan.end));
        let words = match &plan.reservation {
            Some(kept) if kept.binding.is_empty() => format!("{window} on {}", kept.module),
            Some(kept) => format!("{window} on {} ({})", kept.module, kept.binding.words()),
            None => format!("{window}, nothing is reserved yet: no module has joined"),
        };
        self.put_plan(plan);
        words
    }

    pub(crate) fn put_plan(&mut self, plan: Plan) {
        self.note(Record::Plan(Box::new(plan.clone())));
        self.plans.insert(plan.task.clone(), plan);
    }

    /// Answers whether there was one: whether it was a task.
    pub(crate) fn drop_plan(&mut self, task: &Name) -> bool {
        let Some(plan) = self.plans.remove(task) else { return false };
        self.forget(RecordKind::Plan, task.to_string());
        // What was kept for it may be what another task waits for.
        self.touched.extend(plan.reservation.map(|kept| kept.module));
        true
    }

    /// Windows of tasks, by name.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
    }
}

fn hold<'a>(plan: &'a Plan, tasks: &BTreeMap<&Name, &'a AppSpec>) -> Option<Hold<'a>> {
    let kept = plan.reservation.as_ref()?;
    Some(Hold {
        module: &kept.module,
        window: Window { from: plan.start, until: plan.end },
        spec: tasks.get(&plan.task)?,
        binding: &kept.binding,
        who: format!("task {}", plan.task),
        instance: None,
    })
}

#[cfg(test)]
mod tests;
