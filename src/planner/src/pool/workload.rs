use super::shape::Shape;
use std::collections::BTreeMap;

/// How many different shapes are remembered; the rarest make room.
const SHAPES: usize = 2048;

/// With so many requests remembered all counts are halved, so that what came lately weighs more.
const REMEMBERED: u64 = 32_768;

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
        if self.counts.len() > SHAPES || self.total >= REMEMBERED {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cpu: u64) -> Shape {
        let mut shape = Shape::NOTHING;
        shape.amounts.cpu = cpu;
        shape
    }

    #[test]
    fn shares_follow_what_comes_lately() {
        let mut workload = Workload::default();
        (0..40_000).for_each(|_| workload.observe(shape(1)));
        (0..40_000).for_each(|_| workload.observe(shape(2)));
        let shares: Vec<f64> = workload.shares().map(|(_, share)| share).collect();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(shares[1] > 2.0 * shares[0], "{shares:?}");
        assert_eq!(workload.seen(), 80_000);
    }

    #[test]
    fn never_more_shapes_than_the_limit_are_remembered_and_the_frequent_stay() {
        let mut workload = Workload::default();
        for number in 0..10_000 {
            workload.observe(shape(number + 1));
            workload.observe(shape(0));
        }
        assert!(workload.shares().count() <= SHAPES);
        assert!(workload.shares().any(|(shape, share)| shape.amounts.cpu == 0 && share > 0.4));
    }
}
