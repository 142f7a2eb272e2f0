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
//!
//! A task's instance that exits with 0 is Succeeded; what a task itself goes through is drawn at [`PlanState`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod accelerator;
mod app;
mod decision;
mod error;
mod health;
mod history;
mod image;
mod instance;
mod live;
mod module;
mod name;
mod port;
mod quantity;
mod record;
mod resource;
mod root_slot;
mod service;
mod task;
mod timing;
mod update;
mod volume;
mod weighing;

pub use accelerator::{Accelerator, AcceleratorShare, Binding};
pub use app::{AppFile, AppSpec, Kind, Migration, OnDisconnect, Placement, PlannedMove, Resources, Strategy};
pub use decision::{Candidate, Decision, Failed, Verdict};
pub use error::SpecError;
pub use health::Health;
pub use history::{Combination, Outcome, Run, Success};
pub use image::ImageRef;
pub use instance::{Desired, Instance, InstanceId, Observed, Phase, ReplicaId};
pub use live::Live;
pub use module::{Capacity, Cordon, Liveness, Module};
pub use name::Name;
pub use port::{Port, PortId, Protocol};
pub use quantity::{Bytes, Cpu, Milli, Span};
pub use record::{App, Event, Record, RecordKind, Rollout, Severity};
pub use resource::{Availability, ResourceName, ResourceState};
pub use root_slot::{KeptUpdate, RootSlot, SlotUpdate, UpdatePhase};
pub use service::{Endpoint, Policy, Roaming, Service, ServicePort, ServiceSpec, ServiceTable, Subnet};
pub use task::{Moment, Plan, PlanState, Reservation, minute, utc};
pub use timing::{Now, Timing};
pub use update::Update;
pub use volume::{
    Access, Attachment, Class, Mount, Volume, VolumeKey, VolumeReport, VolumeSeen, VolumeSpec, VolumeState,
};
pub use weighing::{ByResource, ByScore, Decimal};
