//! Who is who: the cluster's certificate authority, join tokens, certificates and roles.
//!
//! Neighbours: knows `model`; the daemon's server is the authority, agents and `spacectl` hold certificates.
//!
//! A token is `sc1.<sha-256 of the CA certificate>.<secret>`: who holds it can tell the true server from another
//! before it says the secret.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod authority;
mod token;

pub use authority::{
    Authority, Credentials, IdentityError, Role, agent_name, fingerprint, new_request, role_of, to_pem,
};
pub use token::{Token, TokenError};
