//! The figures of a bench as tables for people.

use super::{Drain, Failover, Return, Swarm, rig, sorted};
use crate::{BackplaneKind, demo};

/// All times in their order of size, for people.
pub fn distribution(times: &[f64]) -> String {
    sorted(times).iter().map(|time| format!("{time:.2}")).collect::<Vec<_>>().join(" ")
}

/// The figures of a failover, for people.
pub fn table_of_failover(figures: &Failover, backplane: BackplaneKind) -> String {
    let Failover {
        runs,
        instances,
        median_s,
        min_s,
        max_s,
        detect_median_s,
        double_runs,
        swarm,
        least_gap_s,
        each_s,
    } = figures;
    let mut lines = vec![
        format!("failover, {runs} runs, {instances} instances, {}:", demo::machine(backplane)),
        format!("  cut to all healthy elsewhere  {median_s:>7.3} s median ({min_s:.3} to {max_s:.3})"),
        format!("  cut to counted as lost        {detect_median_s:>7.3} s median"),
        format!("  each run                      {}", distribution(each_s)),
        format!("  instances that ran twice      {double_runs:>7}"),
        format!("  an end to its successor       {least_gap_s:>7.3} s at least"),
    ];
    if let Some(Swarm { runs, median_s, min_s, max_s, detect_median_s, ours_to_theirs, each_s }) = swarm {
        lines.extend([
            format!("Docker Swarm on the same modules, {runs} runs, default settings:"),
            format!("  cut to all running elsewhere  {median_s:>7.3} s median ({min_s:.3} to {max_s:.3})"),
            format!("  cut to counted as down        {detect_median_s:>7.3} s median"),
            format!("  each run                      {}", distribution(each_s)),
            format!("  ours as a share of theirs     {ours_to_theirs:>7.3}"),
        ]);
    }
    lines.join("\n")
}

/// The figures of drains, updates or losses, as `what` says, for people.
pub fn table_of_drain(what: &str, figures: &Drain, backplane: BackplaneKind) -> String {
    let Drain { runs, requests, failed_requests, longest_gap_ms, moves, rate } = figures;
    [
        format!("{what}, {runs} runs, {} instances, {}:", rig::INSTANCES, demo::machine(backplane)),
        format!("  calls, calls a second         {requests} {rate}"),
        format!("  calls that failed             {failed_requests}"),
        format!("  longest time without answer   {longest_gap_ms} ms"),
        format!("  moves                         {moves}"),
    ]
    .join("\n")
}

/// The figures of a return, for people.
pub fn table_of_return(figures: &Return, backplane: BackplaneKind) -> String {
    let Return { runs, median_s, moves, moves_needed, each_s } = figures;
    [
        format!("return, {runs} runs, {} instances, {}:", rig::INSTANCES, demo::machine(backplane)),
        format!("  return to balanced            {median_s:>7.3} s median"),
        format!("  each run                      {}", distribution(each_s)),
        format!("  moves made, moves needed      {moves} {moves_needed}"),
    ]
    .join("\n")
}
