//! How much of a pool the strategies give away before nothing fits any more, on a workload of this test's own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use planner::pool::{Amounts, NodeSpec, Pool, Request, Seed, Strategy, WHOLE};

/// Many accelerators with little CPU, few with much, and some in between.
fn pool(seed: u64) -> Pool {
    let mut pool = Pool::new(seed);
    for (kind, (count, cores, accelerators)) in
        [(40, 96, 8), (30, 104, 2), (10, 32, 4)].into_iter().enumerate()
    {
        for number in 0..count {
            let capacity = Amounts { cpu: cores * 1000, memory: cores * 4096, disk: 0 };
            let name = format!("n-{kind}-{number}");
            pool.add(&NodeSpec { name, capacity, accelerators, model: String::new() }).unwrap();
        }
    }
    pool
}

/// (cores, accelerators, thousandths of each, how often)
const KINDS: [(u64, u16, u16, usize); 9] = [
    (12, 1, WHOLE, 25),
    (19, 1, WHOLE, 10),
    (4, 1, WHOLE, 8),
    (3, 1, 700, 15),
    (12, 1, 450, 10),
    (4, 1, 300, 12),
    (88, 8, WHOLE, 1),
    (12, 0, 0, 9),
    (32, 0, 0, 4),
];

/// Tasks that ask for 130 % of the accelerators, in the order of a seed.
fn tasks(capacity: u64, seed: u64) -> Vec<Request> {
    let mut seed = Seed::new(seed);
    let (mut tasks, mut demand) = (Vec::new(), 0);
    let weights: usize = KINDS.iter().map(|kind| kind.3).sum();
    while demand * 10 < capacity * 13 {
        let mut at = seed.below(weights);
        let kind = KINDS.iter().find(|kind| {
            let here = at < kind.3;
            at = at.wrapping_sub(kind.3);
            here
        });
        let (cores, accelerators, milli, _) = *kind.unwrap();
        let task = Request { accelerators, milli, ..Request::plain(cores * 1000, cores * 4000) };
        demand += task.accelerator_milli();
        tasks.push(task);
    }
    tasks
}

/// The mean share given away at the end, over five seeds.
fn given(strategy: Strategy) -> f64 {
    let share = |seed| {
        let mut pool = pool(seed);
        let capacity = pool.totals().accelerator_capacity;
        for task in tasks(capacity, seed) {
            drop(pool.place(&task, strategy));
        }
        pool.totals().accelerator_allocated as f64 / capacity as f64
    };
    (1..=5).map(share).sum::<f64>() / 5.0
}

#[test]
fn ours_gives_away_more_than_fragmentation_gradient_descent_and_that_more_than_chance() {
    let (ours, fgd, chance) = (given(Strategy::Spacecloud), given(Strategy::Fgd), given(Strategy::Random));
    assert!(ours > fgd + 0.005, "ours {ours}, fgd {fgd}");
    assert!(fgd > chance + 0.005, "fgd {fgd}, random {chance}");
}

/// Where each of the tasks goes, on nodes with so many cores and accelerators.
fn places(strategy: Strategy, nodes: &[(u64, u16)], tasks: &[Request]) -> Vec<Option<usize>> {
    let mut pool = Pool::new(0);
    for (number, (cores, accelerators)) in nodes.iter().enumerate() {
        let capacity = Amounts { cpu: cores * 1000, memory: 1 << 20, disk: 0 };
        let (name, model) = (format!("n-{number}"), String::new());
        pool.add(&NodeSpec { name, capacity, accelerators: *accelerators, model }).unwrap();
    }
    tasks.iter().map(|task| pool.place(task, strategy).ok().map(|placed| placed.node)).collect()
}

fn cores(count: u64) -> Request {
    Request::plain(count * 1000, 0)
}

#[test]
fn best_fit_takes_the_node_that_keeps_least() {
    let nodes = [(64, 8), (32, 4), (96, 8)];
    let tasks = [cores(4).with_whole(4), cores(4).with_whole(4), cores(60), cores(80)];
    assert_eq!(places(Strategy::BestFit, &nodes, &tasks), [Some(1), Some(0), Some(0), Some(2)]);
}

#[test]
fn dot_product_goes_where_least_of_what_it_asks_is_free() {
    let nodes = [(96, 2), (16, 8), (32, 4)];
    let tasks = [cores(8), cores(1).with_whole(2), cores(1).with_whole(2), cores(16)];
    assert_eq!(places(Strategy::DotProduct, &nodes, &tasks), [Some(1), Some(0), Some(2), Some(2)]);
}

#[test]
fn gpu_packing_fills_occupied_accelerators_then_their_neighbours_then_the_smallest_idle_node() {
    let nodes = [(96, 8), (96, 2), (96, 4)];
    let part = |milli| cores(1).with_share(milli);
    let tasks = [part(500), part(300), part(600), part(200), cores(1).with_whole(2), cores(1).with_whole(2)];
    let expected = [Some(1), Some(1), Some(1), Some(1), Some(2), Some(2)];
    assert_eq!(places(Strategy::GpuPacking, &nodes, &tasks), expected);
}

#[test]
fn gpu_clustering_keeps_tasks_that_ask_alike_together() {
    let nodes = [(96, 4), (96, 4), (96, 4)];
    let (part, two) = (cores(1).with_share(500), cores(1).with_whole(2));
    let tasks = [part.clone(), two.clone(), part.clone(), two.clone(), two.clone(), cores(1).with_whole(3)];
    let expected = [Some(0), Some(1), Some(0), Some(1), Some(2), Some(0)];
    assert_eq!(places(Strategy::GpuClustering, &nodes, &tasks), expected);
}
