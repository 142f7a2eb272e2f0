//! Which modules are updated, in which order, and whether that may be begun at all. No I/O.

use super::{UpdateError, bundle::Bundle};
use api::v1::{Cordon, Instance, Module, RootSlot, Snapshot};
use model::Name;
use std::collections::BTreeSet;

/// What an operator names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// One module.
    One(&'a Name),
    /// Every module.
    All,
}

/// A module to update, and how it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) module: String,
    pub(crate) slot: String,
    pub(crate) version: String,
    /// As the operator had it, and gets it back.
    pub(crate) before: Cordon,
    /// An update has drained it, and nobody saw its end.
    pub(crate) left_drained: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In this order.
    pub(crate) targets: Vec<Target>,
    /// They run this very bundle.
    pub(crate) unchanged: Vec<Target>,
    /// Of these the ones that an update has drained which nobody saw the end of: they get back what they had.
    pub(crate) left_drained: Vec<Target>,
}

/// All modules are checked before the first is touched.
pub(crate) fn plan(snapshot: &Snapshot, which: Which<'_>, bundle: &Bundle) -> Result<Plan, UpdateError> {
    let mut modules: Vec<&Module> = match which {
        Which::All => snapshot.modules.iter().collect(),
        Which::One(name) => snapshot.modules.iter().filter(|m| m.name == name.as_str()).collect(),
    };
    if modules.is_empty() {
        return Err(match which {
            Which::One(name) => UpdateError::NoModule(name.to_string()),
            Which::All => UpdateError::NoModules,
        });
    }
    modules.sort_by_key(|m| (m.server, m.slot));
    // Only one at a time may be in the middle of an update: this one holds up all others.
    if let Some(stuck) = snapshot.modules.iter().find(|m| m.state == "lost" && in_the_middle(m)) {
        return Err(UpdateError::AwayInUpdate(stuck.name.clone()));
    }
    let mut plan = Plan { targets: Vec::new(), unchanged: Vec::new(), left_drained: Vec::new() };
    for module in modules {
        let root = updatable(module, bundle)?;
        let target = Target {
            module: module.name.clone(),
            slot: root.slot.clone(),
            version: root.version.clone(),
            before: as_the_operator_has_it(module),
            left_drained: module.before_update.is_some(),
        };
        let runs_it = root.update.as_ref().is_some_and(|u| u.phase == "done" && u.bundle == bundle.digest);
        if !runs_it {
            plan.targets.push(target);
            continue;
        }
        if module.before_update.is_some() {
            plan.left_drained.push(target.clone());
        }
        plan.unchanged.push(target);
    }
    Ok(plan)
}

fn updatable<'a>(module: &'a Module, bundle: &Bundle) -> Result<&'a RootSlot, UpdateError> {
    let name = || module.name.clone();
    if module.state != "ready" {
        return Err(UpdateError::NotReady { module: name(), state: module.state.clone() });
    }
    let root = module.root.as_ref().ok_or_else(|| UpdateError::NoSlots(name()))?;
    if root.compatible != bundle.compatible {
        let (own, bundle) = (root.compatible.clone(), bundle.compatible.clone());
        return Err(UpdateError::Foreign { module: name(), own, bundle });
    }
    if in_the_middle(module) {
        return Err(UpdateError::UnderWay(name()));
    }
    if !root.proven {
        return Err(UpdateError::NotProven(name()));
    }
    Ok(root)
}

/// Between the first byte that is written to a slot and the proof that the slot is good.
fn in_the_middle(module: &Module) -> bool {
    let update = module.root.as_ref().and_then(|root| root.update.as_ref());
    update.is_some_and(|u| ["installing", "rebooting", "trial"].contains(&u.phase.as_str()))
}

fn as_the_operator_has_it(module: &Module) -> Cordon {
    let now = Cordon { cordoned: module.cordoned, draining: module.draining };
    module.before_update.unwrap_or(now)
}

/// The same of a module by its name, if it is there.
pub(crate) fn wanted(snapshot: &Snapshot, module: &str) -> Option<Cordon> {
    snapshot.modules.iter().find(|m| m.name == module).map(as_the_operator_has_it)
}

/// What the server keeps of it while an update has it drained.
pub(crate) fn before_update(snapshot: &Snapshot, module: &str) -> Option<Cordon> {
    snapshot.modules.iter().find(|m| m.name == module)?.before_update
}

/// What still is on a module.
pub(crate) fn left<'a>(snapshot: &'a Snapshot, module: &'a str) -> impl Iterator<Item = &'a Instance> {
    snapshot.instances.iter().filter(move |i| i.module == module)
}

/// Of what should leave a module, the first whose successor finds no place: (replica, why).
pub(crate) fn stuck(snapshot: &Snapshot, module: &str) -> Option<(String, String)> {
    left(snapshot, module).find_map(|old| {
        let successor = snapshot.instances.iter().find(|i| i.replaces == old.id)?;
        let waits = successor.phase == "pending" && !successor.message.is_empty();
        waits.then(|| (old.replica.clone(), successor.message.clone()))
    })
}

/// The first app with fewer ready replicas than it should have. Tasks come and go.
pub(crate) fn lacking(snapshot: &Snapshot, tasks: &BTreeSet<String>) -> Option<(String, u32, u32)> {
    let apps = snapshot.apps.iter().filter(|app| !tasks.contains(&app.name));
    let short = apps.filter(|app| app.ready < app.replicas).map(|a| (a.name.clone(), a.ready, a.replicas));
    short.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{app, instance, module, snapshot};
    use api::v1::SlotUpdate;

    fn bundle() -> Bundle {
        let text = |text: &str| text.to_owned();
        Bundle {
            file: "b.raucb".into(),
            size: 9,
            digest: text("1f"),
            compatible: text("board"),
            version: text("2.0"),
        }
    }

    fn slotted(number: u32) -> Module {
        let root = RootSlot {
            slot: "a".into(),
            version: "1.0".into(),
            proven: true,
            compatible: "board".into(),
            update: None,
        };
        Module { slot: number, root: Some(root), ..module(&format!("module-{number}"), "ready") }
    }

    fn chassis() -> Snapshot {
        let mut all = snapshot();
        all.modules = vec![Module { server: true, ..slotted(1) }, slotted(2), slotted(3)];
        all
    }

    fn update(phase: &str) -> Option<SlotUpdate> {
        Some(SlotUpdate { bundle: "1f".into(), phase: phase.into(), ..SlotUpdate::default() })
    }

    fn refused(all: &Snapshot, which: Which<'_>) -> String {
        plan(all, which, &bundle()).unwrap_err().to_string()
    }

    #[test]
    fn the_servers_module_is_last_and_what_runs_it_already_is_left_alone() {
        let mut all = chassis();
        all.modules[1].root.as_mut().unwrap().update = update("done");
        all.modules[2].cordoned = true;
        let made = plan(&all, Which::All, &bundle()).unwrap();
        let names = |list: &[Target]| list.iter().map(|t| t.module.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&made.targets), names(&made.unchanged)),
            (vec!["module-3".to_owned(), "module-1".to_owned()], vec!["module-2".to_owned()])
        );
        assert!(made.targets[0].before.cordoned && !made.targets[1].before.cordoned);
        assert_eq!(made.left_drained, []);
        // What an update has drained that nobody saw the end of.
        for module in &mut all.modules[1..] {
            (module.cordoned, module.draining) = (true, true);
            module.before_update = Some(Cordon { cordoned: false, draining: false });
        }
        let made = plan(&all, Which::All, &bundle()).unwrap();
        assert_eq!(names(&made.left_drained), ["module-2"]);
        assert!(!made.targets[0].before.draining && !made.left_drained[0].before.draining);
        let drained: Vec<_> = made.targets.iter().map(|target| target.left_drained).collect();
        assert_eq!(drained, [true, false]);
    }

    #[test]
    fn nothing_begins_when_one_module_cannot_be_updated() {
        let third = &Name::of_module(3);
        type Change = fn(&mut Module);
        let cases: [(Change, &str); 5] = [
            (
                |m| m.root.as_mut().unwrap().proven = false,
                "module-3 runs from a slot that has not proven good",
            ),
            (|m| m.state = "lost".into(), "module-3 is lost"),
            (|m| m.root = None, "module-3 was not started from a root slot"),
            (
                |m| m.root.as_mut().unwrap().compatible = "bench".into(),
                "module-3 takes bundles for bench, this one is for board",
            ),
            (|m| m.root.as_mut().unwrap().update = update("trial"), "module-3 is being updated"),
        ];
        for (change, words) in cases {
            let mut all = chassis();
            change(&mut all.modules[2]);
            for which in [Which::All, Which::One(third)] {
                let line = refused(&all, which);
                assert!(line.starts_with(words) && !line.contains('\n'), "{line}");
            }
            plan(&all, Which::One(&Name::of_module(2)), &bundle()).unwrap();
        }
        let mut all = chassis();
        all.modules[2].state = "lost".into();
        all.modules[2].root.as_mut().unwrap().update = update("rebooting");
        let line = refused(&all, Which::One(&Name::of_module(2)));
        assert!(line.starts_with("module-3 is away in the middle of an update"), "{line}");
        assert!(
            refused(&chassis(), Which::One(&Name::of_module(9))).starts_with("there is no module module-9")
        );
        assert!(refused(&snapshot(), Which::All).starts_with("no module has joined"));
    }

    #[test]
    fn what_finds_no_room_is_named_with_its_reason() {
        let mut all = chassis();
        let mut successor = instance("cam-1-2", "");
        (successor.phase, successor.replaces) = ("pending".into(), "cam-1-1".into());
        all.instances = vec![instance("cam-1-1", "module-2"), successor];
        assert_eq!(stuck(&all, "module-2"), None);
        all.instances[1].message = "module-1: memory".into();
        assert_eq!(stuck(&all, "module-2"), Some(("cam/1".into(), "module-1: memory".into())));
        assert_eq!(stuck(&all, "module-3"), None);
    }

    #[test]
    fn an_app_that_lacks_a_replica_is_found_and_tasks_are_not() {
        let mut all = chassis();
        all.apps = vec![app("pass", 0, 1), app("cam", 2, 2)];
        let tasks = BTreeSet::from(["pass".to_owned()]);
        assert_eq!(lacking(&all, &tasks), None);
        all.apps[1].ready = 1;
        assert_eq!(lacking(&all, &tasks), Some(("cam".into(), 1, 2)));
    }
}
