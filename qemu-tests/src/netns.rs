//! The second backplane: modules that are namespaces of this host, at its own speed. Each has the twin's root file
//! system, processes, network, mounts, host name and cgroups of its own, and runs the real containerd, runc, CNI
//! plugins and our daemons. What it cannot have is a kernel and a disk of its own.
//!
//! ```text
//!  Spawner ── unshare ── module-init (PID 1 of module-N) ── containerd, spacecloudd, guard, space-registry
//!                             │ bp0
//!  Switch (thread) ── bridge ─┘ veth      Ground (threads) ── 127.0.0.1:PORT ──► the module's own 127.0.0.1
//! ```
//!
//! Processes, mounts, interfaces and bridge live in namespaces that no file holds: they end with the process that has
//! the chassis, however that ends. Only empty cgroups and the run directory stay after a crash; the next start sweeps
//! the former.

mod air;
mod board;
mod cgroups;
mod ground;
pub(crate) mod init;
mod root;
mod services;
mod switch;

pub(crate) use board::{Namespaced, Parts};
pub(crate) use cgroups::Cgroups;
pub(crate) use ground::Ground;
pub use services::Software;
pub(crate) use switch::Switch;

use crate::chassis_file::Slot;
use crate::{SimError, host};
use model::Bytes;
use std::process::Command;

/// What this backplane needs of the host: root, and two programs.
pub(crate) fn check() -> Result<(), SimError> {
    if !nix::unistd::geteuid().is_root() {
        let reason =
            "the netns backplane makes namespaces and cgroups: run spacesim as root, or use --backplane qemu";
        return Err(SimError::Refused { reason: reason.to_owned() });
    }
    for (program, package) in [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")] {
        let mut command = Command::new(program);
        host::with_admin_path(&mut command);
        if let Err(error) = command.arg("-V").output() {
            tracing::debug!(program, package, %error, "missing");
            return Err(host::not_started(program, error));
        }
    }
    Ok(())
}

/// What spacecloudd is told on such a module: its timing is the default, and it takes no more of the host's memory
/// than the chassis file gives it. crun does not work where cgroup v1 and v2 are mixed; runc does everywhere.
pub(crate) fn configuration(slot: &Slot) -> Result<String, SimError> {
    if !slot.accelerators.is_empty() {
        let reason = format!("slot {}: accelerators are QEMU's devices; use --backplane qemu", slot.number);
        return Err(SimError::Refused { reason });
    }
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(SimError::io("read", path))?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let reserved = Bytes(total.map_or(0, |kib: u64| kib * 1024).saturating_sub(slot.memory.0));
    let cgroup = cgroups::seen_by_modules()?;
    Ok(format!("[agent]\noci_runtime = \"runc\"\ncgroup = \"{cgroup}\"\nreserved = \"{reserved}\"\n"))
}
