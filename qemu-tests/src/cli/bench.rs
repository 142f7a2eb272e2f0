//! `spacesim bench`: figures, for people or programs.

use super::Place;
use super::verbs::Format;
use crate::SimError;
use crate::bench::{self, Figure, Options};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

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
        let dir = place.dir_of(&format!("{}-bench", chassis.name))?;
        let backplane = place.backplane;
        let options = Options { backplane, dir, chassis, runs: self.runs, swarm: self.swarm };
        super::up::build_image()?;
        let mut say = |text: &str| eprintln!("{text}");
        match self.figure {
            Figure::Failover => {
                let figures = bench::failover(&options, &mut say)?;
                self.print(&figures, || bench::table_of_failover(&figures, backplane))
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
