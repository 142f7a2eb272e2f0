//! The gRPC contract: generated code, and the conversions between it and `model`.
//!
//! Neighbours: knows `model`; the daemon serves it, `spacectl` and the simulator call it.
//! Specs travel as the JSON of [`model::AppSpec`], so that the app file has one grammar, not two.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

/// The generated code.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod v1 {
    tonic::include_proto!("spacecloud.v1");
}

mod convert;
mod tables;
mod volumes;

pub use convert::{
    BadMessage, from_desired, from_observed, from_root, from_services, to_desired, to_observed, to_root,
    to_services, view_app, view_event, view_instance, view_module,
};

pub use tables::{view_decision, view_resource, view_run, view_success, view_task};
pub use volumes::{from_erase, from_volumes, to_erase, to_volumes, view_volume};

/// The port of the gRPC service.
pub const GRPC_PORT: u16 = 7440;
/// The port of the dashboard and the metrics.
pub const HTTP_PORT: u16 = 7480;
/// The name in every server's certificate.
pub const SERVER_NAME: &str = "server.spacecloud";
