//! Self-fencing: when the lease has run out, everything of kind `stop` is killed, again and again until it is gone.

use super::instances::Instances;
use std::{sync::Arc, time::Duration};

const PERIOD: Duration = Duration::from_millis(20);

/// Starts the watch on a thread of its own, so that a busy agent fences in time all the same.
pub(super) fn start(instances: &Arc<Instances>) {
    let instances = instances.clone();
    let watch = move || {
        loop {
            if !instances.lease_holds() {
                instances.fence();
            }
            std::thread::sleep(PERIOD);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("fencing".into()).spawn(watch) {
        // Without it an instance could run twice.
        tracing::error!(%error, "cannot start the fencing thread");
        std::process::exit(1);
    }
}
