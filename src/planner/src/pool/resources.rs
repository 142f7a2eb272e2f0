use std::collections::BTreeSet;
use thiserror::Error;

/// The whole of one accelerator, in thousandths.
pub const WHOLE: u16 = 1000;

/// What is counted and not numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amounts {
    /// Thousandths of cores.
    pub cpu: u64,
    /// In any unit, so long as nodes and requests use the same one.
    pub memory: u64,
    /// In any unit, so long as nodes and requests use the same one.
    pub disk: u64,
}

impl Amounts {
    /// Whether all of `asked` is there.
    pub fn holds(&self, asked: &Self) -> bool {
        asked.cpu <= self.cpu && asked.memory <= self.memory && asked.disk <= self.disk
    }

    pub(crate) fn less(&self, taken: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(taken.cpu),
            memory: self.memory.saturating_sub(taken.memory),
            disk: self.disk.saturating_sub(taken.disk),
        }
    }

    pub(crate) fn plus(&self, given: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(given.cpu),
            memory: self.memory.saturating_add(given.memory),
            disk: self.disk.saturating_add(given.disk),
        }
    }
}

/// A node as it joins the pool, everything on it free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSpec {
    /// Unique in the pool.
    pub name: String,
    /// What it has.
    pub capacity: Amounts,
    /// How many accelerators, numbered from 0.
    pub accelerators: u16,
    /// What kind they are; empty when nobody asks.
    pub model: String,
}

/// What one instance asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Request {
    /// CPU, memory and disk.
    pub amounts: Amounts,
    /// How many different accelerators.
    pub accelerators: u16,
    /// How much of each of them: thousandths, 1 to [`WHOLE`]; without meaning when there are none.
    pub milli: u16,
    /// Which kinds of accelerator will do; empty for any.
    pub models: BTreeSet<String>,
}

impl Request {
    /// CPU and memory alone.
    pub fn plain(cpu: u64, memory: u64) -> Self {
        Self { amounts: Amounts { cpu, memory, disk: 0 }, ..Self::default() }
    }

    /// With `count` whole accelerators.
    #[must_use]
    pub fn with_whole(mut self, count: u16) -> Self {
        (self.accelerators, self.milli) = (count, WHOLE);
        self
    }

    /// With `milli` thousandths of one accelerator.
    #[must_use]
    pub fn with_share(mut self, milli: u16) -> Self {
        (self.accelerators, self.milli) = (1, milli);
        self
    }

    /// All accelerator capacity that it asks for, in thousandths.
    pub fn accelerator_milli(&self) -> u64 {
        u64::from(self.accelerators) * u64::from(self.milli)
    }
}

/// Whether an accelerator can be given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AcceleratorState {
    /// Nothing runs on it.
    Idle,
    /// Something runs on it.
    Occupied,
    /// Never given away until an operator says otherwise.
    Maintenance,
}

/// Something that the pool cannot mean.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    /// Two nodes of one name.
    #[error("node {0} is registered twice")]
    Duplicate(String),
    /// A node without a name.
    #[error("a node needs a name")]
    Nameless,
    /// No such node.
    #[error("there is no node {0}")]
    NoNode(String),
    /// No such accelerator on that node.
    #[error("node {node} has no accelerator {number}")]
    NoAccelerator {
        /// The node.
        node: String,
        /// The number asked for.
        number: u16,
    },
    /// Released twice, or never placed.
    #[error("there is no instance {0} in the pool")]
    NoInstance(u64),
    /// What an instance is said to hold belongs to another, or is not there.
    #[error("node {0} has not all of that free")]
    Taken(String),
    /// Model names are interned into the bits of one word.
    #[error("node {0} brings a 65th accelerator model; a pool tells at most 64 apart")]
    TooManyModels(String),
    /// A share of an accelerator outside 1 to 1000 thousandths.
    #[error("asks for {0} thousandths of an accelerator; 1 to 1000 are possible")]
    Share(u16),
}
