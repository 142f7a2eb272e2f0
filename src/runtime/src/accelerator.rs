//! Accelerators by PCIe slot: found under /sys/bus/pci, never by the order in which the kernel found them.

use crate::RuntimeError;
use model::{Accelerator, Binding, Milli};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One line of the slot map: which number the device in a PCIe slot has, for good.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceleratorSlot {
    /// Its logical number on the module.
    pub number: u32,
    /// The slot's name under /sys/bus/pci/slots, or the device's own address where the board names no slots.
    pub pcie_slot: String,
    /// The kernel driver that makes device nodes for it, if not the one that the kernel would choose.
    #[serde(default)]
    pub driver: Option<String>,
}

/// A device node that belongs to an accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Below /dev.
    pub path: PathBuf,
    /// Else a character device.
    pub block: bool,
    /// Of the device number.
    pub major: i64,
    /// Of the device number.
    pub minor: i64,
}

/// The slot map on this module's PCIe bus.
#[derive(Debug, Clone)]
pub struct Accelerators {
    map: Vec<AcceleratorSlot>,
    sysfs: PathBuf,
}

/// What an instance gets of one accelerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) number: u32,
    pub(crate) pcie_slot: String,
    pub(crate) address: String,
    pub(crate) share: Milli,
    pub(crate) nodes: Vec<Node>,
}

impl Accelerators {
    /// `sysfs` is where the kernel's view of the devices is mounted: /sys.
    pub fn new(map: Vec<AcceleratorSlot>, sysfs: &Path) -> Self {
        Self { map, sysfs: sysfs.to_owned() }
    }

    /// All lines of the map, by number, with the address of what is in the slot or the reason why nothing is.
    pub fn discover(&self) -> Vec<Accelerator> {
        let mut found: Vec<Accelerator> = self
            .map
            .iter()
            .map(|line| {
                let (address, fault) = match self.look(line) {
                    Ok(address) => (address, String::new()),
                    Err(fault) => (String::new(), fault),
                };
                Accelerator { number: line.number, pcie_slot: line.pcie_slot.clone(), address, fault }
            })
            .collect();
        found.sort_by_key(|a| a.number);
        found
    }

    /// Gives each device its driver, where the map names one. A device that cannot have it is told in the journal and
    /// stands in the table without device nodes; the others go on.
    pub fn prepare(&self) {
        for line in &self.map {
            if let (Some(driver), Ok(address)) = (&line.driver, self.look(line))
                && let Err(error) = self.drive(&address, driver)
            {
                tracing::warn!(accelerator = line.number, %address, %driver, %error, "cannot set the driver");
            }
        }
    }

    fn look(&self, line: &AcceleratorSlot) -> Result<String, String> {
        let slot = &line.pcie_slot;
        let address = if slot.contains(':') {
            slot.clone()
        } else {
            let file = self.sysfs.join("bus/pci/slots").join(slot).join("address");
            let text = fs::read_to_string(file).map_err(|_| format!("there is no PCIe slot {slot}"))?;
            // A slot's address has no function; a device's first is 0.
            format!("{}.0", text.trim())
        };
        if self.device(&address).exists() {
            Ok(address)
        } else {
            Err(format!("no device in PCIe slot {slot}"))
        }
    }

    fn device(&self, address: &str) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(address)
    }

    fn drive(&self, address: &str, driver: &str) -> Result<(), std::io::Error> {
        let device = self.device(address);
        if fs::read_link(device.join("driver")).is_ok_and(|link| link.ends_with(driver)) {
            return Ok(());
        }
        if !self.sysfs.join("bus/pci/drivers").join(driver).exists() {
            let status = std::process::Command::new("modprobe").arg(driver).status()?;
            if !status.success() {
                return Err(std::io::Error::other(format!("modprobe {driver}: {status}")));
            }
        }
        fs::write(device.join("driver_override"), driver)?;
        if device.join("driver").exists() {
            fs::write(device.join("driver/unbind"), address)?;
        }
        fs::write(self.sysfs.join("bus/pci/drivers_probe"), address)
    }

    /// The devices of a binding as they are now.
    pub(crate) fn grants(&self, binding: &Binding) -> Result<Vec<Grant>, RuntimeError> {
        binding
            .accelerators
            .iter()
            .map(|bound| {
                let number = bound.number;
                let gone = |reason: String| RuntimeError::NoAccelerator { number, reason };
                let line = self.map.iter().find(|line| line.number == number);
                let line = line.ok_or_else(|| gone("it is not in agent.accelerators".to_owned()))?;
                let address = self.look(line).map_err(gone)?;
                let nodes = nodes(&self.device(&address));
                let pcie_slot = line.pcie_slot.clone();
                Ok(Grant { number, pcie_slot, address, share: bound.share, nodes })
            })
            .collect()
    }
}

/// Every device node that the drivers have made for a PCI device: its `dev` files, one or two classes below it.
fn nodes(device: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    collect(device, 3, &mut nodes);
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes.dedup();
    nodes
}

fn collect(directory: &Path, depth: u8, nodes: &mut Vec<Node>) {
    nodes.extend(node(directory));
    if depth == 0 {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        // Symbolic links lead away from the device: to its driver, its bus, other devices.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth - 1, nodes);
        }
    }
}

fn node(directory: &Path) -> Option<Node> {
    let numbers = fs::read_to_string(directory.join("dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    let event = fs::read_to_string(directory.join("uevent")).ok()?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let block = fs::read_link(directory.join("subsystem")).is_ok_and(|link| link.ends_with("block"));
    Some(Node {
        path: Path::new("/dev").join(name.trim_start_matches("/dev/")),
        block,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// What an instance finds in its environment of the accelerators that it has, in the order of their numbers.
pub(crate) fn environment(grants: &[Grant]) -> Vec<String> {
    if grants.is_empty() {
        return Vec::new();
    }
    let list = |text: &dyn Fn(&Grant) -> String| grants.iter().map(text).collect::<Vec<_>>().join(",");
    let mut env = vec![
        format!("SPACECLOUD_ACCELERATORS={}", list(&|g| g.number.to_string())),
        format!("SPACECLOUD_PCIE_SLOTS={}", list(&|g| g.pcie_slot.clone())),
        format!("SPACECLOUD_PCIE_ADDRESSES={}", list(&|g| g.address.clone())),
    ];
    if let Some(part) = grants.iter().find(|g| g.share.0 < Milli::WHOLE) {
        env.push(format!("SPACECLOUD_ACCELERATOR_SHARE={}", part.share));
    }
    env
}

#[cfg(test)]
mod tests;
