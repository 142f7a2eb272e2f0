//! spacecloud's own strategy: a task goes where the pool loses least of what it can still earn.
//!
//! Fragmentation as published asks which tasks could use what is free *as the next one*. Ours asks how much of it
//! tasks will have used *in the end*, and knows three things more:
//!
//! 1. **A free part is filled by more than one task.** The fill of a part r is that of a device which is offered one
//!    usual task after another, until with a small chance e no further one comes:
//!    `fill(r) = Σ p(d) · (d + fill(r − d)) / (Σ p(d) + e)` over the demands d ≤ r. So 530 beside a common demand of
//!    470 is worth nearly 470, and 190 into which next to nothing fits is worth little: such remainders are avoided
//!    when they are made, not when they are found.
//! 2. **Accelerators need company.** Free accelerators worth F that usually go with a cores and b memory per unit, on a
//!    node with c cores and m memory free, are worth `F / √(1 + (aF/c)² + (bF/m)²)`: nearly F where there is plenty,
//!    what CPU or memory can still feed where there is not, and smooth in between. So tasks that want much CPU go where
//!    CPU is left over, and lean ones where it is short, long before any node is starved.
//! 3. **It learns.** p, a and b are counted from the requests that have arrived. Beforehand it expects one task for each
//!    size of node that wants such a node whole: so nodes are kept whole until experience says that nobody wants them so,
//!    and after some dozens of arrivals that one task hardly counts.
//!
//! Tasks for several accelerators, and models that only some tasks can use, count by their share, as in the
//! publication.

use super::outlook::{Company, Outlook, Row, Usual, usuals};
use super::resources::WHOLE;
use super::shape::Shape;
use super::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};

/// The chance that no further task comes. From 0.01 to 0.1 it makes little difference (docs/planner.md has the figures);
/// much larger is short-sighted, much smaller believes that every remainder is filled one day.
const END: f64 = 0.01;

/// Worth as what tasks will have used in the end. `sizes` are how many accelerators nodes have.
pub(crate) fn outlook(
    arrived: &Workload,
    sizes: &BTreeSet<u16>,
    models: impl Iterator<Item = u64>,
) -> Outlook {
    let Some(company) = company(&usuals(arrived)) else { return Outlook::default() };
    let mut workload = arrived.clone();
    for size in sizes.iter().filter(|size| **size > 0) {
        workload.observe(Shape { accelerators: *size, milli: WHOLE, ..Shape::NOTHING });
    }
    let all = usuals(&workload);
    let tasks: f64 = all.iter().map(|usual| usual.share).sum();
    let milli = demand(&all);
    let several = |usual: &&Usual| usual.shape.accelerators > 1;
    let several: f64 =
        all.iter().filter(several).map(|u| u.shape.accelerator_milli() as f64 * u.share / milli).sum();
    Outlook::new(&workload, models, Some(company), |runs| row(runs, tasks, milli, several))
}

/// What arrived tells of it; none while nothing with accelerators has.
fn company(arrived: &[Usual]) -> Option<Company> {
    let milli = demand(arrived);
    let sum = |value: fn(&Usual) -> u64| arrived.iter().map(|u| value(u) as f64 * u.share).sum::<f64>();
    (milli > 0.0).then(|| Company {
        cpu: sum(|usual| usual.shape.amounts.cpu) / milli,
        memory: sum(|usual| usual.shape.amounts.memory) / milli,
    })
}

/// Thousandths of accelerators for each task, on average.
fn demand(usuals: &[Usual]) -> f64 {
    usuals.iter().map(|usual| usual.shape.accelerator_milli() as f64 * usual.share).sum()
}

/// `tasks` and `milli` are what all tasks with accelerators come to, `several` the share of demand that wants more
/// than one.
fn row(runs: &[Usual], tasks: f64, milli: f64, several: f64) -> Row {
    let mut demands: BTreeMap<u16, f64> = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for Usual { shape, share } in runs {
        if shape.accelerators == 1 {
            *demands.entry(shape.milli).or_default() += share / tasks;
        } else {
            let weight = shape.accelerator_milli() as f64 * share / milli;
            *kinds.entry((shape.accelerators, shape.milli)).or_default() += weight;
        }
    }
    let mut fill = vec![0.0_f64; usize::from(WHOLE) + 1];
    for part in 1..=WHOLE {
        let (mut taken, mut chance) = (0.0, END);
        for (demand, share) in demands.range(..=part) {
            let rest = fill.get(usize::from(part - demand)).copied().unwrap_or(0.0);
            taken += share * (f64::from(*demand) + rest);
            chance += share;
        }
        if let Some(value) = fill.get_mut(usize::from(part)) {
            *value = taken / chance;
        }
    }
    let single = fill.into_iter().map(|value| value * (1.0 - several)).collect();
    Row { single, several: kinds.into_iter().collect() }
}
