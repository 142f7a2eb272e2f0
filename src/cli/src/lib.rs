//! `spacectl`: what an operator types, one call to the server, and tables that a person can read.
//!
//! Neighbours: knows `api` for the contract, `model` for app files and `planner` for replays; nobody knows this room.
//! The registry is on the other side of `image`, which speaks the OCI distribution specification to it.
//!
//! Each verb reads its input, asks the server once (or watches it), and renders. Rendering is pure: a
//! [`api::v1::Snapshot`] goes in, text comes out, and ages are counted by the server's clock in the snapshot.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod apply;
mod args;
mod client;
mod config;
mod drain;
mod explain;
mod failure;
mod find;
mod flash;
mod get;
mod image;
mod logs;
mod progress;
mod replay;
mod status;
mod table;
mod tables;
#[cfg(test)]
mod testing;
mod update;
mod volume;

pub use failure::Failure;
pub use flash::FlashError;
pub use image::ImageError;
pub use update::UpdateError;

use api::v1::{CordonRequest, ForgetRequest, MaintainRequest, ResizeRequest, ScaleRequest};
use args::{AcceleratorVerb, Args, Switch, Verb};
use clap::{CommandFactory, Parser};
use std::{ffi::OsString, io::Write};

/// Does what the command line says.
///
/// # Errors
/// What a person should read, with the exit code that a script should see.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let words: Vec<OsString> = words.into_iter().collect();
    let args = match Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(perform(args))
}

/// Help and version are no errors; the rest is told in one line.
fn usage(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render();
    match error.kind() {
        clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => {
            print(&text.to_string())
        }
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::Usage("no verb was given; `spacectl --help` lists them".to_owned()))
        }
        _ => Err(Failure::Usage(args::one_line(&text.to_string()))),
    }
}

async fn perform(args: Args) -> Result<(), Failure> {
    let Args { server, config, timeout, verb } = args;
    let connect = async || client::Server::connect(server.as_deref(), config.clone(), timeout).await;
    match verb {
        Verb::Apply { files } => apply::apply(&files, connect).await,
        Verb::Delete { apps, files, volumes } => apply::delete(apps, &files, volumes, connect).await,
        Verb::Volume { verb } => volume::volume(&connect().await?, verb).await,
        Verb::Scale { app, replicas } => {
            let done = connect().await?.scale(ScaleRequest { app: app.to_string(), replicas }).await?;
            print_done(&done)
        }
        Verb::Cordon { module } => cordon(&connect().await?, module.to_string(), true).await,
        Verb::Uncordon { module } => cordon(&connect().await?, module.to_string(), false).await,
        Verb::Drain { module, wait, limit } => {
            drain::drain(&connect().await?, module.as_str(), wait.then_some(limit)).await
        }
        Verb::Accelerator {
            verb: AcceleratorVerb::Maintenance { accelerator: (module, number), switch },
        } => {
            let (module, maintenance) = (module.to_string(), switch == Switch::On);
            let request = MaintainRequest { module, number, maintenance };
            print_done(&connect().await?.maintain(request).await?)
        }
        Verb::Resize { app, cpu, memory, disk } => {
            let request = ResizeRequest {
                app: app.to_string(),
                cpu: cpu.map(|c| c.to_string()).unwrap_or_default(),
                memory: memory.map(|m| m.to_string()).unwrap_or_default(),
                disk: disk.map(|d| d.to_string()).unwrap_or_default(),
            };
            print_done(&connect().await?.resize(request).await?)
        }
        Verb::Forget { module } => {
            print_done(&connect().await?.forget(ForgetRequest { module: module.to_string() }).await?)
        }
        Verb::Get { what, output, watch } => get::get(&connect().await?, what, output, watch).await,
        Verb::Status { output } => status::status(&connect().await?, output).await,
        Verb::Explain { target, output } => explain::explain(&connect().await?, &target, output).await,
        Verb::Logs { target, follow, tail } => {
            logs::logs(&connect().await?, &target, follow, tail.unwrap_or_default()).await
        }
        Verb::Replay(asked) => replay::replay(&asked),
        Verb::Image { access, verb } => image::image(access, verb, server.as_deref(), config, timeout).await,
        Verb::Flash(args) => flash::flash(&args),
        Verb::Update(asked) => update::update(&connect().await?, asked).await,
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "spacectl", &mut script);
            print_bytes(&script)
        }
        Verb::Version => print(concat!("spacectl ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

async fn cordon(server: &client::Server, module: String, cordoned: bool) -> Result<(), Failure> {
    let done =
        server.cordon(CordonRequest { module, cordoned, draining: false, before_update: None }).await?;
    print_done(&done)
}

fn print_done(lines: &[String]) -> Result<(), Failure> {
    lines.iter().try_for_each(|line| print(&format!("{line}\n")))
}

fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// At once, so that a pipe sees each line as it happens.
fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(Failure::Output)
}
