use super::resources::{AcceleratorState, Amounts, NodeSpec, WHOLE};
use super::shape::Shape;
use std::collections::BTreeMap;

/// One accelerator of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    /// Thousandths that nobody holds.
    free: u16,
    maintenance: bool,
}

impl Device {
    /// Thousandths that can be given away.
    pub(crate) fn usable(&self) -> u16 {
        if self.maintenance { 0 } else { self.free }
    }

    /// Thousandths that nobody holds, in maintenance or not.
    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    pub(crate) fn state(&self) -> AcceleratorState {
        match (self.maintenance, self.free) {
            (true, _) => AcceleratorState::Maintenance,
            (false, WHOLE) => AcceleratorState::Idle,
            _ => AcceleratorState::Occupied,
        }
    }
}

/// Why a node cannot hold a request, in the order in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// It is being taken out of the pool.
    Closed,
    /// Its accelerators are of another kind.
    Model,
    /// Too little CPU.
    Cpu,
    /// Too little memory.
    Memory,
    /// Too little disk.
    Disk,
    /// Too few accelerators with enough left on each.
    Accelerators,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Model => "model",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Accelerators => "accelerators",
        })
    }
}

/// A node's state, with the sums that scoring reads.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) capacity: Amounts,
    pub(crate) free: Amounts,
    pub(crate) devices: Vec<Device>,
    /// The bit of its model; no bits at all for a node whose model nobody named.
    pub(crate) model: u64,
    /// Usable thousandths over all devices.
    pub(crate) usable: u64,
    /// The most that one device can still give.
    pub(crate) largest: u16,
    /// Devices that are wholly free.
    pub(crate) whole: u16,
    /// Takes nothing new.
    pub(crate) closed: bool,
    pub(crate) instances: u32,
    /// How many instances of each kind with accelerators it holds ([`Shape::kind`]).
    pub(crate) kinds: BTreeMap<u16, u32>,
    /// The pool's step at which it last changed.
    pub(crate) changed: u64,
}

impl Node {
    pub(crate) fn new(spec: &NodeSpec, model: u64) -> Self {
        let devices = vec![Device { free: WHOLE, maintenance: false }; usize::from(spec.accelerators)];
        let mut node = Self {
            name: spec.name.clone(),
            capacity: spec.capacity,
            free: spec.capacity,
            devices,
            model,
            usable: 0,
            largest: 0,
            whole: 0,
            closed: false,
            instances: 0,
            kinds: BTreeMap::new(),
            changed: 0,
        };
        node.sum();
        node
    }

    /// Stands where a node was until the next one joins: it holds nothing and takes nothing.
    pub(crate) fn vacant() -> Self {
        let mut node = Self::new(&NodeSpec::default(), 0);
        node.closed = true;
        node
    }

    /// Nodes have names.
    pub(crate) fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }

    /// Thousandths of accelerators, in maintenance or not.
    pub(crate) fn accelerator_capacity(&self) -> u64 {
        self.devices.len() as u64 * u64::from(WHOLE)
    }

    fn sum(&mut self) {
        let usable = self.devices.iter().map(Device::usable);
        self.usable = usable.clone().map(u64::from).sum();
        self.largest = usable.clone().max().unwrap_or(0);
        self.whole = u16::try_from(usable.filter(|free| *free == WHOLE).count()).unwrap_or(u16::MAX);
    }

    /// What keeps `shape` away, if anything.
    pub(crate) fn shortage(&self, shape: &Shape) -> Option<Shortage> {
        if self.fits(shape) {
            return None;
        }
        Some(if self.closed {
            Shortage::Closed
        } else if !self.has_model(shape) {
            Shortage::Model
        } else if shape.amounts.cpu > self.free.cpu {
            Shortage::Cpu
        } else if shape.amounts.memory > self.free.memory {
            Shortage::Memory
        } else if shape.amounts.disk > self.free.disk {
            Shortage::Disk
        } else {
            Shortage::Accelerators
        })
    }

    pub(crate) fn has_model(&self, shape: &Shape) -> bool {
        shape.accelerators == 0 || shape.models == u64::MAX || self.model & shape.models != 0
    }

    /// The same question without the reason; this one is asked millions of times.
    pub(crate) fn fits(&self, shape: &Shape) -> bool {
        let enough = match (shape.accelerators, shape.milli) {
            (0, _) => true,
            (1, milli) => milli <= self.largest,
            (count, WHOLE) => count <= self.whole,
            (count, milli) => {
                self.devices.iter().filter(|d| d.usable() >= milli).count() >= usize::from(count)
            }
        };
        enough && self.free.holds(&shape.amounts) && self.has_model(shape) && !self.closed
    }

    /// The devices that `shape` gets when nothing else decides: the fullest ones that fit, lowest number first.
    pub(crate) fn tightest(&self, shape: &Shape) -> Vec<u16> {
        let mut fitting: Vec<(u16, u16)> = (0..).zip(&self.devices).map(|(n, d)| (d.usable(), n)).collect();
        fitting.retain(|(usable, _)| *usable >= shape.milli);
        fitting.sort_unstable();
        fitting.into_iter().map(|(_, number)| number).take(usize::from(shape.accelerators)).collect()
    }

    /// Every device with enough left, lowest number first.
    pub(crate) fn fitting(&self, shape: &Shape) -> Vec<u16> {
        let devices = (0..).zip(&self.devices);
        devices.filter(|(_, device)| device.usable() >= shape.milli).map(|(number, _)| number).collect()
    }

    /// The emptiest devices, lowest number first.
    pub(crate) fn emptiest(&self, shape: &Shape) -> Vec<u16> {
        let mut fitting: Vec<(u16, u16)> =
            (0..).zip(&self.devices).map(|(n, d)| (WHOLE - d.usable().min(WHOLE), n)).collect();
        fitting.retain(|(used, _)| WHOLE - used >= shape.milli);
        fitting.sort_unstable();
        fitting.into_iter().map(|(_, number)| number).take(usize::from(shape.accelerators)).collect()
    }

    /// Takes what `shape` asks from the named devices. The caller has asked [`Node::fits`].
    pub(crate) fn take(&mut self, shape: &Shape, devices: &[u16]) {
        self.free = self.free.less(&shape.amounts);
        for number in devices {
            if let Some(device) = self.devices.get_mut(usize::from(*number)) {
                device.free = device.free.saturating_sub(shape.milli);
            }
        }
        self.instances += 1;
        if let Some(kind) = shape.kind() {
            *self.kinds.entry(kind).or_default() += 1;
        }
        self.sum();
    }

    /// Gives back what [`Node::take`] took.
    pub(crate) fn give(&mut self, shape: &Shape, devices: &[u16]) {
        self.free = self.free.plus(&shape.amounts);
        for number in devices {
            if let Some(device) = self.devices.get_mut(usize::from(*number)) {
                device.free = device.free.saturating_add(shape.milli).min(WHOLE);
            }
        }
        self.instances = self.instances.saturating_sub(1);
        if let Some(kind) = shape.kind()
            && let Some(count) = self.kinds.get_mut(&kind)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.kinds.remove(&kind);
            }
        }
        self.sum();
    }

    /// Returns whether there is such a device.
    pub(crate) fn maintain(&mut self, number: u16, maintenance: bool) -> bool {
        let Some(device) = self.devices.get_mut(usize::from(number)) else { return false };
        device.maintenance = maintenance;
        self.sum();
        true
    }
}
