use super::node::Node;
use std::collections::BTreeMap;

const BLOCK: u32 = 64;
const BLOCK_SIZE: usize = BLOCK as usize;

/// What a node that does not fit scores.
pub(crate) const UNFIT: f64 = f64::NEG_INFINITY;

/// Which nodes changed since a step, without looking at all of them.
///
/// Only the last `nodes` changes are kept: whoever is further behind looks at every node once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    entries: std::collections::VecDeque<u32>,
    /// The step of the entry that comes next.
    next: u64,
}

impl Log {
    /// Notes a change and returns its step; steps count from 1, so that 0 is before all of them.
    pub(crate) fn push(&mut self, node: u32, nodes: usize) -> u64 {
        self.entries.push_back(node);
        while self.entries.len() > nodes.max(1) {
            self.entries.pop_front();
        }
        self.next += 1;
        self.next
    }

    pub(crate) fn step(&self) -> u64 {
        self.next
    }

    /// Calls `visit` once for every node that changed after `seen`.
    fn since(&self, seen: u64, nodes: &[Node], mut visit: impl FnMut(usize, &Node)) {
        let behind = usize::try_from(self.next.saturating_sub(seen)).unwrap_or(usize::MAX);
        if behind > self.entries.len() {
            nodes.iter().enumerate().filter(|(_, n)| n.changed > seen).for_each(|(at, n)| visit(at, n));
            return;
        }
        let first = self.entries.len() - behind;
        for (step, at) in (seen + 1..).zip(self.entries.range(first..)) {
            let at = *at as usize;
            // An older entry of a node that changed again says nothing.
            if let Some(node) = nodes.get(at).filter(|n| n.changed == step) {
                visit(at, node);
            }
        }
    }
}

/// The best of a block of nodes.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f64,
    node: u32,
    fitting: u32,
}

const NONE: Best = Best { score: UNFIT, node: u32::MAX, fitting: 0 };

/// The scores of every node for requests of one shape, kept up to date change by change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    scores: Vec<f64>,
    blocks: Vec<Best>,
    dirty: Vec<bool>,
    /// The step of the log that it has seen.
    seen: u64,
    /// What the scorer knew when the scores were computed.
    epoch: u64,
}

impl Index {
    /// Of scores that are known already.
    pub(crate) fn of(scores: Vec<f64>) -> Self {
        let blocks = scores.len().div_ceil(BLOCK_SIZE);
        let mut index =
            Self { scores, blocks: vec![NONE; blocks], dirty: vec![true; blocks], seen: 0, epoch: 0 };
        index.settle();
        index
    }

    /// Rescores what changed. `score` must depend on the node alone as long as `epoch` stays the same.
    pub(crate) fn refresh(&mut self, nodes: &[Node], log: &Log, epoch: u64, score: impl Fn(&Node) -> f64) {
        if self.epoch != epoch || self.scores.len() != nodes.len() {
            self.rebuild(nodes, epoch, &score);
        } else if self.seen < log.step() {
            let (scores, dirty) = (&mut self.scores, &mut self.dirty);
            log.since(self.seen, nodes, |at, node| {
                if let Some(old) = scores.get_mut(at) {
                    let new = score(node);
                    if new != *old {
                        *old = new;
                        if let Some(flag) = dirty.get_mut(at / BLOCK_SIZE) {
                            *flag = true;
                        }
                    }
                }
            });
            self.settle();
        }
        self.seen = log.step();
    }

    fn rebuild(&mut self, nodes: &[Node], epoch: u64, score: impl Fn(&Node) -> f64) {
        self.scores.clear();
        self.scores.extend(nodes.iter().map(score));
        let blocks = nodes.len().div_ceil(BLOCK_SIZE);
        self.blocks = vec![NONE; blocks];
        self.dirty = vec![true; blocks];
        self.epoch = epoch;
        self.settle();
    }

    fn settle(&mut self) {
        let blocks = self.scores.chunks(BLOCK_SIZE).zip(&mut self.blocks).zip(&mut self.dirty);
        for (number, ((scores, best), dirty)) in (0_u32..).zip(blocks) {
            if std::mem::take(dirty) {
                *best = best_of(scores, number * BLOCK, None);
            }
        }
    }

    pub(crate) fn cells(&self) -> usize {
        self.scores.len()
    }

    /// The highest score, the lowest number among equals; `without` is left out.
    pub(crate) fn best(&self, without: Option<u32>) -> Option<(u32, f64)> {
        let mut top = NONE;
        for (number, block) in (0_u32..).zip(&self.blocks) {
            let first = number * BLOCK;
            let block = match without {
                Some(node) if block.node == node => {
                    let start = first as usize;
                    let end = (start + BLOCK_SIZE).min(self.scores.len());
                    best_of(self.scores.get(start..end).unwrap_or(&[]), first, without)
                }
                _ => *block,
            };
            if block.score > top.score {
                top = block;
            }
        }
        (top.node != u32::MAX).then_some((top.node, top.score))
    }

    /// How many nodes fit.
    pub(crate) fn fitting(&self) -> usize {
        self.blocks.iter().map(|b| b.fitting as usize).sum()
    }

    /// The score of one node, none when it does not fit.
    pub(crate) fn score(&self, node: u32) -> Option<f64> {
        self.scores.get(node as usize).copied().filter(|score| *score > UNFIT)
    }

    /// The fitting node that has `skip` fitting ones before it.
    pub(crate) fn nth(&self, mut skip: usize) -> Option<u32> {
        for (number, block) in self.blocks.iter().enumerate() {
            if skip >= block.fitting as usize {
                skip -= block.fitting as usize;
                continue;
            }
            let first = number * BLOCK_SIZE;
            let scores = self.scores.iter().enumerate().skip(first).take(BLOCK_SIZE);
            let mut fitting = scores.filter(|(_, score)| **score > UNFIT).map(|(at, _)| at);
            return fitting.nth(skip).and_then(|at| u32::try_from(at).ok());
        }
        None
    }

    /// The first fitting node from `start` on, round the end.
    pub(crate) fn next(&self, start: u32) -> Option<u32> {
        let before = self.before(start);
        let count = self.fitting();
        self.nth(if before < count { before } else { 0 })
    }

    /// How many fitting nodes have a lower number.
    fn before(&self, node: u32) -> usize {
        let node = node as usize;
        let block = node / BLOCK_SIZE;
        let whole: usize = self.blocks.iter().take(block).map(|b| b.fitting as usize).sum();
        let part =
            self.scores.iter().take(node).skip(block * BLOCK_SIZE).filter(|score| **score > UNFIT).count();
        whole + part
    }
}

fn best_of(scores: &[f64], first: u32, without: Option<u32>) -> Best {
    let mut best = NONE;
    for (node, score) in (first..).zip(scores) {
        if *score > UNFIT {
            best.fitting += 1;
            if *score > best.score && Some(node) != without {
                (best.score, best.node) = (*score, node);
            }
        }
    }
    best
}

/// The indexes of the shapes that were asked for lately.
#[derive(Debug, Clone)]
pub(crate) struct Indexes<K> {
    known: BTreeMap<K, (Index, u64)>,
    cells: usize,
    tick: u64,
}

/// Scores kept at most: 24 MB, so that ten thousand nodes and hundreds of shapes stay far below 100 MB.
const CELLS: usize = 3_000_000;

impl<K: Ord + Copy> Indexes<K> {
    pub(crate) fn new() -> Self {
        Self { known: BTreeMap::new(), cells: 0, tick: 0 }
    }

    /// The index of `key`; what was asked for longest ago makes room.
    pub(crate) fn get(&mut self, key: K, nodes: usize) -> &mut Index {
        self.tick += 1;
        if !self.known.contains_key(&key) {
            while self.cells + nodes > CELLS {
                let Some(oldest) = self.known.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k)
                else {
                    break;
                };
                if let Some((index, _)) = self.known.remove(&oldest) {
                    self.cells = self.cells.saturating_sub(index.cells());
                }
            }
            self.cells += nodes;
        }
        let (index, used) = self.known.entry(key).or_default();
        *used = self.tick;
        index
    }
}
