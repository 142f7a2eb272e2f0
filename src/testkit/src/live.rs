//! Live moves of instances that are entries of a map: what one has in memory is a text.

use crate::engine::{FakeRuntime, lock};
use async_trait::async_trait;
use model::{Desired, InstanceId};
use runtime::{LiveMoves, RuntimeError};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// A step of a live move, to fail or to hang in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Of the source, while the process runs.
    Copy,
    /// Of the source, when it does not any more.
    Checkpoint,
    /// Of the target, before anything is fetched.
    Prepare,
    /// Of the target, the last.
    Restore,
}

/// What instances have in memory, and what is wrong with this engine.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    on: Mutex<bool>,
    texts: Mutex<BTreeMap<InstanceId, String>>,
    frozen: Mutex<BTreeSet<InstanceId>>,
    fails: Mutex<BTreeSet<Step>>,
    hangs: Mutex<BTreeSet<Step>>,
}

impl FakeRuntime {
    /// From now on it can move processes.
    #[must_use]
    pub fn with_live_moves(self) -> Self {
        *lock(&self.live.on) = true;
        self
    }

    /// This step fails from now on.
    pub fn fail(&self, step: Step) {
        lock(&self.live.fails).insert(step);
    }

    /// This step takes for ever from now on.
    pub fn hang(&self, step: Step) {
        lock(&self.live.hangs).insert(step);
    }

    /// All steps are as they should be again.
    pub fn heal(&self) {
        lock(&self.live.fails).clear();
        lock(&self.live.hangs).clear();
    }

    /// Puts a text into an instance's memory.
    pub fn remember(&self, id: &InstanceId, text: &str) {
        lock(&self.live.texts).insert(id.clone(), text.to_owned());
    }

    /// What an instance has in memory.
    pub fn memory(&self, id: &InstanceId) -> Option<String> {
        lock(&self.live.texts).get(id).cloned()
    }

    /// Whether it does nothing for now.
    pub fn is_frozen(&self, id: &InstanceId) -> bool {
        lock(&self.live.frozen).contains(id)
    }

    pub(crate) fn moves_live(&self) -> bool {
        *lock(&self.live.on)
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        lock(&self.live.texts).remove(id);
        lock(&self.live.frozen).remove(id);
    }

    async fn step(&self, step: Step, id: &InstanceId) -> Result<(), RuntimeError> {
        if lock(&self.live.hangs).contains(&step) {
            std::future::pending::<()>().await;
        }
        if lock(&self.live.fails).contains(&step) {
            let reason = format!("{step:?} was made to fail");
            return Err(RuntimeError::Checkpoint { instance: id.to_string(), reason });
        }
        Ok(())
    }

    fn write_memory(&self, id: &InstanceId, to: &Path) -> Result<(), RuntimeError> {
        let text = self.memory(id).unwrap_or_default();
        let failed = |source| RuntimeError::Io { operation: "write", path: to.to_owned(), source };
        std::fs::create_dir_all(to).and_then(|()| std::fs::write(to.join("memory"), text)).map_err(failed)
    }
}

#[async_trait]
impl LiveMoves for FakeRuntime {
    async fn copy(&self, id: &InstanceId, to: &Path, _: Option<&str>) -> Result<(), RuntimeError> {
        self.step(Step::Copy, id).await?;
        self.write_memory(id, to)
    }

    async fn freeze(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        lock(&self.live.frozen).insert(id.clone());
        Ok(())
    }

    async fn checkpoint(&self, id: &InstanceId, to: &Path, _: Option<&str>) -> Result<(), RuntimeError> {
        self.step(Step::Checkpoint, id).await?;
        self.write_memory(id, to)
    }

    async fn thaw(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        lock(&self.live.frozen).remove(id);
        Ok(())
    }

    async fn files(&self, id: &InstanceId) -> Result<PathBuf, RuntimeError> {
        let path = std::env::temp_dir().join(format!("files-{}-{id}", std::process::id()));
        let failed = |source| RuntimeError::Io { operation: "create", path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        Ok(path)
    }

    async fn prepare(&self, desired: &Desired) -> Result<String, RuntimeError> {
        self.step(Step::Prepare, &desired.id).await?;
        Ok("127.0.0.1".to_owned())
    }

    async fn restore(&self, desired: &Desired, from: &Path) -> Result<(), RuntimeError> {
        self.step(Step::Restore, &desired.id).await?;
        let failed = |source| RuntimeError::Io { operation: "read", path: from.to_owned(), source };
        let text = std::fs::read_to_string(from.join("memory")).map_err(failed)?;
        self.remember(&desired.id, &text);
        lock(&self.running).insert(desired.id.clone(), desired.clone());
        Ok(())
    }
}
