//! A volume of the chassis: a counter that writes on the storage module goes on from its data after a drain and after the
//! loss of its module, and at no time do two write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ground;

use api::v1::{Instance, Snapshot};
use ground::Ground;
use spacesim::{
    BackplaneKind, Module, Times,
    cluster::Cluster,
    scenario::{boot_limit, set_clock},
    wait_until, within,
};

const COUNTER: &str = r#"
[[volume]]
name = "data"
class = "chassis"
size = "100MiB"

[[app]]
name = "counter"
image = "registry.spacecloud:5000/demo/web:1"
env = { STATE = "/data/log", TICK_MS = "500" }
volumes = [{ name = "data", path = "/data" }]
placement = { modules = ["module-2", "module-3"] }
health = { tcp = 8080, every = "1s", timeout = "10s" }
"#;

/// One with a volume on its module's own disk, which has project quotas.
const KEEPER: &str = r#"
[[volume]]
name = "box"
class = "local"
size = "4MiB"

[[app]]
name = "keeper"
image = "registry.spacecloud:5000/demo/web:1"
env = { STATE = "/data/log", TICK_MS = "5000" }
volumes = [{ name = "box", path = "/data" }]
placement = { modules = ["module-3"] }
health = { tcp = 8080, every = "1s", timeout = "10s" }
"#;

const LOG: &str = "/var/lib/spacecloud/export/data/_data/log";

fn counter(snapshot: &Snapshot) -> Option<&Instance> {
    snapshot.instances.iter().find(|i| i.app == "counter" && i.phase != "stopping")
}

/// Where it is, once it is ready on another module than `not`.
fn ready(cluster: &Cluster, what: &str, not: &str) -> String {
    let test = |s: &Snapshot| counter(s).is_some_and(|i| i.phase == "ready" && i.module != not);
    let (snapshot, took) = cluster.wait_for(what, boot_limit(), |_| {}, test).unwrap();
    let module = counter(&snapshot).unwrap().module.clone();
    eprintln!("{what}: on {module} after {:.1} s", took.as_secs_f64());
    module
}

/// (count, instance) of each line, as the storage module has them.
fn lines(storage: &Module) -> Vec<(u64, String)> {
    let text = storage.run(&format!("cat {LOG}"), within(60.s())).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].parse().unwrap(), words[2].to_owned())
    };
    whole.lines().map(parse).collect()
}

/// It has written more since, each count once and in order; each writer has written all its lines before the next.
fn goes_on(storage: &Module, before: usize, writers: usize) -> usize {
    wait_until("it counts on", within(180.s()), || lines(storage).len() > before + 3).unwrap();
    let all = lines(storage);
    let counts: Vec<u64> = all.iter().map(|(count, _)| *count).collect();
    let expected: Vec<u64> = (1..).take(all.len()).collect();
    assert_eq!(counts, expected, "{all:?}");
    let mut names: Vec<&String> = all.iter().map(|(_, instance)| instance).collect();
    names.dedup();
    assert_eq!(names.len(), writers, "{names:?}");
    all.len()
}

/// The kernel holds a local volume to its size, for all who may not go beyond limits: no instance may. A larger size holds
/// at once.
fn held_by_the_file_system(cluster: &Cluster, module: &Module) {
    cluster.apply(KEEPER).unwrap();
    let quota = |s: &Snapshot| s.volumes.iter().find(|v| v.name == "box").map(|v| v.quota.clone());
    let held = |s: &Snapshot| quota(s).is_some_and(|quota| !quota.is_empty());
    let (snapshot, _) = cluster.wait_for("the volume is held", boot_limit(), |_| {}, held).unwrap();
    assert_eq!(quota(&snapshot).unwrap(), "project quota");
    let write = |mebibytes: u32| {
        let file = "/var/lib/spacecloud/volumes/box/_data/more";
        let dd = format!("dd if=/dev/zero of={file} bs=1M count={mebibytes} conv=fsync");
        module.run(&format!("setpriv --bounding-set=-sys_resource {dd} 2>&1"), within(120.s()))
    };
    write(2).unwrap();
    let full = write(8).unwrap_err().to_string();
    assert!(full.contains("quota exceeded"), "{full}");
    cluster.apply(&KEEPER.replace("4MiB", "16MiB")).unwrap();
    wait_until("the larger size holds", within(180.s()), || write(8).is_ok()).unwrap();
}

#[test]
fn a_chassis_volume_goes_along_and_has_one_writer() {
    let ground = Ground::new(ground::file("storage"), BackplaneKind::Qemu);
    let chassis = &ground.chassis;
    let scenario = ground.begin(|_| {});
    let cluster = &scenario.cluster;
    let storage = chassis.module(4).unwrap();
    let exports = || storage.run("systemctl is-active spacecloud-storage", within(60.s())).is_ok();
    if let Err(error) = wait_until("the storage module exports", boot_limit(), exports) {
        panic!("{error}");
    }
    ground.push(1);

    cluster.apply(COUNTER).unwrap();
    let started = |s: &Snapshot| counter(s).is_some_and(|i| i.phase == "ready");
    if let Err(error) = cluster.wait_for("it is ready", boot_limit(), |_| {}, started) {
        panic!("{error}");
    }
    let first = ready(cluster, "it is ready", "");
    let seen = goes_on(storage, 0, 1);

    let slot = |module: &str| module.trim_start_matches("module-").parse::<u16>().unwrap();
    let set = |module: u16, minutes: i64| set_clock(chassis.module(module).unwrap(), minutes).unwrap();
    cluster.drain(&first, true).unwrap();
    // The server's clock and the one of the module that is left are set meanwhile: nothing may hang on them.
    set(1, 7);
    set(slot(&first), -11);
    let second = ready(cluster, "drained, it is ready elsewhere", &first);
    let seen = goes_on(storage, seen, 2);
    cluster.drain(&first, false).unwrap();
    let unused = chassis.module(slot(&first)).unwrap();
    let left = || unused.run("grep -c /run/spacecloud/chassis /proc/mounts", within(60.s())).is_err();
    wait_until("the module that no longer needs it has unmounted it", within(120.s()), left).unwrap();

    let lost = chassis.module(slot(&second)).unwrap();
    lost.isolate().unwrap();
    set(1, -20);
    set(slot(&second), 9);
    ready(cluster, "its module is cut off, it is ready elsewhere", &second);
    let seen = goes_on(storage, seen, 3);
    let fenced = || lost.run("grep -c /run/spacecloud/chassis /proc/mounts", within(60.s())).is_err();
    wait_until("the module that is cut off has let go of the storage", within(120.s()), fenced).unwrap();
    lost.rejoin().unwrap();
    let back = |s: &Snapshot| s.modules.iter().any(|m| m.name == second && m.state == "ready");
    cluster.wait_for("it is back", boot_limit(), |_| {}, back).unwrap();
    goes_on(storage, seen + 10, 3);

    held_by_the_file_system(cluster, chassis.module(3).unwrap());

    cluster.delete(vec!["counter".to_owned(), "keeper".to_owned()]).unwrap();
    cluster.wait_for("the app is gone", boot_limit(), |_| {}, |s| s.instances.is_empty()).unwrap();
    assert!(!lines(storage).is_empty(), "its data is kept");
    cluster.delete_volumes(vec!["data".to_owned(), "box".to_owned()]).unwrap();
    cluster.wait_for("the volumes are gone", boot_limit(), |_| {}, |s| s.volumes.is_empty()).unwrap();
    let left = storage.run("ls -A /var/lib/spacecloud/export", within(60.s())).unwrap();
    assert_eq!(left.trim(), "", "{left}");
}
