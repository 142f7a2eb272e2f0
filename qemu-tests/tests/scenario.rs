//! The main job on a booted chassis: the same code as the demo's, then crashes of the daemons on the same chassis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use spacesim::{
    Chassis, ChassisFile, Plan, Times,
    cluster::all_ready,
    image,
    scenario::{Note, Scenario, draw, provision},
    twin, wait_until, within,
};
use std::{path::Path, time::Instant};

/// Container ids and their processes: a restarted container has another process.
const PROCESSES: &str = "ctr -n spacecloud tasks ls | sort";

const PUBLISHED: &str = r#"
name = "published"
image = "registry.spacecloud:5000/demo/web:1"
placement = { modules = ["module-2"] }
ports = [{ container = 8080, host = 18081 }]
health = { tcp = 8080 }
"#;

#[test]
fn ten_apps_lose_a_module_and_get_it_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = ChassisFile::load(&root.join("chassis/three.toml")).unwrap();
    let image =
        twin::ensure(&mut |step| eprintln!("image: {} ({}/{})", step.name, step.done, step.total)).unwrap();
    let app = image::demo::demo_app(&image::default_cache().unwrap()).unwrap();
    let dir = tempfile::Builder::new().prefix("scene-").tempdir().unwrap();
    let mut plan = Plan::new(file, image, dir.path());
    let papers = provision(&mut plan).unwrap();
    let powered = Instant::now();
    let chassis = Chassis::power_on(plan).unwrap();
    let told = |note: Note<'_>| match note {
        Note::Step(text) => eprintln!("[{:6.1} s] {text}", powered.elapsed().as_secs_f64()),
        Note::Checked(text) => eprintln!("[{:6.1} s]   {text}", powered.elapsed().as_secs_f64()),
        Note::Now(..) => {}
    };
    let outcome = Scenario::begin(&chassis, &papers, &app, powered, told).and_then(Scenario::run);
    let (report, cluster) = outcome.unwrap_or_else(|error| {
        let kept = tempfile::Builder::new().prefix("consoles-").tempdir().unwrap().keep();
        for module in chassis.modules() {
            let journal =
                module.run("journalctl -b -o short-monotonic --no-pager | tail -n 400", within(60.s()));
            std::fs::write(kept.join(format!("{}.journal", module.name())), journal.unwrap_or_default())
                .unwrap();
            let _ = std::fs::copy(module.console_path(), kept.join(format!("{}.console", module.name())));
        }
        panic!("{error}; consoles and journals are in {}", kept.display());
    });
    for (what, took) in &report.times {
        eprintln!("{what}: {:.1} s", took.as_secs_f64());
    }
    for (program, kib) in &report.memory {
        eprintln!("{program}: {:.1} MiB resident", *kib as f64 / 1024.0);
    }
    let picture = dir.path().join("migration.svg");
    draw(&report, &cluster, &picture).unwrap();
    assert!(std::fs::read_to_string(&picture).unwrap().contains("module-3 isolated"));

    // kill -9 of the server (with module-1's agent), then of an agent alone: no app stops, nothing is lost.
    for slot in [1, 2] {
        let before: Vec<_> = chassis.modules().map(|m| m.run(PROCESSES, within(60.s())).unwrap()).collect();
        let module = chassis.module(slot).unwrap();
        let old = module.run("systemctl show -p MainPID --value spacecloudd", within(60.s())).unwrap();
        module.run("kill -9 $(systemctl show -p MainPID --value spacecloudd)", within(60.s())).unwrap();
        wait_until("spacecloudd is back", within(60.s()), || {
            let new = module.run(
                "systemctl is-active spacecloudd; systemctl show -p MainPID --value spacecloudd",
                within(60.s()),
            );
            new.is_ok_and(|new| new.starts_with("active") && !new.contains(old.trim()))
        })
        .unwrap();
        let ready = |s: &api::v1::Snapshot| all_ready(s, 6) && s.modules.iter().all(|m| m.state == "ready");
        cluster.wait_for("the cluster is whole again", within(120.s()), |_| {}, ready).unwrap();
        let after: Vec<_> = chassis.modules().map(|m| m.run(PROCESSES, within(60.s())).unwrap()).collect();
        assert_eq!(before, after, "an app was restarted by kill -9 of spacecloudd on module-{slot}");
        eprintln!(
            "[{:6.1} s] kill -9 of spacecloudd on module-{slot}: no app stopped",
            powered.elapsed().as_secs_f64()
        );
    }

    // A published port: reachable at the address of the instance's module, from another one.
    cluster.apply(PUBLISHED).unwrap();
    let ready =
        |s: &api::v1::Snapshot| s.instances.iter().any(|i| i.app == "published" && i.phase == "ready");
    cluster.wait_for("the app with a published port is ready", within(120.s()), |_| {}, ready).unwrap();
    let asker = chassis.module(3).unwrap();
    let ask = "busybox wget -q -T 20 -O - http://10.44.0.2:18081/";
    let answers = || asker.run(ask, within(60.s())).is_ok_and(|said| said.contains("app=published"));
    wait_until("the published port answers on module-2's address", within(60.s()), answers).unwrap();
    cluster.delete(vec!["published".to_owned()]).unwrap();
    cluster.wait_for("it is gone", within(60.s()), |_| {}, |s| all_ready(s, 6)).unwrap();

    // An image that is not in the registry: said in one line, everything else keeps running.
    cluster.apply("name = 'nowhere'\nimage = 'registry.spacecloud:5000/no/such:1'\n").unwrap();
    let said = |s: &api::v1::Snapshot| {
        s.instances.iter().any(|i| i.app == "nowhere" && i.message.contains("is not in the registry"))
    };
    let (snapshot, _) =
        cluster.wait_for("the missing image is named", within(120.s()), |_| {}, said).unwrap();
    assert_eq!(snapshot.instances.iter().filter(|i| i.phase == "ready").count(), 6);
}
