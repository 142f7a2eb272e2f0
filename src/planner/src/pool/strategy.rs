use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// How a node is chosen among those that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The least allocated node (Kubernetes' LeastAllocated).
    Spread,
    /// The most allocated node that still fits (Kubernetes' MostAllocated).
    Binpack,
    /// The pool paper's traditional strategy: the next node in order, round the end.
    Tiling,
    /// The pool paper's unit level.
    Multilevel,
    /// Any node that fits, by a seeded sequence: the baseline that says what choosing is worth.
    Random,
    /// The node that would keep least: a baseline of the publication of `fgd`, as are the next three.
    BestFit,
    /// The node whose free amounts resemble what is asked least.
    DotProduct,
    /// Occupied accelerators first, then idle ones beside them, then idle nodes.
    GpuPacking,
    /// Beside tasks that ask for as many accelerators.
    GpuClustering,
    /// Fragmentation gradient descent (Weng et al., 2023): the yardstick.
    Fgd,
    /// Ours.
    Spacecloud,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Spread,
        Self::Binpack,
        Self::Tiling,
        Self::Multilevel,
        Self::Random,
        Self::BestFit,
        Self::DotProduct,
        Self::GpuPacking,
        Self::GpuClustering,
        Self::Fgd,
        Self::Spacecloud,
    ];

    /// The name that people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Binpack => "binpack",
            Self::Tiling => "tiling",
            Self::Multilevel => "multilevel",
            Self::Random => "random",
            Self::BestFit => "best-fit",
            Self::DotProduct => "dot-product",
            Self::GpuPacking => "gpu-packing",
            Self::GpuClustering => "gpu-clustering",
            Self::Fgd => "fgd",
            Self::Spacecloud => "spacecloud",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A policy of the unit level that a pool has been told; 0 is the pool's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PolicyNumber(pub(crate) u16);

/// A name that no strategy has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no strategy {0:?}; there are {names}", names = Strategy::ALL.map(Strategy::name).join(", "))]
pub struct UnknownStrategy(String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.name() == name);
        found.ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}
