use crate::{Accelerator, Bytes, Cpu, Milli, Name, RootSlot, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a module has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Cores.
    pub cpu: Cpu,
    /// Memory that instances may use.
    pub memory: Bytes,
    /// Disk that instances may use.
    pub disk: Bytes,
    /// Accelerators, by number.
    pub accelerators: Vec<Accelerator>,
}

impl Capacity {
    /// Whole accelerators in thousandths.
    pub fn gpu(&self) -> Milli {
        Milli(self.accelerators.len() as u64 * Milli::WHOLE)
    }

    /// The numbers of its cores.
    pub fn cores(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.cpu.0 / Milli::WHOLE).unwrap_or(u32::MAX)
    }
}

/// What the server thinks of a module. Not stored: after a restart everyone is heard anew.
///
/// ```text
///             hello          silence           lease + margin
///  Lost ──► Returning ──► Ready ──► Suspect ──────────► Lost
///                 strays gone  ▲───────┘ heartbeat
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Heard, and takes work.
    Ready,
    /// Heard again, but still has instances that are no longer its own.
    Returning,
    /// Silent for a while: no new work.
    Suspect,
    /// Silent for longer than its lease and the margin: what ran there runs elsewhere.
    Lost,
}

/// A compute module as the server records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// `module-N`.
    pub name: Name,
    /// Its slot on the backplane.
    pub slot: u16,
    /// Its address on the backplane.
    pub address: String,
    /// The subnet of its instances.
    pub pods: String,
    /// Where its agent gives processes away, as ADDRESS:PORT; empty where processes cannot be moved live.
    #[serde(default)]
    pub live: String,
    /// What it has.
    pub capacity: Capacity,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// The storage module that it can mount volumes from, as SERVER:EXPORT; empty when it is told of none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub storage: String,
    /// Kernel release, for people.
    pub kernel: String,
    /// An operator wants no new instances here.
    pub cordoned: bool,
    /// An operator wants what runs here to move away. Implies cordoned.
    pub draining: bool,
    /// The server runs here too.
    #[serde(default)]
    pub server: bool,
    /// The longest usual lease that it may believe in still: after a restart the server's own may be shorter.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    pub lease: Span,
    /// For how long beyond its lease it may believe that it goes on without the server; see the planner's absence.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    pub absence: Span,
    /// The root slot that it runs from, if it was started from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootSlot>,
    /// An update has it drained; this is how the operator had it, and gets it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_update: Option<Cordon>,
}

/// What an operator wants of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cordon {
    /// No new instances.
    pub cordoned: bool,
    /// What runs there moves away. Implies cordoned.
    pub draining: bool,
}
