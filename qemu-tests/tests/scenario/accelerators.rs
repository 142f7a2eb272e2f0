//! Accelerators by number on a real PCIe bus (QEMU's `edu` devices), and limits on real cgroups.

use super::*;
use api::v1::{Instance, PlannerTables, Resource};
use spacesim::Accelerator;

/// Numbers against the order of the slots, so that counting devices would find others.
pub(crate) fn fitted() -> Vec<Accelerator> {
    let fit = |(number, pcie_slot)| Accelerator { number, pcie_slot, empty: false };
    [(0, 8), (1, 7), (2, 5), (3, 6)].map(fit).to_vec()
}

const APP: &str = r#"
name = "signal"
image = "registry.spacecloud:5000/demo/web:1"
resources = { cpu = "200m", memory = "64MiB", gpu = 1 }
placement = { modules = ["module-2"] }
health = { tcp = 8080 }
ports = [{ container = 8080 }]
"#;

fn said(module: &Module, command: &str) -> String {
    module.run(command, within(60.s())).unwrap().trim().to_owned()
}

fn line(tables: &PlannerTables, number: u32) -> Resource {
    let name = format!("gpu-{number}");
    let found = tables.resources.iter().find(|r| r.module == "module-2" && r.resource == name);
    found.unwrap_or_else(|| panic!("no line {name} in {:?}", tables.resources)).clone()
}

fn signal(cluster: &Cluster) -> Instance {
    let ready = |s: &Snapshot| s.instances.iter().any(|i| i.app == "signal" && i.phase == "ready");
    let (snapshot, _) = cluster.wait_for("signal is ready", within(300.s()), |_| {}, ready).unwrap();
    snapshot.instances.into_iter().find(|i| i.app == "signal" && i.phase == "ready").unwrap()
}

/// The process of an instance, as the module numbers it.
fn process(module: &Module, instance: &Instance) -> String {
    let command = format!("ctr -n spacecloud tasks ls | awk '$1 == \"{}\" {{ print $2 }}'", instance.id);
    let pid = said(module, &command);
    assert!(pid.parse::<u32>().is_ok(), "{pid:?} is no process of {}", instance.id);
    pid
}

/// The device numbers of the node that the kernel made for what is in a slot.
fn node_in_slot(module: &Module, slot: u8) -> String {
    said(module, &format!("cat /sys/bus/pci/devices/$(cat /sys/bus/pci/slots/{slot}/address).0/uio/uio*/dev"))
}

/// The instance has number 3, which is the device in slot 6: in its environment, among its nodes, and by its cgroup.
fn has_number_three(module: &Module, instance: &Instance) {
    // Beside whole cores, once it was given some.
    assert!(instance.binding.split(", ").any(|part| part == "accelerator 3"), "{}", instance.binding);
    let pid = process(module, instance);
    let env = said(module, &format!("tr '\\0' '\\n' </proc/{pid}/environ"));
    for wanted in ["SPACECLOUD_ACCELERATORS=3", "SPACECLOUD_PCIE_SLOTS=6"] {
        assert!(env.lines().any(|line| line == wanted), "{wanted} is not in {env}");
    }
    let nodes = said(module, &format!("cd /proc/{pid}/root/dev && ls -d uio*"));
    assert_eq!(nodes.lines().count(), 1, "its own node and no other: {nodes}");
    let own = said(module, &format!("stat -c '%Hr:%Lr' /proc/{pid}/root/dev/{nodes}"));
    assert_eq!(own, node_in_slot(module, 6));
    // A shell in the instance's cgroup opens this node; any other is forbidden, whoever made it.
    let opens = |dev: &str| {
        let node = format!("/dev/$(sed -n s/DEVNAME=//p /sys/dev/char/{dev}/uevent)");
        let enter =
            format!("echo $$ >/sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup | tail -n1)/cgroup.procs");
        module.exec(&format!("sh -c '{enter} && : <{node}'"), within(60.s())).unwrap()
    };
    let opened = opens(&own);
    assert_eq!(opened.status, 0, "{}", opened.stdout);
    let others = [8, 5].map(|slot| node_in_slot(module, slot));
    for other in others {
        assert_ne!(other, own);
        assert_ne!(opens(&other).status, 0, "the instance on {own} opened {other}");
    }
}

/// Number 3 is the device in slot 6: at first, and after a reboot that finds another slot empty.
pub(crate) fn keep_their_numbers(chassis: &Chassis, cluster: &Cluster, powered: Instant) {
    let module = chassis.module(2).unwrap();
    let before = cluster.now().instances.len();
    for number in 0..3 {
        let found = line(&cluster.tables().unwrap(), number);
        assert_eq!(
            (found.state.as_str(), found.pcie_slot.parse()),
            ("idle", Ok(fitted()[number as usize].pcie_slot))
        );
        cluster.maintain("module-2", number, true).unwrap();
    }
    cluster.apply(APP).unwrap();
    let first = signal(cluster);
    has_number_three(module, &first);
    say(powered, "number 3 is the device in slot 6, and its instance has no other");

    limits_change_live(module, cluster, &first);
    say(powered, "cores and memory changed while it ran");

    module.take_out([1].into());
    module.power_cycle().unwrap();
    module.wait_ready(within(300.s())).unwrap();
    cluster.wait_for("module-2 is back", within(300.s()), |_| {}, |s| whole(s, before + 1)).unwrap();
    let second = signal(cluster);
    assert_ne!(second.id, first.id, "it was lost with its module");
    has_number_three(module, &second);
    let tables = cluster.tables().unwrap();
    let (missing, own) = (line(&tables, 1), line(&tables, 3));
    assert_eq!((missing.state.as_str(), missing.why.as_str()), ("maintenance", "set by an operator"));
    cluster.maintain("module-2", 1, false).unwrap();
    let missing = line(&cluster.tables().unwrap(), 1);
    assert_eq!((missing.state.as_str(), missing.why.as_str()), ("maintenance", "no device in PCIe slot 7"));
    assert_eq!((own.state.as_str(), own.holders), ("occupied", vec![second.id.clone()]));
    say(powered, "after a reboot with slot 7 empty, number 3 is still the device in slot 6");

    for number in [0, 2] {
        cluster.maintain("module-2", number, false).unwrap();
    }
    cluster.delete(vec!["signal".to_owned()]).unwrap();
    cluster.wait_for("it is gone", within(120.s()), |_| {}, |s| whole(s, before)).unwrap();
    let tables = cluster.tables().unwrap();
    let runs: Vec<&str> =
        tables.history.iter().filter(|r| r.code == "signal/1").map(|r| r.outcome.as_str()).collect();
    assert_eq!(runs, ["lost", "succeeded"]);
}

fn limits_change_live(module: &Module, cluster: &Cluster, instance: &Instance) {
    let pid = process(module, instance);
    let limit = |file: &str| {
        said(module, &format!("cat /sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup | tail -n1)/{file}"))
    };
    assert_eq!((limit("cpuset.cpus"), limit("memory.max")), (String::new(), (64 << 20).to_string()));
    cluster.resize("signal", "1", "96MiB").unwrap();
    wait_until("its cgroup has the new limits", within(60.s()), || {
        limit("cpuset.cpus") == "0" && limit("memory.max") == (96 << 20).to_string()
    })
    .unwrap();
    assert_eq!(process(module, instance), pid, "it was not restarted");
}
