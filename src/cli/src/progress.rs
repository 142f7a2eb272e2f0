//! How far a long transfer is: a bar in a terminal, plain lines elsewhere; always on standard error.
use crate::table;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const LINE_EVERY: Duration = Duration::from_secs(10);
const STEPS: u64 = 10;
const ENDLESS: &str = "{msg:<28!} {spinner} {bytes:>11} {binary_bytes_per_sec:>12}";
const STYLE: &str =
    "{msg:<28!} {bar:24} {bytes:>11} of {total_bytes:<11} {binary_bytes_per_sec:>12}  {eta:>4} left";

/// Counts bytes up to a total; zero if only the end will tell.
pub(crate) struct Progress {
    shape: Shape,
}

enum Shape {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

impl Progress {
    pub(crate) fn new(what: &str, total: u64) -> Self {
        let shape = if std::io::stderr().is_terminal() {
            let known = Some(total).filter(|total| *total > 0);
            let bar = ProgressBar::with_draw_target(known, ProgressDrawTarget::stderr());
            let template = if known.is_some() { STYLE } else { ENDLESS };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(what.to_owned());
            // However short it takes, it is seen.
            bar.tick();
            bar.enable_steady_tick(Duration::from_millis(250));
            Shape::Bar(bar)
        } else {
            Shape::Lines(Mutex::new(Lines::new(what, total, Instant::now())))
        };
        Self { shape }
    }

    /// So many bytes more.
    pub(crate) fn advance(&self, bytes: u64) {
        match &self.shape {
            Shape::Bar(bar) => bar.inc(bytes),
            Shape::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let at = lines.at + bytes;
                if let Some(line) = lines.reach(at, Instant::now()) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// What counts as done is only this much, or already this much.
    pub(crate) fn set(&self, bytes: u64) {
        match &self.shape {
            Shape::Bar(bar) => bar.set_position(bytes),
            Shape::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.at = bytes;
                lines.base = bytes;
                lines.begun = Instant::now();
            }
        }
    }

    /// Something that a person should know now.
    pub(crate) fn note(&self, text: &str) {
        match &self.shape {
            Shape::Bar(bar) => bar.println(text),
            Shape::Lines(_) => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

/// A line at each tenth, and at least one every ten seconds.
struct Lines {
    what: String,
    total: u64,
    at: u64,
    /// Where counting began, and when: rates are of what moved.
    base: u64,
    begun: Instant,
    told: Instant,
    step: u64,
}

impl Lines {
    fn new(what: &str, total: u64, now: Instant) -> Self {
        Self { what: what.into(), total, at: 0, base: 0, begun: now, told: now, step: 0 }
    }

    /// The line to print on arriving at `at`, if one is due.
    fn reach(&mut self, at: u64, now: Instant) -> Option<String> {
        self.at = at;
        let step = at.saturating_mul(STEPS).checked_div(self.total).unwrap_or_default();
        if step == self.step && now.duration_since(self.told) < LINE_EVERY {
            return None;
        }
        (self.step, self.told) = (step, now);
        let moved = u128::from(at.saturating_sub(self.base));
        let took = now.duration_since(self.begun).as_millis().max(1);
        let rate = u64::try_from(moved * 1000 / took).unwrap_or(u64::MAX);
        let Some(percent) = at.min(self.total).saturating_mul(100).checked_div(self.total) else {
            return Some(format!("{}: {}, {}/s", self.what, table::bytes(at), table::bytes(rate)));
        };
        let left = self.total.saturating_sub(at).checked_div(rate).map_or("?".into(), |s| format!("{s}s"));
        let (at, total) = (table::bytes(at), table::bytes(self.total));
        Some(format!("{}: {at} of {total} ({percent} %), {}/s, {left} left", self.what, table::bytes(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_tenths_and_every_ten_seconds() {
        let begun = Instant::now();
        let after = |s| begun + Duration::from_secs(s);
        let mut lines = Lines::new("cam:1", 100 << 20, begun);
        assert_eq!(lines.reach(9 << 20, after(1)), None);
        assert_eq!(
            lines.reach(20 << 20, after(2)).unwrap(),
            "cam:1: 20MiB of 100MiB (20 %), 10MiB/s, 8s left"
        );
        assert_eq!(lines.reach(21 << 20, after(3)), None);
        assert!(lines.reach(22 << 20, after(12)).is_some());
        assert!(lines.reach(100 << 20, after(13)).unwrap().contains("(100 %)"));
    }

    #[test]
    fn without_a_total_lines_say_what_there_is() {
        let begun = Instant::now();
        let mut lines = Lines::new("x", 0, begun);
        assert_eq!(lines.reach(32 << 20, begun + Duration::from_secs(1)), None);
        let line = lines.reach(100 << 20, begun + Duration::from_secs(10));
        assert_eq!(line.as_deref(), Some("x: 100MiB, 10MiB/s"));
    }
}
