//! The host tool with real QEMU processes, whose virtual processors are halted: no image is needed, and it is quick.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spacesim::{Times, wait_until, within};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TWO: &str = r#"
name = "two"
[[slot]]
number = 1
kind = "compute"
memory = "512MiB"
disk = "64MiB"
roles = ["server", "agent"]
[[slot]]
number = 4
kind = "compute"
memory = "512MiB"
disk = "64MiB"
accelerators = [{ number = 0, pcie_slot = 5 }, { number = 1, pcie_slot = 15 }]
"#;

/// A folder of its own for each test; what is up in it is taken down with it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sim").tempdir().unwrap();
        fs::write(folder.path().join("two.toml"), TWO).unwrap();
        let image = folder.path().join("image");
        fs::create_dir(&image).unwrap();
        fs::write(image.join("vmlinux"), no_kernel()).unwrap();
        for name in ["initrd", "base.erofs", "programs.erofs"] {
            fs::write(image.join(name), [0; 4096]).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spacesim"));
        command.arg("--dir").arg(self.run_dir()).args(arguments).env_remove("SPACECLOUD_RUN");
        command
    }

    fn spacesim(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn up(&self, chassis: &str) -> Output {
        let (chassis, image) = (self.path(chassis), self.path("image"));
        let words =
            ["--chassis", chassis.to_str().unwrap(), "up", "--paused", "--image", image.to_str().unwrap()];
        self.spacesim(&words)
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&done(self.spacesim(&["status", "-o", "json"])).stdout).unwrap()
    }

    fn supervisor(&self) -> i32 {
        self.status()["supervisor"].as_i64().unwrap().try_into().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if spacesim::is_taken(&self.run_dir()) {
            let _ = self.command(&["down"]).output();
        }
    }
}

/// Has the header of a bzImage, which QEMU loads, and nothing to run, which it is not told to.
fn no_kernel() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[0x1f1] = 1;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20c_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    bytes
}

fn done(output: Output) -> Output {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// It failed with this code, and one line that contains these words.
fn refused(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("spacesim: ")).collect();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(errors.len() == 1 && errors[0].contains(words), "{said:?} lacks {words:?}");
}

/// QEMU processes whose parent is `parent`.
fn qemus_of(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| stat(*pid).is_some_and(|(name, of)| of == parent && name.starts_with("qemu")))
        .collect()
}

/// Name and parent of a process that is not a zombie.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let mut words = tail.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (state != "Z")
        .then(|| (head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default(), parent))
}

fn all_gone(pids: &[i32]) {
    wait_until("every QEMU is gone", within(20.s()), || pids.iter().all(|pid| stat(*pid).is_none())).unwrap();
}

#[test]
fn a_chassis_goes_up_obeys_and_goes_down_without_a_trace() {
    let bench = Bench::new();
    done(bench.up("two.toml"));
    let status = bench.status();
    let supervisor = bench.supervisor();
    let qemus = qemus_of(supervisor);
    assert_eq!(qemus.len(), 2);
    assert_eq!(status["modules"][1]["slot"], 4);
    assert_eq!(status["modules"][1]["state"], "prelaunch");
    assert_eq!(status["modules"][1]["address"], "10.44.0.4");
    let ports = |n: usize| {
        ["grpc", "http", "registry"].map(|key| status["modules"][n]["ground"][key].as_u64().unwrap())
    };
    let all: std::collections::BTreeSet<u64> = ports(0).into_iter().chain(ports(1)).collect();
    assert_eq!(all.len(), 6, "no two modules share a port");
    assert!(bench.path("run/operator/spacectl.toml").is_file());

    refused(&bench.up("two.toml"), 1, "a chassis is already up in");
    done(bench.spacesim(&["isolate", "4"]));
    assert_eq!(bench.status()["modules"][1]["link"], "isolated");
    done(bench.spacesim(&["isolate", "4", "--cable"]));
    assert_eq!(bench.status()["modules"][1]["link"], "unplugged");
    done(bench.spacesim(&["rejoin", "4"]));
    assert_eq!(bench.status()["modules"][1]["link"], "joined");
    refused(&bench.spacesim(&["isolate", "2"]), 1, "slot 2 is empty; modules are in 1, 4");
    refused(&bench.spacesim(&["power", "on", "4"]), 1, "module-4 is on already");
    done(bench.spacesim(&["power", "off", "4"]));
    assert_eq!(bench.status()["modules"][1]["state"], "off");
    assert_eq!(qemus_of(supervisor).len(), 1);
    refused(&bench.spacesim(&["power", "off", "4"]), 1, "module-4 is off");
    refused(&bench.spacesim(&["console", "4", "--exec", "true"]), 1, "module-4 is off");
    done(bench.spacesim(&["power", "on", "4"]));
    done(bench.spacesim(&["power", "cycle", "1"]));
    let table = String::from_utf8(done(bench.spacesim(&["status"])).stdout).unwrap();
    assert!(table.contains("module-4") && table.contains("prelaunch"), "{table}");

    let qemus = [qemus, qemus_of(supervisor)].concat();
    done(bench.spacesim(&["down"]));
    all_gone(&qemus);
    assert!(stat(supervisor).is_none());
    done(bench.spacesim(&["console", "4"]));
    let mut left: Vec<_> = fs::read_dir(bench.run_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["console", "lock", "operator", "spacesim.log"]);
    refused(&bench.spacesim(&["status"]), 2, "no chassis is up in");
}

#[test]
fn a_supervisor_that_is_killed_takes_every_qemu_with_it() {
    let bench = Bench::new();
    done(bench.up("two.toml"));
    let supervisor = bench.supervisor();
    let qemus = qemus_of(supervisor);
    assert_eq!(qemus.len(), 2);
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    all_gone(&[qemus, vec![supervisor]].concat());
    // Its sockets and its lock go with its last thread, after its own number is gone.
    wait_until("its lock is free", within(20.s()), || !spacesim::is_taken(&bench.run_dir())).unwrap();
    refused(&bench.spacesim(&["status"]), 2, "no chassis is up in");
    // What it left in the directory is in nobody's way.
    done(bench.up("two.toml"));
    assert_eq!(qemus_of(bench.supervisor()).len(), 2);
}

#[test]
fn a_signal_takes_the_chassis_down_in_order() {
    let bench = Bench::new();
    done(bench.up("two.toml"));
    let supervisor = bench.supervisor();
    let qemus = qemus_of(supervisor);
    kill(Pid::from_raw(supervisor), Signal::SIGTERM).unwrap();
    all_gone(&[qemus, vec![supervisor]].concat());
    // The lock goes with its last thread, after its own number is gone.
    wait_until("its lock is free", within(20.s()), || !spacesim::is_taken(&bench.run_dir())).unwrap();
    assert!(!spacesim::supervisor_socket(&bench.run_dir()).exists());
}

#[test]
fn a_qemu_that_ends_by_itself_is_seen_and_can_be_turned_on_again() {
    let bench = Bench::new();
    done(bench.up("two.toml"));
    let one = qemus_of(bench.supervisor())[0];
    kill(Pid::from_raw(one), Signal::SIGKILL).unwrap();
    let dead = |status: &Value| {
        status["modules"].as_array().unwrap().iter().position(|module| module["state"] == "dead")
    };
    let mut found = None;
    wait_until("a module is seen dead", within(20.s()), || {
        found = dead(&bench.status());
        found.is_some()
    })
    .unwrap();
    let slot = bench.status()["modules"][found.unwrap()]["slot"].to_string();
    done(bench.spacesim(&["power", "on", &slot]));
    assert_eq!(dead(&bench.status()), None);
}

#[test]
fn a_boot_that_cannot_start_leaves_nothing_behind() {
    let bench = Bench::new();
    fs::write(bench.path("image/vmlinux"), "this is no kernel").unwrap();
    let output = bench.up("two.toml");
    refused(&output, 1, "QEMU ended");
    wait_until("its lock is free", within(20.s()), || !spacesim::is_taken(&bench.run_dir())).unwrap();
}

#[test]
fn each_mistake_gets_one_line_and_its_exit_code() {
    let bench = Bench::new();
    refused(&bench.spacesim(&["status"]), 2, "no chassis is up in");
    refused(&bench.spacesim(&["down"]), 2, "start one with `spacesim up`");
    fs::write(bench.path("twice.toml"), TWO.replace("number = 4", "number = 1")).unwrap();
    refused(&bench.up("twice.toml"), 78, "twice.toml: slot.number = 1: two modules in one slot");
    refused(&bench.up("absent.toml"), 78, "absent.toml: cannot be read");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(bench.path("port.toml"), format!("{TWO}ground = {{ grpc = {port} }}\n")).unwrap();
    refused(&bench.up("port.toml"), 78, "slot 4: ground.grpc = ");
    fs::remove_file(bench.path("image/base.erofs")).unwrap();
    refused(&bench.up("two.toml"), 1, "base.erofs is missing; build the image");

    let mut without_qemu = bench.command(&["up"]);
    refused(
        &without_qemu.env("PATH", "/nowhere").output().unwrap(),
        1,
        "qemu-system-x86_64 is not installed on this host",
    );
    let long = Path::new("/tmp").join("d".repeat(120));
    let output =
        Command::new(env!("CARGO_BIN_EXE_spacesim")).arg("--dir").arg(&long).arg("up").output().unwrap();
    refused(&output, 1, "too long for a unix socket");
    assert_eq!(bench.spacesim(&["fly"]).status.code(), Some(64));
    assert_eq!(bench.spacesim(&["power", "maybe", "1"]).status.code(), Some(64));
    assert!(bench.spacesim(&["--help"]).status.success() && bench.spacesim(&["--version"]).status.success());
}

/// As a user who is neither root nor has subordinate ids: which `nobody` is, and whoever runs this may be.
#[test]
fn a_user_who_may_not_make_an_image_is_told_what_to_do() {
    let bench = Bench::new();
    let (program, home) = (bench.path("spacesim"), bench.path("home"));
    fs::copy(env!("CARGO_BIN_EXE_spacesim"), &program).unwrap();
    fs::create_dir(&home).unwrap();
    for name in ["spacecloudd", "space-registry", "spacectl"] {
        fs::write(home.join(name), "stands for a program that is built").unwrap();
    }
    for open in [bench.folder.path(), &home] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(["image", "build"]);
    command.env("HOME", &home).env("SPACECLOUD_CACHE", home.join("cache")).env("SPACECLOUD_PROGRAMS", &home);
    let output = command.output().unwrap();
    refused(&output, 1, "run it with sudo");
}
