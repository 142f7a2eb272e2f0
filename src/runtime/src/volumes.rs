//! Volumes on a module: directories that instances are given, on its own disk or on the storage module.
//!
//! ```text
//!  STATE/volumes/NAME/_data ─────────────────────bind──► the instance's path      class local
//!  SERVER:EXPORT ──nfs4──► RUN/chassis/NAME/_data ─bind──► the instance's path    class chassis
//! ```
//!
//! The storage module is mounted while an instance has a volume of it, and taken away when the last has gone. Nothing
//! that waits for it runs on the agent's own threads, and nobody waits for it longer than `Storage::limit`.
//!
//! It is mounted `hard`: while it is away, writers wait, and go on when it is back; `soft` would give them errors that
//! most programs do not look at, and lose their data. A waiting process can be killed, so the fence is not held up.
//! It is mounted `sync`: what an instance has written is there before its call returns. So a module that is fenced has
//! nothing in its memory that it could write later, beside the instance's successor.

mod nfs;
mod quota;
mod shelf;

pub use nfs::Storage;
pub(crate) use nfs::{abandon, connected, is_mounted};

use crate::RuntimeError;
use model::{Attachment, Bytes, Class, Desired, InstanceId, VolumeKey};
use shelf::Shelf;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long anything on the module's own disk may take.
const LOCAL_LIMIT: Duration = Duration::from_secs(60);

/// The module's volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    local: Shelf,
    chassis: Option<(Storage, Shelf)>,
    /// Who has a volume of the storage module.
    users: Arc<Mutex<BTreeSet<InstanceId>>>,
    /// One at a time mounts or unmounts.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A directory that an instance is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeBind {
    pub(crate) source: PathBuf,
    pub(crate) path: String,
    pub(crate) read_only: bool,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How much.
    pub used: Bytes,
    /// Why nobody but the watch keeps it to its size; none when the file system does.
    pub watched: Option<String>,
}

impl Volumes {
    /// `state` is a directory that lasts, `run` one on a tmpfs.
    pub fn new(state: &Path, run: &Path, storage: Option<Storage>) -> Self {
        let mount = Self::mount_point(run);
        Self {
            local: Shelf::new(state.join("volumes")),
            chassis: storage.map(|storage| (storage, Shelf::new(mount))),
            users: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Where the storage module is mounted.
    pub fn mount_point(run: &Path) -> PathBuf {
        run.join("chassis")
    }

    fn users(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance of an earlier process has its volumes still.
    pub fn adopt(&self, desired: &Desired) {
        if desired.volumes.iter().any(|v| v.key.class == Class::Chassis) {
            self.users().insert(desired.id.clone());
        }
    }

    /// Makes an instance's volumes ready; new ones belong to `owner`, its user and group.
    pub(crate) async fn attach(
        &self,
        desired: &Desired,
        owner: (u32, u32),
    ) -> Result<Vec<VolumeBind>, RuntimeError> {
        self.adopt(desired);
        let mut binds = Vec::new();
        for volume in &desired.volumes {
            let source = self.open(volume, owner).await?;
            binds.push(VolumeBind { source, path: volume.path.clone(), read_only: volume.read_only });
        }
        // What lies inside another comes after it.
        binds.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(binds)
    }

    async fn open(&self, volume: &Attachment, owner: (u32, u32)) -> Result<PathBuf, RuntimeError> {
        let (shelf, limit) = self.shelf(&volume.key).await?;
        let (key, size) = (volume.key.clone(), volume.size);
        within(limit, &volume.key, move || {
            let data = shelf.open(&key, owner)?;
            if key.class == Class::Local {
                // Whether it works is told with what the volume holds.
                let _ = shelf.limit(&key, size);
            }
            Ok(data)
        })
        .await
    }

    /// The instance is gone. The storage module is taken away when nobody has a volume of it.
    pub(crate) async fn detach(&self, id: &InstanceId) {
        let Some((storage, shelf)) = &self.chassis else { return };
        let last = {
            let mut users = self.users();
            users.remove(id) && users.is_empty()
        };
        if !last {
            return;
        }
        let _turn = self.turn.lock().await;
        if !self.users().is_empty() {
            return;
        }
        let (limit, target) = (storage.limit, shelf.root().to_owned());
        let unmounting = tokio::task::spawn_blocking(move || nfs::unmount(&target));
        // What stays mounted is in nobody's way, and is used or taken away the next time.
        match tokio::time::timeout(limit, unmounting).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "cannot unmount the storage module"),
            _ => tracing::warn!("unmounting the storage module takes long"),
        }
    }

    /// Where a volume is, mounted if need be.
    async fn shelf(&self, key: &VolumeKey) -> Result<(Shelf, Duration), RuntimeError> {
        if key.class == Class::Local {
            return Ok((self.local.clone(), LOCAL_LIMIT));
        }
        let Some((storage, shelf)) = &self.chassis else {
            let reason = "the module has no [storage] in its spacecloud.toml".to_owned();
            return Err(RuntimeError::Volume { volume: key.name.to_string(), reason });
        };
        // Said at once, and not after the whole limit: others wait for their turn to start.
        if let Some(reason) = storage.fault().await {
            return Err(RuntimeError::Volume { volume: key.name.to_string(), reason });
        }
        let turn = tokio::time::timeout(storage.limit, self.turn.clone().lock_owned()).await;
        let turn = turn.map_err(|_| slow(key, storage.limit))?;
        let (mounted, target) = (storage.clone(), shelf.root().to_owned());
        within(storage.limit, key, move || {
            // Held for as long as the kernel takes, also when nobody waits any more.
            let _turn = turn;
            nfs::mount(&mounted, &target)
        })
        .await?;
        Ok((shelf.clone(), storage.limit))
    }

    /// Gives an attached volume another size, and says what it holds.
    ///
    /// # Errors
    /// It cannot be read, or not in time.
    pub async fn measure(&self, key: &VolumeKey, size: Bytes) -> Result<Held, RuntimeError> {
        let (shelf, limit) = match (key.class, &self.chassis) {
            (Class::Chassis, Some((storage, shelf))) => (shelf.clone(), storage.limit),
            _ => (self.local.clone(), LOCAL_LIMIT),
        };
        let asked = key.clone();
        within(limit, key, move || {
            let watched = match asked.class {
                Class::Local => shelf.limit(&asked, size).err(),
                Class::Chassis => Some("its quota is the storage module's business".to_owned()),
            };
            Ok(Held { used: shelf.used(&asked)?, watched })
        })
        .await
    }

    /// Removes a volume's data for good. What is not there is as good as removed.
    ///
    /// # Errors
    /// It cannot be removed, or not in time: what is left is removed by the next call.
    pub async fn erase(&self, key: &VolumeKey) -> Result<(), RuntimeError> {
        let (shelf, limit) = self.shelf(key).await?;
        let asked = key.clone();
        let erased = within(limit, key, move || shelf.erase(&asked)).await;
        if key.class == Class::Chassis {
            // Nobody has it for this alone.
            let nobody = InstanceId::new(model::ReplicaId { app: key.name.clone(), number: 0 }, key.created);
            self.users().insert(nobody.clone());
            self.detach(&nobody).await;
        }
        erased
    }

    /// Why the storage module cannot be used now; none without one, and when it answers.
    pub async fn storage_fault(&self) -> Option<String> {
        let (storage, _) = self.chassis.as_ref()?;
        storage.fault().await
    }
}

fn slow(key: &VolumeKey, limit: Duration) -> RuntimeError {
    let what = if key.class == Class::Chassis { "the storage module" } else { "the disk" };
    let reason = format!("{what} did not answer within {}s", limit.as_secs());
    RuntimeError::Volume { volume: key.name.to_string(), reason }
}

/// Runs what may wait for a disk or a server on a thread of its own.
async fn within<T: Send + 'static>(
    limit: Duration,
    key: &VolumeKey,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            Err(RuntimeError::Volume { volume: key.name.to_string(), reason: error.to_string() })
        }
        Err(_) => Err(slow(key, limit)),
    }
}

#[cfg(test)]
mod tests;
