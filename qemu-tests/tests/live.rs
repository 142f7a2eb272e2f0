//! A running process goes on on another module, with its memory and its files; one that cannot is made before break, and
//! says why. Two modules, booted for this alone: criu needs a kernel of its own to be trusted with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use api::v1::{Event, Instance, Snapshot};
use spacesim::{
    Chassis, ChassisFile, Plan, Times,
    cluster::Cluster,
    image,
    scenario::{boot_limit, provision, push},
    twin, wait_until, within,
};
use std::{path::Path, time::Instant};

const APPS: &str = r#"
[[app]]
name = "counter"
image = "registry.spacecloud:5000/demo/web:1"
ports = [{ container = 8080, service = 80 }]
health = { http = "/healthz", timeout = "5s" }
migration = { planned = "live" }

[[app]]
name = "ring"
image = "registry.spacecloud:5000/demo/web:1"
env = { IO_URING = "1" }
migration = { planned = "live" }
"#;

/// What the counter has in memory, and in a file.
#[derive(Debug, PartialEq)]
struct Count {
    count: u64,
    born: String,
}

struct Rig<'a> {
    chassis: &'a Chassis,
    cluster: &'a Cluster,
    powered: Instant,
}

impl Rig<'_> {
    fn say(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.powered.elapsed().as_secs_f64());
    }

    /// By the service's address, from a module.
    fn count(&self, asker: u16) -> Count {
        let ask = "busybox wget -q -T 5 -O - http://counter.space/count";
        let mut said = String::new();
        wait_until("the counter answers", within(120.s()), || {
            said = self.chassis.module(asker).unwrap().run(ask, within(60.s())).unwrap_or_default();
            said.starts_with("count=")
        })
        .unwrap();
        let (count, born) = said.trim().strip_prefix("count=").unwrap().split_once(" born=").unwrap();
        Count { count: count.parse().unwrap(), born: born.to_owned() }
    }

    fn wait(&self, what: &str, test: impl Fn(&Snapshot) -> bool) -> Snapshot {
        self.cluster.wait_for(what, within(300.s()), |_| {}, test).unwrap().0
    }

    /// Everything goes to the other one of the two.
    fn drain(&self, from: &str, to: &str) -> Snapshot {
        self.cluster.drain(to, false).unwrap();
        self.wait("the other one takes work", |s| s.modules.iter().any(|m| m.name == to && !m.cordoned));
        self.cluster.drain(from, true).unwrap();
        self.wait("everything has moved", |s| all_on(s, to))
    }
}

fn all_on(snapshot: &Snapshot, module: &str) -> bool {
    snapshot.instances.len() == 2
        && snapshot.instances.iter().all(|i| i.phase == "ready" && i.module == module)
}

fn of<'a>(snapshot: &'a Snapshot, app: &str) -> &'a Instance {
    snapshot.instances.iter().find(|i| i.app == app).unwrap()
}

fn last<'a>(snapshot: &'a Snapshot, subject: &str, reason: &str) -> Option<&'a Event> {
    snapshot.events.iter().rfind(|e| e.subject == subject && e.reason == reason)
}

#[test]
fn a_process_goes_on_on_another_module_and_one_that_cannot_says_why() {
    let mut file =
        ChassisFile::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("chassis/three.toml")).unwrap();
    file.slots.truncate(2);
    let image =
        twin::ensure(&mut |step| eprintln!("image: {} ({}/{})", step.name, step.done, step.total)).unwrap();
    let app = image::demo::demo_app(&image::default_cache().unwrap()).unwrap();
    let dir = tempfile::Builder::new().prefix("live-").tempdir().unwrap();
    let mut plan = Plan::new(file, image, dir.path());
    let papers = provision(&mut plan).unwrap();
    let powered = Instant::now();
    let chassis = Chassis::power_on(plan).unwrap();
    let ground = chassis.module(1).unwrap().ground();
    let address = format!("127.0.0.1:{}", ground.grpc);
    let operator = dir.path().join("operator");
    papers.write_client(&operator, &address).unwrap();
    let cluster = Cluster::connect(&operator, &address, boot_limit()).unwrap();
    let rig = Rig { chassis: &chassis, cluster: &cluster, powered };
    rig.wait("both modules are ready", |s| s.modules.iter().filter(|m| m.state == "ready").count() == 2);
    push(ground.registry, &operator, &app).unwrap();
    cluster.drain("module-1", true).unwrap();
    cluster.apply(APPS).unwrap();
    rig.wait("both run on module-2", |s| all_on(s, "module-2"));
    let before = rig.count(1);
    rig.say(&format!("on module-2: {before:?}"));

    let snapshot = rig.drain("module-2", "module-1");
    let after = rig.count(2);
    rig.say(&format!("on module-1: {after:?}"));
    let moved = last(&snapshot, "counter/1", "Moved").unwrap();
    rig.say(&moved.message);
    assert!(moved.message.contains("live from module-2 to module-1: drain of module-2"), "{}", moved.message);
    assert_eq!(after.born, before.born, "its files came along, and it was not started anew");
    assert!(after.count > before.count, "its memory came along: {before:?}, {after:?}");
    assert_eq!(of(&snapshot, "counter").restarts, 0);

    let refused = last(&snapshot, "ring/1", "NotLive").unwrap();
    rig.say(&refused.message);
    assert!(refused.message.contains("is made before break"), "{}", refused.message);
    assert!(refused.message.contains("io_uring"), "{}", refused.message);
    let cause = of(&snapshot, "ring").decision.clone().unwrap().cause;
    assert!(cause.contains("drain of module-2; not live: "), "{cause}");

    // And back: what was restored can be moved once more.
    let snapshot = rig.drain("module-1", "module-2");
    let again = rig.count(1);
    rig.say(&format!("on module-2 again: {again:?}"));
    rig.say(&last(&snapshot, "counter/1", "Moved").unwrap().message);
    assert_eq!(again.born, before.born, "{again:?}");
    assert!(again.count > after.count, "{after:?}, {again:?}");

    // A crash of the target's agent in the middle: the counter runs in the end, once, and nothing stays frozen.
    cluster.drain("module-1", false).unwrap();
    cluster.drain("module-2", true).unwrap();
    rig.wait("a move is under way", |s| s.instances.iter().any(|i| i.message.starts_with("taking counter")));
    let kill = "kill -9 $(systemctl show -p MainPID --value spacecloudd)";
    chassis.module(1).unwrap().run(kill, within(60.s())).unwrap();
    rig.wait("everything has moved in spite of it", |s| all_on(s, "module-1"));
    rig.say(&format!("after kill -9 of the target's agent and the server: {:?}", rig.count(2)));
    let tasks = "ctr -n spacecloud tasks ls | tail -n +2 | awk '{ print $3 }' | sort | uniq -c";
    wait_until("nothing of it is left on module-2", within(120.s()), || {
        chassis.module(2).unwrap().run(tasks, within(60.s())).is_ok_and(|said| said.trim().is_empty())
    })
    .unwrap();
}
