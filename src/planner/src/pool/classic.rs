//! Kubernetes' LeastAllocated and MostAllocated.

use super::node::Node;
use super::shape::Shape;

/// The mean share that would be allocated, from 0 to 100: over CPU, memory and, when they are asked for,
/// accelerators. Kubernetes scores extended resources that a pod does not ask for in the same way: not at all.
pub(crate) fn allocated(node: &Node, shape: &Shape) -> f64 {
    let share = |free: u64, asked: u64, capacity: u64| {
        let used = capacity.saturating_sub(free).saturating_add(asked);
        if capacity == 0 { 0.0 } else { used as f64 / capacity as f64 }
    };
    let cpu = share(node.free.cpu, shape.amounts.cpu, node.capacity.cpu);
    let memory = share(node.free.memory, shape.amounts.memory, node.capacity.memory);
    if shape.accelerators == 0 {
        return 50.0 * (cpu + memory);
    }
    let accelerators = share(node.usable, shape.accelerator_milli(), node.accelerator_capacity());
    100.0 * (cpu + memory + accelerators) / 3.0
}
