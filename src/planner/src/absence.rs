//! The server's planned absence.
//!
//! While the server's own module is restarted into its other root slot, nobody decides. No replacement can be started
//! then, so every module may go on with what it runs: from the moment when that module says that it is about to be restarted until
//! the slot has proven good, or been given up, each acknowledgement gives a lease that is longer by `timing.absence`.
//!
//! A module that has taken such a lease may be cut off while the server is back already. So it counts as lost only
//! after that long lease, until it has said that it has taken a usual one; over a restart of the server that is kept in its
//! record, which is written before the acknowledgement is sent. So is the usual lease: the server that starts next may have
//! a configuration with a shorter one.

use crate::{core::Core, step::Output};
use model::{Module, Name, Severity, Span, UpdatePhase};

/// A module's long lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leave {
    /// It cannot last longer than this, on the clock of [`model::Now::mono`].
    pub(crate) until: u64,
    /// The module has said since that it has it. Only then a usual one that it speaks of is a newer one.
    taken: bool,
}

impl Core {
    /// How much longer than usual leases are now.
    fn absence(&self) -> Span {
        let away = |m: &Module| {
            let update = m.root.as_ref().and_then(|root| root.update.as_ref());
            m.server && update.is_some_and(|u| matches!(u.phase, UpdatePhase::Rebooting | UpdatePhase::Trial))
        };
        if self.modules.values().any(away) { self.timing.absence } else { Span(0) }
    }

    /// Whoever is acknowledged now learns of the absence.
    pub(crate) fn announce_absence(&mut self, output: &mut Output) {
        let absence = self.absence();
        let Some((name, module)) = output.ack.as_ref().and_then(|name| self.modules.get_key_value(name))
        else {
            return;
        };
        let (name, lease) = (name.clone(), module.lease.max(self.timing.lease));
        if absence.is_zero() {
            return self.record_lease(&name, lease, module.absence);
        }
        output.absence = absence;
        let until = self.longest(lease, absence);
        if let Some(link) = self.links.get_mut(&name) {
            link.leave = Some(Leave { until, taken: false });
        }
        self.record_lease(&name, lease, absence);
    }

    /// When a lease ends that begins now and is so much longer than that.
    fn longest(&self, lease: Span, absence: Span) -> u64 {
        self.now.mono.saturating_add(lease.0).saturating_add(absence.0)
    }

    /// A module says which lease it has.
    pub(crate) fn observe_lease(&mut self, name: &Name, lease: Span) {
        let (usual, absence) = (self.timing.lease, self.absence());
        let until = self.now.mono.saturating_add(lease.0);
        let Some(link) = self.links.get_mut(name) else { return };
        match link.leave.as_mut() {
            Some(leave) if lease > usual => leave.taken = true,
            // Nothing is known of it, but the module knows best.
            None if lease > usual => link.leave = Some(Leave { until, taken: true }),
            Some(leave) if leave.taken && !lease.is_zero() && absence.is_zero() => self.end_leave(name),
            _ => {}
        }
    }

    /// The module has a usual lease again, or none.
    pub(crate) fn end_leave(&mut self, name: &Name) {
        if let Some(link) = self.links.get_mut(name) {
            link.leave = None;
        }
        self.record_lease(name, self.timing.lease, Span(0));
    }

    fn record_lease(&mut self, name: &Name, lease: Span, absence: Span) {
        let new = |module: &&Module| (module.lease, module.absence) != (lease, absence);
        if let Some(module) = self.modules.get(name).filter(new) {
            let module = Module { lease, absence, ..module.clone() };
            self.put_module(module);
        }
    }

    /// The server has started: a module that had a long lease may have it still.
    pub(crate) fn resume_leave(&mut self, module: &Module) {
        let until = self.longest(module.lease.max(self.timing.lease), module.absence);
        let longer = module.lease > self.timing.lease || !module.absence.is_zero();
        if let Some(link) = self.links.get_mut(&module.name).filter(|_| longer) {
            link.leave = Some(Leave { until, taken: true });
        }
    }

    /// The server's module is about to be restarted.
    pub(crate) fn tell_absence(&mut self, name: &Name) {
        if self.modules.get(name).is_some_and(|module| module.server) {
            let text = format!("the other modules go on by themselves for {} at most", self.timing.absence);
            self.event(Severity::Normal, name, "Absence", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Event;
    use crate::testing::{Bench, name};
    use model::{Liveness, RootSlot, SlotUpdate};

    const USUAL: Span = Span(500);
    /// More than a usual lease and its margin, less than an absence.
    const WHILE: u64 = 60_000;

    fn say(bench: &mut Bench, phase: UpdatePhase) {
        let update = SlotUpdate { phase, ..SlotUpdate::default() };
        let root = RootSlot { update: Some(update), ..RootSlot::default() };
        bench.step(Event::Root(name("module-1"), root)).unwrap();
    }

    /// Two modules, the first has the server and is about to be restarted.
    fn leaving() -> Bench {
        let mut bench = Bench::new(&[0, 0]);
        bench.refit(1, |module| module.server = true);
        say(&mut bench, UpdatePhase::Installing);
        bench.run(1_000);
        assert_eq!(bench.leases[&name("module-2")], USUAL);
        say(&mut bench, UpdatePhase::Rebooting);
        bench.run(1_000);
        assert!(bench.leases.values().all(|lease| *lease == Span(USUAL.0 + bench.core.timing.absence.0)));
        bench
    }

    fn lost(bench: &Bench) -> bool {
        let mut modules = bench.core.modules();
        modules.any(|(module, liveness)| module.slot == 2 && liveness == Liveness::Lost)
    }

    fn cut_off(bench: &mut Bench, span: u64) {
        bench.silent.insert(name("module-2"));
        bench.run(span);
    }

    #[test]
    fn a_module_that_goes_on_without_the_server_is_not_replaced_before_its_long_lease_is_over() {
        let mut bench = leaving();
        let told = bench.core.events().filter(|e| e.reason == "Absence").count();
        assert_eq!(told, 1);
        cut_off(&mut bench, WHILE);
        assert!(!lost(&bench));
        let absence = bench.core.timing.absence.0;
        bench.run(absence - WHILE - 1_000);
        assert!(!lost(&bench));
        bench.run(3_000);
        assert!(lost(&bench));
        assert!(bench.core.modules().all(|(m, _)| m.slot == 1 || m.absence.is_zero()));
    }

    #[test]
    fn leases_are_usual_again_when_the_slot_has_proven_good_or_was_given_up() {
        for end in [UpdatePhase::Done, UpdatePhase::Failed] {
            let mut bench = leaving();
            say(&mut bench, UpdatePhase::Trial);
            bench.run(1_000);
            assert!(bench.leases[&name("module-2")] > USUAL);
            say(&mut bench, end);
            bench.run(1_000);
            assert_eq!(bench.leases[&name("module-2")], USUAL);
            assert!(bench.core.modules().all(|(m, _)| m.absence.is_zero()));
            cut_off(&mut bench, 2_000);
            assert!(lost(&bench));
        }
    }

    #[test]
    fn what_was_promised_outlives_the_servers_process() {
        let mut bench = leaving();
        bench.restart();
        cut_off(&mut bench, WHILE);
        assert!(!lost(&bench), "cut off while the server was away");

        let mut bench = leaving();
        // The new slot is good, but this module has not heard of it when the server is restarted once more.
        bench.silent.insert(name("module-2"));
        say(&mut bench, UpdatePhase::Done);
        bench.restart();
        bench.run(WHILE);
        assert!(!lost(&bench), "cut off before it had a usual lease");
        bench.silent.clear();
        bench.hello(&name("module-2"));
        bench.run(1_000);
        cut_off(&mut bench, 2_000);
        assert!(lost(&bench), "it had a usual lease");
    }

    #[test]
    fn an_agent_that_was_restarted_does_not_know_its_lease() {
        let mut bench = leaving();
        bench.silent.insert(name("module-2"));
        say(&mut bench, UpdatePhase::Done);
        bench.leases.insert(name("module-2"), Span(0));
        let report = crate::AgentReport {
            taken: 0,
            observed: vec![],
            routed: 0,
            volumes: Default::default(),
            lease: Span(0),
        };
        bench.step(Event::Heartbeat(name("module-2"), report)).unwrap();
        bench.run(WHILE);
        assert!(!lost(&bench));
    }

    #[test]
    fn a_shorter_usual_lease_counts_once_a_module_has_taken_it() {
        for comes_back in [false, true] {
            let mut bench = Bench::new(&[0, 0]);
            bench.core.timing.lease = Span(8_000);
            bench.run(1_000);
            bench.core.timing.lease = USUAL;
            bench.restart();
            if comes_back {
                bench.hello(&name("module-2"));
                bench.run(1_000);
            }
            cut_off(&mut bench, 4_000);
            assert_eq!(lost(&bench), comes_back);
            bench.run(6_000);
            assert!(lost(&bench));
        }
    }

    #[test]
    fn another_modules_restart_changes_no_lease() {
        let mut bench = Bench::new(&[0, 0]);
        say(&mut bench, UpdatePhase::Rebooting);
        bench.run(1_000);
        assert!(bench.leases.values().all(|lease| *lease == USUAL));
        assert!(bench.core.events().all(|e| e.reason != "Absence"));
    }
}
