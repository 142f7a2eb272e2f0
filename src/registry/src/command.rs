//! The command line, and what it asks for.

use crate::{
    config::{Config, ConfigError, Options, Tls},
    store::{Keep, Limits},
};
use clap::{Args, Parser, Subcommand};
use model::Span;
use std::{net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// The OCI registry of a chassis.
#[derive(Debug, Parser)]
#[command(name = "space-registry", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve images (also without this word).
    Serve(Serve),
    /// Read everything that a stopped registry holds and say what is wrong; exit code 1 if something is.
    Fsck {
        #[command(flatten)]
        place: Place,
        /// Put damaged blobs aside, remove what leads nowhere, make the index anew.
        #[arg(long)]
        repair: bool,
    },
    /// Collect the garbage of a stopped registry; a running one does it by itself and when asked.
    Gc {
        #[command(flatten)]
        place: Place,
        /// What is younger stays.
        #[arg(long, value_name = "TIME", default_value = "2h")]
        grace: Span,
        /// Remove manifests that no tag leads to, too.
        #[arg(long)]
        untagged: bool,
    },
    /// Read a password from standard input and write a line for the htpasswd file.
    Passwd {
        /// The user's name.
        user: String,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Configuration file.
    #[arg(long, value_name = "FILE", conflicts_with = "root", required_unless_present = "root")]
    config: Option<PathBuf>,
    /// Directory of the images.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "listen"])]
    config: Option<PathBuf>,
    /// Directory of the images; with --listen and --insecure-http in place of a configuration file.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Loopback address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Serve plain HTTP, on a loopback address only.
    #[arg(long)]
    insecure_http: bool,
    /// Write the port here once it is open.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Serve.
    Serve(Box<Settings>),
    /// Check a root.
    Fsck {
        /// Directory of the images.
        root: PathBuf,
        /// Whether to repair.
        repair: bool,
    },
    /// Collect garbage.
    Gc {
        /// Directory of the images.
        root: PathBuf,
        /// What stays.
        keep: Keep,
    },
    /// Hash a password.
    Passwd {
        /// Whose.
        user: String,
    },
}

/// Everything the server needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the images.
    pub root: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// None serves plain HTTP.
    pub tls: Option<Tls>,
    /// Where to write the port once it is open.
    pub port_file: Option<PathBuf>,
    /// Everything that has a default.
    pub options: Options,
}

impl Settings {
    /// How much room there is.
    pub(crate) fn limits(&self) -> Limits {
        let storage = &self.options.storage;
        Limits { quota: storage.quota.map(|quota| quota.0), reserve: storage.reserve.0 }
    }
}

/// A command line that cannot be followed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The words do not fit together; exit code 64.
    #[error("{0}")]
    Usage(&'static str),
    /// Plain HTTP where others could listen; exit code 64.
    #[error("plain HTTP is served on loopback only, not on {0}; use --config with [tls]")]
    PlainHttp(SocketAddr),
    /// The configuration is broken; exit code 78.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl CommandError {
    /// The exit code, after sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::PlainHttp(_) => 64,
            Self::Config(_) => 78,
        }
    }
}

impl Place {
    fn root(self) -> Result<PathBuf, CommandError> {
        match (self.config, self.root) {
            (Some(file), _) => Ok(Config::load(&file, true)?.root),
            (None, Some(root)) => Ok(root),
            (None, None) => Err(CommandError::Usage("give --config FILE or --root DIR")),
        }
    }
}

impl Arguments {
    /// Reads the configuration, if one is named, and checks what fits together.
    ///
    /// # Errors
    /// With a message of one line and the exit code to end with.
    pub fn order(self) -> Result<Order, CommandError> {
        let serve = match self.command {
            Some(Command::Serve(serve)) => serve,
            None => self.serve,
            Some(Command::Fsck { place, repair }) => return Ok(Order::Fsck { root: place.root()?, repair }),
            Some(Command::Gc { place, grace, untagged }) => {
                let keep = Keep { grace: grace.duration(), untagged: !untagged };
                return Ok(Order::Gc { root: place.root()?, keep });
            }
            Some(Command::Passwd { user }) => return Ok(Order::Passwd { user }),
        };
        serve.settings().map(|settings| Order::Serve(Box::new(settings)))
    }
}

impl Serve {
    fn settings(self) -> Result<Settings, CommandError> {
        let port_file = self.port_file;
        if let Some(file) = self.config {
            let config = Config::load(&file, self.insecure_http)?;
            let options = config.options();
            let Config { root, listen, tls, .. } = config;
            if self.insecure_http && !listen.ip().is_loopback() {
                return Err(CommandError::PlainHttp(listen));
            }
            let tls = tls.filter(|_| !self.insecure_http);
            return Ok(Settings { root, listen, tls, port_file, options });
        }
        let (Some(root), Some(listen)) = (self.root, self.listen) else {
            return Err(CommandError::Usage(
                "give --config FILE, or --root DIR, --listen 127.0.0.1:PORT and --insecure-http",
            ));
        };
        if !listen.ip().is_loopback() {
            return Err(CommandError::PlainHttp(listen));
        }
        if !self.insecure_http {
            return Err(CommandError::Usage("without --config there is no TLS: say so with --insecure-http"));
        }
        Ok(Settings { root, listen, tls: None, port_file, options: Options::default() })
    }
}
