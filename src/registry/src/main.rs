//! space-registry: parse, load, build, run.

use clap::Parser;
use registry::{
    command::{Arguments, Order, Settings},
    lanes, memory, offline,
    serve::{self, ServeError},
};
use std::{error::Error, process::ExitCode};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

fn main() -> ExitCode {
    memory::share_one_heap();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time();
    tracing_subscriber::registry().with(lines).with(filter()).init();
    match arguments.order() {
        Ok(Order::Serve(settings)) => serve(*settings),
        Ok(Order::Fsck { root, repair }) => {
            offline::fsck(&root, repair).unwrap_or_else(|error| fail(&error, 1))
        }
        Ok(Order::Gc { root, keep }) => offline::gc(&root, keep).unwrap_or_else(|error| fail(&error, 1)),
        Ok(Order::Passwd { user }) => offline::passwd(&user).unwrap_or_else(|error| fail(&error, 1)),
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// What is logged, by target and level. No more than that can be said: what picks lines by their fields brings
/// regular expressions with it, and they take room.
fn filter() -> Targets {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

fn serve(settings: Settings) -> ExitCode {
    let runtime = match lanes::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let served = runtime.block_on(serve::run(settings));
    lanes::end(runtime);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, ServeError::exit_code(&error)),
    }
}

/// One line with the whole chain of causes.
fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let mut line = format!("space-registry: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
    ExitCode::from(code)
}
