//! The whole registry: the real program with its real neighbours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub, missing_docs)]

mod access;
mod bad_input;
mod clients;
mod crash;
mod mutual;
mod peers;
mod reading;
mod spec;
#[path = "../support/mod.rs"]
mod support;
mod upkeep;
