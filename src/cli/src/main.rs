//! `spacectl`: the operator's command. Everything is in the library; here is only the exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("spacectl: {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
