//! What goes into a step of the core, and what comes out of it.

use model::{
    AppSpec, Desired, ImageRef, Module, Name, Observed, Record, RecordKind, ServiceTable, Span, VolumeKey,
    VolumeReport, VolumeSpec,
};
use std::collections::{BTreeMap, BTreeSet};

/// What an operator asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Create or change apps: all or none.
    Apply(Vec<AppSpec>),
    /// Create or change volumes, then apps: all or none.
    ApplyAll(Vec<VolumeSpec>, Vec<AppSpec>),
    /// Delete apps: all or none.
    Delete(Vec<Name>),
    /// Delete apps and the volumes that no other app mounts.
    DeleteWithVolumes(Vec<Name>),
    /// Erase volumes that nobody uses: all or none.
    DeleteVolumes(Vec<Name>),
    /// Change an app's replicas.
    Scale(Name, u32),
    /// No new instances on a module; draining also moves away what is there.
    Cordon {
        /// Which.
        module: Name,
        /// False makes it take work again.
        cordoned: bool,
        /// Move away what runs there.
        draining: bool,
    },
    /// Drain a module for an update. How the operator had it is kept until it is cordoned, drained or uncordoned again.
    SetAside(Name, model::Cordon),
    /// Take one accelerator out of use, or give it back.
    Maintenance {
        /// Where.
        module: Name,
        /// Which.
        number: u32,
        /// False gives it back.
        maintenance: bool,
    },
    /// Change what the instances of an app have, while they run.
    Resize(Name, Amounts),
    /// Take a lost module off the register.
    Forget(Name),
    /// Let a module fetch a bundle for its other root slot, or write it and restart.
    Update {
        /// Which.
        module: Name,
        /// The bundle's SHA-256, in hexadecimal digits.
        bundle: String,
        /// Which try this is. One that is under way may be asked for again: its answer may have been lost.
        attempt: String,
        /// Write it and restart; else only fetch and check it.
        install: bool,
    },
}

/// The amounts to change; what is none stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Cores.
    pub cpu: Option<model::Cpu>,
    /// Memory.
    pub memory: Option<model::Bytes>,
    /// Disk.
    pub disk: Option<model::Bytes>,
}

/// An agent's heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The last order that the agent has taken in this connection.
    pub taken: u64,
    /// Everything that it has.
    pub observed: Vec<Observed>,
    /// The last order whose service table it has set.
    pub routed: u64,
    /// What it sees of volumes.
    pub volumes: VolumeReport,
    /// The lease that the last acknowledgement gave it; nothing before the first one to this process.
    pub lease: Span,
}

/// What happens to the core.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An operator asks.
    Request(Request),
    /// An agent opens a connection and says what it has.
    Hello(Box<Module>, Vec<Observed>),
    /// An agent is alive.
    Heartbeat(Name, AgentReport),
    /// A module says how its root slots are.
    Root(Name, model::RootSlot),
    /// Time passes.
    Tick,
}

/// What an accepted request answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// For people, a line for each thing done.
    pub lines: Vec<String>,
}

/// One put (`Some`) or delete (`None`) of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Table.
    pub kind: RecordKind,
    /// Key in it.
    pub key: String,
    /// The record, or none to delete it.
    pub record: Option<Record>,
}

/// The whole list of what a module is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Counts up within a connection.
    pub number: u64,
    /// Everything else is to be stopped.
    pub desired: Vec<Desired>,
    /// Where services lead.
    pub services: ServiceTable,
    /// Images that it should have in case it must take over from another module.
    pub images: Vec<ImageRef>,
    /// Volumes whose data it is to erase.
    pub erase: Vec<VolumeKey>,
}

/// What a step asks of the shell, in this order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// To commit as one batch before anything else.
    pub changes: Vec<Change>,
    /// To send.
    pub orders: BTreeMap<Name, Order>,
    /// The agent whose hello or heartbeat is to be acknowledged.
    pub ack: Option<Name>,
    /// How much longer than usual the lease is that the acknowledgement gives.
    pub absence: Span,
    /// Connections to close: they must say hello again.
    pub disconnect: BTreeSet<Name>,
}
