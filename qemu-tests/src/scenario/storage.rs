//! What makes one module the storage module, and tells the others of it.

use crate::{BackplaneKind, Provision, Role, SimError, Slot};

/// Programs of an agent: a storage module that is nothing else runs none of them.
const AGENT: [&str; 3] = ["containerd", "spacecloudd", "spacecloud-guard"];

pub(super) fn provide(
    mut provision: Provision,
    slot: &Slot,
    storage: &Slot,
    backplane: BackplaneKind,
) -> Result<Provision, SimError> {
    if backplane == BackplaneKind::Netns {
        let reason =
            "a storage module needs a kernel of its own; use --backplane qemu, or a chassis without one";
        return Err(SimError::Refused { reason: reason.to_owned() });
    }
    if slot.number == storage.number {
        provision = provision.file("/etc/spacecloud/storage.enabled", 0o644, "");
    }
    if !slot.roles.contains(&Role::Agent) {
        let never = "[Unit]\nConditionPathExists=/etc/spacecloud/agent.enabled\n";
        for unit in AGENT {
            let file = format!("/etc/systemd/system/{unit}.service.d/90-no-agent.conf");
            provision = provision.file(&file, 0o644, never);
        }
        return Ok(provision);
    }
    // Emulation without KVM is some ten times slower than a board.
    let told = format!("[storage]\nserver = \"10.44.0.{}\"\nlimit = \"60s\"\n", storage.number);
    Ok(provision.file("/etc/spacecloud/spacecloud.toml.d/30-storage.toml", 0o644, told))
}
