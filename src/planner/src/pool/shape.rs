use super::resources::Amounts;

/// A request as the pool compares it: requests of one shape are answered alike by the same pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) amounts: Amounts,
    pub(crate) accelerators: u16,
    pub(crate) milli: u16,
    /// One bit per model that will do; all of them when any will.
    pub(crate) models: u64,
}

impl Shape {
    /// Asks for nothing, and so fits everywhere.
    pub(crate) const NOTHING: Self =
        Self { amounts: Amounts { cpu: 0, memory: 0, disk: 0 }, accelerators: 0, milli: 0, models: u64::MAX };

    pub(crate) fn accelerator_milli(&self) -> u64 {
        u64::from(self.accelerators) * u64::from(self.milli)
    }

    /// What `gpu-clustering` calls alike: how many accelerators, 0 for a part of one; none without any.
    pub(crate) fn kind(&self) -> Option<u16> {
        (self.accelerators > 0).then(|| if self.is_share() { 0 } else { self.accelerators })
    }

    /// A part of one accelerator: the only shape for which devices of one node differ in worth.
    pub(crate) fn is_share(&self) -> bool {
        self.accelerators == 1 && self.milli < super::WHOLE
    }
}
