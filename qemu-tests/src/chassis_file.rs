//! The chassis file: which module sits in which slot, and what it has. TOML, checked as a whole before anything starts.

use crate::SimError;
use model::Bytes;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A backplane has no more slots than this (VITA 46 chassis go up to 21; MAC and address plans here end at 16).
pub const MAX_SLOTS: u16 = 16;
/// PCIe slots are numbered 1 to this; each has a fixed address on the root bus.
pub const MAX_PCIE_SLOT: u8 = 15;

/// One chassis.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChassisFile {
    /// Names the run directory; a DNS label.
    pub name: String,
    /// The modules.
    #[serde(rename = "slot", default)]
    pub slots: Vec<Slot>,
}

/// A module in its slot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its number on the backplane, 1 to [`MAX_SLOTS`].
    pub number: u16,
    /// What kind of module it is.
    pub kind: Kind,
    /// Memory. The twin needs 512 MiB.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Cores, 1 to 16.
    #[serde(default = "default_cores")]
    pub cores: u8,
    /// Its data disk (`/var/lib/…`); sparse on the host.
    #[serde(default = "default_disk")]
    pub disk: Bytes,
    /// Numbered PCIe devices.
    #[serde(default)]
    pub accelerators: Vec<Accelerator>,
    /// What it does in the cluster. The simulator hands them on.
    #[serde(default = "default_roles")]
    pub roles: BTreeSet<Role>,
    /// Labels for placement. The simulator hands them on.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Fixed ports of the ground link on 127.0.0.1; those left out are chosen free.
    #[serde(default)]
    pub ground: FixedPorts,
}

/// Kinds of modules. Only compute modules are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A computer that runs instances.
    Compute,
}

/// Which of the programs a module runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// spacecloudd decides here.
    Server,
    /// spacecloudd runs instances here.
    Agent,
    /// space-registry is here.
    Registry,
    /// It exports the chassis's volumes; without the role of an agent it does nothing else.
    Storage,
}

/// A PCIe device (QEMU's `edu`, vendor 1234, device 11e8) in a fixed slot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// Its logical number.
    pub number: u32,
    /// The PCIe slot, 1 to [`MAX_PCIE_SLOT`]; listed under `/sys/bus/pci/slots`.
    pub pcie_slot: u8,
    /// The slot is there and nothing is in it.
    #[serde(default)]
    pub empty: bool,
}

/// Ports on 127.0.0.1 that the chassis file fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedPorts {
    /// To the module's 7440.
    pub grpc: Option<u16>,
    /// To the module's 7480.
    pub http: Option<u16>,
    /// To the module's 5000.
    pub registry: Option<u16>,
}

fn default_memory() -> Bytes {
    Bytes(1 << 30)
}
fn default_cores() -> u8 {
    2
}
fn default_disk() -> Bytes {
    Bytes(4 << 30)
}
fn default_roles() -> BTreeSet<Role> {
    BTreeSet::from([Role::Agent])
}

impl ChassisFile {
    /// Reads and checks a chassis file.
    pub fn load(file: &Path) -> Result<Self, SimError> {
        let broken = |problem: String| SimError::ChassisFile { file: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| {
            broken(format!("cannot be read ({error}); name a chassis file with --chassis"))
        })?;
        Self::parse(&text).map_err(broken)
    }

    /// Parses and checks the text of a chassis file. The error is one line that names key and remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let chassis: Self = toml::from_str(text).map_err(|error| on_one_line(text, &error))?;
        chassis.check()?;
        Ok(chassis)
    }

    /// The storage module, if the chassis has one.
    pub fn storage(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.roles.contains(&Role::Storage))
    }

    /// The module in a slot.
    pub fn slot(&self, number: u16) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.number == number)
    }

    fn check(&self) -> Result<(), String> {
        if model::Name::try_from(self.name.clone()).is_err() {
            return Err(format!("name = {:?} is no DNS label; use a-z, 0-9 and -", self.name));
        }
        if self.slots.is_empty() {
            return Err("slot: the chassis is empty; add a [[slot]] with number and kind".to_owned());
        }
        if self.slots.len() > usize::from(MAX_SLOTS) {
            return Err(format!(
                "slot: {} modules; a chassis has {MAX_SLOTS} slots, remove some",
                self.slots.len()
            ));
        }
        let storage = self.slots.iter().filter(|slot| slot.roles.contains(&Role::Storage));
        if let Some(second) = storage.map(|slot| slot.number).nth(1) {
            return Err(format!(
                "slot {second}: roles: a chassis has one storage module; leave out the other"
            ));
        }
        let mut taken = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for slot in &self.slots {
            let number = slot.number;
            if !(1..=MAX_SLOTS).contains(&number) {
                return Err(format!("slot.number = {number}: slots are numbered 1 to {MAX_SLOTS}"));
            }
            if !taken.insert(number) {
                return Err(format!(
                    "slot.number = {number}: two modules in one slot; give one another number"
                ));
            }
            slot.check().map_err(|problem| format!("slot {number}: {problem}"))?;
            for (key, port) in slot.ground.all() {
                if port.is_some_and(|port| !ports.insert(port)) {
                    return Err(format!("slot {number}: {key}: the port is used twice; give each its own"));
                }
            }
        }
        Ok(())
    }
}

impl Slot {
    /// What its agent is told of the accelerators: a line of spacecloud.toml for each slot. QEMU's devices have no
    /// driver of their own, so the kernel's generic one makes their nodes.
    pub fn slot_map(&self) -> Option<String> {
        let line = |a: &Accelerator| {
            let (number, slot) = (a.number, a.pcie_slot);
            format!(
                "[[agent.accelerators]]\nnumber = {number}\npcie_slot = \"{slot}\"\ndriver = \"uio_pci_generic\"\n"
            )
        };
        let lines: String = self.accelerators.iter().map(line).collect();
        (!lines.is_empty()).then_some(lines)
    }

    fn check(&self) -> Result<(), String> {
        if !(512 << 20..=64_u64 << 30).contains(&self.memory.0) {
            return Err(format!("memory = \"{}\": a module needs 512MiB to 64GiB", self.memory));
        }
        if !self.memory.0.is_multiple_of(1 << 20) {
            return Err(format!("memory = \"{}\": write whole MiB", self.memory));
        }
        if !(1..=16).contains(&self.cores) {
            return Err(format!("cores = {}: a module has 1 to 16", self.cores));
        }
        if self.disk.0 < 64 << 20 {
            return Err(format!("disk = \"{}\": the data disk needs 64MiB at least", self.disk));
        }
        if self.roles.is_empty() {
            return Err("roles is empty; name some of server, agent, registry, storage".to_owned());
        }
        let (mut numbers, mut slots) = (BTreeSet::new(), BTreeSet::new());
        for accelerator in &self.accelerators {
            let (number, pcie_slot) = (accelerator.number, accelerator.pcie_slot);
            if !(1..=MAX_PCIE_SLOT).contains(&pcie_slot) {
                return Err(format!(
                    "accelerators.pcie_slot = {pcie_slot}: PCIe slots are 1 to {MAX_PCIE_SLOT}"
                ));
            }
            if !numbers.insert(number) {
                return Err(format!("accelerators.number = {number} is used twice; give each its own"));
            }
            if !slots.insert(pcie_slot) {
                return Err(format!("accelerators.pcie_slot = {pcie_slot} is used twice; give each its own"));
            }
        }
        Ok(())
    }
}

impl FixedPorts {
    /// Key and port of each.
    pub fn all(&self) -> [(&'static str, Option<u16>); 3] {
        [("ground.grpc", self.grpc), ("ground.http", self.http), ("ground.registry", self.registry)]
    }
}

/// toml's message spans several lines and does not name the key; the line of the file does.
fn on_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let Some(line) =
        error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count())
    else {
        return message;
    };
    let found = text.lines().nth(line).unwrap_or_default().trim();
    format!("line {}: `{found}`: {message}", line + 1)
}

#[cfg(test)]
mod tests;
