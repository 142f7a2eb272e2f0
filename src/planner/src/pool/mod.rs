//! A pool of nodes, and the strategies that choose among them. Pure: no I/O, no clock; a seed is an argument.
//!
//! ```text
//!  Request ─► filter ─► score ─► choose ─► take ─► Placement (released by its ticket)
//!             what does  one index  best, next   node and devices
//!             not fit    per shape  or any       change together
//! ```
//!
//! A request's *shape* is what the pool compares. Each shape that was asked for has an index of scores over all nodes;
//! a decision rescores only the nodes that changed since that shape was last asked for, and an index of blocks finds
//! the best. So a decision costs about as much as what changed, not as much as there are nodes.
//!
//! Neighbours: knows nobody; the planner's core and `spacectl replay` ask it.

mod classic;
mod decide;
mod explain;
mod fragment;
mod index;
mod node;
mod outlook;
mod pending;
mod prospect;
mod published;
mod resources;
mod scorer;
mod seed;
mod shape;
mod strategy;
pub mod unit;
mod whole;
mod workload;

pub use decide::Filter;
pub use explain::{Explanation, Refusal, Row, Verdict};
pub use node::Shortage;
pub use resources::{AcceleratorState, Amounts, NodeSpec, PoolError, Request, WHOLE};
pub use seed::Seed;
pub use strategy::{PolicyNumber, Strategy, UnknownStrategy};
pub use whole::{Placement, Pool, Ticket, Totals};
