//! The main job, step by step: a cluster forms, ten apps run, a module is cut off, comes back, and is used again.
//! The chassis test and the demo run this same code.

pub(crate) mod clients;
mod clocks;
mod docker;
mod live;
pub(crate) mod lives;
mod storage;

pub use clocks::set_clock;

use crate::{
    BackplaneKind, Chassis, Limit, SimError, Times,
    cluster::{Cluster, counts},
    papers::{self, Papers, Registries},
    timeline::{self, Mark},
    wait_until, within,
};
use api::v1::{Instance, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The ten apps.
pub const APPS: &str = include_str!("../demo/apps.toml");
const TEN: usize = 10;
const IMAGE: &str = "registry.spacecloud:5000/demo/web:1";
/// Emulated modules share a few cores: every wait is generous, and bounded.
const PATIENCE: u64 = 300;

/// What the scenario tells while it runs.
pub enum Note<'a> {
    /// A step begins.
    Step(&'a str),
    /// The cluster as it is now, with how far the step is (done, of how many); comes often.
    Now(&'a Snapshot, usize, usize),
    /// Something was checked and is true.
    Checked(String),
    /// Something that this backplane cannot show.
    Unchecked(String),
}

/// The measured times, and the picture.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was timed, in the order of the steps.
    pub times: Vec<(&'static str, Duration)>,
    /// Moments for the picture.
    pub marks: Vec<Mark>,
    /// The most resident memory of each daemon on the server's module while idle, in KiB.
    pub memory: Vec<(String, u64)>,
}

/// A chassis with a cluster on it.
pub struct Scenario<'a> {
    chassis: &'a Chassis,
    /// The cluster, from the ground.
    pub cluster: Cluster,
    papers: PathBuf,
    demo: PathBuf,
    note: Box<dyn FnMut(Note<'_>) + 'a>,
    report: Report,
    /// What ran on module-3 when it was cut off.
    cut_off: BTreeSet<String>,
}

fn failed(reason: impl Into<String>) -> SimError {
    SimError::Refused { reason: reason.into() }
}

/// How many instances of the `of` that are to be are ready where they should be; each one too many counts against it.
fn ready(snapshot: &Snapshot, of: usize, where_wanted: impl Fn(&Instance) -> bool) -> usize {
    let ready = snapshot.instances.iter().filter(|i| i.phase == "ready" && where_wanted(i)).count();
    ready.saturating_sub(snapshot.instances.len().saturating_sub(of))
}

/// How many of six are ready, two on each of three modules; each one too many counts against it.
fn two_on_each(snapshot: &Snapshot) -> usize {
    let left = snapshot.instances.len().saturating_sub(6);
    counts(snapshot).iter().map(|n| (*n).min(2)).sum::<usize>().saturating_sub(left)
}

/// Puts papers on every module's identity disk, and the operator's into `directory`.
///
/// # Errors
/// The papers cannot be made.
pub fn provision(plan: &mut crate::Plan) -> Result<Papers, SimError> {
    let papers = Papers::create()?;
    let registries = Registries::of(&plan.chassis.slots);
    for slot in &plan.chassis.slots {
        let configuration = match plan.backplane {
            BackplaneKind::Qemu => papers::EMULATION.to_owned(),
            BackplaneKind::Netns => crate::netns::configuration(slot)?,
        };
        let mut provision = papers.for_module(slot, &configuration, registries.as_ref())?;
        if let Some(map) = slot.slot_map() {
            provision = provision.file("/etc/spacecloud/spacecloud.toml.d/20-accelerators.toml", 0o644, map);
        }
        if let Some(storage) = plan.chassis.storage() {
            provision = storage::provide(provision, slot, storage, plan.backplane)?;
        }
        plan.identities.insert(slot.number, provision);
    }
    Ok(papers)
}

impl<'a> Scenario<'a> {
    /// Connects to the server on slot 1 as soon as it answers.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn begin(
        chassis: &'a Chassis,
        papers: &Papers,
        demo: &Path,
        powered: Instant,
        mut note: impl FnMut(Note<'_>) + 'a,
    ) -> Result<Self, SimError> {
        note(Note::Step("the modules boot and form a cluster"));
        let address = format!("127.0.0.1:{}", chassis.module(1)?.ground().grpc);
        let directory = chassis.dir().join("operator");
        papers.write_client(&directory, &address)?;
        let cluster = Cluster::connect(&directory, &address, within(PATIENCE.s()))?;
        let mut scenario = Self {
            chassis,
            cluster,
            papers: directory,
            demo: demo.to_owned(),
            note: Box::new(note),
            report: Report::default(),
            cut_off: BTreeSet::new(),
        };
        // A storage module runs no agent.
        let all =
            chassis.modules().filter(|module| module.spec().roles.contains(&crate::Role::Agent)).count();
        scenario.wait("all modules are ready", all, |s| {
            s.modules.iter().filter(|m| m.state == "ready").count()
        })?;
        scenario.report.times.push(("power-on to all modules ready", powered.elapsed()));
        Ok(scenario)
    }

    /// Everything, in order.
    ///
    /// # Errors
    /// The first step or check that fails.
    pub fn run(mut self) -> Result<(Report, Cluster), SimError> {
        self.real_time()?;
        self.push()?;
        self.deploy()?;
        self.docker()?;
        self.isolate()?;
        self.fenced()?;
        self.never_twice()?;
        self.come_back()?;
        self.live()?;
        self.measure_memory()?;
        Ok((self.report, self.cluster))
    }

    /// Waits until `done` of a snapshot is `of`.
    fn wait(
        &mut self,
        what: &str,
        of: usize,
        done: impl Fn(&Snapshot) -> usize,
    ) -> Result<(Snapshot, Duration), SimError> {
        let note = &mut self.note;
        let show = |s: &Snapshot| note(Note::Now(s, done(s), of));
        self.cluster.wait_for(what, within(PATIENCE.s()), show, |s| done(s) == of)
    }

    fn checked(&mut self, text: impl Into<String>) {
        (self.note)(Note::Checked(text.into()));
    }

    fn unchecked(&mut self, text: &str) {
        (self.note)(Note::Unchecked(text.to_owned()));
    }

    fn mark(&mut self, text: &str) {
        self.report.marks.push(Mark { at: self.cluster.clock(), text: text.to_owned() });
    }

    fn real_time(&mut self) -> Result<(), SimError> {
        if self.chassis.backplane() == BackplaneKind::Netns {
            self.unchecked(
                "a namespace has the host's kernel, which need not be a real-time one, and the host's clock",
            );
            return Ok(());
        }
        for module in self.chassis.modules() {
            // Debian's kernel also has /sys/kernel/realtime; the mainline kernel says it by its version only.
            let said = module.run("uname -v", within(60.s()))?;
            if !said.contains("PREEMPT_RT") {
                return Err(failed(format!("{}: the kernel is {said:?}, not PREEMPT_RT", module.name())));
            }
        }
        self.checked("the kernel is PREEMPT_RT on all three modules");
        Ok(())
    }

    fn push(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("skopeo pushes the demo image to the registry on module-1"));
        let port = self.chassis.module(1)?.ground().registry;
        let took = push(port, &self.papers, &self.demo)?;
        self.report.times.push(("pushing the demo image", took));
        Ok(())
    }

    fn deploy(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("ten apps are applied with one command"));
        self.mark("applied");
        self.cluster.apply(APPS)?;
        let (snapshot, took) = self.wait("ten apps are ready", TEN, |s| ready(s, TEN, |_| true))?;
        self.report.times.push(("apply to ten running and healthy", took));
        let sorted = |s: &Snapshot| {
            let mut spread = counts(s);
            spread.sort_unstable();
            spread
        };
        // Where a module was not heard for a moment, balance has to mend it first.
        if sorted(&snapshot) != [3, 3, 4] {
            let even = |s: &Snapshot| usize::from(sorted(s) == [3, 3, 4]) * ready(s, TEN, |_| true);
            self.wait("ten apps are spread 4/3/3", TEN, even)?;
        }
        self.checked("the ten apps are spread 4/3/3");
        Ok(())
    }

    fn isolate(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("module-3 is cut off from the backplane"));
        let (before, _) = self.wait("ten apps are ready before the cut", TEN, |s| ready(s, TEN, |_| true))?;
        let there = before.instances.into_iter().filter(|i| i.module == "module-3");
        self.cut_off = there.map(|i| i.id).collect();
        self.mark("module-3 isolated");
        self.chassis.module(3)?.isolate()?;
        let elsewhere = |s: &Snapshot| ready(s, TEN, |i| i.module != "module-3");
        let (_, took) = self.wait("all ten are ready on modules 1 and 2", TEN, elsewhere)?;
        self.mark("all ten run");
        self.report.times.push(("isolation to ten running and healthy again", took));
        self.checked("all ten apps run on modules 1 and 2");
        Ok(())
    }

    /// Asked over its console: the network does not reach it.
    fn fenced(&mut self) -> Result<(), SimError> {
        let module = self.chassis.module(3)?;
        let stop = format!("{}/spacecloud/stop", module.cgroup());
        let question = format!("cat {stop}/cgroup.events; echo left: $(ls -d {stop}/*/ | wc -l)");
        wait_until("module-3 has stopped its own copies", within(60.s()), || {
            module.run(&question, within(30.s())).is_ok_and(|said| said.contains("populated 0"))
        })?;
        self.checked("module-3 has stopped its own copies, asked over its control channel");
        Ok(())
    }

    /// From the instances' own output, with the modules' clocks corrected.
    fn never_twice(&mut self) -> Result<(), SimError> {
        let same_clock = self.chassis.backplane() == BackplaneKind::Netns;
        let gap = lives::smallest_gap(self.chassis, same_clock, &self.cut_off)?;
        self.checked(format!(
            "no instance ran twice: at least {:.1} s lie between two lives",
            gap.as_secs_f64()
        ));
        Ok(())
    }

    fn come_back(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("module-3 is back on the backplane"));
        self.mark("module-3 back");
        self.set_clocks(&[(1, 10), (3, -10)])?;
        self.chassis.module(3)?.rejoin()?;
        let (_, took) = self.wait("module-3 is ready again", 1, |s| {
            s.modules.iter().filter(|m| m.name == "module-3" && m.state == "ready").count()
        })?;
        self.report.times.push(("return to ready", took));
        // On a host that is short of time one of the others may just have been lost, and be empty.
        let on_both = |s: &Snapshot| {
            let two_on = |module: &str| ready(s, TEN, |i| i.module == module) >= 2;
            ["module-1", "module-2"].into_iter().filter(|module| two_on(module)).count()
        };
        let (snapshot, _) = self.wait("modules 1 and 2 have two apps each", 2, on_both)?;
        (self.note)(Note::Step("four apps are deleted on modules 1 and 2; some of the rest move"));
        let on = |module: &str| -> Vec<String> {
            snapshot.instances.iter().filter(|i| i.module == module).map(|i| i.app.clone()).take(2).collect()
        };
        self.mark("four deleted");
        self.cluster.delete(on("module-1").into_iter().chain(on("module-2")).collect())?;
        self.set_clocks(&[(1, -25), (2, 5)])?;
        let (_, took) = self.wait("six apps are balanced 2/2/2", 6, two_on_each)?;
        self.mark("balanced");
        self.report.times.push(("deletion to balanced", took));
        self.checked("two apps moved to module-3 by the balance rule: 2/2/2");
        self.clocks_were_set("the return and the balancing");
        Ok(())
    }

    /// The most that each daemon on the server's module takes while nothing is asked of it.
    fn measure_memory(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("memory of the daemons at rest, ten looks a second apart"));
        let module = self.chassis.module(1)?;
        let look =
            "for i in 1 2 3 4 5 6 7 8 9 10; do ps -o rss=,args= -C spacecloudd,space-registry; sleep 1; done";
        let mut most: BTreeMap<String, u64> = BTreeMap::new();
        for line in module.run(look, within(120.s()))?.lines() {
            let Some((rss, args)) = line.trim().split_once(' ') else { continue };
            let guard = if args.ends_with("guard") { " guard" } else { "" };
            let name =
                args.trim().split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            let seen = most.entry(format!("{name}{guard}")).or_default();
            *seen = rss.parse().unwrap_or(0).max(*seen);
        }
        self.report.memory = most.into_iter().collect();
        Ok(())
    }
}

/// Replicas of an app that ran twice at the same time, by what the instances themselves have written.
///
/// # Errors
/// A module does not answer.
pub fn double_runs(chassis: &Chassis, app: &str) -> Result<Vec<String>, SimError> {
    let same_clock = chassis.backplane() == BackplaneKind::Netns;
    let of_app = |double: &String| double.strip_prefix(app).is_some_and(|rest| rest.starts_with(['-', '/']));
    Ok(lives::gaps(chassis, same_clock)?.doubles.into_iter().filter(of_app).collect())
}

/// Pushes the demo image from the ground, by skopeo, over TLS with the cluster's CA. Answers how long that took.
///
/// # Errors
/// skopeo is missing, or the registry does not take the image in time.
pub fn push(port: u16, papers: &Path, demo: &Path) -> Result<Duration, SimError> {
    let ground = format!("docker://127.0.0.1:{port}/demo/web:1");
    let source = format!("oci:{}:{}", demo.display(), crate::image::demo::TAG);
    let mut said = String::new();
    // The registry starts when the server has made its certificate.
    wait_until("the registry takes a push", within(180.s()), || {
        let mut command = Command::new("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet", "--dest-cert-dir"])
            .arg(papers.join("registry"));
        match command.args([&source, &ground]).output() {
            Ok(output) => {
                said = String::from_utf8_lossy(&output.stderr).into_owned();
                output.status.success()
            }
            Err(error) => {
                said = format!(
                    "skopeo cannot be run: {error}; install the packages in qemu-tests/host-packages"
                );
                false
            }
        }
    })
    .map_err(|_| failed(format!("the registry did not take the push: {}", said.trim().replace('\n', " "))))
}

/// Writes the picture of what happened.
///
/// # Errors
/// The file cannot be written.
pub fn draw(report: &Report, cluster: &Cluster, path: &Path) -> Result<(), SimError> {
    let end = cluster.clock();
    let picture = timeline::svg(&timeline::bars(&cluster.history(), end), &report.marks, end);
    std::fs::write(path, picture).map_err(SimError::io("write", path))
}

/// How long a whole chassis may take to boot.
pub fn boot_limit() -> Limit {
    within(PATIENCE.s())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_file_has_ten_apps() {
        let apps = model::AppFile::parse("demo/apps.toml", APPS).unwrap().apps;
        assert_eq!(apps.len(), TEN);
        assert!(apps.iter().all(|a| a.image.as_str() == IMAGE));
    }
}
