//! Hands on a module: containerd for images and instances, CNI for their network, cgroups for their limits.
//!
//! Neighbours: knows `model`; the daemon's agent decides, this room does. Nothing here decides what should run.
//!
//! Everything that belongs to an instance carries its id: container, snapshot, network namespace, cgroup, log.
//! So what an earlier process of the daemon started can be found again, and what it left half-done removed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod accelerator;
mod announce;
mod capacity;
mod conntrack;
mod containerd;
mod error;
mod fence;
mod hold;
mod image;
mod live;
mod logs;
mod namespace;
mod network;
mod pull;
mod registries;
mod reserve;
mod roaming;
mod routes;
mod services;
mod slots;
mod spec;
mod volumes;

pub use accelerator::{AcceleratorSlot, Accelerators, Node};
pub use capacity::measure;
pub use containerd::{Containerd, Engine};
pub use error::RuntimeError;
pub use fence::{Fence, boot_clock};
pub use live::{LiveMoves, Pack, Unpack};
pub use network::{BRIDGE, Network};
pub use routes::{set_bridge, set_routes};
pub use services::{Balance, Services};
pub use slots::{Booted, BundleFacts, Hundredths, Rauc, SlotError, Slots};
pub use volumes::{Held, Storage, Volumes};

use async_trait::async_trait;
use model::{Desired, ImageRef, InstanceId, Roaming, ServicePort, ServiceTable};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// An instance that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Which, and what it runs.
    pub desired: Desired,
    /// Its process lives.
    pub running: bool,
    /// It lives, and is frozen for a live move.
    pub frozen: bool,
    /// Its address in the module's subnet.
    pub address: String,
    /// When it was started, in Unix milliseconds.
    pub started: u64,
}

/// What the agent needs of a container engine.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Makes an image available on this module.
    async fn pull(&self, image: &ImageRef) -> Result<(), RuntimeError>;
    /// Creates and starts an instance; answers its address. What a failed start leaves behind is removed.
    async fn start(&self, desired: &Desired) -> Result<String, RuntimeError>;
    /// Gives a running instance the CPU, memory and cores that `desired` has now.
    async fn update(&self, desired: &Desired) -> Result<(), RuntimeError>;
    /// Waits for the end of an instance's process; answers its exit code.
    async fn wait(&self, id: &InstanceId) -> Result<u32, RuntimeError>;
    /// Asks the process to end, kills it after the grace, and removes all that belongs to the instance but its log.
    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), RuntimeError>;
    /// Runs a command inside an instance; answers its exit code, or nothing when it did not end in time: then it
    /// has been killed.
    async fn exec(
        &self,
        id: &InstanceId,
        command: &[String],
        limit: Duration,
    ) -> Result<Option<u32>, RuntimeError>;
    /// Makes services lead where the table says.
    async fn route(&self, table: &ServiceTable) -> Result<(), RuntimeError>;
    /// Makes services by least connections lead where the fewest are, as of now. `last` is what the last call has left, for
    /// the same table.
    async fn balance(&self, table: &ServiceTable, last: &mut Balance) -> Result<(), RuntimeError>;
    /// Of these addresses it gives nobody one that another module has, and of its own it takes back what is not among
    /// them.
    async fn reserve(&self, _roaming: &[Roaming]) -> Result<(), RuntimeError> {
        Ok(())
    }
    /// Bytes that an instance has written into its own layer of the file system, as they are taken on the disk.
    async fn disk(&self, id: &InstanceId) -> Result<u64, RuntimeError>;
    /// How many connections endpoints of these ports, all of this module, have.
    async fn connections(&self, ports: &[ServicePort]) -> Result<BTreeMap<InstanceId, u32>, RuntimeError>;
    /// What is there of instances that are not listed: an earlier process had only begun to make them. Before anything is
    /// started.
    async fn strays(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(Vec::new())
    }
    /// Everything that is there, also of an earlier process.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;
    /// How it moves processes; nothing where it cannot.
    fn live(&self) -> Option<&dyn LiveMoves> {
        None
    }
    /// Where an instance's output goes.
    fn log(&self, id: &InstanceId) -> PathBuf;
}
