//! The pool paper's example and its constraints, as a scheduler's user meets them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use planner::pool::unit::{PerResource, UnitPolicy};
use planner::pool::{Amounts, NodeSpec, PolicyNumber, Pool, Refusal, Request, Strategy, Verdict};

/// Eight accelerators and 64 cores, as in the paper's tables.
fn module(number: usize) -> NodeSpec {
    NodeSpec {
        name: format!("module-{number}"),
        capacity: Amounts { cpu: 64_000, memory: 257_321, disk: 208 },
        accelerators: 8,
        model: String::new(),
    }
}

fn modules(count: usize) -> Pool {
    let mut pool = Pool::new(0);
    for number in 1..=count {
        pool.add(&module(number)).unwrap();
    }
    pool
}

fn task((accelerators, cores): (u16, u64)) -> Request {
    Request::plain(cores * 1000, 4096).with_whole(accelerators)
}

/// The paper's table: 0ZYCKJ to 4ZYCKJ, accelerators and cores.
const TASKS: [(u16, u64); 5] = [(2, 4), (2, 4), (2, 4), (4, 8), (8, 10)];

#[test]
fn the_five_tasks_need_three_modules_under_multilevel_and_four_under_tiling() {
    let mut multilevel = modules(3);
    let places = TASKS.map(|asked| multilevel.place(&task(asked), Strategy::Multilevel).map(|p| p.node));
    assert!(places.iter().all(Result::is_ok), "{places:?}");

    let mut tiling = modules(3);
    let places = TASKS.map(|asked| tiling.place(&task(asked), Strategy::Tiling).map(|p| p.node));
    assert_eq!(places[..4], [Ok(0), Ok(1), Ok(2), Ok(0)]);
    assert!(matches!(places[4], Err(Refusal::NothingFits(_))), "{places:?}");
    tiling.add(&module(4)).unwrap();
    assert_eq!(tiling.place(&task(TASKS[4]), Strategy::Tiling).map(|p| p.node), Ok(3), "the fourth takes it");
}

/// Whatever comes first: no order is known beforehand.
#[test]
fn spacecloud_needs_three_modules_in_every_order() {
    let turns = |left: Vec<(u16, u64)>, at: usize| {
        let mut left = left;
        let asked = left.remove(at);
        (asked, left)
    };
    let mut orders = vec![(Vec::new(), TASKS.to_vec())];
    for _ in TASKS {
        orders = orders
            .into_iter()
            .flat_map(|(before, left)| {
                (0..left.len()).map(move |at| {
                    let (asked, left) = turns(left.clone(), at);
                    ([before.clone(), vec![asked]].concat(), left)
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    for (order, _) in orders {
        let mut pool = modules(3);
        let places: Vec<_> = order
            .iter()
            .map(|asked| pool.place(&task(*asked), Strategy::Spacecloud).map(|p| p.node))
            .collect();
        assert!(places.iter().all(Result::is_ok), "{order:?}: {places:?}");
    }
}

#[test]
fn multilevel_fills_the_module_that_is_in_use() {
    let mut pool = modules(3);
    let places = TASKS.map(|asked| pool.place(&task(asked), Strategy::Multilevel).unwrap().node);
    assert_eq!(places[..3], [places[0]; 3], "three small ones together: {places:?}");
    assert!(
        places[4] != places[0] && places[4] != places[3],
        "the large one has a module to itself: {places:?}"
    );
}

#[test]
fn the_reservation_moves_a_task_elsewhere_and_alarms_when_it_cannot_be_kept() {
    let mut pool = modules(2);
    let keep = pool.policy(UnitPolicy { max_gpu: Some(8), ..UnitPolicy::default() }).unwrap();
    let place = |pool: &mut Pool, asked| pool.place_under(&task(asked), Strategy::Multilevel, keep).unwrap();
    let first = place(&mut pool, (2, 4));
    assert!(!first.alarm);
    // The cosine alone would prefer the empty module; the reservation forbids it while the other has room.
    let second = place(&mut pool, (6, 1));
    assert_eq!((second.node, second.alarm), (first.node, false));
    let told = pool.explain(&task((1, 1)), Strategy::Multilevel, keep, &|_| None).unwrap();
    assert!(told.alarm.is_some_and(|alarm| alarm.contains("8 free accelerators")));
    let third = place(&mut pool, (1, 1));
    assert!(third.node != first.node && third.alarm, "placed all the same, and the operator is told");
}

#[test]
fn the_least_remainder_and_the_least_balance_leave_modules_out() {
    let mut pool = modules(1);
    let whole = pool.policy(UnitPolicy { min_gpu: Some(2), ..UnitPolicy::default() }).unwrap();
    let refused = pool.place_under(&task((7, 4)), Strategy::Multilevel, whole);
    assert_eq!(refused, Err(Refusal::Constrained(1)), "one would be left");
    assert!(pool.place_under(&task((6, 4)), Strategy::Multilevel, whole).is_ok(), "two are left");
    let calm = pool.policy(UnitPolicy { min_balance: Some(0.9), ..UnitPolicy::default() }).unwrap();
    let told = pool.explain(&task((1, 1)), Strategy::Multilevel, calm, &|_| None).unwrap();
    assert!(matches!(&told.rows[0].verdict, Verdict::Filtered { filter, .. } if filter == "min_balance"));
}

#[test]
fn only_the_share_with_the_best_balance_is_scored() {
    let mut pool = modules(4);
    let half = pool.policy(UnitPolicy { share: 0.5, ..UnitPolicy::default() }).unwrap();
    // Binpack by nature, held back by the share: the loaded module is not among the better half.
    let first = pool.place_under(&task((2, 4)), Strategy::Multilevel, half).unwrap().node;
    let second = pool.place_under(&task((2, 4)), Strategy::Multilevel, half).unwrap().node;
    assert_ne!(first, second);
    let told = pool.explain(&task((2, 4)), Strategy::Multilevel, half, &|_| None).unwrap();
    let scored = told.rows.iter().filter(|row| matches!(row.verdict, Verdict::Scored { .. })).count();
    assert_eq!(scored, 2);
}

#[test]
fn a_threshold_keeps_room_on_a_module() {
    let mut pool = modules(1);
    let threshold = PerResource { gpu: Some(0.75), ..PerResource::default() };
    let careful = pool.policy(UnitPolicy { threshold, ..UnitPolicy::default() }).unwrap();
    assert!(pool.place_under(&task((6, 4)), Strategy::Multilevel, careful).is_ok());
    let refused = pool.place_under(&task((1, 1)), Strategy::Multilevel, careful);
    assert_eq!(refused, Err(Refusal::Constrained(1)));
}

#[test]
fn one_accelerator_in_maintenance_blocks_no_other() {
    let mut pool = modules(1);
    let holder = pool.place(&task((1, 1)), Strategy::Multilevel).unwrap();
    let moving = pool.maintain("module-1", holder.accelerators[0], true).unwrap();
    assert_eq!(moving, [holder.ticket], "who holds it has to move");
    assert!(pool.place(&task((8, 1)), Strategy::Multilevel).is_err());
    let rest = pool.place(&task((7, 1)), Strategy::Multilevel).unwrap();
    assert!(!rest.accelerators.contains(&holder.accelerators[0]));
}

#[test]
fn a_callers_filter_is_obeyed_and_named() {
    let mut pool = modules(2);
    let port = |node: usize| (node == 0).then(|| ("port", "host port 80 is taken".to_owned()));
    let none = PolicyNumber::default();
    let told = pool.explain(&task((1, 1)), Strategy::Spacecloud, none, &port).unwrap();
    assert!(matches!(&told.rows[0].verdict, Verdict::Filtered { filter, .. } if filter == "port"));
    assert_eq!(told.chosen.as_deref(), Some("module-2"));
    assert_eq!(pool.place_where(&task((1, 1)), Strategy::Spacecloud, none, &port).unwrap().node, 1);
}

#[test]
fn a_request_that_waits_is_told_what_would_have_to_change() {
    let mut pool = modules(2);
    pool.place(&task((3, 60)), Strategy::Multilevel).unwrap();
    pool.place(&task((8, 10)), Strategy::Multilevel).unwrap();
    let told = pool.explain(&task((6, 2)), Strategy::Multilevel, PolicyNumber::default(), &|_| None).unwrap();
    assert_eq!(told.chosen, None);
    assert_eq!(
        told.change.as_deref(),
        Some("module-1 is the nearest: it is short of free accelerators by 1")
    );
}

#[test]
fn what_runs_already_is_adopted_where_it_runs_or_not_at_all() {
    let mut pool = modules(1);
    let ticket = pool.adopt("module-1", &task((2, 4)), &[1, 3]).unwrap();
    assert!(pool.adopt("module-1", &task((1, 4)), &[3]).is_err(), "taken");
    assert!(pool.adopt("module-1", &task((2, 4)), &[4, 4]).is_err(), "one accelerator twice");
    assert!(pool.adopt("module-1", &task((1, 4)), &[8]).is_err(), "there is no such number");
    assert!(pool.adopt("module-1", &task((1, 61)), &[0]).is_err(), "too many cores");
    let next = pool.place(&task((2, 4)), Strategy::Tiling).unwrap();
    assert_eq!(next.accelerators, [0, 2]);
    pool.release(ticket).unwrap();
    pool.release(next.ticket).unwrap();
    assert_eq!(pool.totals().accelerator_allocated, 0);
}

#[test]
fn a_policy_is_read_from_toml_and_unknown_keys_are_refused() {
    let text = "share = 0.5\nmax_gpu = 8\n[threshold]\ngpu = 0.9\n[score]\nmatch = 2.0\n";
    let policy: UnitPolicy = toml::from_str(text).unwrap();
    assert_eq!((policy.share, policy.max_gpu, policy.min_gpu), (0.5, Some(8), None));
    assert_eq!((policy.threshold.gpu, policy.threshold.cpu, policy.score.matching), (Some(0.9), None, 2.0));
    assert_eq!(policy.score.gpu, 4.0, "what is not said stays as it is");
    assert_eq!(policy.check(), Ok(()));
    assert!(toml::from_str::<UnitPolicy>("sharing = 0.5").is_err());
}
