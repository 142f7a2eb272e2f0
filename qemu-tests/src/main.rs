//! spacesim: the host tool.

use clap::Parser;
use clap::error::ErrorKind;
use spacesim::cli::Cli;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The command line is wrong (EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only where nobody reads.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let default = if cli.is_supervisor() { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!cli.is_supervisor())
        .init();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("spacesim: {}", error.one_line());
            ExitCode::from(error.exit_code())
        }
    }
}
