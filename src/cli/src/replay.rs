//! `spacectl replay`: places the tasks of a trace on the nodes of a trace, without any cluster.

mod chart;
mod picture;
mod report;
mod run;
mod trace;

use crate::failure::Failure;
use clap::{Args, ValueEnum};
use planner::pool::Strategy;
use run::{Plan, Run};
use std::{collections::BTreeSet, fs, path::PathBuf, str::FromStr};

/// What `spacectl replay` is told.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The nodes: CSV with the columns sn, cpu_milli, memory_mib, gpu, model
    #[arg(long, value_name = "FILE.csv")]
    nodes: PathBuf,
    /// The tasks: CSV with the columns name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec
    #[arg(long, value_name = "FILE.csv")]
    tasks: PathBuf,
    /// spread, binpack, tiling, multilevel, fgd or spacecloud, as for apps; or, to compare with, random, best-fit,
    /// dot-product, gpu-packing or gpu-clustering; several with commas between them
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',', required = true)]
    strategy: Vec<Strategy>,
    /// The order in which the tasks arrive: as they stand in the file, or shuffled by a seed
    #[arg(long, value_name = "file|seed:N", default_value = "file")]
    order: Order,
    /// Draw tasks again, or drop some, at random until they ask for this many times the accelerators that the nodes
    /// have; only with --order seed:N
    #[arg(long, value_name = "TIMES", value_parser = demand)]
    demand: Option<f64>,
    /// How to print the figures
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Draw what is allocated against what has been asked for, one line for each strategy, as SVG
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    /// For people
    #[default]
    Table,
    /// For programs: a list with one object for each strategy
    Json,
}

/// The order in which tasks arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they stand.
    File,
    /// Shuffled.
    Seed(u64),
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "file" {
            return Ok(Self::File);
        }
        let seed = text.strip_prefix("seed:").and_then(|number| number.parse().ok());
        seed.map(Self::Seed).ok_or_else(|| "give file, or seed: and a whole number".to_owned())
    }
}

fn demand(text: &str) -> Result<f64, String> {
    let times = text.parse::<f64>().ok().filter(|times| *times > 0.0 && *times <= 100.0);
    times.ok_or_else(|| {
        "give a number above 0 and at most 100; 1.3 asks for 130 % of the accelerators".to_owned()
    })
}

/// Runs every strategy on the same tasks in the same order.
pub(crate) fn replay(asked: &Replay) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = asked.strategy.iter().find(|strategy| !seen.insert(**strategy)) {
        return Err(Failure::Usage(format!("--strategy names {twice} twice; name each once")));
    }
    if asked.demand.is_some() && asked.order == Order::File {
        let told =
            "--demand draws tasks at random and --order file takes them as they stand; add --order seed:N";
        return Err(Failure::Usage(told.to_owned()));
    }
    let refused = |error: trace::TraceError| Failure::Refused(error.to_string());
    let nodes = trace::nodes(&asked.nodes).map_err(refused)?;
    let tasks = trace::tasks(&asked.tasks).map_err(refused)?;
    let plan = Plan::new(nodes, tasks, asked.order, asked.demand).map_err(Failure::Refused)?;
    let runs: Vec<Run> =
        asked.strategy.iter().map(|strategy| plan.run(*strategy)).collect::<Result<_, _>>()?;
    if let Some(file) = &asked.picture {
        let told = |error| Failure::Refused(format!("{}: cannot write the picture: {error}", file.display()));
        fs::write(file, picture::svg(&runs)).map_err(told)?;
    }
    crate::print(&match asked.output {
        Form::Json => report::json(&runs)?,
        Form::Table => report::table(&runs),
    })
}
