use oci_spec::image::Digest;
use std::{error::Error, io, path::PathBuf};
use thiserror::Error;

/// Why an image verb did not do what it was told. Each prints as one line.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A name that no registry would take; exit code 64.
    #[error("{text:?} is no {what}; {remedy}")]
    Name {
        /// As it was given.
        text: String,
        /// What it should have been.
        what: &'static str,
        /// What would be right.
        remedy: String,
    },
    /// The command line does not fit what was found; exit code 64.
    #[error("{0}")]
    Usage(String),
    /// A file of the source, or one of our own, cannot be read or written.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The source is no image, or a broken one.
    #[error("{origin}: {reason}")]
    Source {
        /// Which directory, archive or reference.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The content is not what its name says.
    #[error("{origin}: {digest} is damaged: its content has the digest {found}; make the image anew")]
    Damaged {
        /// Which directory, archive or reference.
        origin: String,
        /// What it is called.
        digest: Digest,
        /// What it is.
        found: String,
    },
    /// CA, certificate or the like of this side.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The registry understood and said no.
    #[error("the registry at {registry} refused to {operation}: {reason}")]
    Refused {
        /// `HOST:PORT`.
        registry: String,
        /// What was asked.
        operation: String,
        /// What it said.
        reason: String,
    },
    /// It wants to know who asks.
    #[error("the registry at {registry} wants a user for this: {hint}")]
    Unauthorized {
        /// `HOST:PORT`.
        registry: String,
        /// What to do.
        hint: String,
    },
    /// It answered with what no registry says.
    #[error("{registry} does not answer as a registry does: {reason}; look at its address")]
    Answer {
        /// `HOST:PORT`.
        registry: String,
        /// What was odd.
        reason: String,
    },
    /// There was no connection; exit code 2.
    #[error("cannot reach the registry at {registry}: {reason}")]
    Unreachable {
        /// `HOST:PORT`.
        registry: String,
        /// Why, and what to look at.
        reason: String,
    },
    /// A connection ended in the middle of something; exit code 2.
    #[error("lost the registry at {registry}: {reason}; the same command goes on where it stopped")]
    Cut {
        /// `HOST:PORT`.
        registry: String,
        /// Why.
        reason: String,
    },
}

impl ImageError {
    /// 1 refused, 2 not reached, 64 usage, 78 configuration.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Name { .. } | Self::Usage(_) => 64,
            Self::Unreachable { .. } | Self::Cut { .. } => 2,
            Self::Tls(_) => 78,
            _ => 1,
        }
    }

    /// Whether the same request may succeed in a while.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Unreachable { .. })
    }

    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }

    pub(super) fn source(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Source { origin: origin.into(), reason: reason.into() }
    }
}

/// Why there was no connection, and what to look at.
pub(super) fn remedy(error: &(dyn Error + 'static)) -> String {
    let why = crate::failure::chain(error);
    let lower = why.to_lowercase();
    // Two clusters' CAs have one name: then the signature is what does not fit.
    let hint = if lower.contains("unknownissuer") || lower.contains("badsignature") {
        "its certificate is not of this cluster's CA; look at `ca` in the configuration and at the address"
    } else if lower.contains("certificate") {
        "its certificate cannot be trusted; look at the clocks of both sides and at the address"
    } else if lower.contains("refused") {
        "nothing listens there; look at the address and whether space-registry runs"
    } else {
        "look at the address and the link"
    };
    format!("{why}; {hint}")
}

pub(super) type Result<T> = std::result::Result<T, ImageError>;
