use super::node::{Node, Shortage};
use super::resources::PoolError;
use super::shape::Shape;
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a request was not placed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no node at all.
    #[error("the pool has no node")]
    Empty,
    /// No node fits.
    #[error("no node fits: {}", told(.0))]
    NothingFits(BTreeMap<Shortage, usize>),
    /// The strategy's own filters left no node, though some would have had room.
    #[error("{0} nodes have room, and the strategy's constraints leave out each of them")]
    Constrained(usize),
    /// The request cannot be meant.
    #[error(transparent)]
    Meaningless(#[from] PoolError),
}

impl Refusal {
    pub(crate) fn nothing_fits(nodes: &[Node], shape: &Shape) -> Self {
        if nodes.is_empty() {
            return Self::Empty;
        }
        let mut counts = BTreeMap::new();
        let mut fitting = 0;
        for node in nodes {
            match node.shortage(shape) {
                Some(shortage) => *counts.entry(shortage).or_default() += 1,
                None => fitting += 1,
            }
        }
        if fitting > 0 { Self::Constrained(fitting) } else { Self::NothingFits(counts) }
    }
}

fn told(counts: &BTreeMap<Shortage, usize>) -> String {
    counts.iter().map(|(why, count)| format!("{count} for {why}")).collect::<Vec<_>>().join(", ")
}
