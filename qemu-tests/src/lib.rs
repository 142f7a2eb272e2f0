//! spacesim: a whole chassis in QEMU or in namespaces, as a library for scenario tests and for the host tool of the same name.
//!
//! Neighbours: `model` for quantities and names. It runs the programs of the other rooms on its modules, but
//! does not link them; scenarios that speak to the cluster use `api` and `identity`.
//!
//! ```text
//!  chassis file ──► Plan ──► Chassis ──┬── Module 1 ── QEMU ── console, QMP, control channel
//!  image        ──►                    ├── Module 2 …     │
//!                                      └── Backplane ◄────┘ frames over unix sockets
//! ```
//!
//! On the second backplane (`netns`) a module is a set of the host's namespaces instead, and the backplane a bridge.
//! Every QEMU and every first process of a namespace dies with the process that started it, however that ends.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod backplane;
pub mod bench;
mod board;
mod chassis;
mod chassis_file;
pub mod cli;
pub mod cluster;
mod control;
pub mod demo;
mod emulated;
mod error;
mod host;
pub mod image;
mod module;
mod netns;
pub mod papers;
mod progress;
mod provision;
mod qemu;
mod qmp;
mod run_dir;
pub mod scenario;
mod spawner;
pub mod supervisor;
pub mod timeline;
mod tsc;
pub mod twin;
mod waiting;
pub mod wire;

pub use backplane::{Backplane, Counters, PortPaths, Weather};
pub use chassis::{BackplaneKind, Chassis, Plan, in_parallel};
pub use chassis_file::{Accelerator, ChassisFile, FixedPorts, Kind, MAX_PCIE_SLOT, MAX_SLOTS, Role, Slot};
pub use control::{Control, Output};
pub use error::SimError;
pub use module::{Link, Module, Power};
pub use netns::Software;
pub use provision::{Owner, Provision};
pub use qemu::{FIRMWARE_VARIABLES, GroundPorts, PROGRAM as QEMU, Slots, backplane_mac, ground_mac};
pub use qmp::Qmp;
pub use run_dir::{console, default_dir, is_taken, supervisor_log, supervisor_socket};
pub use spawner::Spawner;
pub use waiting::{Limit, Times, wait_for, wait_until, within};
