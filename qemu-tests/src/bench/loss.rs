//! `bench loss`: what a client notices while a module is cut off that some of its calls lead to.

use super::{
    Drain, Options,
    rig::{INSTANCES, PATIENCE, Rig},
};
use crate::{SimError, wait_until, within};
use std::time::{Duration, Instant};

/// Measures what a client notices of losses; a move is an instance replaced. `say` hears of each run.
///
/// # Errors
/// A chassis does not come up, or the cluster does not recover in time.
pub fn loss(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Drain, SimError> {
    let mut all =
        Drain { runs: options.runs, requests: 0, failed_requests: 0, longest_gap_ms: 0, moves: 0, rate: 0 };
    let mut measured = Duration::ZERO;
    for run in 1..=options.runs {
        let rig = Rig::start(options, "make-before-break")?;
        rig.start_calling()?;
        // The client is one more instance: it may have upset the balance.
        rig.wait_even(INSTANCES + 1)?;
        let (begun, before) = (Instant::now(), rig.calls()?);
        let seen = rig.lose_a_module(INSTANCES + 1)?;
        // The one that was on its way to the lost module may still wait for its end.
        let at = rig.calls()?;
        let on = || rig.calls().is_ok_and(|now| now.requests > at.requests + 1);
        wait_until("the calls are answered again", within(PATIENCE), on)?;
        let now = rig.calls()?;
        let (requests, failed) =
            (now.requests.saturating_sub(before.requests), now.failed.saturating_sub(before.failed));
        say(&format!(
            "run {run}: {} instances whole elsewhere after {:.3} s; {requests} calls, {failed} failed, longest gap {} ms",
            seen.moved, seen.whole_s, now.longest_gap_ms
        ));
        all.requests += requests;
        all.failed_requests += failed;
        all.longest_gap_ms = all.longest_gap_ms.max(now.longest_gap_ms);
        all.moves += seen.moved;
        measured += begun.elapsed();
    }
    all.rate = all.requests / measured.as_secs().max(1);
    Ok(all)
}
