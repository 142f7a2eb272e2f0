//! Fragmentation gradient descent, from its publication (Weng et al., USENIX ATC 2023).
//!
//! The fragment of a node for one shape of task is what of its free accelerators that task cannot use: all of it when
//! the task does not run there at all, else the devices that are too small for it. The expected fragment is the mean
//! over the tasks that usually come, those without accelerators included: for them everything is fragment. A task goes
//! where it makes the expected fragment grow least.
//!
//! Here the complement is computed, what *can* be used: a task takes the same amount from every node, so the smallest
//! growth of the fragment is the smallest loss of what is usable. Whether a task runs is asked of CPU, accelerators and
//! model, as published; memory only decides whether a node fits.

use super::outlook::{Outlook, Row, Usual};
use super::resources::WHOLE;
use super::workload::Workload;
use std::collections::BTreeMap;

/// Worth as what the usual tasks can use.
pub(crate) fn outlook(workload: &Workload, models: impl Iterator<Item = u64>) -> Outlook {
    Outlook::new(workload, models, None, row)
}

/// The change of what is usable, in thousandths, as a Kubernetes score: a whole number from 0 to 100, by a sigmoid whose
/// unit is one accelerator. So nodes that differ by a few hundredths of an accelerator are equals, as in the published
/// implementation; the publication leaves open which of them is taken: here the one with less accelerator `left`.
pub(crate) fn whole_score(change: f64, left: u64) -> f64 {
    let score = (100.0 / (1.0 + (-change / f64::from(WHOLE)).exp())).floor();
    // Less than one however many accelerators a node may have.
    score - left as f64 / f64::from(u32::MAX)
}

/// A free part counts as often as there are tasks that fit into it.
fn row(runs: &[Usual]) -> Row {
    let mut fitting = vec![0.0; usize::from(WHOLE) + 1];
    let mut several = BTreeMap::new();
    for Usual { shape, share } in runs {
        if shape.accelerators == 1 {
            fitting.iter_mut().skip(usize::from(shape.milli)).for_each(|sum| *sum += share);
        } else {
            *several.entry((shape.accelerators, shape.milli)).or_default() += share;
        }
    }
    let single = (0_u16..).zip(fitting).map(|(part, share)| f64::from(part) * share).collect();
    Row { single, several: several.into_iter().collect() }
}
