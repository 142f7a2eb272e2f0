//! The agent role: keeps a session with the server, runs what it is told, and fences itself when cut off.

mod adopting;
mod fencing;
mod gate;
mod giving;
mod health;
mod instances;
mod joining;
mod life;
mod limits;
mod logs;
mod prefetch;
mod probe;
mod resolver;
mod services;
mod session;
mod taking;
mod update;
mod volumes;

use crate::{chain, config::Config};
use anyhow::Context;
use instances::Instances;
use model::{Module, Span, Subnet};
use planner::Lease;
use prefetch::Prefetch;
use runtime::{BRIDGE, Containerd, Engine, Network, Rauc, Runtime, Slots, Volumes, boot_clock, set_bridge};
use services::Services;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use update::Updates;
use volumes::VolumeWatch;

const RETRY: Duration = Duration::from_millis(50);
const RETRY_CONTAINERD: Duration = Duration::from_millis(500);

/// Between asking for a connection to this very module and its refusal.
const LOOK_LIMIT: Duration = Duration::from_millis(200);

/// To be called before this process binds the server's port: nobody serves there now, so nobody decides, and what runs
/// here has a whole lease from now on until this process has found it again ([`planner::Lease::renew`]).
pub async fn before_the_server(config: &Config) {
    let (fence, now) = (config.fence(), boot_clock());
    let mut lease = Lease::new(config.timing.lease, fence.kept());
    let connected = tokio::time::timeout(LOOK_LIMIT, TcpStream::connect(&config.server.address));
    let is_free = connected.await.is_ok_and(|outcome| outcome.is_err_and(|e| is_refusal(&e)));
    // What has run out by now stays so.
    if !is_free || !lease.holds(boot_clock()) {
        return;
    }
    lease.renew(now);
    if let Some(Err(error)) = lease.deadline().map(|deadline| fence.keep(deadline, lease.length())) {
        tracing::error!(error = %chain(&error), "cannot keep the lease");
    }
}

/// Nobody has the port.
fn is_refusal(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused
}

/// Runs until the process ends.
///
/// # Errors
/// The configuration names no slot.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let module = config.module()?;
    std::fs::create_dir_all(&config.agent.run)
        .with_context(|| format!("cannot create {}", config.agent.run.display()))?;
    let pods = config.pods()?;
    if let Err(error) = set_bridge(BRIDGE, pods).await {
        // The plugin makes it with the first instance; until then the module itself has no names.
        tracing::warn!(error = %chain(&error), "no bridge yet");
    }
    let volumes = config.volumes();
    let runtime = connect(&config, &module, pods, &volumes).await;
    serve(config, runtime, volumes, Arc::new(Rauc::new(Path::new("/")))).await
}

/// The same on a container engine of the caller's choice.
///
/// # Errors
/// The configuration names no slot.
pub async fn run_on(config: Config, runtime: Arc<dyn Runtime>) -> anyhow::Result<()> {
    let volumes = config.volumes();
    serve(config, runtime, volumes, Arc::new(Rauc::new(Path::new("/")))).await
}

/// The same with root slots of the caller's choice.
///
/// # Errors
/// The configuration names no slot.
pub async fn run_with(
    config: Config,
    runtime: Arc<dyn Runtime>,
    slots: Arc<dyn Slots>,
) -> anyhow::Result<()> {
    let volumes = config.volumes();
    serve(config, runtime, volumes, slots).await
}

async fn serve(
    config: Config,
    runtime: Arc<dyn Runtime>,
    volumes: Volumes,
    slots: Arc<dyn Slots>,
) -> anyhow::Result<()> {
    let module = config.module()?;
    let instances = Instances::new(runtime, &config);
    fencing::start(&instances);
    config.accelerators().prepare();
    let services = Services::start(module.clone(), &instances);
    let prefetch = Prefetch::start(instances.runtime.clone());
    let volumes = VolumeWatch::start(volumes, &instances);
    if let Some(gateway) = config.pods()?.gateway() {
        let (names, run, services) = (config.agent.names.clone(), config.agent.run.clone(), services.clone());
        tokio::spawn(async move { resolver::run(names, gateway, &run, services).await });
    }
    loop {
        match instances.adopt().await {
            Ok(()) => break,
            Err(error) => tracing::warn!(error = %chain(&error), "cannot list the instances"),
        }
        tokio::time::sleep(RETRY_CONTAINERD).await;
    }
    let live = giving::start(&config, &instances).await.unwrap_or_default();
    let updates = Updates::start(slots, &config).await;
    let parts = session::Parts {
        live: &live,
        instances: &instances,
        services: &services,
        prefetch: &prefetch,
        updates: &updates,
        volumes: &volumes,
    };
    let mut last = String::new();
    loop {
        let Err(error) = session::run(&config, &module, parts).await else {
            continue;
        };
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
async fn connect(config: &Config, module: &model::Name, pods: Subnet, volumes: &Volumes) -> Arc<dyn Runtime> {
    let slot = config.slot().unwrap_or(0).to_string();
    let address = config.agent.backplane.replace("{slot}", &slot).parse().ok();
    let network = Network::new(&config.agent.cni_bin, pods, &config.agent.run, address);
    let mut last = String::new();
    loop {
        let logs = config.state.join("logs");
        let agent = &config.agent;
        let engine = Engine {
            registry: agent.registry.clone(),
            mirrors: agent.mirrors.clone(),
            oci_runtime: agent.oci_runtime.clone(),
            accelerators: config.accelerators(),
            volumes: volumes.clone(),
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
fn describe(config: &Config, live: &str, root: Option<model::RootSlot>) -> anyhow::Result<Module> {
    let slot = config.slot()?;
    let fill = |text: &str| text.replace("{slot}", &slot.to_string());
    let kernel =
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Module {
        name: config.module()?,
        slot,
        address: fill(&config.agent.backplane),
        pods: fill(&config.agent.pods),
        live: live.to_owned(),
        capacity: runtime::measure(&config.state, config.agent.reserved, &config.accelerators()),
        labels: config.agent.labels.clone(),
        storage: config.storage().map(|s| s.source()).unwrap_or_default(),
        kernel,
        cordoned: false,
        draining: false,
        server: config.roles().0,
        lease: Span(0),
        absence: Span(0),
        root,
        before_update: None,
    })
}
