//! Updates of modules' root slots: what may be begun, and what is worth an event. The modules do the work.

use crate::request::Refusal;
use crate::{core::Core, step::Reply};
use model::{Instance, Liveness, Name, RootSlot, Severity, UpdatePhase};

impl Core {
    /// A module says how its root slots are.
    pub(crate) fn take_root(&mut self, name: &Name, root: RootSlot) {
        let Some(mut module) = self.modules.get(name).cloned() else { return };
        if module.root.as_ref() == Some(&root) {
            return;
        }
        self.tell_root(name, module.root.as_ref(), &root);
        module.root = Some(root);
        self.put_module(module);
    }

    /// What an operator may want to read later of the way from one state to the next.
    pub(crate) fn tell_root(&mut self, name: &Name, before: Option<&RootSlot>, after: &RootSlot) {
        let Some(update) = &after.update else { return };
        let known = before.and_then(|b| b.update.as_ref());
        if known.is_some_and(|k| {
            (k.phase, &k.bundle, &k.attempt) == (update.phase, &update.bundle, &update.attempt)
        }) {
            return;
        }
        let (version, slot) = (&update.version, &after.slot);
        let normal = |reason: &'static str, text: String| (Severity::Normal, reason, text);
        let (severity, reason, text) = match update.phase {
            UpdatePhase::Fetching => return,
            UpdatePhase::Checked => normal("Update", format!("has the bundle of {version}, which is good")),
            UpdatePhase::Installing => {
                normal("Update", format!("writes {version} into the slot beside slot {slot}"))
            }
            UpdatePhase::Rebooting => normal("Update", format!("is restarted into {version}")),
            UpdatePhase::Trial => normal("Update", format!("runs {version} from slot {slot}, on trial")),
            UpdatePhase::Done => {
                normal("Updated", format!("runs {version} from slot {slot}, which has proven good"))
            }
            UpdatePhase::Failed => (Severity::Warning, "UpdateFailed", update.message.clone()),
        };
        self.event(severity, name, reason, text);
        if update.phase == UpdatePhase::Rebooting {
            self.tell_absence(name);
        }
    }

    /// May a module fetch a bundle, or, with `install`, write it and restart? One module at a time, and only when it
    /// has nothing left to lose.
    pub(crate) fn update_module(
        &mut self,
        name: &Name,
        bundle: &str,
        attempt: &str,
        install: bool,
    ) -> Result<Reply, Refusal> {
        let module = self.modules.get(name).ok_or_else(|| Refusal::NoModule(name.clone()))?;
        // It may have gone on since, so that it is not heard just now.
        let begun = |u: &model::SlotUpdate| {
            let over = matches!(u.phase, UpdatePhase::Done | UpdatePhase::Failed);
            install && u.attempt == attempt && u.bundle == bundle && (over || u.phase.is_critical())
        };
        if module.root.as_ref().and_then(|root| root.update.as_ref()).is_some_and(begun) {
            return Ok(Reply { lines: vec![format!("module {name} is at it already")] });
        }
        let liveness = self.links.get(name).map_or(Liveness::Lost, |link| link.liveness);
        if liveness != Liveness::Ready {
            return Err(Refusal::NotReady(name.clone()));
        }
        let root = module.root.as_ref().ok_or_else(|| Refusal::NoSlots(name.clone()))?;
        if root.is_in_update() {
            return Err(Refusal::UpdateUnderWay(name.clone()));
        }
        if !root.proven {
            return Err(Refusal::NotProven(name.clone()));
        }
        let word = if install {
            let checked = |u: &model::SlotUpdate| u.phase == UpdatePhase::Checked && u.bundle == bundle;
            if !root.update.as_ref().is_some_and(checked) {
                return Err(Refusal::NotChecked(name.clone()));
            }
            let others = self.modules.values().filter(|m| m.name != *name);
            let critical = |m: &&model::Module| m.root.as_ref().is_some_and(model::RootSlot::is_in_update);
            if let Some(other) = others.into_iter().find(critical) {
                let other = other.name.clone();
                let lost = self.links.get(&other).is_none_or(|link| link.liveness == Liveness::Lost);
                return Err(if lost { Refusal::AwayInUpdate(other) } else { Refusal::UpdateUnderWay(other) });
            }
            let there = |i: &&Instance| i.module.as_ref() == Some(name);
            if let Some(left) = self.instances.values().find(there) {
                return Err(Refusal::NotEmpty { module: name.clone(), instance: left.id.to_string() });
            }
            if !module.draining {
                return Err(Refusal::NotDrained(name.clone()));
            }
            "installs the bundle"
        } else {
            "fetches the bundle"
        };
        Ok(Reply { lines: vec![format!("module {name} {word}")] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use crate::step::Event;
    use crate::testing::{Bench, name, spec};
    use model::{Cordon, SlotUpdate};

    fn root(phase: UpdatePhase) -> RootSlot {
        let update = SlotUpdate {
            attempt: "7".into(),
            bundle: "1f".into(),
            version: "2.0".into(),
            phase,
            message: if phase == UpdatePhase::Failed { "no power".into() } else { String::new() },
        };
        RootSlot {
            slot: "a".into(),
            version: "1.0".into(),
            proven: true,
            compatible: "board".into(),
            update: Some(update),
        }
    }

    fn say(bench: &mut Bench, module: &str, phase: UpdatePhase) {
        bench.step(Event::Root(name(module), root(phase))).unwrap();
    }

    fn ask(bench: &mut Bench, module: &str, install: bool) -> Result<Reply, Refusal> {
        ask_again(bench, module, "8", install)
    }

    fn ask_again(bench: &mut Bench, module: &str, attempt: &str, install: bool) -> Result<Reply, Refusal> {
        let attempt = attempt.to_owned();
        bench.ask(Request::Update { module: name(module), bundle: "1f".into(), attempt, install })
    }

    fn drain(bench: &mut Bench, module: &str, draining: bool) {
        bench.ask(Request::Cordon { module: name(module), cordoned: draining, draining }).unwrap();
        bench.run(2_000);
    }

    #[test]
    fn a_bundle_is_installed_only_where_nothing_runs_and_nobody_else_is_at_it() {
        let mut bench = Bench::new(&[0, 0]);
        bench.apply(vec![spec("web", "replicas=2")]).unwrap();
        bench.run(2_000);
        assert_eq!(ask(&mut bench, "module-9", false), Err(Refusal::NoModule(name("module-9"))));
        assert_eq!(ask(&mut bench, "module-2", false), Err(Refusal::NoSlots(name("module-2"))));
        say(&mut bench, "module-2", UpdatePhase::Failed);
        ask(&mut bench, "module-2", false).unwrap();
        assert_eq!(ask(&mut bench, "module-2", true), Err(Refusal::NotChecked(name("module-2"))));
        say(&mut bench, "module-2", UpdatePhase::Checked);
        assert!(matches!(ask(&mut bench, "module-2", true), Err(Refusal::NotEmpty { .. })));
        drain(&mut bench, "module-2", true);
        say(&mut bench, "module-1", UpdatePhase::Trial);
        assert_eq!(ask(&mut bench, "module-2", true), Err(Refusal::UpdateUnderWay(name("module-1"))));
        say(&mut bench, "module-1", UpdatePhase::Done);
        ask(&mut bench, "module-2", true).unwrap();
        say(&mut bench, "module-2", UpdatePhase::Installing);
        assert_eq!(ask(&mut bench, "module-2", false), Err(Refusal::UpdateUnderWay(name("module-2"))));
        assert_eq!(ask(&mut bench, "module-2", true), Err(Refusal::UpdateUnderWay(name("module-2"))));
        // Its own order, whose answer was lost, and one that has no end.
        ask_again(&mut bench, "module-2", "7", true).unwrap();
        bench.silent.insert(name("module-2"));
        bench.run(5_000);
        assert_eq!(ask(&mut bench, "module-2", false), Err(Refusal::NotReady(name("module-2"))));
        ask_again(&mut bench, "module-2", "7", true).unwrap();
        say(&mut bench, "module-1", UpdatePhase::Checked);
        let refused = ask(&mut bench, "module-1", true);
        assert_eq!(refused, Err(Refusal::AwayInUpdate(name("module-2"))));
    }

    #[test]
    fn the_slot_to_fall_back_to_is_not_written() {
        let mut bench = Bench::new(&[0, 0]);
        let unproven = RootSlot { proven: false, ..root(UpdatePhase::Failed) };
        bench.step(Event::Root(name("module-2"), unproven)).unwrap();
        for install in [false, true] {
            assert_eq!(ask(&mut bench, "module-2", install), Err(Refusal::NotProven(name("module-2"))));
        }
        say(&mut bench, "module-2", UpdatePhase::Failed);
        ask(&mut bench, "module-2", false).unwrap();
    }

    #[test]
    fn how_an_operator_had_a_module_is_kept_until_he_says_something_else() {
        let mut bench = Bench::new(&[0]);
        let before = Cordon { cordoned: true, draining: false };
        bench.ask(Request::SetAside(name("module-1"), before)).unwrap();
        let kept = |bench: &Bench| {
            let (module, _) = bench.core.modules().next().unwrap();
            (module.cordoned, module.draining, module.before_update)
        };
        assert_eq!(kept(&bench), (true, true, Some(before)));
        bench.refit(1, |module| module.kernel = "after its restart".into());
        assert_eq!(kept(&bench), (true, true, Some(before)));
        drain(&mut bench, "module-1", false);
        assert_eq!(kept(&bench), (false, false, None));
    }

    #[test]
    fn an_empty_module_is_drained_before_it_is_restarted() {
        let mut bench = Bench::new(&[0, 0]);
        say(&mut bench, "module-2", UpdatePhase::Checked);
        assert_eq!(ask(&mut bench, "module-2", true), Err(Refusal::NotDrained(name("module-2"))));
        drain(&mut bench, "module-2", true);
        ask(&mut bench, "module-2", true).unwrap();
    }

    #[test]
    fn each_phase_is_an_event_once_also_after_a_hello() {
        let mut bench = Bench::new(&[0]);
        for phase in [UpdatePhase::Fetching, UpdatePhase::Checked, UpdatePhase::Installing] {
            say(&mut bench, "module-1", phase);
            say(&mut bench, "module-1", phase);
        }
        bench.refit(1, |module| module.root = Some(root(UpdatePhase::Failed)));
        bench.refit(1, |module| module.root = Some(root(UpdatePhase::Failed)));
        let told: Vec<_> = bench.core.events().filter(|e| e.reason.starts_with("Update")).collect();
        let words: Vec<_> = told.iter().map(|e| (e.reason.as_str(), e.message.as_str())).collect();
        assert_eq!(
            words,
            [
                ("Update", "has the bundle of 2.0, which is good"),
                ("Update", "writes 2.0 into the slot beside slot a"),
                ("UpdateFailed", "no power"),
            ]
        );
        assert_eq!(told[2].severity, Severity::Warning);
        assert_eq!(bench.core.modules().next().unwrap().0.root, Some(root(UpdatePhase::Failed)));
    }
}
