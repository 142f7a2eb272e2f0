//! One run's chassis with its cluster, and ten instances on it.

use super::{Options, rounded};
use crate::cluster::{Cluster, Moment, all_ready, counts};
use crate::scenario::{
    self,
    clients::{self, Calls},
    lives,
};
use crate::{BackplaneKind, Chassis, Plan, Role, SimError, Times, image, twin, within};
use api::v1::Snapshot;
use std::time::Duration;

/// Over all modules, as Docker Swarm's replicas are.
pub(super) const INSTANCES: usize = 10;
/// They ask for no share of a processor, so that none is throttled, and each writes its identity and the clock every 10 ms.
const APP: &str = r#"
name = "bench"
image = "registry.spacecloud:5000/demo/web:1"
replicas = 10
resources = { memory = "32MiB" }
ports = [{ container = 8080, service = 80 }]
health = { http = "/healthz", every = "1s" }
env = { TICK_MS = "10" }
grace = "2s"
"#;
/// Their client, an instance itself.
const CALLER: &str = r#"
name = "caller"
image = "registry.spacecloud:5000/demo/web:1"
command = ["/demo-app", "call", "SERVICE"]
resources = { memory = "32MiB" }
placement = { modules = ["MODULE"] }
grace = "1s"
"#;

/// Emulated modules that do nothing else answer sooner than those of a scenario, whose host may be busy.
const TIMING: &str = "[timing]\nsuspect = \"1500ms\"\nlease = \"4s\"\nmargin = \"1500ms\"\n";
const TIMING_FILE: &str = "/etc/spacecloud/spacecloud.toml.d/40-bench.toml";

/// Moved `make-before-break`, as by default, or `stop-first`: then no two copies may ever overlap.
fn app(planned: &str) -> String {
    format!("{APP}migration = {{ planned = \"{planned}\" }}\n")
}

pub(super) const PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Rig {
    // In the order of the drops: the cluster is asked no more before its chassis goes.
    pub(super) cluster: Cluster,
    pub(super) chassis: Chassis,
    pub(super) server: u16,
    lost: u16,
}

/// What was seen of a loss.
pub(super) struct Loss {
    pub(super) detected_s: f64,
    pub(super) whole_s: f64,
    /// Instances that the lost module had.
    pub(super) moved: usize,
}

/// What was seen of a return.
pub(super) struct Comeback {
    pub(super) balanced_s: f64,
    pub(super) moves: usize,
    pub(super) needed: usize,
}

impl Rig {
    /// Powers the chassis on and waits until the instances are healthy and spread evenly.
    pub(super) fn start(options: &Options, planned: &str) -> Result<Self, SimError> {
        let rig = Self::power_on(options)?;
        rig.cluster.apply(&app(planned))?;
        rig.wait_even(INSTANCES)?;
        Ok(rig)
    }

    /// Waits until so many instances are healthy, spread evenly, and none of them moves.
    pub(super) fn wait_even(&self, instances: usize) -> Result<(), SimError> {
        let even = |s: &Snapshot| balanced(s, instances);
        let what = "the instances are healthy and spread evenly";
        self.cluster.wait_for(what, within(PATIENCE), |_| {}, even).map(drop)
    }

    /// Powers the chassis on and waits until its modules are ready; the image is in the registry then.
    pub(super) fn power_on(options: &Options) -> Result<Self, SimError> {
        let unbuilt = |error| SimError::Image(Box::new(error));
        let image = twin::ensure(&mut |_| {})?;
        let demo = image::demo::demo_app(&image::default_cache().map_err(unbuilt)?).map_err(unbuilt)?;
        let mut plan = Plan::new(options.chassis.clone(), image, &options.dir).on(options.backplane);
        let papers = scenario::provision(&mut plan)?;
        let timing = if options.backplane == BackplaneKind::Qemu { TIMING } else { &options.timing };
        for provision in plan.identities.values_mut() {
            *provision = std::mem::take(provision).file(TIMING_FILE, 0o644, timing);
        }
        let chassis = Chassis::power_on(plan)?;
        let server = chassis.modules().find(|module| module.spec().roles.contains(&Role::Server));
        let server = server.ok_or_else(|| refused("no slot of the chassis has the role server"))?;
        let lost = chassis.modules().filter(|module| module.slot() != server.slot()).last();
        let lost =
            lost.ok_or_else(|| refused("the chassis has no module to lose beside the server's"))?.slot();
        let address = format!("127.0.0.1:{}", server.ground().grpc);
        let directory = chassis.dir().join("operator");
        papers.write_client(&directory, &address)?;
        let cluster = Cluster::connect(&directory, &address, within(PATIENCE))?;
        let modules = chassis.modules().count();
        let ready = |s: &Snapshot| s.modules.iter().filter(|m| m.state == "ready").count() == modules;
        cluster.wait_for("all modules are ready", within(PATIENCE), |_| {}, ready)?;
        scenario::push(server.ground().registry, &directory, &demo)?;
        let server = server.slot();
        Ok(Self { cluster, chassis, server, lost })
    }

    fn lost(&self) -> String {
        format!("module-{}", self.lost)
    }

    /// Cuts a module off; returns when all so many instances are healthy on the others.
    pub(super) fn lose_a_module(&self, instances: usize) -> Result<Loss, SimError> {
        let lost = self.lost();
        let moved = self.cluster.now().instances.iter().filter(|i| i.module == lost).count();
        // Before the cut, not after: what it takes itself counts against us.
        let begun = self.cluster.clock();
        self.chassis.module(self.lost)?.isolate()?;
        let gone = |s: &Snapshot| s.modules.iter().any(|m| m.name == lost && m.state == "lost");
        let whole = |s: &Snapshot| all_ready(s, instances) && s.instances.iter().all(|i| i.module != lost);
        self.cluster.wait_for("all instances are healthy elsewhere", within(PATIENCE), |_| {}, whole)?;
        let history = self.cluster.history();
        Ok(Loss { detected_s: first(&history, begun, gone)?, whole_s: first(&history, begun, whole)?, moved })
    }

    /// Undoes the cut; returns when the instances are spread evenly again.
    pub(super) fn bring_it_back(&self) -> Result<Comeback, SimError> {
        let before = self.cluster.now();
        let even = |s: &Snapshot| balanced(s, INSTANCES);
        let begun = self.cluster.clock();
        self.chassis.module(self.lost)?.rejoin()?;
        let (after, _) =
            self.cluster.wait_for("the instances are balanced", within(PATIENCE), |_| {}, even)?;
        let balanced_s = first(&self.cluster.history(), begun, even)?;
        Ok(Comeback { balanced_s, moves: moves(&before, &after), needed: needed(&counts(&before)) })
    }

    /// Starts an instance on the server's module that calls the others by their service without pause.
    pub(super) fn start_calling(&self) -> Result<(), SimError> {
        let snapshot = self.cluster.now();
        let app = snapshot.apps.iter().find(|app| app.name == "bench");
        let service = app.and_then(|app| app.service.split([',', ' ']).next()).unwrap_or_default().to_owned();
        let module = format!("module-{}", self.server);
        self.cluster.apply(&CALLER.replace("SERVICE", &service).replace("MODULE", &module))?;
        let calling = || self.calls().is_ok_and(|calls| calls.requests > 0);
        crate::wait_until(&format!("calls to {service} are answered"), within(PATIENCE), calling).map(drop)
    }

    /// What it has counted up to now.
    pub(super) fn calls(&self) -> Result<Calls, SimError> {
        clients::read(self.chassis.module(self.server)?, "caller")
    }

    /// Drains a module and lets it be used again; answers how many moves that took.
    pub(super) fn drain_and_return(&self) -> Result<usize, SimError> {
        let (drained, before) = (self.lost(), self.cluster.now());
        let whole = |s: &Snapshot| all_ready(s, INSTANCES + 1);
        let empty = |s: &Snapshot| whole(s) && s.instances.iter().all(|i| i.module != drained);
        let even = |s: &Snapshot| balanced(s, INSTANCES + 1);
        self.cluster.drain(&drained, true)?;
        self.cluster.wait_for("the module is drained", within(PATIENCE), |_| {}, empty)?;
        self.cluster.drain(&drained, false)?;
        let (after, _) = self.cluster.wait_for("the module is used again", within(PATIENCE), |_| {}, even)?;
        Ok(moves(&before, &after))
    }

    /// Changes what the app's instances are started with, and waits until each of them is a new one; answers how many.
    pub(super) fn update(&self, run: u32) -> Result<usize, SimError> {
        let before = self.cluster.now();
        let changed = app("make-before-break").replace("TICK_MS =", &format!("RUN = \"{run}\", TICK_MS ="));
        self.cluster.apply(&changed)?;
        let of_old = |id: &str| before.instances.iter().any(|old| old.id == id && old.app != "caller");
        let new = |s: &Snapshot| {
            all_ready(s, INSTANCES + 1) && !s.instances.iter().any(|instance| of_old(&instance.id))
        };
        self.cluster.wait_for("every instance is a new one", within(PATIENCE), |_| {}, new)?;
        Ok(INSTANCES)
    }

    /// Replicas that ran twice at the same time, and how long nobody ran between two lives of one, by what the instances
    /// themselves have written.
    pub(super) fn between_lives(&self) -> Result<lives::Gaps, SimError> {
        let module = self.chassis.module(self.lost)?;
        let stop = format!("! grep -q 'populated 1' {}/spacecloud/stop/cgroup.events", module.cgroup());
        let fenced = || module.run(&stop, within(30.s())).is_ok();
        crate::wait_until("the lost module has stopped its own copies", within(PATIENCE), fenced)?;
        let same_clock = self.chassis.backplane() == BackplaneKind::Netns;
        lives::gaps(&self.chassis, same_clock)
    }
}

pub(super) fn refused(reason: &str) -> SimError {
    SimError::Refused { reason: reason.to_owned() }
}

/// Seconds from `begun` to the first snapshot that meets the test.
fn first(history: &[Moment], begun: u64, test: impl Fn(&Snapshot) -> bool) -> Result<f64, SimError> {
    let moment = history.iter().find(|moment| moment.at >= begun && test(&moment.snapshot));
    let moment = moment.ok_or_else(|| refused("the watch missed what was waited for"))?;
    Ok(rounded(Duration::from_millis(moment.at - begun).as_secs_f64()))
}

/// Moves that the events between two snapshots tell of.
pub(super) fn moves(before: &Snapshot, after: &Snapshot) -> usize {
    let last = before.events.iter().map(|event| event.number).max().unwrap_or(0);
    after.events.iter().filter(|event| event.number > last && event.reason == "Moved").count()
}

/// All healthy, nothing moving, and no module with two more than another.
fn balanced(snapshot: &Snapshot, instances: usize) -> bool {
    let counts = counts(snapshot);
    let (least, most) =
        (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    all_ready(snapshot, instances) && most - least <= 1
}

/// The fewest moves after which no module has two more than another.
fn needed(counts: &[usize]) -> usize {
    let (total, modules) = (counts.iter().sum::<usize>(), counts.len().max(1));
    let mut fullest_first = counts.to_vec();
    fullest_first.sort_unstable_by(|a, b| b.cmp(a));
    let target = |place: usize| total / modules + usize::from(place < total % modules);
    fullest_first.iter().enumerate().map(|(place, count)| count.saturating_sub(target(place))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_moves_are_counted() {
        assert_eq!(needed(&[5, 5, 0]), 3);
        assert_eq!(needed(&[4, 3, 3]), 0);
        assert_eq!(needed(&[10, 0]), 5);
        assert_eq!(needed(&[]), 0);
    }

    #[test]
    fn the_app_is_what_the_figures_say() {
        let apps = model::AppFile::parse("bench", &app("stop-first")).unwrap().apps;
        assert_eq!(apps.iter().map(|app| app.replicas as usize).sum::<usize>(), INSTANCES);
    }
}
