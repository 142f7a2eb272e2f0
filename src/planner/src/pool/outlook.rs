//! What a node is still worth, given the tasks that usually come: the part that `fgd` and `spacecloud` share.
//!
//! Both score a placement by how much worth the node keeps. They differ in what worth is: see `fragment` and
//! `prospect`. Worth is looked up, not computed: a *row* for each amount of CPU at which another usual task begins to
//! run, and in it a value for each free part of one accelerator.

use super::node::Node;
use super::resources::{Amounts, WHOLE};
use super::shape::Shape;
use super::workload::Workload;
use std::collections::BTreeMap;

/// How many accelerators, and how much of each.
pub(super) type Kind = (u16, u16);

/// Rows kept at most; with more different CPU demands than this, neighbours share a row.
const LEVELS: usize = 128;

/// One usual shape that wants accelerators, with its share of all tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usual {
    pub(super) shape: Shape,
    pub(super) share: f64,
}

/// The worth of accelerators beside one amount of CPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    /// The worth of one accelerator, by its free part from 0 to [`WHOLE`].
    pub(super) single: Vec<f64>,
    /// For each kind of task for several accelerators, the worth of a thousandth of those it can use.
    pub(super) several: Vec<(Kind, f64)>,
}

/// CPU and memory that usually go with a thousandth of an accelerator.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Company {
    pub(super) cpu: f64,
    pub(super) memory: f64,
}

/// The worth of nodes, as tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlook {
    levels: Vec<u64>,
    /// By model; models that the same tasks can use share their rows.
    groups: BTreeMap<u64, usize>,
    rows: Vec<Vec<Row>>,
    /// When given, accelerators that lack their usual company are worth less.
    company: Option<Company>,
}

impl Outlook {
    /// Prepares the tables. `row` is told which of the usual tasks run.
    pub(super) fn new(
        workload: &Workload,
        models: impl Iterator<Item = u64>,
        company: Option<Company>,
        row: impl Fn(&[Usual]) -> Row,
    ) -> Self {
        let usuals = usuals(workload);
        let levels = levels(&usuals);
        let mut groups = BTreeMap::new();
        let mut members: Vec<Vec<Usual>> = Vec::new();
        for model in models {
            let runs = |usual: &&Usual| usual.shape.models & model != 0;
            let usable: Vec<Usual> = usuals.iter().filter(runs).copied().collect();
            let same = |known: &Vec<Usual>| known.iter().map(|u| u.shape).eq(usable.iter().map(|u| u.shape));
            let group = members.iter().position(same).unwrap_or_else(|| {
                members.push(usable);
                members.len() - 1
            });
            groups.insert(model, group);
        }
        let at_level = |usable: &[Usual], level: u64| {
            let runs: Vec<Usual> = usable.iter().filter(|u| u.shape.amounts.cpu <= level).copied().collect();
            row(&runs)
        };
        let rows = members.iter().map(|usable| levels.iter().map(|level| at_level(usable, *level)).collect());
        let rows = rows.collect();
        Self { levels, groups, rows, company }
    }

    fn row(&self, model: u64, cpu: u64) -> Option<&Row> {
        let level = self.levels.partition_point(|level| *level <= cpu).checked_sub(1)?;
        self.rows.get(*self.groups.get(&model)?)?.get(level)
    }

    /// The worth of accelerators that are worth `sum` by themselves, beside what is `free`.
    fn with_company(&self, sum: f64, free: &Amounts) -> f64 {
        let Some(usual) = self.company.filter(|_| sum > 0.0) else { return sum };
        let cpu = sum * usual.cpu / free.cpu.max(1) as f64;
        let memory = sum * usual.memory / free.memory.max(1) as f64;
        sum / (1.0 + cpu * cpu + memory * memory).sqrt()
    }

    /// What the node is worth now.
    fn now(&self, node: &Node) -> f64 {
        let Some(row) = self.row(node.model, node.free.cpu) else { return 0.0 };
        let sum = row.singles(node) + row.several(node, node.whole, None);
        self.with_company(sum, &node.free)
    }

    /// The worth that the node keeps less what it had: the higher the better, 0 at best as a rule. For a part of an
    /// accelerator also the device that keeps it so.
    pub(crate) fn score(&self, node: &Node, shape: &Shape) -> (f64, Option<u16>) {
        let before = self.now(node);
        let free = node.free.less(&shape.amounts);
        let Some(row) = self.row(node.model, free.cpu) else {
            return (-before, shape.is_share().then(|| node.tightest(shape).first().copied()).flatten());
        };
        let base = row.singles(node);
        if shape.is_share() {
            let (worth, device) = self.best_device(node, shape, row, base, &free);
            return (worth - before, device);
        }
        let whole = if shape.milli == WHOLE { shape.accelerators } else { 0 };
        let after = if shape.accelerators == 0 {
            base + row.several(node, node.whole, None)
        } else if whole > 0 {
            base - f64::from(whole) * row.single(WHOLE)
                + row.several(node, node.whole.saturating_sub(whole), None)
        } else {
            row.after_parts(node, shape)
        };
        (self.with_company(after, &free) - before, None)
    }

    fn best_device(
        &self,
        node: &Node,
        shape: &Shape,
        row: &Row,
        base: f64,
        free: &Amounts,
    ) -> (f64, Option<u16>) {
        let mut best: Option<(f64, u16, u16)> = None;
        let mut seen = 0;
        for (number, device) in (0_u16..).zip(&node.devices) {
            let left = device.usable();
            if left < shape.milli || left == seen {
                continue;
            }
            seen = left;
            let whole = node.whole - u16::from(left == WHOLE);
            let rest = left - shape.milli;
            let several = row.several(node, whole, Some((left, rest)));
            let sum = base - row.single(left) + row.single(rest) + several;
            let worth = self.with_company(sum, free);
            if best.is_none_or(|(top, _, tight)| worth > top || (worth == top && left < tight)) {
                best = Some((worth, number, left));
            }
        }
        best.map_or((0.0, None), |(worth, number, _)| (worth, Some(number)))
    }
}

impl Row {
    fn single(&self, part: u16) -> f64 {
        self.single.get(usize::from(part)).copied().unwrap_or(0.0)
    }

    fn singles(&self, node: &Node) -> f64 {
        node.devices.iter().map(|device| self.single(device.usable())).sum()
    }

    /// `swap` pretends that one device has another part free; `whole` counts the wholly free ones after that.
    fn several(&self, node: &Node, whole: u16, swap: Option<(u16, u16)>) -> f64 {
        let worth = |(kind, weight): &(Kind, f64)| match kind {
            (count, WHOLE) if *count > whole => 0.0,
            (_, WHOLE) => weight * f64::from(whole) * f64::from(WHOLE),
            _ => weight * fitting(swapped(node, swap), *kind),
        };
        self.several.iter().map(worth).sum()
    }

    /// After several parts are taken, each from a device of its own: rare, so without short cuts.
    fn after_parts(&self, node: &Node, shape: &Shape) -> f64 {
        let taken = node.tightest(shape);
        let parts = (0_u16..).zip(&node.devices).map(|(number, device)| {
            device.usable().saturating_sub(if taken.contains(&number) { shape.milli } else { 0 })
        });
        let singles: f64 = parts.clone().map(|part| self.single(part)).sum();
        let several = self.several.iter().map(|(kind, weight)| weight * fitting(parts.clone(), *kind));
        singles + several.sum::<f64>()
    }
}

fn swapped(node: &Node, swap: Option<(u16, u16)>) -> impl Iterator<Item = u16> + '_ {
    let mut swap = swap;
    node.devices.iter().map(move |device| match (device.usable(), swap) {
        (left, Some((from, to))) if left == from => {
            swap = None;
            to
        }
        (left, _) => left,
    })
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

pub(super) fn usuals(workload: &Workload) -> Vec<Usual> {
    let wanting = workload.shares().filter(|(shape, _)| shape.accelerators > 0);
    wanting.map(|(shape, share)| Usual { shape: *shape, share }).collect()
}

fn levels(usuals: &[Usual]) -> Vec<u64> {
    let mut levels: Vec<u64> = usuals.iter().map(|usual| usual.shape.amounts.cpu).collect();
    levels.sort_unstable();
    levels.dedup();
    let step = levels.len().div_ceil(LEVELS).max(1);
    levels.into_iter().step_by(step).collect()
}
