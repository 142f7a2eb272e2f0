//! What an instance may have while it runs: changed limits are applied, and one that outgrows its disk is found.

use super::instances::RETRY;
use crate::chain;
use model::{Binding, Bytes, Desired, InstanceId, Milli};
use runtime::{Runtime, RuntimeError};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often an instance's disk is measured; measuring walks its files.
const MEASURE: Duration = Duration::from_secs(2);

/// Gives a running instance what it is to have; tries again until it is so, or something newer is wanted.
pub(super) async fn follow_limits(
    mut changes: watch::Receiver<Desired>,
    runtime: Arc<dyn Runtime>,
    mut given: Desired,
) {
    loop {
        let mut wanted = changes.borrow_and_update().clone();
        // A move changes no limits.
        wanted.live.clone_from(&given.live);
        wanted.keeps = given.keeps;
        if wanted != given {
            match runtime.update(&wanted).await {
                Ok(()) => {
                    tracing::info!(instance = %wanted.id, binding = %wanted.binding.words(), "limits changed");
                    given = wanted;
                }
                Err(error) => {
                    tracing::warn!(instance = %wanted.id, error = %chain(&error), "cannot change the limits");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Waits until the instance has written more than it may, and says so. The limit is the one that is wanted at the time.
pub(super) async fn outgrown(
    wanted: watch::Receiver<Desired>,
    runtime: Arc<dyn Runtime>,
    id: InstanceId,
) -> String {
    loop {
        tokio::time::sleep(MEASURE).await;
        let limit = wanted.borrow().spec.resources.disk;
        if limit.0 == 0 {
            continue;
        }
        match runtime.disk(&id).await {
            Ok(used) if used > limit.0 => {
                let used = Bytes(used.next_multiple_of(1 << 10));
                return format!("disk: it has written {used}, its resources.disk is {limit}");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(instance = %id, error = %chain(&error), "cannot measure its disk"),
        }
    }
}

/// Whether what is `wanted` together with what is `held` is more than one whole accelerator anywhere.
///
/// # Errors
/// [`RuntimeError::Shared`] names the first one.
pub(super) fn beyond(wanted: &Binding, held: &[Binding]) -> Result<(), RuntimeError> {
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for share in held.iter().chain([wanted]).flat_map(|binding| &binding.accelerators) {
        let sum = sums.entry(share.number).or_default();
        *sum = sum.saturating_add(share.share.0);
    }
    let over = wanted.numbers().find(|number| sums.get(number).is_some_and(|sum| *sum > Milli::WHOLE));
    over.map_or(Ok(()), |number| Err(RuntimeError::Shared { number }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::AcceleratorShare;

    fn binding(shares: &[(u32, u64)]) -> Binding {
        let share = |(number, milli): &(u32, u64)| AcceleratorShare { number: *number, share: Milli(*milli) };
        Binding { accelerators: shares.iter().map(share).collect(), ..Binding::default() }
    }

    #[test]
    fn nobody_starts_on_more_than_one_whole_accelerator() {
        let held = [binding(&[(0, 600), (1, 1000)]), binding(&[(2, 300)])];
        assert!(beyond(&binding(&[(0, 400)]), &held).is_ok());
        assert!(beyond(&binding(&[(2, 700)]), &held).is_ok());
        assert!(beyond(&binding(&[]), &held).is_ok());
        let refused = beyond(&binding(&[(2, 500), (0, 401)]), &held).unwrap_err().to_string();
        assert!(refused.starts_with("accelerator 0 "), "{refused}");
        assert!(beyond(&binding(&[(1, 1)]), &held).is_err());
    }
}
