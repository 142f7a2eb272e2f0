use super::node::{Node, Shortage};
use super::resources::{PoolError, WHOLE};
use super::scorer::{Course, Left};
use super::shape::Shape;
use super::strategy::Strategy;
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a request was not placed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no node at all.
    #[error("the pool has no node")]
    Empty,
    /// No node fits; how many lack what first.
    #[error("no node fits: {}", told(.0))]
    NothingFits(BTreeMap<Shortage, usize>),
    /// The strategy's constraints or the caller's filter leave no node, though some would have room.
    #[error("{0} nodes have room, and each is left out by a constraint")]
    Constrained(usize),
    /// The request cannot be meant.
    #[error(transparent)]
    Meaningless(#[from] PoolError),
}

impl Refusal {
    pub(crate) fn nothing_fits(nodes: &[Node], shape: &Shape) -> Self {
        if nodes.iter().all(Node::is_vacant) {
            return Self::Empty;
        }
        let mut counts = BTreeMap::new();
        let mut fitting = 0;
        for node in nodes.iter().filter(|node| !node.is_vacant()) {
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

/// The table of nodes × filters × scores of one decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Who decided.
    pub strategy: Strategy,
    /// One row for each node, in the order of registration.
    pub rows: Vec<Row>,
    /// The chosen node's name; none when the request has to wait.
    pub chosen: Option<String>,
    /// One sentence on how the choice was made among what was left.
    pub rule: String,
    /// For a request that has to wait: what would have to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// What the operator should be alarmed about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
}

/// One node's part in a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub node: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What became of a node in a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It takes no part.
    Filtered {
        /// The filter's name.
        filter: String,
        /// What it found: what is asked, what there is.
        reason: String,
    },
    /// It could have taken it.
    Scored {
        /// The higher the better.
        score: f64,
        /// What the score is made of, by name.
        parts: BTreeMap<&'static str, f64>,
    },
}

impl Verdict {
    pub(crate) fn filtered(filter: impl ToString, reason: impl Into<String>) -> Self {
        Self::Filtered { filter: filter.to_string(), reason: reason.into() }
    }

    /// The resource that a node falls short of, with figures.
    pub(crate) fn short(shortage: Shortage, node: &Node, shape: &Shape) -> Self {
        let figures = |asked: u64, free: u64| format!("asks {asked}, free {free}");
        let (asked, free) = (&shape.amounts, &node.free);
        let reason = match shortage {
            Shortage::Closed => "takes nothing new".to_owned(),
            Shortage::Model => "has accelerators of another model".to_owned(),
            Shortage::Cpu => figures(asked.cpu, free.cpu),
            Shortage::Memory => figures(asked.memory, free.memory),
            Shortage::Disk => figures(asked.disk, free.disk),
            Shortage::Accelerators if shape.milli == WHOLE => {
                figures(u64::from(shape.accelerators), u64::from(node.whole))
            }
            Shortage::Accelerators => {
                let fitting = node.fitting(shape).len();
                format!("asks {} of {} accelerators, {fitting} have it", shape.milli, shape.accelerators)
            }
        };
        Self::filtered(shortage, reason)
    }
}

impl From<Left> for Verdict {
    fn from(left: Left) -> Self {
        match left {
            Left::Threshold { resource, load, limit } => {
                Self::filtered("threshold", format!("{resource} would be loaded to {load:.3}, above {limit}"))
            }
            Left::Balance { balance, least } => {
                Self::filtered("min_balance", format!("its balance is {balance:.3}, below {least}"))
            }
            Left::MinGpu { left, least } => {
                Self::filtered("min_gpu", format!("would keep {left} free accelerators, fewer than {least}"))
            }
        }
    }
}

/// What a constraint over several nodes says of one that passed the others.
pub(crate) fn left_out(course: &Course, node: u32) -> Option<Verdict> {
    if course.spared == Some(node) {
        return Some(Verdict::filtered("max_gpu", "the last with the reserve of free accelerators"));
    }
    let shared = course.shared.as_ref()?;
    (!shared.contains(&node)).then(|| Verdict::filtered("share", "others have a better balance"))
}

/// How each strategy chooses among what its filters leave.
pub(crate) fn rule(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Spread => {
            "the least allocated node: the highest of 100 less the mean share allocated afterwards"
        }
        Strategy::Binpack => "the most allocated node: the highest mean share allocated afterwards",
        Strategy::Tiling => "the next node after the last one chosen, round the end",
        Strategy::Multilevel => "the highest score of the unit level, equation (9)",
        Strategy::Random => "any of them, by a seeded sequence",
        Strategy::BestFit => "the node that would keep least of CPU and accelerators",
        Strategy::DotProduct => "the node whose free CPU and accelerators resemble what is asked least",
        Strategy::GpuPacking => "occupied accelerators, then idle ones beside them, then idle nodes",
        Strategy::GpuClustering => {
            "beside tasks that ask for as many accelerators, then empty nodes, then others"
        }
        Strategy::Fgd => "the smallest growth of the expected fragment, then the least accelerator left",
        Strategy::Spacecloud => "the smallest loss of what the node's free accelerators can still earn",
    }
}
