use super::chart::{Chart, Line, Scale};
use super::run::Run;

/// Allocation against arrived demand, one line for each strategy, as SVG.
pub(crate) fn svg(runs: &[Run]) -> String {
    let furthest = runs.iter().flat_map(|run| &run.curve).map(|(demand, _)| *demand).fold(100.0, f64::max);
    // At most a dozen marks, however much was asked for.
    let step = (furthest / 120.0).ceil() * 10.0;
    let line = |run: &Run| Line {
        name: format!("{} {:.2} %", run.strategy, run.gpu_allocated_percent),
        points: run.curve.clone(),
    };
    let chart = Chart {
        across: "accelerators asked for so far, in % of what there is",
        x: Scale::Linear { end: (furthest / step).ceil() * step, step },
        up: "accelerators allocated, in %",
        y: Scale::Linear { end: 100.0, step: 10.0 },
        lines: runs.iter().map(line).collect(),
    };
    chart.svg()
}
