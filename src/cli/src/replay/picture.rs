//! Allocation against arrived demand, one line for each strategy.

use super::run::Run;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 7] = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#9c755f", "#e15759", "#17202a"];

/// The picture as SVG.
pub(crate) fn svg(runs: &[Run]) -> String {
    let furthest = runs.iter().flat_map(|run| &run.curve).map(|(demand, _)| *demand).fold(100.0, f64::max);
    let end = (furthest / 10.0).ceil() * 10.0;
    let x = |demand: f64| LEFT + demand / end * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| HEIGHT - BOTTOM - share / 100.0 * (HEIGHT - TOP - BOTTOM);
    let mut body = String::new();
    for tick in (0..=10).map(|tenth| f64::from(tenth) * 10.0) {
        let (at, from, to) = (y(tick), x(0.0), x(end));
        let _ = writeln!(
            body,
            "<line x1='{from}' x2='{to}' y1='{at:.1}' y2='{at:.1}' stroke='#ddd'/><text x='{}' y='{:.1}' text-anchor='end'>{tick}</text>",
            from - 6.0,
            at + 4.0
        );
    }
    let step = if end > 200.0 { 50.0 } else { 10.0 };
    let mut tick = 0.0;
    while tick <= end {
        let _ = writeln!(
            body,
            "<text x='{:.1}' y='{:.1}' text-anchor='middle'>{tick}</text>",
            x(tick),
            HEIGHT - BOTTOM + 18.0
        );
        tick += step;
    }
    for (number, run) in runs.iter().enumerate() {
        let colour = COLOURS.get(number % COLOURS.len()).unwrap_or(&"#888888");
        let mut points = String::new();
        for (demand, share) in &run.curve {
            let _ = write!(points, "{:.1},{:.1} ", x(*demand), y(*share));
        }
        let _ = writeln!(
            body,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.6'/>",
            points.trim_end()
        );
        let row = TOP + 14.0 + number as f64 * 20.0;
        let _ = writeln!(
            body,
            "<rect x='{}' y='{}' width='12' height='12' fill='{colour}'/><text x='{}' y='{row}'>{} {:.2} %</text>",
            WIDTH - RIGHT + 12.0,
            row - 10.0,
            WIDTH - RIGHT + 30.0,
            run.strategy,
            run.gpu_allocated_percent
        );
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'>\n\
         <style>text{{font:12px sans-serif}}</style>\n<rect width='100%' height='100%' fill='white'/>\n{body}\
         <text x='{1:.1}' y='{0:.1}' text-anchor='middle'>accelerators asked for so far, in % of what there is</text>\n\
         <text x='16' y='{2:.1}' text-anchor='middle' transform='rotate(-90 16 {2:.1})'>accelerators allocated, in %</text>\n</svg>\n",
        HEIGHT - 12.0,
        middle,
        HEIGHT / 2.0,
    )
}
