//! This module's part in volumes: says what they hold and whether the storage module answers, keeps to their size
//! those that no file system limits, and erases what the server says.
//!
//! Read the instances' volumes and the order → erase, measure, ask the storage module → tell with the next heartbeat.
//! Nothing of it is waited for by anybody but this task: a server that hangs holds up no heartbeat.

use super::instances::Instances;
use crate::chain;
use model::{Attachment, Bytes, Class, VolumeKey, VolumeReport, VolumeSeen};
use runtime::Volumes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Between two looks. A look that takes long is not repeated at once: see `REST`.
const LOOK: Duration = Duration::from_secs(2);
/// A look may take this part of the time.
const REST: u32 = 10;
/// And no longer than this until the next.
const LONGEST: Duration = Duration::from_secs(60);

/// What the session shares with the task.
#[derive(Debug)]
pub(super) struct VolumeWatch {
    volumes: Volumes,
    doomed: Mutex<BTreeSet<VolumeKey>>,
    report: Mutex<VolumeReport>,
    ordered: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VolumeWatch {
    /// Starts the task; it lives as long as the process.
    pub(super) fn start(volumes: Volumes, instances: &Arc<Instances>) -> Arc<Self> {
        let watch = Arc::new(Self {
            volumes,
            doomed: Mutex::default(),
            report: Mutex::default(),
            ordered: Notify::new(),
        });
        tokio::spawn(watch.clone().follow(instances.clone()));
        watch
    }

    /// What is to be erased, by the server's word.
    pub(super) fn order(&self, erase: Vec<VolumeKey>) {
        let erase: BTreeSet<VolumeKey> = erase.into_iter().collect();
        let mut doomed = lock(&self.doomed);
        if *doomed != erase {
            *doomed = erase;
            self.ordered.notify_one();
        }
    }

    /// For the next heartbeat.
    pub(super) fn report(&self) -> VolumeReport {
        lock(&self.report).clone()
    }

    async fn follow(self: Arc<Self>, instances: Arc<Instances>) {
        let mut erased: BTreeSet<VolumeKey> = BTreeSet::new();
        loop {
            let began = tokio::time::Instant::now();
            let doomed = lock(&self.doomed).clone();
            erased.retain(|key| doomed.contains(key));
            let storage = self.volumes.storage_fault().await.unwrap_or_default();
            let mut seen = Vec::new();
            for key in doomed {
                seen.push(self.erase(key, &mut erased).await);
            }
            seen.extend(self.measure(&instances, storage.is_empty()).await);
            let report = VolumeReport { storage, volumes: seen };
            let changed = std::mem::replace(&mut *lock(&self.report), report.clone()) != report;
            if changed {
                instances.changed.notify_one();
            }
            tokio::select! {
                () = tokio::time::sleep((began.elapsed() * REST).clamp(LOOK, LONGEST)) => {}
                () = self.ordered.notified() => {}
            }
        }
    }

    async fn erase(&self, key: VolumeKey, erased: &mut BTreeSet<VolumeKey>) -> VolumeSeen {
        let outcome = if erased.contains(&key) { Ok(()) } else { self.volumes.erase(&key).await };
        let message = match outcome {
            Ok(()) => {
                if erased.insert(key.clone()) {
                    tracing::info!(volume = %key.name, "erased");
                }
                String::new()
            }
            Err(error) => chain(&error),
        };
        let (used, quota) = (Bytes(0), String::new());
        VolumeSeen { erased: message.is_empty(), key, used, quota, message }
    }

    /// Without the storage module its volumes are left out: looking at them would wait for it.
    async fn measure(&self, instances: &Arc<Instances>, reached: bool) -> Vec<VolumeSeen> {
        let attached: BTreeMap<VolumeKey, Attachment> =
            instances.attached().into_iter().map(|a| (a.key.clone(), a)).collect();
        let can_look = |key: &VolumeKey| reached || key.class == Class::Local;
        let mut seen = Vec::new();
        let mut full = BTreeMap::new();
        for (key, Attachment { size, .. }) in attached.into_iter().filter(|(key, _)| can_look(key)) {
            let (used, quota, message) = match self.volumes.measure(&key, size).await {
                Ok(held) => {
                    let over = held.watched.is_some() && held.used > size;
                    let words = format!("volume {}: holds {} of {size}", key.name, rounded(held.used));
                    if over {
                        full.insert(key.clone(), words.clone());
                    }
                    let quota = match held.watched {
                        Some(why) => format!("watched: {why}"),
                        None => "project quota".to_owned(),
                    };
                    (held.used, quota, if over { words } else { String::new() })
                }
                // It may not be there yet: whoever starts it says so louder.
                Err(error) => (Bytes(0), String::new(), chain(&error)),
            };
            seen.push(VolumeSeen { key, used, quota, erased: false, message });
        }
        instances.full.send_replace(full);
        seen
    }
}

fn rounded(bytes: Bytes) -> String {
    if bytes.0 < 1 << 20 { bytes.to_string() } else { format!("{}MiB", bytes.0 >> 20) }
}
