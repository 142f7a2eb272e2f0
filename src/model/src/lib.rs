//! What spacecloud talks about: names, quantities, specs, records and states. Parsing and validation; no I/O.
//!
//! Neighbours: every room may know this one; it knows nobody.
//!
//! An instance's life, as the server records it:
//!
//! ```text
//!             placed              agent: started        health passed
//!  Pending ───────────► Starting ───────────► Running ───────────► Ready
//!     ▲                    │  ▲                  │                   │
//!     │ module lost        │  └──── BackOff ◄────┴───── exited ──────┘
//!     └────────────────────┴─── (a new instance takes over its replica)
//!                                 │ moved away, scaled down, deleted
//!                                 ▼
//!                              Stopping ──► gone
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod app;
mod error;
mod health;
mod image;
mod instance;
mod module;
mod name;
mod quantity;
mod record;
mod service;
mod timing;
mod update;

pub use app::{
    AppFile, AppSpec, Kind, Migration, OnDisconnect, Placement, PlannedMove, Port, Resources, Strategy,
};
pub use error::SpecError;
pub use health::Health;
pub use image::ImageRef;
pub use instance::{Candidate, Decision, Desired, Instance, InstanceId, Observed, Phase, ReplicaId, Verdict};
pub use module::{Accelerator, Capacity, Liveness, Module};
pub use name::Name;
pub use quantity::{Bytes, Cpu, Milli, Span};
pub use record::{App, Event, Record, RecordKind, Rollout, Severity};
pub use service::{Endpoint, Policy, Service, ServicePort, ServiceSpec, ServiceTable, Subnet};
pub use timing::{Now, Timing};
pub use update::Update;
