//! A container engine without containers, for tests of what is above it.

mod mortality;

use crate::live::Memory;
use async_trait::async_trait;
use model::{Desired, Endpoint, ImageRef, InstanceId, ServicePort, ServiceTable};
use mortality::Mortality;
use runtime::{Balance, Found, LiveMoves, Runtime, RuntimeError};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Instances are entries of a map. It counts how often each was started.
#[derive(Debug, Default)]
pub struct FakeRuntime {
    pub(crate) running: Mutex<BTreeMap<InstanceId, Desired>>,
    starts: Mutex<BTreeMap<InstanceId, u32>>,
    codes: Mutex<BTreeMap<InstanceId, u32>>,
    table: Mutex<ServiceTable>,
    connections: Mutex<BTreeMap<InstanceId, u32>>,
    looks: Mutex<Vec<ServiceTable>>,
    pulled: Mutex<BTreeSet<String>>,
    written: Mutex<BTreeMap<InstanceId, u64>>,
    changed: Notify,
    mortality: Mortality,
    pub(crate) live: Memory,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

    /// Where services lead.
    pub fn table(&self) -> ServiceTable {
        lock(&self.table).clone()
    }

    /// Somebody takes all rules away.
    pub fn lose_rules(&self) {
        *lock(&self.table) = ServiceTable::default();
    }

    /// From now on an endpoint has so many connections; none until then.
    pub fn connect(&self, id: &InstanceId, connections: u32) {
        lock(&self.connections).insert(id.clone(), connections);
    }

    /// The tables for which connections were counted to balance them, as often as they were.
    pub fn looks(&self) -> Vec<ServiceTable> {
        lock(&self.looks).clone()
    }

    /// From now on an instance has so many bytes of its own on the disk, until it is started anew.
    pub fn write(&self, id: &InstanceId, bytes: u64) {
        lock(&self.written).insert(id.clone(), bytes);
    }

    /// Images that were asked for.
    pub fn pulled(&self) -> Vec<String> {
        lock(&self.pulled).iter().cloned().collect()
    }

    /// At this moment, `before start` or `after route` and so on, whoever calls the engine gets no further; nor anywhere
    /// else after it. It passes as often as `before` says.
    pub fn die_at(&self, moment: &str, before: usize) {
        self.mortality.begin(Some((moment.to_owned(), before)));
    }

    /// Nobody dies any more. Answers whether the chosen moment had come.
    pub fn let_live(&self) -> bool {
        self.mortality.begin(None)
    }

    /// Whether the chosen moment has come.
    pub fn died(&self) -> bool {
        self.mortality.died()
    }

    /// The instance's process ends by itself.
    pub fn crash(&self, id: &InstanceId) {
        lock(&self.running).remove(id);
        self.forget(id);
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn pull(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        if image.as_str().contains("missing") {
            return Err(RuntimeError::NoImage { image: image.to_string() });
        }
        self.mortality.moment("before pull").await;
        lock(&self.pulled).insert(image.to_string());
        self.mortality.moment("after pull").await;
        Ok(())
    }

    async fn start(&self, desired: &Desired) -> Result<String, RuntimeError> {
        self.mortality.moment("before start").await;
        lock(&self.running).insert(desired.id.clone(), desired.clone());
        lock(&self.written).remove(&desired.id);
        *lock(&self.starts).entry(desired.id.clone()).or_default() += 1;
        self.mortality.moment("after start").await;
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
        self.mortality.moment("before stop").await;
        self.crash(id);
        self.mortality.moment("after stop").await;
        Ok(())
    }

    /// The command is run on this machine: `false` fails, `sleep 60` hangs.
    async fn exec(
        &self,
        _: &InstanceId,
        command: &[String],
        limit: Duration,
    ) -> Result<Option<u32>, RuntimeError> {
        let Some((program, arguments)) = command.split_first() else { return Ok(Some(127)) };
        let run = tokio::process::Command::new(program).args(arguments).kill_on_drop(true).status();
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(status)) => Ok(status.code().and_then(|code| u32::try_from(code).ok())),
            Ok(Err(_)) => Ok(Some(127)),
            Err(_) => Ok(None),
        }
    }

    async fn route(&self, table: &ServiceTable) -> Result<(), RuntimeError> {
        self.mortality.moment("before route").await;
        *lock(&self.table) = table.clone();
        self.mortality.moment("after route").await;
        Ok(())
    }

    async fn balance(&self, table: &ServiceTable, _: &mut Balance) -> Result<(), RuntimeError> {
        if *lock(&self.table) != *table {
            return Err(RuntimeError::Rules { reason: "there are no such rules".to_owned() });
        }
        lock(&self.looks).push(table.clone());
        Ok(())
    }

    async fn disk(&self, id: &InstanceId) -> Result<u64, RuntimeError> {
        Ok(lock(&self.written).get(id).copied().unwrap_or(0))
    }

    async fn connections(&self, ports: &[ServicePort]) -> Result<BTreeMap<InstanceId, u32>, RuntimeError> {
        let known = lock(&self.connections);
        let count = |e: &Endpoint| (e.instance.clone(), known.get(&e.instance).copied().unwrap_or(0));
        Ok(ports.iter().flat_map(|p| &p.endpoints).map(count).collect())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = |desired: &Desired| Found {
            desired: desired.clone(),
            running: true,
            frozen: self.is_frozen(&desired.id),
            address: "127.0.0.1".to_owned(),
            started: 0,
        };
        Ok(lock(&self.running).values().map(found).collect())
    }

    fn live(&self) -> Option<&dyn LiveMoves> {
        self.moves_live().then_some(self as &dyn LiveMoves)
    }

    fn log(&self, id: &InstanceId) -> PathBuf {
        std::env::temp_dir().join(format!("{id}.log"))
    }
}
