use crate::Milli;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A numbered PCIe device on a module. The number belongs to the slot, never to the order in which devices
/// were found: the device-level queue is worth nothing otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Its logical number on the module.
    pub number: u32,
    /// The PCIe slot that it is plugged into.
    pub pcie_slot: String,
    /// Where the bus has it, as `0000:05:00.0`; empty when nothing is in the slot.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Why it cannot be used, as its module sees it; empty when it can.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
}

/// A part of one accelerator, or the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AcceleratorShare {
    /// Its number on the module.
    pub number: u32,
    /// How much of it: 1000 is all.
    pub share: Milli,
}

/// The numbered resources that one instance has on its module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// Accelerators, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<AcceleratorShare>,
    /// Cores that it is pinned to; none leaves it on the cores that nobody is pinned to.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cores: BTreeSet<u32>,
}

impl Binding {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.accelerators.is_empty() && self.cores.is_empty()
    }

    /// The accelerators' numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.accelerators.iter().map(|a| a.number)
    }

    /// For people: `accelerators 0 1, cores 2 3`; empty for an empty one.
    pub fn words(&self) -> String {
        let accelerators: Vec<String> = self
            .accelerators
            .iter()
            .map(|a| {
                if a.share.0 == Milli::WHOLE {
                    a.number.to_string()
                } else {
                    format!("{} ({})", a.number, a.share)
                }
            })
            .collect();
        let cores: Vec<String> = self.cores.iter().map(ToString::to_string).collect();
        let mut parts = Vec::new();
        for (word, list) in [("accelerator", accelerators), ("core", cores)] {
            match list.len() {
                0 => {}
                1 => parts.push(format!("{word} {}", list.join(" "))),
                _ => parts.push(format!("{word}s {}", list.join(" "))),
            }
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_in_words() {
        let whole = |number| AcceleratorShare { number, share: Milli(Milli::WHOLE) };
        let mut binding = Binding { accelerators: vec![whole(0), whole(3)], cores: [1].into() };
        assert_eq!(binding.words(), "accelerators 0 3, core 1");
        binding.accelerators = vec![AcceleratorShare { number: 2, share: Milli(500) }];
        binding.cores.clear();
        assert_eq!(binding.words(), "accelerator 2 (500m)");
        assert_eq!(Binding::default().words(), "");
    }
}
