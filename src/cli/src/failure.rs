use model::SpecError;
use std::{error::Error, io, path::PathBuf};
use thiserror::Error;

/// Why the command did not do what it was told. Each prints as one line that says what to do.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// spacectl's own configuration is broken or missing.
    #[error("{file}: {reason}", file = .file.display())]
    Config {
        /// Which file.
        file: PathBuf,
        /// Key, why, and what would be right.
        reason: String,
    },
    /// An app file that cannot be read.
    #[error("{file}: {source}; name a file, a directory of .toml files, or - for standard input", file = .file.display())]
    AppFile {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An app file that is refused before the cluster sees it.
    #[error("{0}; nothing was changed")]
    Spec(SpecError),
    /// The cluster understood and said no, or it holds nothing of that name.
    #[error("{0}")]
    Refused(String),
    /// No answer.
    #[error("cannot reach the server at {server}: {reason}")]
    Unreachable {
        /// Address and port.
        server: String,
        /// Why, and what to look at.
        reason: String,
    },
    /// What an image verb could not do.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A device that was not flashed.
    #[error(transparent)]
    Flash(#[from] crate::flash::FlashError),
    /// A module that was not updated.
    #[error(transparent)]
    Update(#[from] crate::update::UpdateError),
    /// Standard output is gone or full.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The system gave us no event loop.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl Failure {
    /// 1 refused, 2 not reached, 64 usage, 78 configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::AppFile { .. } | Self::Spec(_) | Self::Refused(_) | Self::Output(_) | Self::Runtime(_) => 1,
            Self::Update(_) => 1,
            Self::Unreachable { .. } => 2,
            Self::Image(error) => error.exit_code(),
            Self::Flash(error) => error.exit_code(),
            Self::Usage(_) => 64,
            Self::Config { .. } => 78,
        }
    }

    /// Nothing to say: the reader of a pipe had enough, as `head` does.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// An error and its sources on one line, without what only repeats or says nothing.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if text != "transport error" && !parts.iter().any(|seen| seen.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_the_exit_code_of_the_contract() {
        let unreachable = Failure::Unreachable { server: "a:1".into(), reason: "gone".into() };
        assert_eq!(unreachable.exit_code(), 2);
        assert_eq!(Failure::Refused(String::new()).exit_code(), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 64);
        assert_eq!(Failure::Config { file: "f".into(), reason: String::new() }.exit_code(), 78);
        let closed = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((closed.exit_code(), closed.is_silent()), (0, true));
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }

    #[test]
    fn a_chain_is_one_line_and_repeats_nothing() {
        #[derive(Debug, Error)]
        #[error("transport error")]
        struct Outer(#[source] Inner);
        #[derive(Debug, Error)]
        #[error("connect\nfailed: {0}")]
        struct Inner(#[source] io::Error);
        let error = Outer(Inner(io::Error::other("no route")));
        assert_eq!(chain(&error), "connect failed: no route");
    }
}
