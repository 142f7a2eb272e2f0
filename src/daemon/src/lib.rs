//! spacecloudd: the shells around the pure core. The server role decides, the agent role runs instances.
//!
//! Neighbours: knows every room but `registry` and `cli`.
//!
//! ```text
//!  spacectl ──gRPC──► server::grpc ─┐                     ┌─► store (commit, then)
//!                                   ├─► server::shell ────┤
//!  agents ◄──stream── server::grpc ─┘   (one thread owns  └─► orders, acks, snapshots
//!     │                                  planner::Core)
//!     └─ agent::session ─► agent::instances ─► runtime (containerd, CNI)
//!              │ acks                 ▲
//!              └─► lease ─► agent::fencing (and, when the agent is dead, the guard)
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod agent;
mod bundle;
pub mod config;
mod files;
pub mod guard;
mod http;
mod registry_tls;
pub mod server;

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix milliseconds.
pub(crate) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
