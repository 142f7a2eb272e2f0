//! The wall clock jumps at any moment of a drain, a rebalance, an update, a loss and a return: nothing of it may differ
//! from the same course with a clock that does not jump.

use super::*;

/// What every module runs, since when, and where it sends connections.
type Moment = Vec<(BTreeMap<InstanceId, u64>, ServiceTable)>;

const STEPS: usize = 480;

fn act(world: &mut World, step: usize) {
    let cordon =
        |wanted: bool| Request::Cordon { module: Name::of_module(1), cordoned: wanted, draining: wanted };
    match step {
        0 => world.request(cordon(true)).unwrap(),
        100 => world.request(cordon(false)).unwrap(),
        200 => (0..3).for_each(|number| moves::update(world, number, 2, number == 1)),
        320 => world.cut(2, true),
        360 => world.cut(2, false),
        _ => {}
    }
}

/// From moment to moment. At one of them the wall clock jumps so far.
fn course(jump: Option<(usize, i64)>) -> Vec<Moment> {
    let mut world = World::new(3);
    let apps = (0..3).map(|number| serving(number, "replicas = 3")).collect();
    world.request(Request::Apply(apps)).unwrap();
    world.run(1500);
    let mut moments = Vec::new();
    for step in 0..STEPS {
        if let Some((_, by)) = jump.filter(|(when, _)| *when == step) {
            world.ahead += by;
        }
        act(&mut world, step);
        world.run(World::STEP);
        moments.push(world.agents.values().map(|a| (a.running.clone(), a.table.clone())).collect());
    }
    assert!(world.core.instances().all(|i| i.is_ready()) && world.core.instances().count() == 9);
    for reason in ["Moved", "Updated", "RolledBack", "Lost", "Replaced"] {
        assert!(
            world.core.events().any(|e| e.reason == reason),
            "no {reason}: the course shows nothing of it"
        );
    }
    moments
}

#[test]
fn a_wall_clock_that_jumps_changes_no_move() {
    let expected = course(None);
    for step in (0..STEPS).step_by(24) {
        for minutes in [-70, 600] {
            let seen = course(Some((step, minutes * 60_000)));
            let differs = seen.iter().zip(&expected).position(|(seen, expected)| seen != expected);
            assert_eq!(differs, None, "the clock jumps {minutes} min at step {step}");
        }
    }
}
