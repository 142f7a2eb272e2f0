//! The look that all tables share.
use comfy_table::{Cell, Color, Table, TableComponent, presets};
use std::io::IsTerminal;

/// How much to show, and whether in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Every column.
    pub(crate) wide: bool,
    /// States in colour.
    pub(crate) colour: bool,
}

impl Look {
    /// Colour only for a person at a terminal who did not refuse it.
    pub(crate) fn of_terminal(wide: bool) -> Self {
        Self {
            wide,
            colour: std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

/// A table without lines, whose last column may be as long as it likes.
pub(crate) struct Grid {
    table: Table,
}

impl Grid {
    pub(crate) fn new(look: Look, header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(header.iter().map(Cell::new));
        table.set_style(TableComponent::VerticalLines, ' ');
        if look.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
    }

    /// With a line's end after each row, and no blanks before it.
    pub(crate) fn render(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        let text = self.table.to_string();
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A cell without colour; nothing is shown as `-`.
pub(crate) fn plain(text: impl ToString) -> Cell {
    let text = text.to_string().replace(['\n', '\r', '\t'], " ");
    Cell::new(if text.is_empty() { "-".to_owned() } else { text })
}

/// A module's state or an instance's phase, green when all is well.
pub(crate) fn state(text: &str) -> Cell {
    let word = text.split(',').next().unwrap_or(text);
    plain(text).fg(match word {
        "ready" | "normal" => Color::Green,
        "lost" | "back-off" => Color::Red,
        _ => Color::Yellow,
    })
}

/// `12s`, `3min`, `5h`, `2d`: how long before `now`; both in Unix milliseconds. Zero is never.
pub(crate) fn age(now: u64, then: u64) -> String {
    if then == 0 {
        return "-".to_owned();
    }
    let seconds = now.saturating_sub(then) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `1.5GiB`: to one decimal, for people.
pub(crate) fn bytes(amount: u64) -> String {
    for (unit, size) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if amount >= size {
            let (whole, tenths) = (amount / size, amount % size * 10 / size);
            return if tenths == 0 || whole >= 100 {
                format!("{whole}{unit}")
            } else {
                format!("{whole}.{tenths}{unit}")
            };
        }
    }
    format!("{amount}B")
}

/// `1.5` cores from 1500 thousandths.
pub(crate) fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_amounts_are_short() {
        let now = 10_000_000_000;
        for (ago, text) in [
            (0, "0s"),
            (12_999, "12s"),
            (60_000, "1min"),
            (3_599_000, "59min"),
            (7_200_000, "2h"),
            (172_800_000, "2d"),
        ] {
            assert_eq!(age(now, now - ago), text);
        }
        assert_eq!((age(now, 0), age(now, now + 5_000)), ("-".into(), "0s".into()));
        assert_eq!(
            [bytes(900), bytes(3 << 19), bytes(1 << 30), bytes(u64::MAX)],
            ["900B", "1.5MiB", "1GiB", "16777215TiB"]
        );
        assert_eq!([cores(2000), cores(500), cores(1250), cores(0)], ["2", "0.5", "1.25", "0"]);
    }

    #[test]
    fn columns_line_up_and_rows_end_clean() {
        let mut grid = Grid::new(Look::default(), &["NAME", "STATE"]);
        grid.row(vec![plain("module-1"), state("ready")]);
        grid.row(vec![plain(""), plain("a\nb")]);
        assert_eq!(grid.render(), "NAME      STATE\nmodule-1  ready\n-         a b\n");
    }

    #[test]
    fn colour_is_asked_for() {
        let text = |colour| {
            let mut grid = Grid::new(Look { wide: false, colour }, &["S"]);
            grid.row(vec![state("lost")]);
            grid.render()
        };
        assert!(text(true).contains('\u{1b}') && !text(false).contains('\u{1b}'));
    }
}
