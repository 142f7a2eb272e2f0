//! Accelerators, tasks and limits over the real server and agents. The PCIe bus is a directory.

use super::*;
use model::{Outcome, Record};
use runtime::AcceleratorSlot;
use std::fs;
use store::{Sqlite, Store};

/// Slots 5, 6, 7 … with a device in each, one for each number from 0 on.
fn bus(dir: &Path, devices: u32) {
    for number in 0..devices {
        let slot = number + 5;
        let pci = dir.join("bus/pci");
        fs::create_dir_all(pci.join(format!("slots/{slot}"))).unwrap();
        fs::write(pci.join(format!("slots/{slot}/address")), format!("0000:{slot:02x}:00\n")).unwrap();
        fs::create_dir_all(device(dir, number)).unwrap();
    }
}

fn device(dir: &Path, number: u32) -> std::path::PathBuf {
    dir.join(format!("bus/pci/devices/0000:{:02x}:00.0", number + 5))
}

impl Cluster {
    /// Modules with that many accelerators each.
    async fn with_accelerators(counts: &[u32]) -> Self {
        let mut cluster = Self::start(0).await;
        let token = cluster.server_config.state.join("token");
        for (slot, devices) in (1..).zip(counts) {
            let sysfs = cluster.sysfs(slot);
            bus(&sysfs, *devices);
            let map = (0..*devices).map(|number| AcceleratorSlot {
                number,
                pcie_slot: (number + 5).to_string(),
                driver: None,
            });
            let address = &cluster.server_config.server;
            let port = |a: &str| a.rsplit(':').next().unwrap().parse().unwrap();
            let mut config =
                config(cluster.dir.path(), slot, port(&address.listen), port(&address.http), &token);
            (config.agent.accelerators, config.agent.sysfs) = (map.collect(), sysfs);
            let runtime = Arc::new(FakeRuntime::default());
            let shared = runtime.clone();
            let task = tokio::spawn(async move { agent::run_on(config, shared).await.unwrap() });
            cluster.agents.insert(slot, (runtime, task));
        }
        let all = counts.len();
        cluster
            .until("all modules ready", |s| s.modules.iter().filter(|m| m.state == "ready").count() == all)
            .await;
        cluster
    }

    fn sysfs(&self, slot: u16) -> std::path::PathBuf {
        self.dir.path().join(format!("sys-{slot}"))
    }

    async fn tables(&self) -> v1::PlannerTables {
        self.client().await.tables(v1::GetRequest {}).await.unwrap().into_inner()
    }

    /// Waits for a condition on the planner's tables, with a bound.
    async fn until_tables(&self, what: &str, test: impl Fn(&v1::PlannerTables) -> bool) -> v1::PlannerTables {
        let mut last = v1::PlannerTables::default();
        let mut client = self.client().await;
        for _ in 0..600 {
            last = client.tables(v1::GetRequest {}).await.unwrap().into_inner();
            if test(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{what} did not come true: {last:#?}");
    }

    async fn maintain(&self, module: &str, number: u32, maintenance: bool) -> Result<Vec<String>, String> {
        let request = v1::MaintainRequest { module: module.into(), number, maintenance };
        let answer = self.client().await.maintain(request).await;
        answer.map(|done| done.into_inner().lines).map_err(|refused| refused.message().to_owned())
    }

    /// What the module's container engine was given for the one instance that runs there.
    fn given(&self, slot: u16) -> model::Desired {
        let runtime = &self.agents[&slot].0;
        let running = runtime.running();
        assert_eq!(running.len(), 1, "{running:?}");
        runtime.given(&running[0]).unwrap()
    }
}

fn line<'a>(tables: &'a v1::PlannerTables, module: &str, resource: &str) -> &'a v1::Resource {
    let found = tables.resources.iter().find(|r| r.module == module && r.resource == resource);
    found.unwrap_or_else(|| panic!("no line {module}/{resource} in {:#?}", tables.resources))
}

const GPU: &str = "name='g'\nimage='registry.spacecloud:5000/demo:1'\nresources={ gpu = 2 }\n";

#[tokio::test(flavor = "multi_thread")]
async fn accelerators_go_by_number_and_leave_maintenance_and_lost_devices() {
    let cluster = Cluster::with_accelerators(&[4, 1]).await;
    cluster.apply(GPU).await.unwrap();
    let snapshot = cluster.until("ready", all_ready(1)).await;
    assert_eq!(
        (snapshot.instances[0].module.as_str(), snapshot.instances[0].binding.as_str()),
        ("module-1", "accelerators 0 1")
    );
    assert_eq!(cluster.given(1).binding.numbers().collect::<Vec<_>>(), [0, 1]);
    let tables = cluster.tables().await;
    let first = line(&tables, "module-1", "gpu-1");
    assert_eq!((first.state.as_str(), first.pcie_slot.as_str()), ("occupied", "6"));
    assert_eq!(first.holders, [snapshot.instances[0].id.clone()]);
    assert_eq!(line(&tables, "module-1", "gpu-2").state, "idle");

    // An operator takes number 1: what runs there moves to others, and number 1 is given to nobody.
    assert_eq!(
        cluster.maintain("module-1", 1, true).await.unwrap(),
        ["accelerator 1 of module-1 in maintenance"]
    );
    assert_eq!(
        cluster.maintain("module-1", 1, true).await.unwrap(),
        ["accelerator 1 of module-1 in maintenance already"]
    );
    let moved = |s: &v1::Snapshot| all_ready(1)(s) && s.instances[0].binding == "accelerators 2 3";
    cluster.until("it has other accelerators", moved).await;
    let tables = cluster.tables().await;
    assert_eq!(line(&tables, "module-1", "gpu-1").state, "maintenance");
    assert_eq!(line(&tables, "module-1", "gpu-1").why, "set by an operator");
    assert_eq!(line(&tables, "module-1", "gpu-0").state, "idle");

    // The device of number 3 dies: its instance leaves it, and number 0 and 2 are used all the same.
    fs::remove_dir(device(&cluster.sysfs(1), 3)).unwrap();
    let moved = |s: &v1::Snapshot| all_ready(1)(s) && s.instances[0].binding == "accelerators 0 2";
    cluster.until("it has left the lost device", moved).await;
    let tables = cluster.tables().await;
    assert_eq!(line(&tables, "module-1", "gpu-3").why, "no device in PCIe slot 8");
    assert_eq!(line(&tables, "module-2", "gpu-0").state, "idle");

    let refused = cluster.maintain("module-1", 9, true).await.unwrap_err();
    assert_eq!(refused, "module-1 has no accelerator 9; `spacectl get resources` lists them");
    assert!(cluster.maintain("module-9", 0, true).await.unwrap_err().contains("no module module-9"));
    // A fifth one is not there, and it is said what would have to change.
    cluster.apply(&GPU.replace("name='g'", "name='h'")).await.unwrap();
    let pending = |s: &v1::Snapshot| s.instances.iter().any(|i| i.app == "h" && i.phase == "pending");
    let snapshot = cluster.until("it waits", pending).await;
    let waiting = snapshot.instances.iter().find(|i| i.app == "h").unwrap();
    let remedies = &waiting.decision.as_ref().unwrap().remedies;
    assert!(
        remedies.iter().any(|r| r == "module-1 takes it when 2 more of its accelerators idle"),
        "{remedies:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_in_their_windows_and_leave_history() {
    let mut cluster = Cluster::with_accelerators(&[2, 2]).await;
    let task = |name: &str, more: &str| {
        format!(
            "[[task]]\nname='{name}'\nimage='registry.spacecloud:5000/demo:1'\nresources={{ cpu = 1, gpu = 2 }}\n{more}\n"
        )
    };
    // Three at a time do not fit on two modules: all are refused, and it is said which, what and when.
    let three = ["a", "b", "c"].map(|name| task(name, "start='+1h'\nend='+2h'")).concat();
    let refused = cluster.apply(&three).await.unwrap_err().message().to_owned();
    assert!(refused.starts_with("task c (") && !refused.contains('\n'), "{refused}");
    assert!(
        refused.contains("module-1: accelerators: asks 2, idle 0 of 2 at ")
            && refused.contains("taken by task a"),
        "{refused}"
    );
    assert!(cluster.tables().await.tasks.is_empty(), "all or none");
    let circle = task("a", "duration='1s'\nafter=['b']") + &task("b", "duration='1s'\nafter=['a']");
    assert!(cluster.apply(&circle).await.unwrap_err().message().contains("in a circle"));

    let set =
        task("a", "duration='4s'") + &task("b", "duration='60s'\nafter=['a']") + &task("c", "duration='60s'");
    let done = cluster.apply(&set).await.unwrap();
    assert!(done.lines[0].contains("on module-1 (accelerators 0 1, core 0)"), "{:?}", done.lines);
    let state = |tables: &v1::PlannerTables, name: &str| {
        tables.tasks.iter().find(|t| t.name == name).map(|t| t.state.clone()).unwrap_or_default()
    };
    let begun = |t: &v1::PlannerTables| ["running", "succeeded"].contains(&state(t, "a").as_str());
    cluster.until_tables("a has begun, and c runs", |t| begun(t) && state(t, "c") == "running").await;
    let tables = cluster.until_tables("a has ended on time", |t| state(t, "a") == "succeeded").await;
    let a = tables.tasks.iter().find(|t| t.name == "a").unwrap();
    assert!(a.ended >= a.end && a.started >= a.start, "{a:?}");
    cluster.until_tables("b has begun", |t| state(t, "b") == "running").await;

    // b does its work and exits with 0 long before its end.
    let id = loop {
        let found = cluster.agents.values().find_map(|(r, _)| {
            r.running().into_iter().find(|id| id.replica().app.as_str() == "b").map(|id| (r.clone(), id))
        });
        if let Some(found) = found {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    id.0.exit(&id.1, 0);
    let tables = cluster.until_tables("b has succeeded", |t| state(t, "b") == "succeeded").await;
    let of_b: Vec<&v1::Run> = tables.history.iter().filter(|r| r.code == "b").collect();
    assert_eq!(of_b.iter().map(|r| r.outcome.as_str()).collect::<Vec<_>>(), ["succeeded"]);
    let success = tables.device_queue.iter().find(|s| s.code == "b").unwrap();
    assert_eq!(success.combination.as_ref().unwrap().accelerators, [0, 1]);
    cluster
        .until_tables("its accelerators are free again", |t| {
            line(t, &success.combination.as_ref().unwrap().module, "gpu-0").state == "idle"
        })
        .await;

    // All of it is in the store.
    cluster.server.take().unwrap().stop();
    let records = Sqlite::open(&cluster.server_config.state.join("state.db")).unwrap().load().unwrap();
    assert!(records.iter().any(|r| matches!(r, Record::Success(s) if s.code == "b")));
    assert!(
        records
            .iter()
            .any(|r| matches!(r, Record::Run(r) if r.code == "a" && r.outcome == Outcome::Succeeded))
    );
    assert!(records.iter().any(|r| matches!(r, Record::Plan(p) if p.task.as_str() == "c")));
    assert!(records.iter().any(|r| matches!(r, Record::Resource(r) if r.key() == "module-1/gpu-0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_the_instance_runs() {
    let cluster = Cluster::start(1).await;
    let app =
        "name='a'\nimage='registry.spacecloud:5000/demo:1'\nresources={ cpu = '100m', memory = '16MiB' }\n";
    cluster.apply(app).await.unwrap();
    cluster.until("ready", all_ready(1)).await;
    let request = |cpu: &str, memory: &str| v1::ResizeRequest {
        app: "a".into(),
        cpu: cpu.into(),
        memory: memory.into(),
        disk: String::new(),
    };
    let mut client = cluster.client().await;
    client.resize(request("1", "32MiB")).await.unwrap();
    let runtime = cluster.agents[&1].0.clone();
    let id = runtime.running()[0].clone();
    for _ in 0..600 {
        if !runtime.given(&id).unwrap().binding.cores.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let given = runtime.given(&id).unwrap();
    assert_eq!(
        (given.spec.resources.memory.to_string().as_str(), given.binding.cores.first()),
        ("32MiB", Some(&0))
    );
    assert_eq!(runtime.starts(&id), 1, "it was not restarted");
    let refused = client.resize(request("", "90TiB")).await.unwrap_err();
    assert!(refused.message().contains("a/1: module-1: memory: asks 90TiB"), "{refused}");
    for (cpu, memory, word) in [("-1", "", "is no amount"), ("", "64", "is no amount of bytes")] {
        let refused = client.resize(request(cpu, memory)).await.unwrap_err();
        assert!(refused.message().contains(word), "{refused}");
    }
    assert_eq!(runtime.given(&id).unwrap().spec.resources.memory.to_string(), "32MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_outgrows_its_disk_is_stopped_for_that_reason_and_started_anew() {
    let cluster = Cluster::start(1).await;
    cluster
        .apply("name='d'\nimage='registry.spacecloud:5000/demo:1'\nresources={ disk = '100MiB' }\n")
        .await
        .unwrap();
    cluster.until("it runs", all_ready(1)).await;
    let runtime = cluster.agents[&1].0.clone();
    let id = runtime.running()[0].clone();
    runtime.write(&id, 150 << 20);
    let told = "stopped: disk: it has written 150MiB, its resources.disk is 100MiB";
    let stopped = |s: &v1::Snapshot| s.instances.iter().any(|i| i.message == told);
    cluster.until("it is stopped and says why", stopped).await;
    // What it had written is gone with its file system.
    cluster.until("it runs again", |s| all_ready(1)(s) && s.instances[0].restarts == 1).await;
    assert_eq!(runtime.starts(&id), 2);
    // With more room of its own it may write more: the limit that counts is the one at the time.
    let resize = v1::ResizeRequest { app: "d".into(), disk: "200MiB".into(), ..Default::default() };
    cluster.client().await.resize(resize).await.unwrap();
    cluster
        .until("the new limit is known", |_| {
            runtime.given(&id).is_some_and(|d| d.spec.resources.disk == model::Bytes(200 << 20))
        })
        .await;
    runtime.write(&id, 250 << 20);
    let told = "stopped: disk: it has written 250MiB, its resources.disk is 200MiB";
    let stopped = |s: &v1::Snapshot| s.instances.iter().any(|i| i.message == told);
    cluster.until("it is stopped once more", stopped).await;
}
