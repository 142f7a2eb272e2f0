//! The pool paper's utilisation experiment: two modules, a set of tasks in planned windows, the same set under each
//! strategy. Used by a test and by the example that draws the figures.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use planner::pool::{Amounts, NodeSpec, Placement, Pool, Request, Seed, Strategy};
use std::time::Duration;

/// Seconds.
pub(crate) const END: u64 = 1800;
/// Seconds between two samples.
pub(crate) const EVERY: u64 = 180;

/// A task in its window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) asks: Request,
}

/// One kind of task in a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) accelerators: u16,
    pub(crate) cores: u64,
    /// How many of them a set has.
    pub(crate) tasks: usize,
    /// Shortest and longest window, in seconds.
    pub(crate) window: (u64, u64),
}

/// Small tasks that are always there, and whole-module tasks that come again and again: what the modules are contended
/// for is a module without small tasks on it.
pub(crate) const CONTENDED: [Kind; 2] = [
    Kind { accelerators: 1, cores: 2, tasks: 24, window: (120, 600) },
    Kind { accelerators: 8, cores: 10, tasks: 12, window: (120, 360) },
];

/// The kinds of the paper's table of five tasks in their proportion, all with windows alike: little to gain by order.
pub(crate) const MIXED: [Kind; 3] = [
    Kind { accelerators: 2, cores: 4, tasks: 24, window: (120, 600) },
    Kind { accelerators: 4, cores: 8, tasks: 8, window: (120, 600) },
    Kind { accelerators: 8, cores: 10, tasks: 8, window: (120, 600) },
];

/// The seeds of the sets that are reported, all of them.
pub(crate) const SETS: std::ops::RangeInclusive<u64> = 1..=20;

/// A set: so many tasks of each kind, windows of any length between the limits, starting at any second.
pub(crate) fn set(kinds: &[Kind], seed: u64) -> Vec<Task> {
    let mut seed = Seed::new(seed);
    let mut tasks = Vec::new();
    for kind in kinds {
        let (shortest, longest) = kind.window;
        for _ in 0..kind.tasks {
            let length = shortest + seed.below((longest - shortest + 1) as usize) as u64;
            let start = 1 + seed.below((END - 1) as usize) as u64;
            let asks = Request::plain(kind.cores * 1000, 4096).with_whole(kind.accelerators);
            tasks.push(Task { start, end: start + length, asks });
        }
    }
    tasks.sort_by_key(|task| task.start);
    tasks
}

/// What one strategy made of a set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The share of accelerators in use at each sample, the first at 0 s.
    pub(crate) samples: Vec<f64>,
    pub(crate) started: usize,
    pub(crate) missed: usize,
    /// Of each decision.
    pub(crate) times: Vec<Duration>,
}

impl Outcome {
    /// Over the samples after the start, as the paper's means are.
    pub(crate) fn mean(&self) -> f64 {
        self.samples.iter().skip(1).sum::<f64>() / (self.samples.len() - 1) as f64
    }
}

/// Runs a set on two modules of eight accelerators and 64 cores. A task starts at its time or misses its window: what
/// cannot start then is refused, and its window is not held.
pub(crate) fn run(tasks: &[Task], strategy: Strategy, mut clock: impl FnMut() -> Duration) -> Outcome {
    let mut pool = Pool::new(0);
    for number in 1..=2 {
        let capacity = Amounts { cpu: 64_000, memory: 257_321, disk: 208 };
        let name = format!("master-{number}");
        pool.add(&NodeSpec { name, capacity, accelerators: 8, model: String::new() }).unwrap();
    }
    let mut running: Vec<(u64, Placement)> = Vec::new();
    let mut waiting = tasks.iter().peekable();
    let mut outcome = Outcome { samples: vec![], started: 0, missed: 0, times: vec![] };
    for now in 0..=END {
        running.retain(|(end, placed)| {
            let goes_on = *end > now;
            if !goes_on {
                pool.release(placed.ticket).unwrap();
            }
            goes_on
        });
        while let Some(task) = waiting.next_if(|task| task.start == now) {
            let before = clock();
            let decision = pool.place(&task.asks, strategy);
            outcome.times.push(clock() - before);
            match decision {
                Ok(placed) => running.push((task.end, placed)),
                Err(_) => outcome.missed += 1,
            }
        }
        if now % EVERY == 0 {
            let totals = pool.totals();
            outcome.samples.push(totals.accelerator_allocated as f64 / totals.accelerator_capacity as f64);
        }
    }
    outcome.started = tasks.len() - outcome.missed;
    outcome
}
