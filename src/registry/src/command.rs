//! The command line, and what it asks for.

use crate::config::{Config, ConfigError, Tls};
use clap::{Args, Parser, Subcommand};
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
}

#[derive(Debug, Args)]
struct Serve {
    /// Configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "listen", "insecure_http"])]
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

impl Arguments {
    /// Reads the configuration, if one is named, and checks what fits together.
    ///
    /// # Errors
    /// With a message of one line and the exit code to end with.
    pub fn settings(self) -> Result<Settings, CommandError> {
        let serve = match self.command {
            Some(Command::Serve(serve)) => serve,
            None => self.serve,
        };
        let port_file = serve.port_file;
        if let Some(file) = serve.config {
            let Config { root, listen, tls } = Config::load(&file)?;
            return Ok(Settings { root, listen, tls: Some(tls), port_file });
        }
        let (Some(root), Some(listen)) = (serve.root, serve.listen) else {
            return Err(CommandError::Usage(
                "give --config FILE, or --root DIR, --listen 127.0.0.1:PORT and --insecure-http",
            ));
        };
        if !listen.ip().is_loopback() {
            return Err(CommandError::PlainHttp(listen));
        }
        if !serve.insecure_http {
            return Err(CommandError::Usage("without --config there is no TLS: say so with --insecure-http"));
        }
        Ok(Settings { root, listen, tls: None, port_file })
    }
}
