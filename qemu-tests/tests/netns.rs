//! The second backplane: modules that are namespaces of this host run the same scenario as emulated ones, answer the
//! same verbs, and leave nothing behind, not even after a crash of spacesim. Needs root, as namespaces do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ground;

use ground::Ground;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spacesim::{BackplaneKind, Link, Power, Times, scenario::Note, twin, wait_until, within};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// One chassis at a time: the figures that are printed are those of one.
static ONE: Mutex<()> = Mutex::new(());

#[test]
fn the_scenario_runs_on_namespaces() {
    let _one = ONE.lock();
    let ground = Ground::new(ground::three(), BackplaneKind::Netns);
    let mut unchecked = Vec::new();
    let scenario = ground.begin(|note| {
        if let Note::Unchecked(text) = note {
            unchecked.push(text);
        }
    });
    let (report, cluster) = scenario.run().unwrap_or_else(|error| panic!("{}", error.one_line()));
    for (what, took) in &report.times {
        eprintln!("{what}: {:.2} s", took.as_secs_f64());
    }
    ground.draw(&report, &cluster);
    let expected = ["a namespace has the host's kernel", "Docker beside us", "a client that stays connected"];
    assert!(
        unchecked.len() == expected.len() && expected.iter().zip(&unchecked).all(|(e, u)| u.starts_with(e)),
        "a real-time kernel, Docker and sockets that criu carries, and nothing else: {unchecked:?}"
    );
}

#[test]
fn a_module_is_cut_unplugged_frozen_and_power_cycled() {
    let _one = ONE.lock();
    let ground = Ground::new(ground::three(), BackplaneKind::Netns);
    let chassis = &ground.chassis;
    chassis.wait_ready(within(60.s()), &|_| {}).unwrap();
    let (first, second) = (chassis.module(1).unwrap(), chassis.module(2).unwrap());
    let reaches =
        || first.run("ping -c 1 -W 1 10.44.0.2 || busybox ping -c 1 -W 1 10.44.0.2", within(20.s()));
    let carrier = || second.run("cat /sys/class/net/bp0/carrier", within(20.s())).unwrap().trim().to_owned();
    let joined = || wait_until("they reach each other", within(30.s()), || reaches().is_ok()).unwrap();

    assert_eq!(first.run("cat /etc/hostname; hostname", within(20.s())).unwrap(), "module-1\nmodule-1\n");
    assert_eq!(first.run("cat /proc/1/comm", within(20.s())).unwrap(), "spacesim\n");
    // None of the host's interfaces: the backplane's, and sc0, which is the instances' bridge, once the agent has made it.
    let interfaces = first.run("ls /sys/class/net", within(20.s())).unwrap();
    assert!(["bp0\nlo\n", "bp0\nlo\nsc0\n"].contains(&interfaces.as_str()), "{interfaces}");
    joined();
    second.isolate().unwrap();
    assert!(reaches().is_err());
    assert_eq!((second.link(), carrier().as_str()), (Link::Isolated, "1"), "it does not see why");
    second.rejoin().unwrap();
    joined();
    second.unplug().unwrap();
    assert!(reaches().is_err());
    assert_eq!((second.link(), carrier().as_str()), (Link::Unplugged, "0"), "it sees the cable go");
    second.rejoin().unwrap();
    joined();
    assert!(second.counters().sent > 0 && second.counters().received > 0);

    second.freeze().unwrap();
    assert!(matches!(second.status(), Power::On { state, .. } if state == "paused"));
    second.thaw().unwrap();
    joined();

    second.run("echo kept >/var/lib/spacecloud/word; echo lost >/etc/word", within(20.s())).unwrap();
    second.power_cycle().unwrap();
    second.wait_ready(within(60.s())).unwrap();
    assert_eq!(second.run("cat /var/lib/spacecloud/word", within(20.s())).unwrap(), "kept\n");
    assert!(second.run("cat /etc/word", within(20.s())).is_err(), "the root is written to memory only");
    joined();
    second.power_off().unwrap();
    assert_eq!(second.status(), Power::Off);
    assert!(second.exec("true", within(5.s())).is_err());
}

/// What belongs to a run directory and is still there: processes, mounts; and cgroups of `owner`.
fn left(dir: &Path, owner: u64) -> Vec<String> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let of_a_module = |text: String| text.contains(&format!("/spacesim-{owner}-"));
        if std::fs::read_to_string(path.join("cgroup")).is_ok_and(of_a_module) {
            found.push(path.display().to_string());
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).map(str::to_owned));
    found
}

fn cgroups_of(owner: u64) -> Vec<String> {
    let find = format!("find /sys/fs/cgroup -maxdepth 2 -name 'spacesim-{owner}-*'");
    let output = Command::new("sh").args(["-c", &find]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_crash_leaves_nothing_that_runs_and_the_next_start_sweeps_the_rest() {
    let _one = ONE.lock();
    twin::ensure(&mut |_| {}).unwrap();
    let dir = tempfile::Builder::new().prefix("crash-").tempdir().unwrap();
    let run = dir.path().join("run");
    let spacesim = |verbs: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spacesim"));
        command.args(["--backplane", "netns", "--dir"]).arg(&run).args(verbs);
        command.env("SPACECLOUD_PROGRAMS", twin::programs_folder().unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let supervisor = || {
        let status: Value = serde_json::from_str(&spacesim(&["status", "-o", "json"])).unwrap();
        assert!(status["modules"].as_array().unwrap().iter().all(|module| module["state"] == "ready"));
        status["supervisor"].as_u64().unwrap()
    };
    spacesim(&["up"]);
    let owner = supervisor();
    assert!(!left(&run, owner).is_empty() && !cgroups_of(owner).is_empty(), "the test sees what is there");
    kill(Pid::from_raw(i32::try_from(owner).unwrap()), Signal::SIGKILL).unwrap();
    wait_until("all that the chassis ran is gone", within(30.s()), || left(&run, owner).is_empty()).unwrap();

    spacesim(&["up"]);
    assert_eq!(cgroups_of(owner), Vec::<String>::new(), "what the crash has left was swept");
    let next = supervisor();
    spacesim(&["down"]);
    assert!(
        left(&run, next).is_empty() && cgroups_of(next).is_empty(),
        "a chassis that ends in order cleans up"
    );
}
