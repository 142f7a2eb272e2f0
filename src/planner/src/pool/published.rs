//! The baselines of the publication that `fgd` comes from (Weng et al., USENIX ATC 2023), as it describes them: only to
//! be measured against. All look at CPU and accelerators alone; memory only decides whether a node fits. Where the
//! publication leaves ties open, the node that joined first is taken, as by every other strategy.

use super::node::Node;
use super::resources::{AcceleratorState, NodeSpec, WHOLE};
use super::shape::Shape;

/// The most that one node has, or had: what amounts of different kinds are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Largest {
    cpu: u64,
    /// Thousandths of accelerators.
    gpu: u64,
    /// Counts how often it changed: scores that it made before are worth nothing.
    pub(crate) epoch: u64,
}

impl Default for Largest {
    fn default() -> Self {
        Self { cpu: 1, gpu: 1, epoch: 1 }
    }
}

impl Largest {
    pub(crate) fn see(&mut self, spec: &NodeSpec) {
        let gpu = u64::from(spec.accelerators) * u64::from(WHOLE);
        if spec.capacity.cpu > self.cpu || gpu > self.gpu {
            self.cpu = self.cpu.max(spec.capacity.cpu);
            self.gpu = self.gpu.max(gpu);
            self.epoch += 1;
        }
    }
}

/// The less a node keeps, the better: 100 less the mean of what it would keep of both, in % of the largest node's. A whole
/// number, as Kubernetes scores are, here and in [`dot_product`].
pub(crate) fn best_fit(node: &Node, shape: &Shape, largest: &Largest) -> f64 {
    let cpu = node.free.cpu.saturating_sub(shape.amounts.cpu) as f64 / largest.cpu as f64;
    let gpu = node.usable.saturating_sub(shape.accelerator_milli()) as f64 / largest.gpu as f64;
    (100.0 - 50.0 * (cpu + gpu)).floor()
}

/// The less what is asked resembles what is free, the better: 100 less the mean product of both, each in % of the
/// largest node's.
pub(crate) fn dot_product(node: &Node, shape: &Shape, largest: &Largest) -> f64 {
    let product =
        |free: u64, asked: u64, most: u64| (free as f64 / most as f64) * (asked as f64 / most as f64);
    let cpu = product(node.free.cpu, shape.amounts.cpu, largest.cpu);
    let gpu = product(node.usable, shape.accelerator_milli(), largest.gpu);
    (100.0 - 50.0 * (cpu + gpu)).floor()
}

/// Occupied accelerators first, the fullest ones (above 2); then idle ones beside occupied ones, as few as possible
/// (above 1); then nodes that are wholly idle, the smallest first. All are alike to a task without accelerators.
pub(crate) fn gpu_packing(node: &Node, shape: &Shape) -> f64 {
    if shape.accelerators == 0 {
        return 0.0;
    }
    if node.devices.iter().all(|device| device.state() != AcceleratorState::Occupied) {
        return 1.0 / f64::from(node.whole.max(1));
    }
    let parts = node.tightest(shape).into_iter().filter_map(|at| node.devices.get(usize::from(at)));
    let (idle, left) = parts.fold((0_u16, 0_u64), |(idle, left), device| {
        let part = device.usable();
        (idle + u16::from(part == WHOLE), left + u64::from(part))
    });
    if idle > 0 { 1.0 + 1.0 / f64::from(idle) } else { 2.0 + 1.0 / left.max(1) as f64 }
}

/// Nodes where only tasks of the same kind are first (above 3), then those where such are among others (above 2), then
/// empty ones (above 1), then those of other kinds; among each the one with the least accelerator left. The kind of a
/// task is how many accelerators it asks for, or that it asks for a part of one. All are alike to one without any.
pub(crate) fn gpu_clustering(node: &Node, shape: &Shape, largest: &Largest) -> f64 {
    let Some(kind) = shape.kind() else { return 0.0 };
    let tier = match (node.kinds.contains_key(&kind), node.kinds.len()) {
        (true, 1) => 3.0,
        (true, _) => 2.0,
        (false, 0) => 1.0,
        (false, _) => 0.0,
    };
    tier + 1.0 - node.usable as f64 / largest.gpu as f64
}
