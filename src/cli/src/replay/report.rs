use super::run::Run;
use crate::failure::Failure;
use crate::table::{Grid, Look, plain};

/// A list with one object for each strategy.
pub(crate) fn json(runs: &[Run]) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(runs).map_err(|error| Failure::Output(error.into()))?;
    Ok(format!("{text}\n"))
}

/// One row for each strategy.
pub(crate) fn table(runs: &[Run]) -> String {
    let header = [
        "STRATEGY",
        "SEED",
        "GPU ALLOCATED",
        "PLACED",
        "FAILED",
        "SECONDS",
        "DECISIONS/S",
        "P50 US",
        "P99 US",
    ];
    let mut grid = Grid::new(Look::of_terminal(false), &header);
    for run in runs {
        grid.row(vec![
            plain(run.strategy),
            plain(run.seed.map_or_else(|| "file".to_owned(), |seed| seed.to_string())),
            plain(format!("{:.2} %", run.gpu_allocated_percent)),
            plain(run.placed),
            plain(run.failed),
            plain(format!("{:.3}", run.seconds)),
            plain(format!("{:.0}", run.decisions_per_second)),
            plain(format!("{:.1}", run.decision_us_p50)),
            plain(format!("{:.1}", run.decision_us_p99)),
        ]);
    }
    grid.render()
}
