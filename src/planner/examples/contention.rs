//! The pool paper's utilisation experiment as a table and a plot:
//! `cargo run --release -p planner --example contention [FILE.svg]`.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "a program that measures has a clock")]

#[path = "../../cli/src/replay/chart.rs"]
mod chart;
#[path = "../tests/contention/mod.rs"]
mod contention;

use chart::{Chart, Line, Scale};
use contention::{CONTENDED, END, EVERY, Kind, MIXED, Outcome, SETS, run, set};
use planner::pool::Strategy;
use std::time::{Duration, Instant};

const STRATEGIES: [Strategy; 4] =
    [Strategy::Spread, Strategy::Tiling, Strategy::Multilevel, Strategy::Spacecloud];

fn main() -> std::io::Result<()> {
    let contended = report("contended", &CONTENDED);
    report("mixed", &MIXED);
    times(&contended);
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, picture(&contended))?;
    }
    Ok(())
}

/// By strategy, by set.
fn report(name: &str, kinds: &[Kind]) -> Vec<Vec<Outcome>> {
    let start = Instant::now();
    let of = |strategy| SETS.map(|seed| run(&set(kinds, seed), strategy, || start.elapsed())).collect();
    let all: Vec<Vec<Outcome>> = STRATEGIES.into_iter().map(of).collect();
    println!("\n{name}: mean use of accelerators in %, tasks that missed their window in brackets\n");
    println!("| set | {} | multilevel / spread |", STRATEGIES.map(Strategy::name).join(" | "));
    println!("| --- |{}", " ---: |".repeat(STRATEGIES.len() + 1));
    for (at, seed) in SETS.enumerate() {
        let outcomes: Vec<&Outcome> = all.iter().filter_map(|outcomes| outcomes.get(at)).collect();
        let cells = outcomes.iter().map(|o| format!("{:.1} ({})", 100.0 * o.mean(), o.missed));
        let mean = |strategy| outcomes.get(position(strategy)).map_or(0.0, |o| o.mean());
        let ratio = mean(Strategy::Multilevel) / mean(Strategy::Spread);
        println!("| {seed} | {} | {ratio:.2} |", cells.collect::<Vec<_>>().join(" | "));
    }
    let means: Vec<f64> = all.iter().map(|outcomes| mean(outcomes)).collect();
    let cells: Vec<String> = means.iter().map(|mean| format!("**{:.1}**", 100.0 * mean)).collect();
    let of = |strategy| means.get(position(strategy)).copied().unwrap_or_default();
    let ratio = of(Strategy::Multilevel) / of(Strategy::Spread);
    println!("| mean | {} | **{ratio:.2}** |", cells.join(" | "));
    all
}

fn position(strategy: Strategy) -> usize {
    STRATEGIES.iter().position(|known| *known == strategy).unwrap_or_default()
}

fn mean(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().map(Outcome::mean).sum::<f64>() / outcomes.len() as f64
}

/// The paper's second figure: how long a decision takes.
fn times(all: &[Vec<Outcome>]) {
    println!("\ntime per decision in µs, of all decisions of the contended sets\n");
    println!("| strategy | median | 99 % | most |\n| --- | ---: | ---: | ---: |");
    for (strategy, outcomes) in STRATEGIES.iter().zip(all) {
        let mut times: Vec<Duration> = outcomes.iter().flat_map(|o| o.times.iter().copied()).collect();
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!("| {strategy} | {:.1} | {:.1} | {:.1} |", at(50), at(99), at(100));
    }
}

/// The mean over all sets, sample by sample.
fn picture(all: &[Vec<Outcome>]) -> String {
    let line = |(strategy, outcomes): (&Strategy, &Vec<Outcome>)| {
        let at = |sample: usize| {
            let used = outcomes.iter().filter_map(|outcome| outcome.samples.get(sample));
            100.0 * used.sum::<f64>() / outcomes.len() as f64
        };
        let points = (0..).zip(0..=END / EVERY).map(|(sample, time)| ((time * EVERY) as f64, at(sample)));
        Line { name: format!("{strategy} {:.1} %", 100.0 * mean(outcomes)), points: points.collect() }
    };
    let chart = Chart {
        across: "seconds",
        x: Scale::Linear { end: END as f64, step: EVERY as f64 },
        up: "accelerators in use, in %, mean of all sets",
        y: Scale::Linear { end: 100.0, step: 10.0 },
        lines: STRATEGIES.iter().zip(all).map(line).collect(),
    };
    chart.svg()
}
