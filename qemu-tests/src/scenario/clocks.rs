//! Wall clocks that are set in the middle of what the cluster does, as a ground station or a GPS receiver does it: no
//! lease, no move and no probe may notice.

use super::Scenario;
use crate::{BackplaneKind, Module, SimError, Times, within};

/// Sets a module's wall clock so many minutes ahead, or back if it is negative, in one jump.
///
/// # Errors
/// The module does not answer, or does not let its clock be set.
pub fn set_clock(module: &Module, minutes: i64) -> Result<(), SimError> {
    let command = format!("date -s @$(( $(date +%s) + {} ))", minutes.saturating_mul(60));
    module.run(&command, within(120.s())).map(drop)
}

impl Scenario<'_> {
    /// Sets clocks, by slot and minutes, where the modules have clocks of their own; a namespace has the host's.
    pub(super) fn set_clocks(&self, all: &[(u16, i64)]) -> Result<(), SimError> {
        if self.chassis.backplane() == BackplaneKind::Qemu {
            for (slot, minutes) in all {
                set_clock(self.chassis.module(*slot)?, *minutes)?;
            }
        }
        Ok(())
    }

    /// What [`Self::set_clocks`] has shown by now.
    pub(super) fn clocks_were_set(&mut self, meanwhile: &str) {
        if self.chassis.backplane() == BackplaneKind::Qemu {
            self.checked(format!("wall clocks were set by minutes, to and fro, during {meanwhile}"));
        }
    }
}
