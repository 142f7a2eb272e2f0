//! `spacectl image`: images into the cluster's registry over a link that is narrow, long and often cut.
//!
//! ```text
//!   DIR, ARCHIVE ──► local ──┐                           HEAD: what does it lack?
//!                            ├──► Image (graph) ──► push ────────────────────────────► registry
//!   REF ─────────► remote ───┘                      │    POST mount | POST, PATCH…, PUT
//!                                                   └──► ledger: where an upload goes on after a cut
//! ```
mod args;
mod auth;
mod body;
mod docker;
mod error;
mod files;
mod graph;
mod hash;
mod ledger;
mod list;
mod local;
mod name;
mod push;
mod remote;
mod show;
mod tls;
mod upload;
mod wire;

pub(crate) use args::{Access, ImageVerb};
pub use error::ImageError;

use crate::{Failure, args::Output, config, print, print_done};
use model::Span;
use std::{path::PathBuf, sync::Arc};

const PASSWORD: &str = "SPACECTL_REGISTRY_PASSWORD";

/// Does what an image verb says.
pub(crate) async fn image(
    access: Access,
    verb: ImageVerb,
    server: Option<&str>,
    file: Option<PathBuf>,
    limit: Span,
) -> Result<(), Failure> {
    let config = config::Registry::load(access.registry.as_deref(), server, file)?;
    let login = auth::login(
        access.user.as_deref(),
        access.password_file.as_deref(),
        access.password_stdin,
        PASSWORD,
    )?;
    let limit = limit.duration();
    let wire = Arc::new(wire::Wire::new(&config.address, Some(tls::for_cluster(&config.ca)?), login, limit)?);
    match verb {
        ImageVerb::Push(args) => {
            let outcome = push::push(&wire, &config.ca, &args, limit).await?;
            match args.output {
                Output::Json => print(&format!("{:#}\n", serde_json::json!(outcome))),
                _ => print(&outcome.line()),
            }
        }
        ImageVerb::Ls { name, output } => print(&show::ls(&wire, name.as_deref(), output).await?),
        ImageVerb::Inspect { image, output } => print(&show::inspect(&wire, &image, output).await?),
        ImageVerb::Rm { images } => print_done(&show::rm(&wire, &images).await?),
        ImageVerb::Gc { untagged, output } => print(&show::gc(&wire, untagged, output).await?),
        ImageVerb::Df { output } => print(&show::df(&wire, output).await?),
    }
}
