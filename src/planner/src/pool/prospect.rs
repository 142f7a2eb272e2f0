//! Fragmentation gradient descent, from its publication (Weng et al., USENIX ATC 2023).
//!
//! The fragment of a node for one shape of task is what of its free accelerators that task cannot use: all of it when
//! the task does not run there at all, else the devices that are too small for it. The expected fragment is the mean
//! over the tasks that usually come. A task goes where it makes the expected fragment grow least.
//!
//! Here the complement is computed, what *can* be used: a task takes the same amount from every node, so the smallest
//! growth of the fragment is the smallest loss of what is usable.

use super::node::Node;
use super::resources::{Amounts, WHOLE};
use super::shape::Shape;
use super::workload::Workload;
use std::collections::BTreeMap;

/// Tasks that want the same of accelerators.
type Kind = (u16, u16);

/// One usual shape, with its share of all tasks.
#[derive(Debug, Clone)]
struct Usual {
    shape: Shape,
    share: f64,
}

/// What runs on nodes of one model with one amount of CPU, as sums.
#[derive(Debug, Clone, Default)]
struct Row {
    /// By rank of a device's free part: the share of tasks for one accelerator that fit into it.
    single: Vec<f64>,
    /// The share of tasks of each kind for several accelerators.
    several: Vec<(Kind, f64)>,
    /// What the most demanding of them wants beside CPU: with this much all of them run.
    most: Amounts,
}

/// The usual tasks, prepared so that one look at a node costs a few table look-ups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prospect {
    shapes: Vec<Usual>,
    /// The CPU demands at which another row begins.
    cpus: Vec<u64>,
    /// Of each free part from 0 to [`WHOLE`], its rank among the demands.
    ranks: Vec<u16>,
    models: BTreeMap<u64, Vec<Row>>,
}

impl Prospect {
    pub(crate) fn new(workload: &Workload, models: impl Iterator<Item = u64>) -> Self {
        let shapes: Vec<Usual> = workload
            .shares()
            .filter(|(shape, _)| shape.accelerators > 0)
            .map(|(shape, share)| Usual { shape: *shape, share })
            .collect();
        let mut cpus: Vec<u64> = shapes.iter().map(|usual| usual.shape.amounts.cpu).collect();
        cpus.sort_unstable();
        cpus.dedup();
        let mut parts: Vec<u16> =
            shapes.iter().filter(|u| u.shape.accelerators == 1).map(|u| u.shape.milli).collect();
        parts.sort_unstable();
        parts.dedup();
        let rank = |free: u16| parts.partition_point(|part| *part <= free);
        let ranks = (0..=WHOLE).map(|free| u16::try_from(rank(free)).unwrap_or(u16::MAX)).collect();
        let models = models.map(|model| (model, rows(&shapes, model, &cpus, &parts))).collect();
        Self { shapes, cpus, ranks, models }
    }

    fn rank(&self, free: u16) -> usize {
        self.ranks.get(usize::from(free)).copied().map_or(0, usize::from)
    }

    /// Takes stock of `node` as if its free amounts were `free`.
    fn outlook<'a>(&'a self, node: &'a Node, free: &'a Amounts) -> Outlook<'a> {
        let row = self.cpus.partition_point(|cpu| *cpu <= free.cpu);
        let row = row.checked_sub(1).and_then(|row| self.models.get(&node.model)?.get(row));
        let ample = row.is_none_or(|row| row.most.memory <= free.memory && row.most.disk <= free.disk);
        Outlook { usuals: self, node, free, row, ample }
    }

    /// The score of a node that fits, and the device for a share: what stays usable less what was usable.
    pub(crate) fn score(&self, node: &Node, shape: &Shape) -> (f64, Option<u16>) {
        let before = self.outlook(node, &node.free).usable(None);
        let free = node.free.less(&shape.amounts);
        let after = self.outlook(node, &free);
        if !shape.is_share() {
            let taken = if shape.accelerators == 0 { 0 } else { shape.accelerators };
            return (after.usable_without(shape, taken) - before, None);
        }
        let mut best: Option<(f64, u16, u16)> = None;
        let base = after.usable(None);
        for (number, device) in (0_u16..).zip(&node.devices) {
            let left = device.usable();
            if left < shape.milli || best.is_some_and(|(.., seen)| seen == left) {
                continue;
            }
            let score = after.usable_with(base, left, left - shape.milli) - before;
            if best.is_none_or(|(top, _, tight)| score > top || (score == top && left < tight)) {
                best = Some((score, number, left));
            }
        }
        best.map_or((0.0, None), |(score, number, _)| (score, Some(number)))
    }
}

fn rows(shapes: &[Usual], model: u64, cpus: &[u64], parts: &[u16]) -> Vec<Row> {
    let runs = |usual: &&Usual| usual.shape.models == u64::MAX || usual.shape.models & model != 0;
    let row = |cpu: &u64| {
        let mut row = Row { single: vec![0.0; parts.len() + 1], ..Row::default() };
        let mut several: BTreeMap<Kind, f64> = BTreeMap::new();
        for Usual { shape, share } in shapes.iter().filter(runs).filter(|u| u.shape.amounts.cpu <= *cpu) {
            row.most.memory = row.most.memory.max(shape.amounts.memory);
            row.most.disk = row.most.disk.max(shape.amounts.disk);
            if shape.accelerators == 1 {
                let rank = parts.partition_point(|part| *part <= shape.milli);
                row.single.iter_mut().skip(rank).for_each(|sum| *sum += share);
            } else {
                *several.entry((shape.accelerators, shape.milli)).or_default() += share;
            }
        }
        row.several = several.into_iter().collect();
        row
    };
    cpus.iter().map(row).collect()
}

/// One node with one amount of CPU, memory and disk.
struct Outlook<'a> {
    usuals: &'a Prospect,
    node: &'a Node,
    free: &'a Amounts,
    row: Option<&'a Row>,
    /// Memory and disk are enough for every task that the CPU is enough for.
    ample: bool,
}

impl Outlook<'_> {
    fn parts(&self, swap: Option<(u16, u16)>) -> impl Iterator<Item = u16> + Clone {
        let mut swap = swap;
        self.node.devices.iter().map(move |device| match (device.usable(), swap) {
            (left, Some((from, to))) if left == from => {
                swap = None;
                to
            }
            (left, _) => left,
        })
    }

    /// Thousandths of accelerators that the usual tasks can use, by how usual they are. `swap` pretends that one
    /// device has another part free.
    fn usable(&self, swap: Option<(u16, u16)>) -> f64 {
        match self.row {
            None => 0.0,
            Some(_) if !self.ample => self.usable_scanned(self.parts(swap)),
            Some(row) => {
                let single: f64 = self.parts(swap).map(|left| self.single(row, left)).sum();
                single + several(row, self.parts(swap))
            }
        }
    }

    fn single(&self, row: &Row, left: u16) -> f64 {
        f64::from(left) * row.single.get(self.usuals.rank(left)).copied().unwrap_or(0.0)
    }

    fn usable_with(&self, base: f64, from: u16, to: u16) -> f64 {
        match self.row {
            Some(row) if self.ample && from < WHOLE => base - self.single(row, from) + self.single(row, to),
            _ => self.usable(Some((from, to))),
        }
    }

    /// After a request for `count` devices takes the ones that [`Node::tightest`] names.
    fn usable_without(&self, shape: &Shape, count: u16) -> f64 {
        if count == 0 {
            return self.usable(None);
        }
        let taken = self.node.tightest(shape);
        let parts = (0_u16..)
            .zip(&self.node.devices)
            .map(|(number, device)| device.usable() - if taken.contains(&number) { shape.milli } else { 0 });
        match self.row {
            None => 0.0,
            Some(_) if !self.ample => self.usable_scanned(parts),
            Some(row) => parts.clone().map(|left| self.single(row, left)).sum::<f64>() + several(row, parts),
        }
    }

    fn usable_scanned(&self, parts: impl Iterator<Item = u16> + Clone) -> f64 {
        let runs = |u: &&Usual| {
            let shape = &u.shape;
            (shape.models == u64::MAX || shape.models & self.node.model != 0)
                && self.free.holds(&shape.amounts)
        };
        let usable = |usual: &Usual| {
            usual.share * fitting(parts.clone(), (usual.shape.accelerators, usual.shape.milli))
        };
        self.usuals.shapes.iter().filter(runs).map(usable).sum()
    }
}

fn several(row: &Row, parts: impl Iterator<Item = u16> + Clone) -> f64 {
    row.several.iter().map(|(kind, share)| share * fitting(parts.clone(), *kind)).sum()
}

/// The free parts that are large enough, when there are enough of them.
fn fitting(parts: impl Iterator<Item = u16>, (count, milli): Kind) -> f64 {
    let (mut number, mut sum) = (0_u16, 0_u32);
    for left in parts.filter(|left| *left >= milli) {
        number += 1;
        sum += u32::from(left);
    }
    if number >= count { f64::from(sum) } else { 0.0 }
}
