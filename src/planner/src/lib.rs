//! Pure decisions: where instances run, who is alive, what moves. No I/O, no clock, no randomness.
//!
//! Neighbours: knows `model`; the daemon's server steps [`Core`], its agent asks [`Lease`].
//!
//! One step of the server's core; time is data, the only output is a value:
//!
//! ```text
//!  event + now ─► take in ─► liveness ─► reconcile ─► place ─► Output
//!                 (state)    (links)     replicas     filter     ├ changes: one batch for the store
//!                                        moves        score      ├ orders: whole desired list per module
//!                                        updates      choose     └ acks, disconnects
//! ```
//!
//! The order of an output's use is fixed: commit the changes, then send the orders and acks.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod absence;
mod balance;
mod bind;
mod core;
mod device_queue;
#[cfg(test)]
mod histories;
mod history;
mod lease;
mod link;
mod live;
mod load;
mod out_of_use;
mod place;
pub mod pool;
mod preempt;
mod prefetch;
mod reconcile;
mod request;
mod resize;
mod resources;
mod roaming;
mod rollout;
mod service;
mod slots;
mod step;
mod strategies;
mod tasks;
#[cfg(test)]
mod testing;
mod usage;
mod volumes;
mod weighing;
mod window;

pub use crate::core::Core;
pub use lease::Lease;
pub use place::{Load, loads};
pub use request::Refusal;
pub use step::{AgentReport, Amounts, Change, Event, Order, Output, Reply, Request};
