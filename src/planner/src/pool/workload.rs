use super::shape::Shape;
use std::collections::BTreeMap;

/// How many different shapes are remembered; the rarest make room.
const SHAPES: usize = 2048;

/// What is usually asked for: shapes and how often each came.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Workload {
    counts: BTreeMap<Shape, u64>,
    total: u64,
    seen: u64,
}

impl Workload {
    pub(crate) fn observe(&mut self, shape: Shape) {
        *self.counts.entry(shape).or_default() += 1;
        self.total += 1;
        self.seen += 1;
        if self.counts.len() > SHAPES {
            // Forgetting by halves keeps what is frequent, and keeps following what changes.
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.total = self.counts.values().sum();
        }
    }

    /// How many were observed in all, remembered or not.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Each shape with its share of all requests.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (&Shape, f64)> {
        let total = self.total.max(1) as f64;
        self.counts.iter().map(move |(shape, count)| (shape, *count as f64 / total))
    }
}
