//! spacecloudd: parse, load, build, run.

use clap::{Parser, Subcommand};
use daemon::{agent, config::Config, guard, server};
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// spacecloud's server and agent.
#[derive(Parser)]
#[command(name = "spacecloudd", version)]
struct Arguments {
    /// Configuration file; drop-ins in FILE.d/*.toml are merged over it.
    #[arg(long, default_value = "/etc/spacecloud/spacecloud.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Only fence: kill what must not outlive the lease when the agent itself is dead.
    Guard,
    /// Make a mission's papers on the ground, before any module has power: the cluster's CA, the join token, an operator's
    Papers {
        /// The folder to make; it belongs into a safe
        folder: PathBuf,
        /// Where spacectl will reach the server
        #[arg(long, value_name = "HOST:PORT", default_value = daemon::config::SERVER)]
        server: String,
    },
}

const CONFIG_ERROR: u8 = 78;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    if let Some(Command::Papers { folder, server }) = &arguments.command {
        return told(server::papers(folder, server).map(|list| print!("{list}")));
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("spacecloudd: {error}");
            return ExitCode::from(CONFIG_ERROR);
        }
    };
    if matches!(arguments.command, Some(Command::Guard)) {
        return guard::run(&config);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("spacecloudd: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    told(runtime.block_on(run(config)))
}

fn told(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spacecloudd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (server_role, agent_role) = config.roles();
    if server_role && agent_role {
        agent::before_the_server(&config).await;
    }
    let ports = if server_role { Some(server::bind(&config).await?) } else { None };
    // Both at once: a daemon that was killed must have found its instances again before their lease runs out.
    let agent = agent_role.then(|| tokio::spawn(agent::run(config.clone())));
    let server = ports.map(|ports| server::start_on(ports, &config)).transpose()?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let agent_ends = async {
        match agent {
            Some(agent) => agent.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping"),
        _ = interrupt.recv() => tracing::info!("stopping"),
        ended = agent_ends => ended??,
    }
    // Nothing is decided once the core has stopped; only then may the port be closed.
    if let Some(server) = server {
        server.stop();
    }
    Ok(())
}
