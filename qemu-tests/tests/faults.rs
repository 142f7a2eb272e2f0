//! Moves while things break: bad cables, links that are cut in the middle of a move, daemons that are killed at its
//! every moment. Each round ends with what was asked for, and no instance that must not has run twice. On modules that
//! are namespaces of this host: a round takes seconds. Needs root, as namespaces do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use api::v1::Snapshot;
use model::Span;
use spacesim::{
    BackplaneKind, Chassis, ChassisFile, Plan, SimError, Weather,
    cluster::{Cluster, all_ready},
    image, scenario, twin, wait_until, within,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// `once` may never run twice; `web` has a service and moves without a gap.
const APPS: &str = r#"
[[app]]
name = "once"
image = "registry.spacecloud:5000/demo/web:1"
replicas = 5
migration = { planned = "stop-first" }
env = { TICK_MS = "10" }
grace = "1s"

[[app]]
name = "web"
image = "registry.spacecloud:5000/demo/web:1"
replicas = 4
ports = [{ container = 8080, service = 80 }]
health = { http = "/healthz", every = "500ms" }
migration = { drain = "1s" }
grace = "1s"
"#;
const INSTANCES: usize = 9;
/// Bounds a wait; on a host that does nothing else each takes some seconds.
const PATIENCE: Duration = Duration::from_secs(180);

struct Rig {
    cluster: Cluster,
    chassis: Chassis,
    begun: Instant,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let chassis = Path::new(env!("CARGO_MANIFEST_DIR")).join("chassis/three.toml");
        let image =
            twin::ensure(&mut |step| eprintln!("image: {} ({}/{})", step.name, step.done, step.total));
        let demo = image::demo::demo_app(&image::default_cache().unwrap()).unwrap();
        let dir = tempfile::Builder::new().prefix("faults-").tempdir().unwrap();
        let mut plan = Plan::new(ChassisFile::load(&chassis).unwrap(), image.unwrap(), dir.path())
            .on(BackplaneKind::Netns);
        let papers = scenario::provision(&mut plan).unwrap();
        let begun = Instant::now();
        let chassis = Chassis::power_on(plan).unwrap();
        let ground = chassis.module(1).unwrap().ground();
        let (address, operator) = (format!("127.0.0.1:{}", ground.grpc), dir.path().join("operator"));
        papers.write_client(&operator, &address).unwrap();
        let cluster = Cluster::connect(&operator, &address, within(PATIENCE)).unwrap();
        let rig = Self { cluster, chassis, begun, _dir: dir };
        rig.wait("three modules are ready", |s| s.modules.iter().filter(|m| m.state == "ready").count() == 3);
        scenario::push(ground.registry, &operator, &demo).unwrap();
        rig.cluster.apply(APPS).unwrap();
        rig.wait("all run", whole);
        rig
    }

    fn say(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.begun.elapsed().as_secs_f64());
    }

    fn wait(&self, what: &str, test: impl Fn(&Snapshot) -> bool) {
        if let Err(error) = self.cluster.wait_for(what, within(PATIENCE), |_| {}, test) {
            for event in self.cluster.now().events.iter().rev().take(40).rev() {
                eprintln!("{} {} {}", event.subject, event.reason, event.message);
            }
            panic!("{error}");
        }
    }

    /// As an operator does whose server was just killed, or is hard to reach.
    fn insist(&self, request: impl Fn(&Cluster) -> Result<(), SimError>) {
        let mut last = None;
        let taken = wait_until("the server takes a request", within(PATIENCE), || {
            last = request(&self.cluster).err();
            last.is_none()
        });
        taken.unwrap_or_else(|error| panic!("{error}: {last:?}"));
    }

    fn drain(&self, slot: u16, wanted: bool) {
        self.insist(|cluster| cluster.drain(&format!("module-{slot}"), wanted));
    }

    /// Drains module-3 and gives it back; `during` is what goes wrong meanwhile, and is over when it returns.
    fn move_during(&self, what: &str, during: impl FnOnce(&Self)) {
        self.drain(3, true);
        during(self);
        self.wait("module-3 is drained", |s| whole(s) && s.instances.iter().all(|i| i.module != "module-3"));
        self.drain(3, false);
        self.wait("module-3 is used again", |s| {
            whole(s) && s.instances.iter().any(|i| i.module == "module-3")
        });
        self.runs_what_it_says();
        self.say(what);
    }

    /// No stray, none missing: every module's containers are those that the cluster knows.
    fn runs_what_it_says(&self) {
        for module in self.chassis.modules() {
            let list = || module.run("ctr -n spacecloud tasks ls -q | wc -l", within(PATIENCE)).unwrap();
            let says = || self.cluster.now().instances.iter().filter(|i| i.module == module.name()).count();
            let same = || list().trim().parse() == Ok(says());
            wait_until("the module runs what the cluster says", within(PATIENCE), same).unwrap_or_else(
                |error| {
                    panic!("{error}: {} runs {}, the cluster says {}", module.name(), list().trim(), says())
                },
            );
        }
    }

    fn no_double_runs(&self) {
        assert_eq!(scenario::double_runs(&self.chassis, "once").unwrap(), Vec::<String>::new());
    }

    fn weather(&self, slot: u16, weather: Weather) {
        self.chassis.module(slot).unwrap().set_weather(weather).unwrap();
    }

    /// The server with module-1's agent, or another module's agent; the module's first process starts it again.
    fn kill_daemon(&self, slot: u16) {
        let kill = "kill -9 $(pgrep -f '^/usr/bin/spacecloudd --config [^ ]*$')";
        self.chassis.module(slot).unwrap().run(kill, within(PATIENCE)).unwrap();
    }
}

fn whole(snapshot: &Snapshot) -> bool {
    all_ready(snapshot, INSTANCES) && snapshot.modules.iter().all(|m| m.state == "ready")
}

#[test]
fn moves_end_as_asked_whatever_breaks_meanwhile() {
    let rig = Rig::start();

    let rain = Weather { loss: 20, ..Weather::FAIR };
    let storm = Weather { loss: 2, duplicate: 20, delay: Span(100), jitter: Span(60) };
    let far = Weather { delay: Span(200), ..Weather::FAIR };
    for (weather, what) in [
        (rain, "module-3 loses 20 % of its frames while it is drained"),
        (storm, "its frames are late, doubled and out of order"),
        (far, "its frames take 200 ms each way, which is most of a lease"),
    ] {
        rig.weather(3, weather);
        rig.move_during(what, |rig| {
            // With such a cable it may be lost and come back for as long as it lasts: what counts is the end.
            std::thread::sleep(Duration::from_secs(3));
            rig.weather(3, Weather::FAIR);
        });
    }
    rig.no_double_runs();

    for (slot, pause) in [(3, 40), (3, 150), (3, 400), (2, 100), (2, 300)] {
        let what =
            format!("module-{slot} is cut off for two seconds, {pause} ms after a drain of module-3 began");
        rig.move_during(&what, |rig| {
            std::thread::sleep(Duration::from_millis(pause));
            let module = rig.chassis.module(slot).unwrap();
            module.isolate().unwrap();
            let lost =
                |s: &Snapshot| s.modules.iter().any(|m| m.slot == u32::from(slot) && m.state == "lost");
            rig.wait("it counts as lost", lost);
            module.rejoin().unwrap();
        });
    }
    rig.no_double_runs();

    for pause in [0, 50, 140, 300, 700] {
        for slot in [1, 2, 3] {
            let what = format!(
                "kill -9 of spacecloudd on module-{slot}, {pause} ms after a drain of module-3 began"
            );
            rig.move_during(&what, |rig| {
                std::thread::sleep(Duration::from_millis(pause));
                rig.kill_daemon(slot);
            });
        }
    }
    rig.no_double_runs();
}
