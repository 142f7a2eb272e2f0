//! The verbs that ask a chassis that is up.

use crate::module::Link;
use crate::wire::{self, ChassisStatus, ModuleStatus, PowerChange, Reply, Request};
use crate::{SimError, Times, Weather, run_dir, wait_until, within};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use std::path::Path;
use std::process::ExitCode;

/// How a status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

pub(super) fn status(dir: &Path, format: Format) -> Result<ExitCode, SimError> {
    let Reply::Status(status) = wire::ask(dir, &Request::Status)? else { return Err(unexpected()) };
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(|error| SimError::Io {
                doing: "cannot write the status as JSON".to_owned(),
                source: error.into(),
            })?;
            println!("{text}");
        }
        Format::Table => println!("{}", table(&status)),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn isolate(dir: &Path, slot: u16, cable: bool) -> Result<ExitCode, SimError> {
    wire::ask(dir, &Request::Isolate { slot, cable })?;
    let how = if cable { "its cable is pulled" } else { "cut at the switch" };
    println!("module-{slot} is isolated ({how}) and keeps running; `spacesim rejoin {slot}` brings it back");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rejoin(dir: &Path, slot: u16) -> Result<ExitCode, SimError> {
    wire::ask(dir, &Request::Rejoin { slot })?;
    println!("module-{slot} is back on the backplane");
    Ok(ExitCode::SUCCESS)
}

/// A cable's weather, from the command line.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct WeatherOptions {
    /// Of a hundred frames, lose so many
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    loss: u8,
    /// Of a hundred frames, let so many arrive twice
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    duplicate: u8,
    /// Each frame takes so long, as 200ms
    #[arg(long, default_value = "0ms", value_name = "TIME")]
    delay: model::Span,
    /// Up to so much longer, each frame by itself: some overtake others
    #[arg(long, default_value = "0ms", value_name = "TIME")]
    jitter: model::Span,
}

pub(super) fn weather(dir: &Path, slot: u16, options: WeatherOptions) -> Result<ExitCode, SimError> {
    let WeatherOptions { loss, duplicate, delay, jitter } = options;
    let weather = Weather { loss, duplicate, delay, jitter }.check()?;
    wire::ask(dir, &Request::Weather { slot, weather })?;
    if weather == Weather::FAIR {
        println!("module-{slot}'s cable is as it should be");
    } else {
        println!(
            "module-{slot}'s cable loses {loss} % and doubles {duplicate} % of the frames; they take {delay}, and up to {jitter} more"
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn power(dir: &Path, slot: u16, change: PowerChange) -> Result<ExitCode, SimError> {
    wire::ask(dir, &Request::Power { slot, change })?;
    println!(
        "module-{slot} {}",
        match change {
            PowerChange::On => "has power; it boots",
            PowerChange::Off => "is off",
            PowerChange::Cycle => "was off and has power again; it boots",
        }
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn down(dir: &Path) -> Result<ExitCode, SimError> {
    wire::ask(dir, &Request::Down)?;
    // So that an `up` that follows at once finds the directory free.
    wait_until("the supervisor ends", within(20.s()), || !run_dir::is_taken(dir))?;
    println!("the chassis is down; consoles and log are kept in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unexpected() -> SimError {
    SimError::Refused {
        reason: "the supervisor answered something else; is it of another version?".to_owned(),
    }
}

fn table(status: &ChassisStatus) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "SLOT", "MODULE", "STATE", "UP", "LINK", "ADDRESS", "IN", "OUT", "DROPPED", "GRPC", "HTTP",
        "REGISTRY",
    ]);
    for module in &status.modules {
        let ModuleStatus { slot, name, state, uptime_s, link, frames, address, ground, .. } = module;
        let link = match link {
            Link::Joined => "joined",
            Link::Isolated => "isolated",
            Link::Unplugged => "unplugged",
        };
        let up = uptime_s.map_or("-".to_owned(), |s| format!("{}:{:02}", s / 60, s % 60));
        let numbers = [frames.received, frames.sent, frames.dropped].map(|n| n.to_string());
        let ports = [ground.grpc, ground.http, ground.registry].map(|port| port.to_string());
        let head = [slot.to_string(), name.clone(), state.clone(), up, link.to_owned(), address.clone()];
        table.add_row(head.into_iter().chain(numbers).chain(ports));
    }
    let dead = status.modules.iter().filter_map(|module| module.reason.as_deref());
    let lines: String = dead.map(|reason| format!("\n{reason}")).collect();
    format!(
        "{} in {}, supervisor {}\n{table}{lines}",
        status.chassis,
        status.dir.display(),
        status.supervisor
    )
}
