//! The guard: a process of its own that fences when the lease has run out, also while the agent is dead.

use crate::config::Config;
use runtime::boot_clock;
use std::{process::ExitCode, thread::sleep, time::Duration};

const PERIOD: Duration = Duration::from_millis(50);

/// Watches the kept lease for ever.
pub fn run(config: &Config) -> ExitCode {
    let fence = config.fence();
    let mut fenced = false;
    loop {
        let over = fence.kept().is_some_and(|(deadline, _)| boot_clock() >= deadline);
        if over && fence.populated() {
            if !fenced {
                tracing::warn!("the lease ran out: killing what must not outlive it");
            }
            if let Err(error) = fence.kill() {
                tracing::error!(%error, "cannot fence");
            }
        }
        fenced = over;
        sleep(PERIOD);
    }
}
