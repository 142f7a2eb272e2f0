//! space-registry: serves OCI distribution 1.1 from plain files that survive a power cut.
//!
//! Neighbours: knows `model` for quantities in its configuration, nobody else; OCI clients (containerd,
//! Docker, skopeo) are on the other side of its port.
//!
//! A blob's life:
//!
//! ```text
//!   POST            PATCH*                PUT ?digest=
//!  ───────► upload ────────► upload (n bytes) ────────► digest checked, fsync, rename, fsync directory
//!              │                   │                      │ wrong digest        │
//!              └── DELETE, a day ──┴──────► gone ◄────────┘                     ▼
//!                                                      linked into its repository, fsync ──► 201
//! ```
//!
//! Nothing is acknowledged that a power cut could still take back.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(any(test, feature = "fuzzing"))]
pub mod any_input;
mod audit;
mod auth;
pub mod command;
pub mod config;
mod digest;
mod http;
pub mod lanes;
pub mod memory;
mod name;
pub mod offline;
mod peer;
mod range;
mod route;
pub mod serve;
mod store;
mod tls;
mod upkeep;
mod wire;
