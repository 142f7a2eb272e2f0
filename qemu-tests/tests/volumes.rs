//! What an app keeps in a volume on a module's disk is there after a restart, a power cut and a drain, is held to its size,
//! and goes only when it is asked for. On namespaces: they have disks of their own as boards have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ground;

use api::v1::{Instance, Snapshot};
use ground::Ground;
use spacesim::{BackplaneKind, Module, Times, cluster::Cluster, wait_until, within};

const COUNTER: &str = r#"
[[volume]]
name = "data"
class = "local"
size = "100MiB"

[[app]]
name = "counter"
image = "registry.spacecloud:5000/demo/web:1"
env = { STATE = "/data/log", TICK_MS = "100" }
volumes = [{ name = "data", path = "/data" }]
health = { tcp = 8080, every = "200ms" }
"#;

const FILLER: &str = r#"
[[volume]]
name = "small"
class = "local"
size = "4MiB"

[[app]]
name = "filler"
image = "registry.spacecloud:5000/demo/web:1"
env = { STATE = "/data/log", TICK_MS = "100", FILL_KIB = "512" }
volumes = [{ name = "small", path = "/data" }]
health = { tcp = 8080, every = "200ms" }
"#;

const LOG: &str = "/var/lib/spacecloud/volumes/data/_data/log";

fn instance<'a>(snapshot: &'a Snapshot, app: &str) -> Option<&'a Instance> {
    snapshot.instances.iter().find(|i| i.app == app && i.phase != "stopping")
}

fn wait(cluster: &Cluster, what: &str, test: impl Fn(&Snapshot) -> bool) -> Snapshot {
    cluster.wait_for(what, within(180.s()), |_| {}, test).unwrap().0
}

fn ready(cluster: &Cluster, app: &str) -> Instance {
    let snapshot =
        wait(cluster, &format!("{app} is ready"), |s| instance(s, app).is_some_and(|i| i.phase == "ready"));
    instance(&snapshot, app).unwrap().clone()
}

/// (count, instance) of each line.
fn lines(module: &Module) -> Vec<(u64, String)> {
    let text = module.run(&format!("cat {LOG}"), within(30.s())).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].parse().unwrap(), words[2].to_owned())
    };
    whole.lines().map(parse).collect()
}

/// It has written more since, and at no time began anew or wrote a count twice.
fn goes_on(module: &Module, before: usize) -> Vec<(u64, String)> {
    wait_until("it counts on", within(60.s()), || lines(module).len() > before + 3).unwrap();
    let all = lines(module);
    let counts: Vec<u64> = all.iter().map(|(count, _)| *count).collect();
    let expected: Vec<u64> = (1..).take(all.len()).collect();
    assert_eq!(counts, expected, "{all:?}");
    all
}

fn writers(lines: &[(u64, String)]) -> usize {
    let mut names: Vec<&String> = lines.iter().map(|(_, instance)| instance).collect();
    names.dedup();
    names.len()
}

#[test]
fn a_local_volume_keeps_its_data_and_its_size() {
    let ground = Ground::new(ground::three(), BackplaneKind::Netns);
    let chassis = &ground.chassis;
    let scenario = ground.begin(|_| {});
    let cluster = &scenario.cluster;
    ground.push(1);

    cluster.apply(COUNTER).unwrap();
    // On a module whose loss takes neither server nor registry along.
    let mut home = ready(cluster, "counter").module;
    if home == "module-1" {
        cluster.delete(vec!["counter".to_owned()]).unwrap();
        cluster.drain("module-1", true).unwrap();
        wait(cluster, "it is gone", |s| instance(s, "counter").is_none() && s.instances.is_empty());
        cluster.delete_volumes(vec!["data".to_owned()]).unwrap();
        wait(cluster, "its volume is erased", |s| s.volumes.is_empty());
        cluster.apply(COUNTER).unwrap();
        home = ready(cluster, "counter").module;
        cluster.drain("module-1", false).unwrap();
    }
    let module = chassis.module(home.trim_start_matches("module-").parse().unwrap()).unwrap();
    let first = goes_on(module, 0);

    // Its process is killed.
    module.run("kill -9 $(pgrep -f demo-app | head -1)", within(30.s())).unwrap();
    let second = goes_on(module, first.len());

    // Its module is drained: no other has its data, so it waits and says why.
    cluster.drain(&home, true).unwrap();
    let why = format!("volume data is on {home}");
    wait(cluster, "it waits for its module", |s| {
        instance(s, "counter").is_some_and(|i| i.phase == "pending" && i.message.contains(&why))
    });
    cluster.drain(&home, false).unwrap();
    ready(cluster, "counter");
    let third = goes_on(module, second.len());
    assert!(writers(&third) > 1, "{third:?}");

    // Its module loses its power.
    module.power_cycle().unwrap();
    module.wait_ready(within(60.s())).unwrap();
    let lost = third.len();
    wait_until("it counts on after the power cut", within(180.s()), || {
        module.run(&format!("tail -n 1 {LOG}"), within(30.s())).is_ok() && lines(module).len() > lost + 3
    })
    .unwrap();
    goes_on(module, lost);

    // Data stays when the app goes, and goes when it is asked for.
    let refused = cluster.delete_volumes(vec!["data".to_owned()]).unwrap_err().to_string();
    assert!(refused.contains("volume data is used by counter"), "{refused}");
    cluster.delete(vec!["counter".to_owned()]).unwrap();
    wait(cluster, "the app is gone", |s| s.instances.is_empty());
    assert!(!lines(module).is_empty());
    cluster.delete_volumes(vec!["data".to_owned()]).unwrap();
    wait(cluster, "the volume is gone", |s| s.volumes.is_empty());
    let left = module.run("ls -A /var/lib/spacecloud/volumes", within(30.s())).unwrap();
    assert_eq!(left.trim(), "", "{left}");

    // No quota on this file system: the watch keeps it to its size, and says so.
    cluster.apply(FILLER).unwrap();
    wait(cluster, "what is too full is stopped, with the reason", |s| {
        let told = instance(s, "filler").is_some_and(|i| {
            i.phase == "back-off"
                && i.message.contains("volume small: holds")
                && i.message.contains("of 4MiB")
        });
        told && s.volumes.iter().any(|v| v.used > 4 << 20 && v.quota.starts_with("watched: "))
    });
    let larger = FILLER.replace("\"4MiB\"", "\"1GiB\"").replace("FILL_KIB = \"512\"", "FILL_KIB = \"0\"");
    cluster.apply(&larger).unwrap();
    ready(cluster, "filler");
}
