//! What an earlier process of the daemon has left on the module: what runs is taken over, and what it had only begun to
//! make when it died is removed.

use super::instances::{Instances, lock};
use crate::chain;
use model::{InstanceId, Live, Name, PlannedMove};
use runtime::{Found, RuntimeError};
use std::{sync::Arc, time::Duration};

impl Instances {
    /// Before anything is ordered.
    pub(super) async fn adopt(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let strays = self.runtime.strays().await;
        for found in self.runtime.list().await? {
            let mut desired = found.desired.clone();
            if found.frozen {
                // Somebody may have its process: nothing thaws it before the server has spoken.
                let (to, successor) = (Name::of_module(0), desired.id.clone());
                desired.live = Some(Live::Gives { to, successor });
            } else if found.running && desired.spec.migration.planned == PlannedMove::Live {
                // If it was to come, it has come.
                desired.live = None;
                self.go_on(&found).await;
            }
            tracing::info!(instance = %desired.id, running = found.running, "adopted");
            let mut state = lock(&self.state);
            state.wanted.insert(desired.id.clone(), desired.clone());
            self.spawn(&mut state, desired, Some(found));
        }
        match strays {
            Ok(strays) if !strays.is_empty() => {
                lock(&self.state).strays.extend(strays.iter().cloned());
                tokio::spawn(self.clone().sweep(strays));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "cannot look for what was half made"),
        }
        Ok(())
    }

    /// An earlier process may have died just before it froze it, just after it had let it go on, or before it had
    /// written down that it has come.
    async fn go_on(&self, found: &Found) {
        let desired = &found.desired;
        let Some(live) = self.runtime.live() else { return };
        if let Err(error) = live.thaw(&desired.id).await {
            tracing::warn!(instance = %desired.id, error = %chain(&error), "cannot let it go on");
        }
        if desired.live.is_some()
            && let Err(error) = self.runtime.update(desired).await
        {
            tracing::warn!(instance = %desired.id, error = %chain(&error), "cannot write down that it has come");
        }
    }

    /// Nobody may ask for these ever again, and what they have is missed by others: addresses, ports, room.
    async fn sweep(self: Arc<Self>, strays: Vec<InstanceId>) {
        for id in strays {
            tracing::warn!(instance = %id, "an earlier process died while it made this; removing it");
            if let Err(error) = self.runtime.stop(&id, Duration::ZERO).await {
                tracing::warn!(instance = %id, error = %chain(&error), "cannot remove all of it");
            }
            let mut state = lock(&self.state);
            state.strays.remove(&id);
            self.reconcile(&mut state);
        }
    }
}
