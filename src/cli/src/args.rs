use clap::{Parser, Subcommand, ValueEnum};
use model::{Name, Span};
use std::path::PathBuf;

/// Operates a spacecloud cluster.
#[derive(Debug, Parser)]
#[command(name = "spacectl", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused, 2 server not reached, 64 usage, 78 configuration.")]
pub(crate) struct Args {
    /// The server, instead of the one in the configuration
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// The configuration, instead of $SPACECTL_CONFIG, ~/.config/spacecloud/spacectl.toml or
    /// /etc/spacecloud/spacectl.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long to wait for the server's connection, and then for its answer
    #[arg(long, global = true, value_name = "SPAN", default_value = "20s")]
    pub(crate) timeout: Span,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the apps of some app files and make their volumes, or change them to what the files say; all or nothing
    Apply {
        /// An app file, a directory of .toml files, or - for standard input; may be repeated
        #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", required = true)]
        files: Vec<PathBuf>,
    },
    /// Stop apps and forget them; their volumes are kept
    Delete {
        /// Their names
        #[arg(value_name = "APP", required_unless_present = "files")]
        apps: Vec<Name>,
        /// The apps of these app files; may be repeated
        #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
        files: Vec<PathBuf>,
        /// Erase the volumes that they mount too, where no other app does
        #[arg(long)]
        volumes: bool,
    },
    /// List apps, instances, modules, volumes, events, tasks, resources or the planner's queues
    Get {
        /// What to list
        #[arg(value_enum)]
        what: What,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
        /// Print again after each change, until interrupted
        #[arg(short, long)]
        watch: bool,
    },
    /// Change how many instances an app has
    Scale {
        /// The app
        app: Name,
        /// How many
        replicas: u32,
    },
    /// Place nothing new on a module
    Cordon {
        /// The module
        module: Name,
    },
    /// Let a module take new instances again, after cordon or drain
    Uncordon {
        /// The module
        module: Name,
    },
    /// Move everything off a module and place nothing new there
    Drain {
        /// The module
        module: Name,
        /// Return when nothing is left there
        #[arg(long)]
        wait: bool,
        /// With --wait: give up after this time
        #[arg(long, value_name = "SPAN", default_value = "5min", requires = "wait")]
        limit: Span,
    },
    /// Print what an instance writes
    Logs {
        /// An instance's id or a replica: telemetry-1-7, telemetry/1, or telemetry for its first
        #[arg(value_name = "INSTANCE|APP/REPLICA")]
        target: String,
        /// Go on until it ends
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        tail: Option<u32>,
    },
    /// Say why an instance is where it is, why not elsewhere, or why it is pending
    Explain {
        /// A replica or an instance's id: telemetry/1, telemetry-1-7
        #[arg(value_name = "APP/REPLICA")]
        target: String,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Operate one accelerator of a module
    Accelerator {
        #[command(subcommand)]
        verb: AcceleratorVerb,
    },
    /// Look at one volume, or erase some; `apply` makes them
    Volume {
        #[command(subcommand)]
        verb: VolumeVerb,
    },
    /// Change what the instances of an app or task have, while they run
    #[command(group = clap::ArgGroup::new("amounts").required(true).multiple(true))]
    Resize {
        /// The app or task
        app: Name,
        /// Cores: 2, or 500m
        #[arg(long, value_name = "AMOUNT", group = "amounts")]
        cpu: Option<model::Cpu>,
        /// Memory: 64MiB
        #[arg(long, value_name = "AMOUNT", group = "amounts")]
        memory: Option<model::Bytes>,
        /// Disk: 100MiB
        #[arg(long, value_name = "AMOUNT", group = "amounts")]
        disk: Option<model::Bytes>,
    },
    /// Take a module that is lost for good off the register
    Forget {
        /// The module
        module: Name,
    },
    /// Show the whole cluster at a glance
    Status {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Place the tasks of a trace on the nodes of a trace and say how well it went; needs no cluster
    Replay(crate::replay::Replay),
    /// Push, list and remove images in the cluster's registry
    Image {
        #[command(flatten)]
        access: crate::image::Access,
        #[command(subcommand)]
        verb: crate::image::ImageVerb,
    },
    /// Write a module's disk image to a disk, a file or a network block device
    Flash(crate::flash::Flash),
    /// Install a signed bundle in modules' other root slot, one module at a time, and restart them into it
    Update(crate::update::Update),
    /// Print a completion script: spacectl completions bash > /etc/bash_completion.d/spacectl
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print this program's version; `status` prints the server's
    Version,
}

/// What `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// What should run
    #[value(alias = "app")]
    Apps,
    /// What runs, and where
    #[value(alias = "instance")]
    Instances,
    /// Where it can run
    #[value(alias = "module")]
    Modules,
    /// What outlives instances: directories on a module or on the storage module
    #[value(alias = "volume")]
    Volumes,
    /// What happened
    #[value(alias = "event")]
    Events,
    /// What runs in planned windows
    #[value(alias = "task")]
    Tasks,
    /// What each module has, and its state: idle, occupied, maintenance
    #[value(alias = "resource")]
    Resources,
    /// Every run with its resources and outcome
    History,
    /// The resources of each task's last success
    DeviceQueue,
}

impl What {
    /// It is in the planner's tables, not in the snapshot.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Tasks | Self::Resources | Self::History | Self::DeviceQueue)
    }
}

/// What can be done about one accelerator.
#[derive(Debug, Subcommand)]
pub(crate) enum AcceleratorVerb {
    /// Take it out of use, so that what runs on it moves, or give it back
    Maintenance {
        /// Module and number: module-2/3
        #[arg(value_name = "MODULE/N", value_parser = accelerator)]
        accelerator: (Name, u32),
        /// on takes it out of use
        #[arg(value_enum)]
        switch: Switch,
    },
}

/// What can be done about volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Erase volumes that no app mounts, with their data
    #[command(alias = "delete")]
    Rm {
        /// Their names
        #[arg(value_name = "VOLUME", required = true)]
        volumes: Vec<Name>,
    },
    /// Print all that is known of one volume, as JSON
    Inspect {
        /// Its name
        volume: Name,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// From now on
    On,
    /// No more
    Off,
}

fn accelerator(text: &str) -> Result<(Name, u32), String> {
    let bad = || format!("{text:?} is no accelerator; write MODULE/NUMBER, as module-2/3");
    let (module, number) = text.split_once('/').ok_or_else(bad)?;
    Ok((module.parse().map_err(|_| bad())?, number.parse().map_err(|_| bad())?))
}

/// How a read verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For people, with every column
    Wide,
    /// For programs
    Json,
}

/// Clap's paragraphs as one line: what is wrong, its tips, and where to read more.
pub(crate) fn one_line(text: &str) -> String {
    let told = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let told = told.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"));
    let told = told.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("spacectl");
    let verb = usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    let verb = verb.collect::<Vec<_>>().join(" ");
    format!("{}; try `{verb} --help`", told.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_that_names_the_verb() {
        let line = |words: &[&str]| one_line(&Args::try_parse_from(words).unwrap_err().render().to_string());
        let missing = line(&["spacectl", "apply"]);
        assert!(missing.contains("required") && missing.contains("--file"), "{missing}");
        assert!(missing.ends_with("try `spacectl apply --help`"), "{missing}");
        let bad = line(&["spacectl", "scale", "Telemetry", "2"]);
        assert!(bad.contains("DNS label") && !bad.contains('\n'), "{bad}");
        let unknown = line(&["spacectl", "aply"]);
        assert!(unknown.contains("'aply'") && unknown.contains("apply"), "{unknown}");
    }
}
