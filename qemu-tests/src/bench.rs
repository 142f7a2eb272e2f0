//! `spacesim bench`: how long a loss, a drain and a return take, many times over, as numbers for people and programs.
//!
//! Each run has a chassis of its own: a cluster remembers who was lost lately, and would be more careful with each run.

mod boot;
mod live;
mod loss;
mod peer;
mod rig;
mod tables;

use crate::scenario::lives::Gaps;
use crate::{BackplaneKind, ChassisFile, SimError};
use clap::ValueEnum;
use rig::Rig;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    /// From the cut of a module's link until all its instances run and are healthy elsewhere
    Failover,
    /// A client that calls a service without pause while a module of its instances is cut off
    Loss,
    /// A client that calls a service without pause while a module is drained and used again
    Drain,
    /// A client that calls a service without pause while its app is updated, instance by instance
    Update,
    /// Clients that call a service without pause, and on one connection, while its process moves from module to module
    Live,
    /// From the return of a module until the instances are balanced again
    Return,
    /// From the power-on of one module until its agent is ready, and the size of the twin's base
    Boot,
}

pub use boot::{Boot, boot, table as table_of_boot};
pub use live::{Live, live, table as table_of_live};
pub use loss::loss;
pub use tables::{distribution, table_of_drain, table_of_failover, table_of_return};

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// What modules are made of.
    pub backplane: BackplaneKind,
    /// Run directory, made anew by each run.
    pub dir: PathBuf,
    /// Which modules there are.
    pub chassis: ChassisFile,
    /// How often.
    pub runs: u32,
    /// How often the same is done to Docker Swarm on the same modules, 0 for not at all.
    pub swarm: u32,
    /// `[timing]` of modules that are namespaces, if it is not to be what flies.
    pub timing: String,
}

/// How quickly a cluster gets over the loss of a module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failover {
    /// How often it was measured.
    pub runs: u32,
    /// How many instances the app has, over all modules.
    pub instances: usize,
    /// From the cut to all running and healthy elsewhere, in seconds.
    pub median_s: f64,
    /// The shortest.
    pub min_s: f64,
    /// The longest.
    pub max_s: f64,
    /// From the cut until the module counts as lost, in seconds.
    pub detect_median_s: f64,
    /// Pairs of lives of one replica that overlap.
    pub double_runs: usize,
    /// Docker Swarm beside it, if it was asked for; it has no health to wait for and no lives to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swarm: Option<Swarm>,
    /// The shortest time between the end of an instance and the start of its successor, in seconds: what of the margin
    /// was left.
    #[serde(skip)]
    pub least_gap_s: f64,
    /// Each run's time.
    #[serde(skip)]
    pub each_s: Vec<f64>,
}

/// The same of Docker Swarm with its default settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Swarm {
    /// How often it was measured.
    pub runs: u32,
    /// From the cut to all tasks running elsewhere, in seconds.
    pub median_s: f64,
    /// The shortest.
    pub min_s: f64,
    /// The longest.
    pub max_s: f64,
    /// From the cut until the node counts as down, in seconds.
    pub detect_median_s: f64,
    /// Our median as a share of its.
    pub ours_to_theirs: f64,
    /// Each run's time.
    #[serde(skip)]
    pub each_s: Vec<f64>,
}

/// What clients notice of planned moves, of updates, or of losses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// How often a module was drained and used again, or cut off, or the app was updated.
    pub runs: u32,
    /// Calls meanwhile, each on a connection of its own.
    pub requests: u64,
    /// Those without a whole answer.
    pub failed_requests: u64,
    /// The longest time between two answers, in milliseconds.
    pub longest_gap_ms: u64,
    /// Moves that were made.
    pub moves: usize,
    /// Calls a second.
    #[serde(skip)]
    pub rate: u64,
}

/// How quickly a module that comes back is used again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Return {
    /// How often it was measured.
    pub runs: u32,
    /// From the return of the link to balanced, all healthy and nothing moving, in seconds.
    pub median_s: f64,
    /// Moves that were made, over all runs.
    pub moves: usize,
    /// The fewest that balance, over all runs.
    pub moves_needed: usize,
    /// Each run's time.
    #[serde(skip)]
    pub each_s: Vec<f64>,
}

/// Measures failover. `say` hears of each run.
///
/// # Errors
/// A chassis does not come up, or the cluster does not recover in time.
pub fn failover(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Failover, SimError> {
    let (mut times, mut detected, mut between, mut double_runs) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for run in 1..=options.runs {
        // Then no overlap is by design.
        let rig = Rig::start(options, "stop-first")?;
        let seen = rig.lose_a_module(rig::INSTANCES)?;
        let Gaps { doubles, smallest } = rig.between_lives()?;
        say(&format!(
            "run {run}: lost after {:.3} s, {} of {} instances whole elsewhere after {:.3} s, {} ran twice",
            seen.detected_s,
            seen.moved,
            rig::INSTANCES,
            seen.whole_s,
            doubles.len()
        ));
        for double in &doubles {
            say(&format!("  {double}"));
        }
        double_runs += doubles.len();
        times.push(seen.whole_s);
        detected.push(seen.detected_s);
        between.extend(smallest.map(|gap| gap.as_secs_f64()));
    }
    let mut swarm = None;
    if options.swarm > 0 {
        let (theirs, down) = peer::measure(options, say)?;
        swarm = Some(Swarm {
            runs: options.swarm,
            median_s: median(&theirs),
            min_s: least(&theirs),
            max_s: most(&theirs),
            detect_median_s: median(&down),
            ours_to_theirs: rounded(median(&times) / median(&theirs)),
            each_s: theirs,
        });
    }
    Ok(Failover {
        runs: options.runs,
        instances: rig::INSTANCES,
        median_s: median(&times),
        min_s: least(&times),
        max_s: most(&times),
        detect_median_s: median(&detected),
        double_runs,
        swarm,
        least_gap_s: least(&between),
        each_s: times,
    })
}

/// Measures what a client notices of drains, all of them on one chassis. `say` hears of each run.
///
/// # Errors
/// The chassis does not come up, or a module is not drained or used again in time.
pub fn drain(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Drain, SimError> {
    under_calls(options, say, |rig, _| rig.drain_and_return())
}

/// Measures what a client notices of rolling updates, all of them on one chassis; a move is an instance replaced.
///
/// # Errors
/// The chassis does not come up, or an update is not through in time.
pub fn update(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Drain, SimError> {
    under_calls(options, say, Rig::update)
}

/// What a client notices while `act` is done with a run's number; it answers how many moves that took.
fn under_calls(
    options: &Options,
    say: &mut dyn FnMut(&str),
    act: impl Fn(&Rig, u32) -> Result<usize, SimError>,
) -> Result<Drain, SimError> {
    let rig = Rig::start(options, "make-before-break")?;
    rig.start_calling()?;
    let (begun, first, mut moves) = (Instant::now(), rig.calls()?, 0);
    for run in 1..=options.runs {
        let made = act(&rig, run)?;
        let now = rig.calls()?;
        say(&format!(
            "run {run}: {made} moves; up to now {} calls, {} failed, longest gap {} ms",
            now.requests.saturating_sub(first.requests),
            now.failed.saturating_sub(first.failed),
            now.longest_gap_ms
        ));
        moves += made;
    }
    let last = rig.calls()?;
    let requests = last.requests.saturating_sub(first.requests);
    Ok(Drain {
        runs: options.runs,
        requests,
        failed_requests: last.failed.saturating_sub(first.failed),
        longest_gap_ms: last.longest_gap_ms,
        moves,
        rate: requests / begun.elapsed().as_secs().max(1),
    })
}

/// Measures the return of a module. `say` hears of each run.
///
/// # Errors
/// A chassis does not come up, or the cluster is not balanced in time.
pub fn come_back(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Return, SimError> {
    let (mut times, mut moves, mut moves_needed) = (Vec::new(), 0, 0);
    for run in 1..=options.runs {
        let rig = Rig::start(options, "make-before-break")?;
        rig.lose_a_module(rig::INSTANCES)?;
        let seen = rig.bring_it_back()?;
        say(&format!(
            "run {run}: balanced {:.3} s after the return, by {} moves where {} are needed",
            seen.balanced_s, seen.moves, seen.needed
        ));
        times.push(seen.balanced_s);
        moves += seen.moves;
        moves_needed += seen.needed;
    }
    Ok(Return { runs: options.runs, median_s: median(&times), moves, moves_needed, each_s: times })
}

/// To milliseconds: what is finer is noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn sorted(times: &[f64]) -> Vec<f64> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(times: &[f64]) -> f64 {
    let times = sorted(times);
    let middle = |at: usize| times.get(at).copied().unwrap_or(0.0);
    let half = times.len() / 2;
    rounded(if times.len() % 2 == 1 {
        middle(half)
    } else {
        middle(half.saturating_sub(1)).midpoint(middle(half))
    })
}

fn least(times: &[f64]) -> f64 {
    rounded(sorted(times).first().copied().unwrap_or(0.0))
}

fn most(times: &[f64]) -> f64 {
    rounded(sorted(times).last().copied().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!((least(&[2.0, 1.0004]), most(&[2.0, 1.0])), (1.0, 2.0));
        assert_eq!(distribution(&[2.0, 1.0]), "1.00 2.00");
    }

    #[test]
    fn programs_find_the_named_fields_and_no_others() {
        let keys = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let failover = Failover {
            runs: 1,
            instances: 10,
            median_s: 1.0,
            min_s: 1.0,
            max_s: 1.0,
            detect_median_s: 1.0,
            double_runs: 0,
            swarm: None,
            least_gap_s: 0.4,
            each_s: vec![1.0],
        };
        let mut names = keys(serde_json::to_value(failover).unwrap());
        names.sort();
        assert_eq!(
            names,
            ["detect_median_s", "double_runs", "instances", "max_s", "median_s", "min_s", "runs"]
        );
        let back = Return { runs: 1, median_s: 1.0, moves: 3, moves_needed: 3, each_s: vec![1.0] };
        let mut names = keys(serde_json::to_value(back).unwrap());
        names.sort();
        assert_eq!(names, ["median_s", "moves", "moves_needed", "runs"]);
        let drain = Drain { runs: 1, requests: 9, failed_requests: 0, longest_gap_ms: 1, moves: 6, rate: 3 };
        let mut names = keys(serde_json::to_value(drain).unwrap());
        names.sort();
        assert_eq!(names, ["failed_requests", "longest_gap_ms", "moves", "requests", "runs"]);
    }
}
