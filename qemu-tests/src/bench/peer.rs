//! Docker Swarm on the same modules: the same namespaces, the same image, the same cut.

use super::rig::INSTANCES;
use super::{Options, rounded};
use crate::{
    BackplaneKind, Chassis, Module, Plan, Provision, SimError, Software, Times, image, twin, wait_until,
    within,
};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(180);
const IMAGE: &str = "demo/web:1";
/// Default settings, but for the cgroup driver: there is no systemd to ask.
const DAEMON: &str = r#"{ "exec-opts": ["native.cgroupdriver=cgroupfs"] }"#;
const ARCHIVE: &str = "/var/tmp/demo.tar";

/// Times from the cut to all tasks running elsewhere, and to the node counted as down.
pub(super) fn measure(
    options: &Options,
    say: &mut dyn FnMut(&str),
) -> Result<(Vec<f64>, Vec<f64>), SimError> {
    if options.backplane != BackplaneKind::Netns {
        let reason =
            "Docker Swarm is measured beside us on namespaces only: use --backplane netns".to_owned();
        return Err(SimError::Refused { reason });
    }
    let (mut times, mut down) = (Vec::new(), Vec::new());
    for run in 1..=options.swarm {
        let (whole_s, down_s) = one(options)?;
        say(&format!(
            "Swarm's run {run}: down after {down_s:.1} s, all tasks run elsewhere after {whole_s:.1} s"
        ));
        times.push(whole_s);
        down.push(down_s);
    }
    Ok((times, down))
}

fn one(options: &Options) -> Result<(f64, f64), SimError> {
    let unbuilt = |error| SimError::Image(Box::new(error));
    let demo = image::demo::demo_app(&image::default_cache().map_err(unbuilt)?).map_err(unbuilt)?;
    let archive = archive(&demo)?;
    let mut plan =
        Plan::new(options.chassis.clone(), twin::ensure(&mut |_| {})?, &options.dir).on(options.backplane);
    plan.software = Software::Docker;
    for slot in &options.chassis.slots {
        // Our own daemon.json keeps containers over a restart of dockerd, which Swarm refuses.
        let provision = Provision::new().file("/etc/docker/daemon.json", 0o644, DAEMON);
        plan.identities.insert(slot.number, provision.file(ARCHIVE, 0o644, archive.clone()));
    }
    let chassis = Chassis::power_on(plan)?;
    chassis.wait_ready(within(PATIENCE), &|_| {})?;
    crate::in_parallel(chassis.modules(), prepare)?;
    let manager = chassis.module(1)?;
    swarm(&chassis, manager)?;
    let lost = chassis.modules().last().ok_or(SimError::Off { slot: 1 })?;
    let begun = Instant::now();
    lost.isolate()?;
    let mut down_s = None;
    wait_until("Swarm runs all tasks elsewhere", within(PATIENCE), || {
        if down_s.is_none()
            && nodes(manager).is_ok_and(|said| said.contains(&format!("{} Down", lost.name())))
        {
            down_s = Some(begun.elapsed().as_secs_f64());
        }
        tasks(manager).is_ok_and(|running| {
            running.len() >= INSTANCES
                && running.iter().filter(|node| **node != lost.name()).count() >= INSTANCES
        })
    })?;
    Ok((rounded(begun.elapsed().as_secs_f64()), rounded(down_s.unwrap_or(0.0))))
}

/// The layout as the tar that Docker loads.
fn archive(layout: &Path) -> Result<Vec<u8>, SimError> {
    let packed = tempfile::NamedTempFile::new().map_err(SimError::io("create", "a temporary file"))?;
    let target = format!("docker-archive:{}:{IMAGE}", packed.path().display());
    // skopeo writes no archive over a file that is there.
    std::fs::remove_file(packed.path()).map_err(SimError::io("remove", packed.path()))?;
    let source = format!("oci:{}:{}", layout.display(), image::demo::TAG);
    crate::host::run(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", &source, &target].map(AsRef::as_ref),
    )?;
    std::fs::read(packed.path()).map_err(SimError::io("read", packed.path()))
}

fn prepare(module: &Module) -> Result<(), SimError> {
    let answers = || module.run("docker version", within(30.s())).is_ok();
    wait_until(&format!("Docker answers on {}", module.name()), within(PATIENCE), answers)?;
    module.run(&format!("docker load -q -i {ARCHIVE}"), within(PATIENCE)).map(drop)
}

fn swarm(chassis: &Chassis, manager: &Module) -> Result<(), SimError> {
    let address = manager.address();
    manager.run(&format!("docker swarm init --advertise-addr {address}"), within(PATIENCE))?;
    let token = manager.run("docker swarm join-token -q worker", within(PATIENCE))?;
    for module in chassis.modules().filter(|module| module.slot() != manager.slot()) {
        let join = format!("docker swarm join --token {} {address}:2377", token.trim());
        module.run(&join, within(PATIENCE))?;
    }
    let modules = chassis.modules().count();
    let ready = || nodes(manager).is_ok_and(|said| said.matches(" Ready").count() == modules);
    wait_until("all nodes are ready", within(PATIENCE), ready)?;
    let create = format!(
        "docker service create -q --detach --no-resolve-image --name bench --replicas {INSTANCES} {IMAGE}"
    );
    manager.run(&create, within(PATIENCE))?;
    let spread = || {
        tasks(manager).is_ok_and(|running| {
            let on = |module: &Module| running.iter().filter(|node| **node == module.name()).count();
            running.len() == INSTANCES && chassis.modules().all(|module| on(module) > 0)
        })
    };
    wait_until("Swarm runs all tasks", within(PATIENCE), spread).map(drop)
}

fn nodes(manager: &Module) -> Result<String, SimError> {
    manager.run("docker node ls --format '{{.Hostname}} {{.Status}}'", within(30.s()))
}

/// The nodes of the tasks that should run and do.
fn tasks(manager: &Module) -> Result<Vec<String>, SimError> {
    let list = "docker service ps -f desired-state=running --format '{{.Node}} {{.CurrentState}}' bench";
    let said = manager.run(list, within(30.s()))?;
    let running = said
        .lines()
        .filter_map(|line| line.split_once(' ').filter(|(_, state)| state.starts_with("Running")));
    Ok(running.map(|(node, _)| node.to_owned()).collect())
}
