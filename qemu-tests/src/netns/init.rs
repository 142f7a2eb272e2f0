//! The first process of a module that is a namespace: it stacks the root, lays the module's identity over it, brings
//! the network up, and keeps the module's programs running. Everything else on the module is its descendant, and
//! ends with it.
//!
//! ```text
//!  board                                 module-init
//!    start ────────────────────────────►  namespaces are made
//!          ◄──────────── {"pid": …} ────
//!    cgroups, cable
//!          ───────────── Charge ────────► root, identity, network
//!          ◄──────────── "up" ──────────  programs
//! ```

use super::cgroups::Hierarchy;
use super::root;
use super::services::Service;
use crate::SimError;
use crate::image::Layers;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// As the units' `RestartSec`.
const RESTART: Duration = Duration::from_millis(100);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a module is told when it gets power.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Charge {
    /// Its slot.
    pub(super) slot: u16,
    /// The image's layers, unpacked.
    pub(super) layers: Layers,
    /// Its folder on the host, with the data disk's content.
    pub(super) place: PathBuf,
    /// The tar that is laid over its root.
    pub(super) identity: PathBuf,
    /// The host's cgroup hierarchies.
    pub(super) hierarchies: Vec<Hierarchy>,
    /// What to run.
    pub(super) services: Vec<Service>,
}

/// The first thing that is said.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// This process as the host numbers it.
    pub(super) pid: i32,
}

/// The last thing that is said.
pub(super) const UP: &str = "up";

/// Becomes a module's first process. Returns only with an error.
pub(crate) fn run() -> Result<std::convert::Infallible, SimError> {
    // The host's /proc is still there: it knows the host's number of this process.
    let own = fs::read_link("/proc/self").map_err(SimError::io("read", "/proc/self"))?;
    let pid = own.to_string_lossy().parse().unwrap_or(0);
    say(&serde_json::to_string(&Hello { pid }).unwrap_or_default())?;
    let charge: Charge = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| SimError::Refused { reason: format!("no charge on standard input: {error}") })?;
    let identity = fs::read(&charge.identity).map_err(SimError::io("read", &charge.identity))?;
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| SimError::io("make a cgroup namespace for", "this module")(errno.into()))?;
    root::enter(&charge)?;
    settle_in(charge.slot, &identity)?;
    network(charge.slot)?;
    let programs = Programs::new(charge.services);
    programs.start_all();
    say(UP)?;
    programs.keep_running()
}

fn say(line: &str) -> Result<(), SimError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(SimError::io("write to", "standard output"))
}

/// Slot, names, and the files of the identity.
fn settle_in(slot: u16, identity: &[u8]) -> Result<(), SimError> {
    let name = format!("module-{slot}");
    let write = |path: &str, text: &str| fs::write(path, text).map_err(SimError::io("write", path));
    fs::create_dir_all("/run/spacecloud").map_err(SimError::io("create", "/run/spacecloud"))?;
    write("/run/spacecloud/slot", &format!("{slot}\n"))?;
    write("/proc/sys/kernel/hostname", &name)?;
    write("/etc/hostname", &format!("{name}\n"))?;
    let id =
        fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(SimError::io("read", "a random id"))?;
    write("/etc/machine-id", &id.replace('-', ""))?;
    // By the root's own tar, so that owners may be given by name.
    feed("tar", &["-x", "-p", "-f", "-", "-C", "/"], identity)
}

fn network(slot: u16) -> Result<(), SimError> {
    for setting in ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
        let path = Path::new("/proc/sys/net").join(setting);
        if path.exists() {
            fs::write(&path, "1").map_err(SimError::io("write", path))?;
        }
    }
    let address = crate::module::address(slot);
    let batch = format!("link set lo up\naddress add {address}/24 dev bp0\nlink set bp0 up\n");
    feed("ip", &["-batch", "-"], batch.as_bytes())
}

/// Runs one of the root's programs with `input` on its standard input.
fn feed(program: &str, arguments: &[&str], input: &[u8]) -> Result<(), SimError> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(SimError::io("start", program))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(SimError::io("write to", program))?;
    }
    let status = child.wait().map_err(SimError::io("wait for", program))?;
    if status.success() {
        return Ok(());
    }
    Err(SimError::Program { program: program.to_owned(), output: format!("{status}; its console says why") })
}

/// The programs by the number of their process.
struct Programs {
    services: Vec<Service>,
    running: Arc<Mutex<BTreeMap<i32, usize>>>,
}

impl Programs {
    fn new(services: Vec<Service>) -> Arc<Self> {
        let there = |service: &Service| service.condition.as_ref().is_none_or(|file| file.exists());
        Arc::new(Self { services: services.into_iter().filter(there).collect(), running: Arc::default() })
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<i32, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_all(&self) {
        for number in 0..self.services.len() {
            self.start(number);
        }
    }

    fn start(&self, number: usize) {
        let Some(service) = self.services.get(number) else { return };
        // Held while the child is made: nobody reaps it before it is known.
        let mut running = self.running();
        match spawn(service) {
            Ok(pid) => drop(running.insert(pid, number)),
            Err(error) => eprintln!("module-init: {} does not start: {error}", service.name),
        }
    }

    /// Reaps whoever ends, and starts the programs again.
    fn keep_running(self: &Arc<Self>) -> ! {
        loop {
            let ended = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => status.pid().map_or(0, Pid::as_raw),
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    std::thread::sleep(RESTART);
                    continue;
                }
            };
            let mut running = self.running();
            // Whoever made a process may have waited for it meanwhile.
            let status = waitpid(Pid::from_raw(ended), Some(WaitPidFlag::WNOHANG));
            let number = running.remove(&ended);
            drop(running);
            let Some(service) = number.and_then(|number| self.services.get(number)) else { continue };
            eprintln!("module-init: {} ended ({status:?}); it is started again", service.name);
            let (all, number) = (Arc::clone(self), number.unwrap_or(usize::MAX));
            std::thread::spawn(move || {
                std::thread::sleep(RESTART);
                all.start(number);
            });
        }
    }
}

fn spawn(service: &Service) -> std::io::Result<i32> {
    let missing = || std::io::Error::other("it names no program");
    let (program, arguments) = service.command.split_first().ok_or_else(missing)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("HOME", "/root").current_dir("/");
    command.envs(service.environment.iter().cloned());
    if let Some((user, state)) = &service.user {
        let (uid, gid) = identity_of(user)?;
        command.uid(uid).gid(gid);
        std::os::unix::fs::chown(state, Some(uid), Some(gid))?;
    }
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn()?;
    drop(command);
    let name = service.name.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            eprintln!("[{}] {name}: {}", clock(), String::from_utf8_lossy(&line));
        }
    });
    i32::try_from(child.id()).map_err(std::io::Error::other)
}

/// From the root's own file: the C library's look-up would load parts of another version of itself.
fn identity_of(user: &str) -> std::io::Result<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd")?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    found.ok_or_else(|| std::io::Error::other(format!("no user {user} in /etc/passwd")))
}

/// Seconds since boot, as a kernel's console shows them.
fn clock() -> String {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or_else(|_| "?".to_owned(), |now| format!("{:6}.{:06}", now.tv_sec(), now.tv_nsec() / 1000))
}
