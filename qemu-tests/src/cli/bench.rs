//! `spacesim bench`: figures, for people or programs.

use super::Place;
use super::verbs::Format;
use crate::bench::{self, Figure, Options};
use crate::{BackplaneKind, SimError};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// A tmpfs on every Linux host.
const MEMORY: &str = "/dev/shm";

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// What to measure
    #[arg(value_enum)]
    figure: Figure,
    /// How often
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure Docker Swarm's failover too, so often, on the same modules (netns only)
    #[arg(long, default_value_t = 0, value_name = "RUNS")]
    swarm: u32,
    /// As JSON
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Bench {
    pub(super) fn run(&self, place: &Place) -> Result<ExitCode, SimError> {
        let (_, chassis) = place.chassis()?;
        let backplane = place.backplane;
        let name = format!("{}-bench", chassis.name);
        // In memory, so that figures do not hang on how busy the host's disk is; the same for all that is measured.
        let memory = std::path::Path::new(MEMORY);
        let dir = match &place.dir {
            None if backplane == BackplaneKind::Netns && memory.is_dir() => {
                memory.join(format!("spacesim-{}", nix::unistd::getuid())).join(name)
            }
            _ => place.dir_of(&name)?,
        };
        let (runs, swarm, timing) = (self.runs, self.swarm, String::new());
        let options = Options { backplane, dir, chassis, runs, swarm, timing };
        super::up::build_image()?;
        let mut say = |text: &str| eprintln!("{text}");
        match self.figure {
            Figure::Failover => {
                let figures = bench::failover(&options, &mut say)?;
                self.print(&figures, || bench::table_of_failover(&figures, backplane))
            }
            Figure::Loss => {
                let figures = bench::loss(&options, &mut say)?;
                self.print(&figures, || bench::table_of_drain("loss", &figures, backplane))
            }
            Figure::Drain => {
                let figures = bench::drain(&options, &mut say)?;
                self.print(&figures, || bench::table_of_drain("drain", &figures, backplane))
            }
            Figure::Update => {
                let figures = bench::update(&options, &mut say)?;
                self.print(&figures, || bench::table_of_drain("rolling update", &figures, backplane))
            }
            Figure::Live => {
                let figures = bench::live(&options, &mut say)?;
                self.print(&figures, || bench::table_of_live(&figures, backplane))
            }
            Figure::Boot => {
                let figures = bench::boot(&options, &mut say)?;
                self.print(&figures, || bench::table_of_boot(&figures, backplane))
            }
            Figure::Return => {
                let figures = bench::come_back(&options, &mut say)?;
                self.print(&figures, || bench::table_of_return(&figures, backplane))
            }
        }
    }

    fn print(&self, figures: &impl Serialize, table: impl Fn() -> String) -> Result<ExitCode, SimError> {
        match self.output {
            Format::Table => println!("{}", table()),
            Format::Json => {
                let failed =
                    |error: serde_json::Error| SimError::io("write", "the figures as JSON")(error.into());
                println!("{}", serde_json::to_string_pretty(figures).map_err(failed)?);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
