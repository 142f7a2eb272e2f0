//! The agent role: keeps a session with the server, runs what it is told, and fences itself when cut off.

mod fencing;
mod instances;
mod joining;
mod logs;
mod probe;
mod session;

use crate::{chain, config::Config};
use anyhow::Context;
use instances::Instances;
use model::Module;
use runtime::{Containerd, Engine, Network, Runtime};
use std::{sync::Arc, time::Duration};

const RETRY: Duration = Duration::from_millis(50);
const RETRY_CONTAINERD: Duration = Duration::from_millis(500);

/// Runs until the process ends.
///
/// # Errors
/// The configuration names no slot.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let module = config.module()?;
    std::fs::create_dir_all(&config.agent.run)
        .with_context(|| format!("cannot create {}", config.agent.run.display()))?;
    let runtime = connect(&config, &module).await;
    run_on(config, runtime).await
}

/// The same on a container engine of the caller's choice.
///
/// # Errors
/// The configuration names no slot.
pub async fn run_on(config: Config, runtime: Arc<dyn Runtime>) -> anyhow::Result<()> {
    let module = config.module()?;
    config.accelerators().prepare();
    let instances = Instances::new(runtime, config.fence(), config.timing.lease);
    fencing::start(&instances);
    loop {
        match instances.adopt().await {
            Ok(()) => break,
            Err(error) => tracing::warn!(error = %chain(&error), "cannot list the instances"),
        }
        tokio::time::sleep(RETRY_CONTAINERD).await;
    }
    let mut last = String::new();
    loop {
        let Err(error) = session::run(&config, &module, &instances).await else { continue };
        let error = format!("{error:#}").replace('\n', " ");
        if error != last {
            tracing::warn!(%error, "no session with the server");
            last = error;
        }
        tokio::time::sleep(RETRY).await;
        // A module that was fenced comes back empty-handed, or the server might count on what is being killed.
        instances.wait_fenced().await;
    }
}

/// containerd may start later than we do.
async fn connect(config: &Config, module: &model::Name) -> Arc<dyn Runtime> {
    let slot = config.slot().unwrap_or(0).to_string();
    let network =
        Network::new(&config.agent.cni_bin, &config.agent.pods.replace("{slot}", &slot), &config.agent.run);
    let mut last = String::new();
    loop {
        let logs = config.state.join("logs");
        let agent = &config.agent;
        let engine = Engine {
            registry: agent.registry.clone(),
            oci_runtime: agent.oci_runtime.clone(),
            accelerators: config.accelerators(),
        };
        match Containerd::connect(&agent.containerd, network.clone(), &logs, module, engine).await {
            Ok(runtime) => return Arc::new(runtime),
            Err(error) => {
                let error = chain(&error);
                if error != last {
                    tracing::warn!(%error, "waiting for containerd");
                    last = error;
                }
            }
        }
        tokio::time::sleep(RETRY_CONTAINERD).await;
    }
}

/// What this module tells of itself.
fn describe(config: &Config) -> anyhow::Result<Module> {
    let slot = config.slot()?;
    let fill = |text: &str| text.replace("{slot}", &slot.to_string());
    let kernel =
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Module {
        name: config.module()?,
        slot,
        address: fill(&config.agent.backplane),
        pods: fill(&config.agent.pods),
        capacity: runtime::measure(&config.state, config.agent.reserved, &config.accelerators()),
        labels: config.agent.labels.clone(),
        kernel,
        cordoned: false,
        draining: false,
    })
}
