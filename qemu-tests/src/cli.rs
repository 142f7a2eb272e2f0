//! The host tool's command line.

mod bench;
mod console;
mod up;
mod verbs;

use crate::wire::PowerChange;
use crate::{BackplaneKind, ChassisFile, SimError, run_dir, twin};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The chassis that is meant where none is named.
pub const DEFAULT_CHASSIS: &str = include_str!("../chassis/three.toml");

/// A whole chassis of compute modules, in QEMU or in namespaces.
#[derive(Debug, Parser)]
#[command(name = "spacesim", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Place {
    /// Run directory [default: $SPACECLOUD_RUN, else ${XDG_RUNTIME_DIR:-/tmp}/spacesim-UID/NAME]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Chassis file [default: three modules, built in]
    #[arg(long, global = true, value_name = "FILE")]
    chassis: Option<PathBuf>,
    /// What modules are made of; for verbs that power a chassis on
    #[arg(long, global = true, value_enum, default_value_t)]
    backplane: BackplaneKind,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Power a chassis on; it stays up until `down`
    Up(up::Up),
    /// Show the modules
    Status {
        /// As JSON
        #[arg(short = 'o', long, value_enum, default_value_t = verbs::Format::Table)]
        output: verbs::Format,
    },
    /// Show a module's serial console, or run a command on it
    Console(console::Console),
    /// Cut a module off the backplane; it keeps running
    Isolate {
        /// Its slot
        slot: u16,
        /// Pull its cable, so that it sees its carrier go, instead of cutting at the switch
        #[arg(long)]
        cable: bool,
    },
    /// Undo an isolation
    Rejoin {
        /// Its slot
        slot: u16,
    },
    /// Lose, double, delay and reorder frames on a module's cable; no options make it good again
    Weather {
        /// Its slot
        slot: u16,
        #[command(flatten)]
        weather: verbs::WeatherOptions,
    },
    /// Give a module power, take it, or both
    Power {
        /// What to do
        #[arg(value_enum)]
        change: PowerChange,
        /// Its slot
        slot: u16,
    },
    /// Take the chassis down; consoles are kept
    Down,
    /// The twin image
    #[command(subcommand)]
    Image(ImageVerb),
    /// The slim kernel from kernel-config/
    #[command(subcommand)]
    Kernel(KernelVerb),
    /// Run the scenario: ten apps on three modules, one of which is lost and comes back
    Demo {
        /// Leave the chassis up at the end
        #[arg(long)]
        keep: bool,
        /// Boot this kernel instead of the twin's: a file, or `built` for the slim one from kernel-config/
        #[arg(long, value_name = "FILE|built")]
        kernel: Option<PathBuf>,
        /// Where the picture of the migration goes
        #[arg(long, value_name = "FILE", default_value = "migration.svg")]
        picture: PathBuf,
    },
    /// Measure on chassis of its own, one for each run
    Bench(bench::Bench),
    /// Owns a chassis; started by `up`
    #[command(hide = true)]
    Supervise,
    /// The first process of a module that is a namespace; started by the supervisor
    #[command(hide = true)]
    ModuleInit,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    /// Build what is missing or out of date
    Build,
}

#[derive(Debug, Subcommand)]
enum KernelVerb {
    /// Build it if it is not in the cache: some 20 minutes of processor time
    Build,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<ExitCode, SimError> {
        let place = self.place;
        match self.verb {
            Verb::Up(up) => up.run(&place),
            Verb::Status { output } => verbs::status(&place.of_running()?, output),
            Verb::Console(console) => console.run(&place.of_any()?),
            Verb::Isolate { slot, cable } => verbs::isolate(&place.of_running()?, slot, cable),
            Verb::Rejoin { slot } => verbs::rejoin(&place.of_running()?, slot),
            Verb::Weather { slot, weather } => verbs::weather(&place.of_running()?, slot, weather),
            Verb::Power { change, slot } => verbs::power(&place.of_running()?, slot, change),
            Verb::Down => verbs::down(&place.of_running()?),
            Verb::Image(ImageVerb::Build) => up::build_image().map(|image| {
                println!("{}\n{}", image.base.display(), image.programs.display());
                ExitCode::SUCCESS
            }),
            Verb::Kernel(KernelVerb::Build) => up::stepwise("kernel", twin::build_kernel).map(|kernel| {
                println!("{} {}\n{}", kernel.release, kernel.vmlinux.display(), kernel.bzimage.display());
                ExitCode::SUCCESS
            }),
            Verb::Demo { keep, kernel, picture } => {
                let (_, chassis) = place.chassis()?;
                let dir = place.dir_of(&format!("{}-demo", chassis.name))?;
                let backplane = place.backplane;
                crate::demo::run(&crate::demo::Options { dir, picture, keep, backplane, kernel })?;
                Ok(ExitCode::SUCCESS)
            }
            Verb::Bench(bench) => bench.run(&place),
            Verb::Supervise => up::supervise(),
            Verb::ModuleInit => match crate::netns::init::run()? {},
        }
    }

    /// Whether this process is a supervisor, whose log is worth more words.
    pub fn is_supervisor(&self) -> bool {
        matches!(self.verb, Verb::Supervise)
    }
}

impl Place {
    /// Text and content of the chassis file.
    fn chassis(&self) -> Result<(String, ChassisFile), SimError> {
        let file = self.chassis.as_deref();
        let text = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|error| SimError::ChassisFile {
                file: file.to_owned(),
                problem: format!("cannot be read ({error}); name a chassis file with --chassis"),
            })?,
            None => DEFAULT_CHASSIS.to_owned(),
        };
        let file = file.unwrap_or(Path::new("three.toml"));
        let chassis = ChassisFile::parse(&text)
            .map_err(|problem| SimError::ChassisFile { file: file.to_owned(), problem })?;
        Ok((text, chassis))
    }

    fn dir_of(&self, name: &str) -> Result<PathBuf, SimError> {
        let dir = self.dir.clone().unwrap_or_else(|| run_dir::default_dir(name));
        std::path::absolute(&dir).map_err(SimError::io("make absolute", &dir))
    }

    /// The run directory that is named, or that of the chassis that is named or built in.
    fn of_any(&self) -> Result<PathBuf, SimError> {
        let (_, chassis) = self.chassis()?;
        self.dir_of(&chassis.name)
    }

    /// As [`Place::of_any`]; where nothing is named and just one chassis is up, that one.
    fn of_running(&self) -> Result<PathBuf, SimError> {
        let dir = self.of_any()?;
        let named = self.dir.is_some() || self.chassis.is_some() || run_dir::is_taken(&dir);
        let siblings = || dir.parent().map(run_dir::taken_below).unwrap_or_default();
        match (named, siblings().as_slice()) {
            (false, [only]) => Ok(only.clone()),
            _ => Ok(dir),
        }
    }
}
