use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::IsTerminal, time::Duration};

const STYLE: &str = "{msg:<44!} [{bar:24}] {pos:>3} %  {elapsed}";
const TENTH: u64 = 10;

/// How far a module is: a bar in a terminal, elsewhere a line for each step and each tenth. On standard error.
pub(crate) struct Say {
    bar: Option<ProgressBar>,
    last: (String, u64),
}

impl Say {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, last: Default::default() }
    }

    /// A step, and how many hundredths of it are done.
    pub(crate) fn step(&mut self, text: &str, done: u64, total: u64) {
        let hundredths = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.set_position(hundredths);
            return;
        }
        let next = (text.to_owned(), hundredths / TENTH);
        if next != self.last {
            match total {
                0 => eprintln!("{text}"),
                _ => eprintln!("{text}: {hundredths} %"),
            }
            self.last = next;
        }
    }
}

impl Drop for Say {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
