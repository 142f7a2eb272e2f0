//! Dev only: a container engine without containers, for tests of what is above it.
//!
//! Neighbours: implements `runtime::Runtime`; used by tests alone.

use async_trait::async_trait;
use model::{Desired, ImageRef, InstanceId};
use runtime::{Found, Runtime, RuntimeError};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Instances are entries of a map. It counts how often each was started.
#[derive(Debug, Default)]
pub struct FakeRuntime {
    running: Mutex<BTreeMap<InstanceId, Desired>>,
    starts: Mutex<BTreeMap<InstanceId, u32>>,
    codes: Mutex<BTreeMap<InstanceId, u32>>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeRuntime {
    /// What runs now.
    pub fn running(&self) -> Vec<InstanceId> {
        lock(&self.running).keys().cloned().collect()
    }

    /// How often an instance was started.
    pub fn starts(&self, id: &InstanceId) -> u32 {
        lock(&self.starts).get(id).copied().unwrap_or(0)
    }

    /// What an instance was last given.
    pub fn given(&self, id: &InstanceId) -> Option<Desired> {
        lock(&self.running).get(id).cloned()
    }

    /// The instance's process ends with this code.
    pub fn exit(&self, id: &InstanceId, code: u32) {
        lock(&self.codes).insert(id.clone(), code);
        self.crash(id);
    }

    /// The instance's process ends by itself.
    pub fn crash(&self, id: &InstanceId) {
        lock(&self.running).remove(id);
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn pull(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        if image.as_str().contains("missing") {
            return Err(RuntimeError::NoImage { image: image.to_string() });
        }
        Ok(())
    }

    async fn start(&self, desired: &Desired) -> Result<String, RuntimeError> {
        lock(&self.running).insert(desired.id.clone(), desired.clone());
        *lock(&self.starts).entry(desired.id.clone()).or_default() += 1;
        Ok("127.0.0.1".to_owned())
    }

    async fn update(&self, desired: &Desired) -> Result<(), RuntimeError> {
        lock(&self.running).insert(desired.id.clone(), desired.clone());
        Ok(())
    }

    async fn wait(&self, id: &InstanceId) -> Result<u32, RuntimeError> {
        loop {
            let changed = self.changed.notified();
            if !lock(&self.running).contains_key(id) {
                return Ok(lock(&self.codes).get(id).copied().unwrap_or(1));
            }
            changed.await;
        }
    }

    async fn stop(&self, id: &InstanceId, _: Duration) -> Result<(), RuntimeError> {
        self.crash(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = |desired: &Desired| Found {
            desired: desired.clone(),
            running: true,
            address: "127.0.0.1".to_owned(),
            started: 0,
        };
        Ok(lock(&self.running).values().map(found).collect())
    }

    fn log(&self, id: &InstanceId) -> PathBuf {
        std::env::temp_dir().join(format!("{id}.log"))
    }
}
