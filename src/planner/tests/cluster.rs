//! The core against modelled agents. Random sequences of partitions, crashes and requests must never
//! make a replica run twice, nor lose one for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use model::{AppFile, AppSpec, InstanceId, Liveness, Name, Phase, ServiceTable};
use planner::{Core, Event, Refusal, Request};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

mod clock;
mod moves;
mod volumes;
mod world;

use world::{World, module, spec};

fn ten(world: &mut World) {
    let apps = (0..10)
        .map(|n| spec(&format!("app-{n}"), "resources = { cpu = '100m', memory = '16MiB' }"))
        .collect();
    world.request(Request::Apply(apps)).unwrap();
    world.run(1000);
}

/// The main job: 4/3/3, cut one, 5/5, back, delete four, 2/2/2.
#[test]
fn ten_apps_survive_a_module_and_move_back() {
    let mut world = World::new(3);
    ten(&mut world);
    let mut counts = world.counts();
    counts.sort_unstable();
    assert_eq!(counts, [3, 3, 4]);
    world.cut(3, true);
    world.run(1500);
    assert_eq!(world.counts(), [5, 5, 0]);
    world.cut(3, false);
    world.run(300);
    assert_eq!(world.counts()[2], 0, "nothing moves before the module has settled");
    let on = |world: &World, slot: u16| -> Vec<Name> {
        let module = Some(Name::of_module(slot));
        world.core.instances().filter(|i| i.module == module).map(|i| i.spec.name.clone()).collect()
    };
    let doomed: Vec<Name> =
        on(&world, 1).into_iter().take(2).chain(on(&world, 2).into_iter().take(2)).collect();
    world.request(Request::Delete(doomed)).unwrap();
    world.run(5000);
    assert_eq!(world.counts(), [2, 2, 2]);
    world.run(20_000);
    assert_eq!(world.counts(), [2, 2, 2], "a balanced cluster stays as it is");
}

#[test]
fn failover_takes_lease_margin_and_start() {
    let mut world = World::new(3);
    ten(&mut world);
    world.cut(2, true);
    let limit = world.timing.lease.0 + world.timing.margin.0 + World::START + 4 * World::STEP;
    world.run(limit);
    assert_eq!(world.counts().iter().sum::<usize>(), 10);
    assert!(world.core.instances().all(|i| i.is_ready()));
}

#[test]
fn a_drain_empties_a_module_and_uncordon_fills_it() {
    let mut world = World::new(3);
    ten(&mut world);
    let module = Name::of_module(1);
    world.request(Request::Cordon { module: module.clone(), cordoned: true, draining: true }).unwrap();
    world.run(4000);
    assert_eq!(world.counts(), [0, 5, 5]);
    world.request(Request::Cordon { module, cordoned: false, draining: false }).unwrap();
    world.run(4000);
    assert_eq!(world.counts().iter().max(), Some(&4));
}

#[test]
fn a_server_crash_moves_nothing() {
    let mut world = World::new(3);
    ten(&mut world);
    let before: Vec<_> = world.agents.values().map(|a| a.running.clone()).collect();
    world.crash_server();
    world.run(5000);
    let after: Vec<_> = world.agents.values().map(|a| a.running.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn requests_are_refused_whole() {
    let mut world = World::new(2);
    let twice = vec![spec("a", ""), spec("a", "")];
    assert!(matches!(world.request(Request::Apply(twice)), Err(Refusal::Spec(_))));
    let big = vec![spec("b", ""), spec("c", "resources = { memory = '64GiB' }")];
    let error = world.request(Request::Apply(big)).unwrap_err().to_string();
    assert!(error.contains("no module is large enough") && error.contains("memory"), "{error}");
    assert!(matches!(world.request(Request::Delete(vec!["x".parse().unwrap()])), Err(Refusal::NoApp(_))));
    assert_eq!(world.core.apps().count(), 0);
}

#[test]
fn what_does_not_fit_waits_and_says_why() {
    let mut world = World::new(2);
    world.request(Request::Apply(vec![spec("a", "replicas = 3\nplacement = { apart = ['a'] }")])).unwrap();
    world.run(1000);
    let pending: Vec<_> = world.core.instances().filter(|i| i.phase == Phase::Pending).collect();
    assert_eq!(pending.len(), 1);
    assert!(pending[0].message.contains("keeps apart"), "{}", pending[0].message);
}

#[test]
fn an_update_replaces_instances_one_after_the_other() {
    let mut world = World::new(3);
    world.request(Request::Apply(vec![spec("a", "replicas = 3")])).unwrap();
    world.run(1000);
    world.request(Request::Apply(vec![spec("a", "replicas = 3\nenv = { x = '1' }")])).unwrap();
    world.run(4000);
    assert!(world.core.instances().all(|i| i.is_ready() && i.spec.env.contains_key("x")));
    assert_eq!(world.core.instances().count(), 3);
}

#[derive(Debug, Clone)]
enum Act {
    Run(u64),
    Cut(u16),
    Rejoin(u16),
    CrashServer,
    Apply(u8, u32),
    Update(u8, u8, bool),
    Scale(u8, u32),
    Delete(u8),
    Drain(u16),
    Uncordon(u16),
    Numbered(u8, u32, bool),
    Maintain(u16, u32, bool),
    Clock(i64),
}

/// Even numbers have a service; each third moves stop-first.
fn serving(number: u8, more: &str) -> AppSpec {
    let ports = if number.is_multiple_of(2) { "ports = [{ container = 8080, service = 80 }]" } else { "" };
    let planned = if number % 3 == 2 { "planned = 'stop-first', " } else { "" };
    let rest =
        format!("migration = {{ {planned}drain = '1s' }}\nupdate = {{ within = '3s' }}\n{ports}\n{more}");
    spec(&format!("app-{number}"), &rest)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (50u64..2000).prop_map(Act::Run),
        2 => (1u16..=3).prop_map(Act::Cut),
        2 => (1u16..=3).prop_map(Act::Rejoin),
        1 => Just(Act::CrashServer),
        3 => (0u8..6, 1u32..4).prop_map(|(n, r)| Act::Apply(n, r)),
        2 => (0u8..6, 0u8..3, any::<bool>()).prop_map(|(n, v, bad)| Act::Update(n, v, bad)),
        1 => (0u8..6, 0u32..4).prop_map(|(n, r)| Act::Scale(n, r)),
        1 => (0u8..6).prop_map(Act::Delete),
        1 => (1u16..=3).prop_map(Act::Drain),
        1 => (1u16..=3).prop_map(Act::Uncordon),
        2 => (0u8..3, 1u32..3, any::<bool>()).prop_map(|(n, r, whole)| Act::Numbered(n, r, whole)),
        1 => (1u16..=3, 0u32..3, any::<bool>()).prop_map(|(m, n, on)| Act::Maintain(m, n, on)),
        1 => (-3_600_000i64..3_600_000).prop_map(Act::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_twice_and_nothing_is_lost(acts in prop::collection::vec(act(), 1..40)) {
        let mut world = World::new(3);
        for act in acts {
            // A refused request changes nothing; the invariants are checked at each step of time.
            match act {
                Act::Run(span) => world.run(span),
                Act::Cut(slot) => world.cut(slot, true),
                Act::Rejoin(slot) => world.cut(slot, false),
                Act::CrashServer => world.crash_server(),
                Act::Clock(by) => world.ahead += by,
                Act::Apply(n, r) => drop(world.request(Request::Apply(vec![serving(n, &format!("replicas = {r}"))]))),
                Act::Update(n, version, bad) => moves::update(&mut world, n, version, bad),
                Act::Scale(n, r) => drop(world.request(Request::Scale(format!("app-{n}").parse().unwrap(), r))),
                Act::Delete(n) => drop(world.request(Request::Delete(vec![format!("app-{n}").parse().unwrap()]))),
                Act::Drain(slot) => drop(world.request(Request::Cordon { module: Name::of_module(slot), cordoned: true, draining: true })),
                Act::Numbered(n, r, whole) => {
                    let gpu = if whole { "1" } else { "'600m'" };
                    let more = format!("replicas = {r}\nresources = {{ cpu = '1', gpu = {gpu} }}");
                    drop(world.request(Request::Apply(vec![spec(&format!("gpu-{n}"), &more)])));
                }
                Act::Maintain(slot, number, maintenance) => {
                    let module = Name::of_module(slot);
                    drop(world.request(Request::Maintenance { module, number, maintenance }));
                }
                Act::Uncordon(slot) => drop(world.request(Request::Cordon { module: Name::of_module(slot), cordoned: false, draining: false })),
            }
        }
        for slot in 1..=3 {
            world.cut(slot, false);
            world.request(Request::Cordon { module: Name::of_module(slot), cordoned: false, draining: false }).unwrap();
            for number in 0..3 {
                let module = Name::of_module(slot);
                world.request(Request::Maintenance { module, number, maintenance: false }).unwrap();
            }
        }
        world.run(60_000);
        prop_assert!(world.core.apps().all(|app| app.rollout.is_none() || app.spec.replicas == 0));
        let wanted: u32 = world.core.apps().map(|a| a.spec.replicas).sum();
        prop_assert!(world.core.modules().all(|(_, l)| l == Liveness::Ready));
        prop_assert!(world.core.instances().all(|i| i.is_ready() && i.replaces.is_none()));
        prop_assert_eq!(world.core.instances().count(), wanted as usize);
        prop_assert_eq!(world.counts().iter().sum::<usize>(), wanted as usize);
    }
}
