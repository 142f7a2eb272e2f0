//! `spacesim console N`: what a module has said, what it says now, or what it answers.

use super::verbs::unexpected;
use crate::wire::{self, Reply, Request};
use crate::{SimError, run_dir};
use clap::Args;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks at a console that is followed.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Console {
    /// Its slot
    slot: u16,
    /// Show this many lines from the end
    #[arg(short = 'n', long, default_value_t = 40)]
    lines: usize,
    /// Go on showing what it says, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Run a shell command on it as root, by its control channel, and exit with that command's code
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["follow", "lines"])]
    exec: Option<String>,
    /// How long the command may take
    #[arg(long, default_value = "60s", requires = "exec")]
    limit: model::Span,
}

impl Console {
    pub(super) fn run(&self, dir: &Path) -> Result<ExitCode, SimError> {
        match &self.exec {
            Some(command) => self.exec(dir, command),
            None => self.show(dir),
        }
    }

    fn exec(&self, dir: &Path, command: &str) -> Result<ExitCode, SimError> {
        let request = Request::Exec { slot: self.slot, command: command.to_owned(), limit_ms: self.limit.0 };
        let Reply::Output { status, stdout } = wire::ask(dir, &request)? else { return Err(unexpected()) };
        print(stdout.as_bytes())?;
        Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
    }

    fn show(&self, dir: &Path) -> Result<ExitCode, SimError> {
        let path = run_dir::console(dir, self.slot);
        let mut file = File::open(&path).map_err(SimError::io("open", &path))?;
        let mut said = Vec::new();
        file.read_to_end(&mut said).map_err(SimError::io("read", &path))?;
        print(last_lines(&said, self.lines))?;
        if self.follow {
            loop {
                said.clear();
                file.read_to_end(&mut said).map_err(SimError::io("read", &path))?;
                print(&said)?;
                std::thread::sleep(LOOK);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(bytes: &[u8]) -> Result<(), SimError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(SimError::io("write to", "standard output"))
}

fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = match count.checked_sub(1) {
        None => text.len(),
        Some(before) => breaks.map(|(at, _)| at + 1).nth(before).unwrap_or(0),
    };
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_end_is_counted_in_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\nb\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}
