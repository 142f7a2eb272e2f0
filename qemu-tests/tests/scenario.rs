//! The main job on a booted chassis: the same code as the demo's, then crashes of the daemons on the same chassis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use api::v1::{self, Snapshot};
use ground::Ground;
use identity::Token;
use spacesim::{
    BackplaneKind, Chassis, Module, SimError, Times,
    cluster::{Cluster, all_ready},
    wait_until, within,
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[path = "scenario/accelerators.rs"]
mod accelerators;
mod ground;

/// Container ids and their processes: a restarted container has another process.
const PROCESSES: &str = "ctr -n spacecloud tasks ls | tail -n +2 | tr -s ' ' | sort";

const PUBLISHED: &str = r#"
name = "published"
image = "registry.spacecloud:5000/demo/web:1"
placement = { modules = ["module-2"] }
ports = [{ container = 8080, host = 18081 }]
health = { tcp = 8080 }
"#;

const BURST: &str = r#"
name = "burst"
image = "registry.spacecloud:5000/demo/web:1"
replicas = 4
"#;

#[test]
fn ten_apps_lose_a_module_and_get_it_back() {
    let mut file = ground::three();
    file.slots[1].accelerators = accelerators::fitted();
    let ground = Ground::new(file, BackplaneKind::Qemu);
    let (chassis, powered) = (&ground.chassis, ground.powered);
    let outcome = ground.begin(|_| {}).run();
    let (report, cluster) = outcome.unwrap_or_else(|error| panic!("{error}"));
    for (what, took) in &report.times {
        eprintln!("{what}: {:.1} s", took.as_secs_f64());
    }
    for (program, kib) in &report.memory {
        eprintln!("{program}: {:.1} MiB resident", *kib as f64 / 1024.0);
    }
    ground.draw(&report, &cluster);

    killed_at_rest(chassis, &cluster, powered);
    killed_at_any_moment(chassis, &cluster, powered);

    // A published port: reachable at the address of the instance's module, from another one.
    cluster.apply(PUBLISHED).unwrap();
    let ready = |s: &Snapshot| s.instances.iter().any(|i| i.app == "published" && i.phase == "ready");
    cluster.wait_for("the app with a published port is ready", within(120.s()), |_| {}, ready).unwrap();
    let asker = chassis.module(3).unwrap();
    let ask = "busybox wget -q -T 20 -O - http://10.44.0.2:18081/";
    let answers = || asker.run(ask, within(60.s())).is_ok_and(|said| said.contains("app=published"));
    wait_until("the published port answers on module-2's address", within(60.s()), answers).unwrap();
    cluster.delete(vec!["published".to_owned()]).unwrap();
    cluster.wait_for("it is gone", within(60.s()), |_| {}, |s| all_ready(s, 6)).unwrap();

    accelerators::keep_their_numbers(chassis, &cluster, powered);

    // An image that is not in the registry: said in one line, everything else keeps running.
    cluster.apply("name = 'nowhere'\nimage = 'registry.spacecloud:5000/no/such:1'\n").unwrap();
    let said = |s: &Snapshot| {
        let missing = |i: &v1::Instance| i.app == "nowhere" && i.message.contains("is not in the registry");
        s.instances.iter().any(missing) && s.instances.iter().filter(|i| i.phase == "ready").count() == 6
    };
    cluster.wait_for("the missing image is named", within(120.s()), |_| {}, said).unwrap();

    wrong_token(chassis);
}

fn say(powered: Instant, text: &str) {
    eprintln!("[{:6.1} s] {text}", powered.elapsed().as_secs_f64());
}

fn kill_daemon(module: &Module) {
    let old = module.run("systemctl show -p MainPID --value spacecloudd", within(60.s())).unwrap();
    module.run("kill -9 $(systemctl show -p MainPID --value spacecloudd)", within(60.s())).unwrap();
    wait_until("spacecloudd is back", within(60.s()), || {
        let ask = "systemctl is-active spacecloudd; systemctl show -p MainPID --value spacecloudd";
        module
            .run(ask, within(60.s()))
            .is_ok_and(|new| new.starts_with("active") && !new.contains(old.trim()))
    })
    .unwrap();
}

/// The lines of the processes that an app other than `burst` has.
fn processes(chassis: &Chassis) -> Vec<String> {
    let listed = chassis.modules().map(|m| m.run(PROCESSES, within(60.s())).unwrap());
    listed
        .map(|text| text.lines().filter(|l| !l.starts_with("burst-")).collect::<Vec<_>>().join("\n"))
        .collect()
}

/// kill -9 of the server (with module-1's agent), then of an agent alone: no app stops, nothing is lost.
fn killed_at_rest(chassis: &Chassis, cluster: &Cluster, powered: Instant) {
    for slot in [1, 2] {
        // A daemon that is back within its lease stops nothing. A busy host may be too slow for that, and is tried again.
        let stopped_nothing = (0..3).any(|_| {
            let ended = leases_ended(chassis);
            let (before, sessions) = (processes(chassis), sessions(chassis, slot));
            kill_daemon(chassis.module(slot).unwrap());
            // What is shown of it is old until it has said hello.
            let hello = || self::sessions(chassis, slot) > sessions;
            wait_until("the agent has said hello", within(180.s()), hello).unwrap();
            cluster.wait_for("the cluster is whole again", within(180.s()), |_| {}, |s| whole(s, 6)).unwrap();
            let (after, slow) = (processes(chassis), leases_ended(chassis) > ended);
            assert!(before == after || slow, "an app was restarted within the lease: {before:?}, {after:?}");
            before == after
        });
        assert!(stopped_nothing, "spacecloudd on module-{slot} was never back within its lease");
        say(powered, &format!("kill -9 of spacecloudd on module-{slot} at rest: no app stopped"));
    }
}

/// How many instances were stopped, by agents and guards, because a lease ran out.
fn leases_ended(chassis: &Chassis) -> usize {
    chassis.modules().map(ended_on).sum()
}

fn ended_on(module: &Module) -> usize {
    told(module, "lease ran out")
}

/// How often the agent of a module has said hello to the server.
fn sessions(chassis: &Chassis, slot: u16) -> usize {
    told(chassis.module(1).unwrap(), &format!("agent connected module=module-{slot} "))
}

/// How many lines with these words the daemons of a module have written.
fn told(module: &Module, words: &str) -> usize {
    let units = "-u spacecloudd -u spacecloud-guard";
    let count = format!("journalctl -b --no-pager -o cat {units} | grep -c '{words}'; true");
    module.run(&count, within(180.s())).unwrap().trim().parse().unwrap()
}

/// While orders are on their way and instances half made or half gone, at moments that differ from run to run.
fn killed_at_any_moment(chassis: &Chassis, cluster: &Cluster, powered: Instant) {
    // A server that was just killed is asked again, as an operator would.
    let insist = |request: &dyn Fn() -> Result<(), SimError>| {
        let mut last = None;
        wait_until("the server takes a request", within(60.s()), || {
            last = request().err();
            last.is_none()
        })
        .unwrap_or_else(|error| panic!("{error}: {last:?}"));
    };
    let moment = || {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
        Duration::from_millis(u64::from(nanos / 1000 % 2500))
    };
    let ended: Vec<_> = chassis.modules().map(ended_on).collect();
    let before = processes(chassis);
    insist(&|| cluster.apply(BURST).map(drop));
    let mut wanted = 6 + 4;
    for (slot, replicas) in [(1, 1), (2, 5), (1, 3), (3, 2)] {
        let pause = moment();
        std::thread::sleep(pause);
        say(powered, &format!("kill -9 on module-{slot}, {pause:?} after a change to {} instances", wanted));
        kill_daemon(chassis.module(slot).unwrap());
        insist(&|| cluster.scale("burst", replicas));
        wanted = 6 + replicas as usize;
    }
    cluster.wait_for("what was asked for last", within(180.s()), |_| {}, |s| whole(s, wanted)).unwrap();
    // Balance may have moved an app; one that stayed where it was is still the same process, unless its module's daemon was
    // not back within its lease.
    let after = processes(chassis);
    let (mut same, mut fenced) = (0, 0);
    for ((module, ended), (before, after)) in chassis.modules().zip(ended).zip(before.iter().zip(&after)) {
        for line in before.lines() {
            let id = line.split_whitespace().next();
            match after.lines().find(|l| l.split_whitespace().next() == id) {
                Some(now) if now == line => same += 1,
                Some(_) if ended_on(module) > ended => fenced += 1,
                Some(now) => panic!("on {} {line} became {now}", module.name()),
                None => {}
            }
        }
    }
    say(powered, &format!("{same} processes are the same, {fenced} were stopped when a lease ran out"));
    assert!(same > 0);

    insist(&|| cluster.drain("module-2", true));
    std::thread::sleep(moment());
    kill_daemon(chassis.module(1).unwrap());
    let empty = |s: &Snapshot| all_ready(s, wanted) && s.instances.iter().all(|i| i.module != "module-2");
    cluster.wait_for("module-2 is drained", within(180.s()), |_| {}, empty).unwrap();
    insist(&|| cluster.drain("module-2", false));
    insist(&|| cluster.delete(vec!["burst".to_owned()]));
    cluster.wait_for("six are left", within(180.s()), |_| {}, |s| whole(s, 6)).unwrap();
    // What the cluster says is what runs: no stray, none missing.
    for module in chassis.modules() {
        let there = |s: &Snapshot| s.instances.iter().filter(|i| i.module == module.name()).count();
        wait_until("the module runs what the cluster says", within(60.s()), || {
            let tasks = module.run("ctr -n spacecloud tasks ls -q | wc -l", within(60.s())).unwrap();
            tasks.trim().parse() == Ok(there(&cluster.now()))
        })
        .unwrap();
    }
    say(powered, "kill -9 at any moment: everything that was asked for is there, and nothing else");
}

fn whole(snapshot: &Snapshot, wanted: usize) -> bool {
    all_ready(snapshot, wanted) && snapshot.modules.iter().all(|m| m.state == "ready")
}

/// A module with another cluster's token stays out, says so on one line, and does not stop trying.
fn wrong_token(chassis: &Chassis) {
    let module = chassis.module(3).unwrap();
    let (_, other) = identity::Authority::create().unwrap();
    let token = Token::generate(&identity::fingerprint(&other.certificate).unwrap()).reveal();
    let swap = format!(
        "systemctl stop spacecloudd && echo '{token}' >/etc/spacecloud/token && \
         rm -rf /var/lib/spacecloud/tls && systemctl start spacecloudd"
    );
    module.run(&swap, within(120.s())).unwrap();
    wait_until("it says that the token is another cluster's", within(60.s()), || {
        let journal =
            module.run("journalctl -b -u spacecloudd -o cat --no-pager | tail -n 5", within(60.s()));
        journal.is_ok_and(|said| {
            said.contains("is not of the cluster that the join token names; check agent.token_file")
        })
    })
    .unwrap();
}
