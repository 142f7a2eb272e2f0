//! A line chart as SVG: axes, lines, a legend. Also drawn by the planner's examples.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 55.0;
const COLOURS: [&str; 11] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#9c755f", "#e15759", "#17202a", "#76b7b2", "#edc948",
    "#ff9da7", "#2ca02c",
];

/// How an axis is divided.
#[allow(dead_code, reason = "no program draws with both")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// From 0 in equal steps.
    Linear {
        /// The last value.
        end: f64,
        /// Between two marks.
        step: f64,
    },
    /// From one power of ten to another.
    Powers {
        /// The first exponent.
        from: i32,
        /// The last exponent.
        to: i32,
    },
}

impl Scale {
    /// Where `value` lies, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        match self {
            Self::Linear { end, .. } => value / end,
            Self::Powers { from, to } => (value.log10() - f64::from(from)) / f64::from(to - from),
        }
    }

    fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear { end, step } => {
                let marks = std::iter::successors(Some(0.0), |mark| Some(mark + step));
                marks.take_while(|mark| *mark <= end).collect()
            }
            Self::Powers { from, to } => (from..=to).map(|power| 10_f64.powi(power)).collect(),
        }
    }
}

/// One line, and its words in the legend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart of some lines.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    pub(crate) across: &'static str,
    pub(crate) x: Scale,
    pub(crate) up: &'static str,
    pub(crate) y: Scale,
    pub(crate) lines: Vec<Line>,
}

impl Chart {
    /// The chart as SVG.
    pub(crate) fn svg(&self) -> String {
        let x = |value: f64| LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut body = String::new();
        // Writing to a string cannot fail.
        for mark in self.y.marks() {
            let (at, from, to) = (y(mark), LEFT, WIDTH - RIGHT);
            let _ = writeln!(body, "<line x1='{from}' x2='{to}' y1='{at:.1}' y2='{at:.1}' stroke='#ddd'/>");
            let (left, low) = (from - 6.0, at + 4.0);
            let _ = writeln!(body, "<text x='{left}' y='{low:.1}' text-anchor='end'>{mark}</text>");
        }
        for mark in self.x.marks() {
            let (at, low) = (x(mark), HEIGHT - BOTTOM + 18.0);
            let _ = writeln!(body, "<text x='{at:.1}' y='{low}' text-anchor='middle'>{mark}</text>");
        }
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS.get(number % COLOURS.len()).unwrap_or(&"#888888");
            let points: Vec<String> =
                line.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let points = points.join(" ");
            let _ = writeln!(
                body,
                "<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.6'/>"
            );
            let (left, row) = (WIDTH - RIGHT + 12.0, TOP + 14.0 + number as f64 * 20.0);
            let (top, right) = (row - 10.0, left + 18.0);
            let _ = writeln!(body, "<rect x='{left}' y='{top}' width='12' height='12' fill='{colour}'/>");
            let _ = writeln!(body, "<text x='{right}' y='{row}'>{}</text>", line.name);
        }
        let (middle, half, foot) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT / 2.0, HEIGHT - 14.0);
        let (across, up) = (self.across, self.up);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'>\n\
             <style>text{{font:12px sans-serif}}</style>\n<rect width='100%' height='100%' fill='white'/>\n{body}\
             <text x='{middle}' y='{foot}' text-anchor='middle'>{across}</text>\n\
             <text x='16' y='{half}' text-anchor='middle' transform='rotate(-90 16 {half})'>{up}</text>\n</svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_where_the_scale_says() {
        let line = Line { name: "a".to_owned(), points: vec![(0.0, 1.0), (10.0, 100.0)] };
        let x = Scale::Linear { end: 10.0, step: 5.0 };
        let chart = Chart { across: "x", x, up: "y", y: Scale::Powers { from: 0, to: 2 }, lines: vec![line] };
        let svg = chart.svg();
        // The first point in the lower left corner of the frame, the last in the upper right one.
        assert!(svg.contains("points='70.0,485.0 710.0,20.0'"), "{svg}");
        assert!(svg.contains(">5</text>") && svg.contains(">100</text>"), "{svg}");
    }
}
