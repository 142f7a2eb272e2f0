use crate::{InstanceId, Name, PortId, SpecError};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a module has of one kind, or one numbered thing on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ResourceName {
    /// The numbered accelerator: `gpu-3`.
    Accelerator(u32),
    /// Thousandths of cores.
    Cpu,
    /// Bytes.
    Memory,
    /// Bytes.
    Disk,
    /// A port on the module's address that an instance is published at: `port-18080`, `port-53/udp`.
    Port(PortId),
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accelerator(number) => f.pad(&format!("gpu-{number}")),
            Self::Cpu => f.pad("cpu"),
            Self::Memory => f.pad("memory"),
            Self::Disk => f.pad("disk"),
            Self::Port(port) => f.pad(&format!("port-{port}")),
        }
    }
}

impl FromStr for ResourceName {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let number = |prefix: &str| text.strip_prefix(prefix);
        match text {
            "cpu" => return Ok(Self::Cpu),
            "memory" => return Ok(Self::Memory),
            "disk" => return Ok(Self::Disk),
            _ => {}
        }
        let accelerator = number("gpu-").and_then(|n| n.parse().ok()).map(Self::Accelerator);
        let port = || number("port-").and_then(|n| n.parse().ok()).map(Self::Port);
        accelerator.or_else(port).ok_or_else(|| {
            SpecError::value("resource", text, "is no resource; write cpu, memory, disk, gpu-N or port-N")
        })
    }
}

impl TryFrom<String> for ResourceName {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.to_string()
    }
}

/// The pool paper's three states.
///
/// ```text
///            placed                   operator, or the device is gone
///   Idle ───────────► Occupied   Idle, Occupied ───────► Maintenance
///    ▲────────────────────┘          ▲─────────────────────────┘
///            released                      operator, or it is back
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// All of it is free.
    Idle,
    /// Something has some of it.
    Occupied,
    /// Nothing new is given it.
    Maintenance,
}

impl Availability {
    /// For tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Occupied => "occupied",
            Self::Maintenance => "maintenance",
        }
    }
}

/// One line of the resource-state table. It is written in the batch of the placement that changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceState {
    /// Where.
    pub module: Name,
    /// What.
    pub resource: ResourceName,
    /// Idle, occupied or in maintenance.
    pub state: Availability,
    /// Thousandths of cores or of one accelerator, bytes, or 1 for a port.
    pub capacity: u64,
    /// How much of it is taken.
    pub used: u64,
    /// An operator has set it to maintenance.
    pub maintenance: bool,
    /// The PCIe slot of an accelerator; else empty.
    pub pcie_slot: String,
    /// What a person should know: why it is in maintenance, which cores are pinned.
    pub why: String,
    /// Who has it.
    pub holders: Vec<InstanceId>,
    /// Since when, in Unix milliseconds, `state` and `used` are what they are.
    pub since: u64,
}

impl ResourceState {
    /// Its key in the table: `module-2/gpu-3`.
    pub fn key(&self) -> String {
        Self::key_of(&self.module, self.resource)
    }

    /// The key of a resource.
    pub fn key_of(module: &Name, resource: ResourceName) -> String {
        format!("{module}/{resource}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in ["gpu-3", "cpu", "memory", "disk", "port-8080", "port-53/udp"] {
            assert_eq!(name.parse::<ResourceName>().unwrap().to_string(), name);
        }
        for bad in ["gpu", "gpu-", "gpu-x", "port-70000", "CPU"] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }
}
