//! Random histories of requests, losses, maintenance and restarts; after every step the tables must be true.

use crate::{
    Amounts, Event, Request,
    testing::{Bench, name, spec},
};
use model::{
    Availability, Bytes, Instance, Kind, Liveness, Milli, Module, Name, PlanState, Record, RecordKind,
    ResourceName,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ASKED: [&str; 8] = [
    "",
    "cpu = 1",
    "cpu = 3, memory = '100MiB'",
    "cpu = '500m', gpu = '400m'",
    "gpu = '700m'",
    "gpu = 1",
    "cpu = 2, gpu = 2",
    "memory = '400MiB', disk = '300MiB'",
];

#[derive(Debug, Clone)]
enum Act {
    Run(u64),
    App(u8, u8, u32),
    Task { number: u8, asked: u8, start: u64, length: u64, after: Option<u8> },
    Delete(u8),
    Done(u8),
    Resize(u8, u64),
    Maintenance(u16, u32, bool),
    Fault(u16, u32, bool),
    Silent(u16, bool),
    Cordon(u16, bool),
    Restart,
    Clock(i64),
}

fn act() -> impl Strategy<Value = Act> {
    let asked = || 0..u8::try_from(ASKED.len()).unwrap();
    prop_oneof![
        5 => (100u64..4000).prop_map(Act::Run),
        4 => (0u8..4, asked(), 0u32..4).prop_map(|(n, a, r)| Act::App(n, a, r)),
        4 => (0u8..4, asked(), 0u64..20, 1u64..20, prop::option::of(0u8..4))
            .prop_map(|(number, asked, start, length, after)| Act::Task { number, asked, start, length, after }),
        1 => (0u8..8).prop_map(Act::Delete),
        1 => (0u8..4).prop_map(Act::Done),
        1 => (0u8..8, 0u64..4).prop_map(|(n, cores)| Act::Resize(n, cores)),
        2 => (1u16..=2, 0u32..3, any::<bool>()).prop_map(|(m, n, on)| Act::Maintenance(m, n, on)),
        1 => (1u16..=2, 0u32..3, any::<bool>()).prop_map(|(m, n, on)| Act::Fault(m, n, on)),
        1 => (1u16..=2, any::<bool>()).prop_map(|(m, on)| Act::Silent(m, on)),
        1 => (1u16..=2, any::<bool>()).prop_map(|(m, on)| Act::Cordon(m, on)),
        1 => Just(Act::Restart),
        1 => (-30_000i64..30_000).prop_map(Act::Clock),
    ]
}

/// Names of apps are a0 to a3, of tasks t0 to t3.
fn named(number: u8) -> Name {
    if number < 4 { name(&format!("a{number}")) } else { name(&format!("t{}", number - 4)) }
}

fn asking(asked: u8) -> &'static str {
    ASKED[usize::from(asked)]
}

/// A refused request changes nothing, which the checks see.
fn perform(bench: &mut Bench, act: Act) {
    match act {
        Act::Run(span) => run(bench, span),
        Act::App(number, asked, replicas) => {
            let more = format!("replicas = {replicas}\nresources = {{ {} }}", asking(asked));
            drop(bench.apply(vec![spec(&format!("a{number}"), &more)]));
        }
        Act::Task { number, asked, start, length, after } => {
            let after = after.map_or(String::new(), |n| format!("after = ['t{n}']\n"));
            let window = format!("start = '+{start}s'\nduration = '{length}s'\n{after}");
            let more = format!("kind = 'task'\n{window}resources = {{ {} }}", asking(asked));
            let spec = model::AppFile::parse("t", &format!("name='t{number}'\nimage='r.s:5000/x'\n{more}\n"));
            if let Ok(file) = spec {
                drop(bench.apply(file.apps));
            }
        }
        Act::Delete(number) => drop(bench.ask(Request::Delete(vec![named(number)]))),
        Act::Done(number) => {
            let of = |i: &&Instance| i.spec.name == named(number + 4) && !i.is_stopping();
            let ids: Vec<_> = bench.core.instances().filter(of).map(|i| i.id.clone()).collect();
            bench.done.extend(ids);
        }
        Act::Resize(number, cores) => {
            let amounts = Amounts { cpu: Some(Milli(cores * 1000)), ..Amounts::default() };
            drop(bench.ask(Request::Resize(named(number), amounts)));
        }
        Act::Maintenance(slot, number, maintenance) => {
            let module = Name::of_module(slot);
            drop(bench.ask(Request::Maintenance { module, number, maintenance }));
        }
        Act::Fault(slot, number, fault) => fail(bench, slot, number, fault),
        Act::Silent(slot, true) => drop(bench.silent.insert(Name::of_module(slot))),
        Act::Silent(slot, false) => {
            if bench.silent.remove(&Name::of_module(slot)) {
                bench.hello(&Name::of_module(slot));
            }
        }
        Act::Cordon(slot, cordoned) => {
            let module = Name::of_module(slot);
            drop(bench.ask(Request::Cordon { module, cordoned, draining: false }));
        }
        Act::Clock(by) => bench.ahead += by,
        Act::Restart => {
            bench.restart();
            let loud = |slot: &u16| !bench.silent.contains(&Name::of_module(*slot));
            for slot in [1, 2].into_iter().filter(loud).collect::<Vec<_>>() {
                bench.hello(&Name::of_module(slot));
            }
            // As the server's thread does: the tables are those of the last step, also when nobody says anything.
            bench.step(Event::Tick).unwrap();
        }
    }
}

fn fail(bench: &mut Bench, slot: u16, number: u32, fault: bool) {
    if !bench.silent.contains(&Name::of_module(slot)) {
        bench.refit(slot, |module| {
            let all = &mut module.capacity.accelerators;
            let one = all.iter_mut().find(|a| a.number == number).unwrap();
            one.fault = if fault { "gone".to_owned() } else { String::new() };
        });
    }
}

fn run(bench: &mut Bench, span: u64) {
    for _ in 0..span / 100 {
        bench.run(100);
        check(bench);
    }
}

fn on<'a>(bench: &'a Bench, module: &Name) -> impl Iterator<Item = &'a Instance> {
    let module = Some(module.clone());
    bench.core.instances().filter(move |i| i.module == module)
}

fn usage<'a>(instances: impl Iterator<Item = &'a Instance>) -> BTreeMap<u32, u64> {
    let mut used = BTreeMap::new();
    for share in instances.flat_map(|i| &i.binding.accelerators) {
        *used.entry(share.number).or_default() += share.share.0;
    }
    used
}

fn check(bench: &Bench) {
    let modules: Vec<(Module, Liveness)> = bench.core.modules().map(|(m, l)| (m.clone(), l)).collect();
    for (module, liveness) in &modules {
        let used = usage(on(bench, &module.name));
        assert!(used.values().all(|milli| *milli <= Milli::WHOLE), "{} {used:?}", module.name);
        let mut cores = BTreeSet::new();
        for instance in on(bench, &module.name) {
            for core in &instance.binding.cores {
                assert!(cores.insert(*core), "core {core} of {} is given twice", module.name);
            }
            if instance.revision == 1 || !instance.is_stopping() {
                assert_bound(instance);
            }
        }
        let sum = |of: fn(&Instance) -> u64| on(bench, &module.name).map(of).sum::<u64>();
        assert!(sum(|i| i.spec.resources.cpu.0) <= module.capacity.cpu.0, "{}", module.name);
        assert!(sum(|i| i.spec.resources.memory.0) <= module.capacity.memory.0, "{}", module.name);
        assert!(sum(|i| i.spec.resources.disk.0) <= module.capacity.disk.0, "{}", module.name);
        if *liveness != Liveness::Lost {
            check_table(bench, module, &used);
        }
    }
    check_reservations(bench);
    check_store(bench);
}

/// What is placed has the numbers that it asks for, no more and no fewer, and the explanation agrees.
fn assert_bound(instance: &Instance) {
    let asked = &instance.spec.resources;
    let bound: u64 = instance.binding.accelerators.iter().map(|a| a.share.0).sum();
    assert_eq!(bound, asked.gpu.0, "{instance:?}");
    assert_eq!(instance.binding.cores.len() as u64, asked.cpu.wholes().unwrap_or(0), "{instance:?}");
    if !instance.is_stopping() {
        assert_eq!(instance.decision.chosen, instance.module);
        let chosen =
            instance.decision.candidates.iter().find(|c| Some(&c.module) == instance.module.as_ref());
        assert!(chosen.is_some_and(|c| c.failed.iter().all(|f| f.filter == "accelerators")), "{instance:?}");
    }
}

fn check_table(bench: &Bench, module: &Module, used: &BTreeMap<u32, u64>) {
    for accelerator in &module.capacity.accelerators {
        let resource = ResourceName::Accelerator(accelerator.number);
        let line = bench.core.resources().find(|r| r.module == module.name && r.resource == resource);
        let line = line.unwrap_or_else(|| panic!("no line {}/{resource}", module.name));
        let used = used.get(&accelerator.number).copied().unwrap_or(0);
        assert_eq!(line.used, used, "{line:?}");
        let expected = match (line.maintenance || !accelerator.fault.is_empty(), used) {
            (true, _) => Availability::Maintenance,
            (false, 0) => Availability::Idle,
            (false, _) => Availability::Occupied,
        };
        assert_eq!(line.state, expected, "{line:?}");
    }
}

/// What is kept for a window is nobody else's in that window.
fn check_reservations(bench: &Bench) {
    let planned: Vec<_> = bench.core.plans().filter(|p| p.state == PlanState::Planned).collect();
    for plan in &planned {
        let Some(kept) = &plan.reservation else { continue };
        let asked = bench.core.apps().find(|a| *a.name() == plan.task).unwrap().spec.resources;
        assert_eq!(kept.binding.accelerators.iter().map(|a| a.share.0).sum::<u64>(), asked.gpu.0);
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        let others = planned.iter().filter(|p| p.start <= plan.start && plan.start < p.end);
        let reserved = others.filter_map(|p| p.reservation.as_ref()).filter(|r| r.module == kept.module);
        // One that has a successor already is on its way out, however long its task's window is.
        let leaves =
            |i: &Instance| bench.core.instances().any(|other| other.replaces.as_ref() == Some(&i.id));
        let apps = on(bench, &kept.module).filter(|i| !i.is_stopping() && !leaves(i)).filter(|i| {
            let end = bench.core.plans().find(|p| p.task == i.spec.name).map_or(u64::MAX, |p| p.end);
            i.spec.name != plan.task && (i.spec.kind == Kind::App || end > plan.start)
        });
        for share in
            reserved.flat_map(|r| &r.binding.accelerators).chain(apps.flat_map(|i| &i.binding.accelerators))
        {
            *used.entry(share.number).or_default() += share.share.0;
        }
        assert!(used.values().all(|milli| *milli <= Milli::WHOLE), "{} {used:?}", plan.task);
    }
}

/// Every record is stored with what changed it.
fn check_store(bench: &Bench) {
    let core = &bench.core;
    let records: Vec<Record> = core
        .plans()
        .map(|p| Record::Plan(Box::new(p.clone())))
        .chain(core.resources().cloned().map(Record::Resource))
        .chain(core.history().cloned().map(Record::Run))
        .chain(core.device_queue().cloned().map(Record::Success))
        .collect();
    for record in &records {
        assert_eq!(bench.stored.get(&(record.kind(), record.key())), Some(record));
    }
    let kinds = [RecordKind::Plan, RecordKind::Resource, RecordKind::Run, RecordKind::Success];
    let stored = bench.stored.keys().filter(|(kind, _)| kinds.contains(kind)).count();
    assert_eq!(stored, records.len(), "something is stored that is no longer there");
}

/// By brute force: whether what waits would fit somewhere as things are.
fn fits(bench: &Bench, instance: &Instance) -> Option<Name> {
    let asked = &instance.spec.resources;
    let fit = |(module, liveness): &(&Module, Liveness)| {
        let there: Vec<&Instance> = on(bench, &module.name).collect();
        let free = |has: u64, of: fn(&Instance) -> u64| has - there.iter().map(|i| of(i)).sum::<u64>();
        let used = usage(there.iter().copied());
        let usable = module.capacity.accelerators.iter().filter(|a| {
            let resource = ResourceName::Accelerator(a.number);
            let line = bench.core.resources().find(|r| r.module == module.name && r.resource == resource);
            a.fault.is_empty() && line.is_some_and(|l| !l.maintenance)
        });
        let left: Vec<u64> =
            usable.map(|a| Milli::WHOLE - used.get(&a.number).copied().unwrap_or(0)).collect();
        let enough = match asked.gpu.wholes() {
            Some(count) => left.iter().filter(|l| **l == Milli::WHOLE).count() as u64 >= count,
            None => asked.gpu.0 == 0 || left.iter().any(|l| *l >= asked.gpu.0),
        };
        *liveness == Liveness::Ready
            && !module.cordoned
            && enough
            && asked.cpu.0 <= free(module.capacity.cpu.0, |i| i.spec.resources.cpu.0)
            && asked.memory <= Bytes(free(module.capacity.memory.0, |i| i.spec.resources.memory.0))
            && asked.disk <= Bytes(free(module.capacity.disk.0, |i| i.spec.resources.disk.0))
    };
    bench.core.modules().find(fit).map(|(m, _)| m.name.clone())
}

fn task(asked: u8, start: u64, length: u64) -> Act {
    Act::Task { number: 0, asked, start, length, after: None }
}

/// A task that runs is given another window and other resources, while another has reserved what it gives up.
#[test]
fn what_is_about_to_leave_keeps_nothing_from_a_window() {
    let task = |number, asked, start, length| Act::Task { number, asked, start, length, after: None };
    let mut bench = Bench::new(&[3, 3]);
    for act in [task(3, 3, 8, 10), Act::Run(11_000), task(0, 4, 7, 1), task(3, 0, 0, 8), Act::Run(7_300)] {
        perform(&mut bench, act);
        check(&bench);
    }
    assert_eq!(bench.place("t0"), "module-1 0", "on time, where it was reserved");
}

/// Histories that the longer run has found once: a window is open, and nobody is there yet.
#[test]
fn what_is_only_kept_is_not_occupied() {
    let changed = vec![task(0, 0, 1), task(3, 0, 1)];
    let silent = vec![
        task(3, 1, 3),
        Act::Run(200),
        Act::Cordon(2, true),
        Act::Silent(1, true),
        Act::Run(800),
        Act::Restart,
    ];
    for acts in [changed, silent] {
        let mut bench = Bench::new(&[3, 3]);
        for act in acts {
            perform(&mut bench, act);
            check(&bench);
        }
    }
}

/// `SPACECLOUD_HISTORIES=100000` for the longer run.
fn cases() -> u32 {
    std::env::var("SPACECLOUD_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn the_same_history_leads_to_the_same_state(acts in prop::collection::vec(act(), 1..30)) {
        let play = || {
            let mut bench = Bench::new(&[3, 3]);
            acts.iter().for_each(|act| perform(&mut bench, act.clone()));
            format!("{:?}", bench.core)
        };
        prop_assert_eq!(play(), play());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_given_twice_and_the_tables_are_true(acts in prop::collection::vec(act(), 1..30)) {
        let mut bench = Bench::new(&[3, 3]);
        for act in acts {
            perform(&mut bench, act);
            check(&bench);
        }
        // All is well again, and no window is open: who waits now has no place.
        for slot in [1, 2] {
            perform(&mut bench, Act::Silent(slot, false));
            perform(&mut bench, Act::Cordon(slot, false));
        }
        for number in 4..8 {
            perform(&mut bench, Act::Delete(number));
        }
        run(&mut bench, 20_000);
        for instance in bench.core.instances() {
            if instance.module.is_none() {
                prop_assert_eq!(fits(&bench, instance), None, "{:?} waits", instance);
            }
        }
        // A released resource is whole again.
        for number in 0..4 {
            perform(&mut bench, Act::Delete(number));
        }
        run(&mut bench, 3_000);
        for line in bench.core.resources() {
            prop_assert_eq!(line.used, 0, "{:?}", line);
            prop_assert!(line.holders.is_empty());
        }
    }
}
