//! The pool paper's utilisation experiment, as a ratio.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod contention;

use contention::{CONTENDED, END, EVERY, Kind, MIXED, SETS, run, set};
use planner::pool::Strategy;
use std::time::Duration;

/// The mean use of accelerators over all sets.
fn mean(kinds: &[Kind], strategy: Strategy) -> f64 {
    let means = SETS.map(|seed| run(&set(kinds, seed), strategy, || Duration::ZERO).mean());
    means.sum::<f64>() / SETS.count() as f64
}

#[test]
fn multilevel_uses_the_accelerators_of_contended_modules_as_much_better_as_the_paper_says() {
    let (multilevel, spread) = (mean(&CONTENDED, Strategy::Multilevel), mean(&CONTENDED, Strategy::Spread));
    assert!(multilevel >= 44.0 / 31.86 * spread, "{multilevel} against {spread}");
}

#[test]
fn where_nothing_is_contended_it_is_no_worse() {
    let (multilevel, spread) = (mean(&MIXED, Strategy::Multilevel), mean(&MIXED, Strategy::Spread));
    assert!(multilevel >= spread, "{multilevel} against {spread}");
}

#[test]
fn both_strategies_see_the_same_set_and_sample_alike() {
    let tasks = set(&CONTENDED, 1);
    assert_eq!(tasks, set(&CONTENDED, 1));
    assert_ne!(tasks, set(&CONTENDED, 2));
    let spread = run(&tasks, Strategy::Spread, || Duration::ZERO);
    assert_eq!(spread.samples.len() as u64, END / EVERY + 1);
    assert_eq!(spread.samples[0], 0.0, "nothing starts at 0 s");
    assert_eq!(spread.started + spread.missed, tasks.len());
}
