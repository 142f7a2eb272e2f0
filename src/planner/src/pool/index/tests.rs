use super::super::{Amounts, NodeSpec};
use super::*;

fn nodes(count: usize) -> Vec<Node> {
    let spec = |number: usize| NodeSpec {
        name: format!("n-{number}"),
        capacity: Amounts { cpu: number as u64, memory: 0, disk: 0 },
        ..NodeSpec::default()
    };
    (0..count).map(|number| Node::new(&spec(number), 1)).collect()
}

fn set(nodes: &mut [Node], log: &mut Log, at: usize, cpu: u64) {
    nodes[at].free.cpu = cpu;
    nodes[at].changed = log.push(u32::try_from(at).unwrap(), nodes.len());
}

fn by_cpu(node: &Node) -> f64 {
    if node.free.cpu == 0 { UNFIT } else { node.free.cpu as f64 }
}

#[test]
fn the_best_is_found_across_blocks_and_the_first_wins_among_equals() {
    let (mut nodes, mut log, mut index) = (nodes(200), Log::default(), Index::default());
    index.refresh(&nodes, &log, 1, by_cpu);
    assert_eq!(index.best(None), Some((199, 199.0)));
    assert_eq!(index.best(Some(199)), Some((198, 198.0)));
    assert_eq!(
        (index.fitting(), index.nth(0), index.nth(198), index.nth(199)),
        (199, Some(1), Some(199), None)
    );
    for at in [70, 20, 150] {
        set(&mut nodes, &mut log, at, 500);
    }
    index.refresh(&nodes, &log, 1, by_cpu);
    assert_eq!(index.best(None), Some((20, 500.0)));
    assert_eq!(index.best(Some(20)), Some((70, 500.0)));
}

#[test]
fn the_next_one_goes_round_the_end_and_skips_what_does_not_fit() {
    let (mut nodes, mut log, mut index) = (nodes(130), Log::default(), Index::default());
    (64..130).for_each(|at| set(&mut nodes, &mut log, at, 0));
    index.refresh(&nodes, &log, 1, by_cpu);
    assert_eq!([index.next(0), index.next(5), index.next(63), index.next(64)], [1, 5, 63, 1].map(Some));
    (0..64).for_each(|at| set(&mut nodes, &mut log, at, 0));
    index.refresh(&nodes, &log, 1, by_cpu);
    assert_eq!((index.next(7), index.best(None), index.nth(0)), (None, None, None));
}

#[test]
fn an_index_that_is_far_behind_still_sees_every_change() {
    let (mut nodes, mut log, mut index) = (nodes(3), Log::default(), Index::default());
    index.refresh(&nodes, &log, 1, by_cpu);
    // More changes than the log keeps.
    for round in 1..=10 {
        set(&mut nodes, &mut log, 0, 100 * round);
        set(&mut nodes, &mut log, 1, 7);
    }
    index.refresh(&nodes, &log, 1, by_cpu);
    assert_eq!(index.best(None), Some((0, 1000.0)));
    assert_eq!(index.score(1), Some(7.0));
}

#[test]
fn only_what_changed_is_scored_again() {
    let (mut nodes, mut log, mut index) = (nodes(100), Log::default(), Index::default());
    let scored = std::cell::Cell::new(0);
    let count = |node: &Node| {
        scored.set(scored.get() + 1);
        by_cpu(node)
    };
    index.refresh(&nodes, &log, 1, count);
    set(&mut nodes, &mut log, 5, 900);
    set(&mut nodes, &mut log, 5, 901);
    set(&mut nodes, &mut log, 6, 1);
    index.refresh(&nodes, &log, 1, count);
    assert_eq!(scored.get(), 102);
    index.refresh(&nodes, &log, 1, count);
    assert_eq!(scored.get(), 102);
    index.refresh(&nodes, &log, 2, count);
    assert_eq!(scored.get(), 202, "a new epoch scores all");
}

#[test]
fn the_index_asked_for_longest_ago_makes_room_also_when_the_pool_grew_since() {
    let mut indexes = Indexes::new();
    for key in 0..3 {
        indexes.get(key, 10);
    }
    indexes.get(0, CELLS / 2);
    indexes.get(2, CELLS / 2);
    let kept = |indexes: &Indexes<i32>| indexes.known.keys().copied().collect::<Vec<_>>();
    assert_eq!(kept(&indexes), [0, 2], "the small one in between was the oldest");
    indexes.get(3, CELLS / 2);
    assert_eq!(kept(&indexes), [2, 3]);
    indexes.get(3, CELLS * 2);
    assert_eq!(kept(&indexes), [3], "one larger than all is kept alone");
    assert_eq!(indexes.cells, CELLS * 2);
}
