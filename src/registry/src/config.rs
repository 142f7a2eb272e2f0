//! registry.toml.

mod sections;

pub use sections::{Audit, Auth, Gc, Grant, Replica, Role, Scrub, Storage};

use model::Span;
use serde::Deserialize;
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A configuration that cannot be used: one line with file, key and remedy.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read; give a readable file with --config", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two settings do not fit, or one has no meaning.
    #[error("{}: {key}: {reason}", file.display())]
    Contradiction {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The file is not what it should be.
    #[error("{}: line {line}, {key:?}: {reason}", file.display())]
    Content {
        /// The configuration file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// The key, or what stands in its place.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory of the blobs, repositories and uploads.
    #[serde(default = "Config::root_default")]
    pub root: PathBuf,
    /// Address and port.
    #[serde(default = "Config::listen_default")]
    pub listen: SocketAddr,
    /// Certificate and key; required, unless the command line asks for plain HTTP on loopback.
    pub tls: Option<Tls>,
    /// How much room there is.
    #[serde(default)]
    pub storage: Storage,
    /// Who may do what; None: everybody everything.
    pub auth: Option<Auth>,
    /// Where pushes and deletions are written down.
    pub audit: Option<Audit>,
    /// Garbage collection.
    #[serde(default)]
    pub gc: Gc,
    /// Reading blobs again.
    #[serde(default)]
    pub scrub: Scrub,
    /// The registries that this one follows.
    #[serde(default)]
    pub replica: Vec<Replica>,
}

/// What the registry does besides serving: everything that has a default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// How much room there is.
    pub storage: Storage,
    /// Who may do what; None: everybody everything.
    pub auth: Option<Auth>,
    /// Where pushes and deletions are written down.
    pub audit: Option<Audit>,
    /// Garbage collection.
    pub gc: Gc,
    /// Reading blobs again.
    pub scrub: Scrub,
    /// The registries that this one follows.
    pub replicas: Vec<Replica>,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and what stands between it and its authority.
    pub cert: PathBuf,
    /// PEM file with the certificate's private key.
    pub key: PathBuf,
    /// How long to wait for both files at the start.
    #[serde(default = "Tls::wait_default")]
    pub wait: Span,
}

impl Config {
    fn root_default() -> PathBuf {
        "/var/lib/space-registry".into()
    }

    fn listen_default() -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 5000))
    }

    /// Reads and checks a file. `plain`: TLS may be left out.
    ///
    /// # Errors
    /// One line that names the file, the key and what would be right.
    pub fn load(file: &Path, plain: bool) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| content_error(file, &text, &error))?;
        if config.tls.is_none() && !plain {
            let reason = "missing; write [tls] with cert and key, the paths of two PEM files".to_owned();
            return Err(ConfigError::Content { file: file.into(), line: 1, key: "tls".into(), reason });
        }
        if let Some((key, reason)) = config.contradictions().next() {
            return Err(ConfigError::Contradiction { file: file.into(), key, reason });
        }
        Ok(config)
    }

    /// Everything that has a default.
    pub(crate) fn options(&self) -> Options {
        Options {
            storage: self.storage.clone(),
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            gc: self.gc.clone(),
            scrub: self.scrub.clone(),
            replicas: self.replica.clone(),
        }
    }

    /// What is well-formed and still makes no sense.
    fn contradictions(&self) -> impl Iterator<Item = (&'static str, String)> {
        let bad_url = self.replica.iter().find(|replica| replica.address().is_none()).map(|replica| {
            ("replica.url", format!("{:?} is no URL of a registry; write https://HOST:PORT", replica.url))
        });
        let half = self
            .replica
            .iter()
            .find(|r| r.username.is_some() != r.password_file.is_some())
            .map(|_| ("replica.username", "username and password_file belong together".to_owned()));
        let nobody =
            self.auth.as_ref().filter(|auth| auth.grant.is_empty() && !auth.anonymous_pull).map(|_| {
                ("auth.grant", "nobody may do anything; write [[auth.grant]] with user and role".to_owned())
            });
        let hasty = (self.storage.silence == Span(0))
            .then(|| ("storage.silence", "0s would give up every upload at once; write 60s".to_owned()));
        bad_url.into_iter().chain(half).chain(nobody).chain(hasty)
    }
}

impl Tls {
    fn wait_default() -> Span {
        Span(60_000)
    }
}

fn content_error(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let content = text.lines().nth(line - 1).unwrap_or_default();
    let key = content.split('=').next().unwrap_or_default().trim().to_owned();
    let mut reason = error.message().replace('\n', " ");
    if reason.contains("missing field") {
        reason.push_str("; write [tls] with cert and key, the paths of two PEM files");
    }
    ConfigError::Content { file: file.into(), line, key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registry.toml");
        fs::write(&file, text).unwrap();
        Config::load(&file, false).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let config = load("[tls]\ncert = \"/c\"\nkey = \"/k\"\n").unwrap();
        assert_eq!(config.root, Path::new("/var/lib/space-registry"));
        assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
        assert_eq!(config.tls.unwrap().wait, Span(60_000));
    }

    #[test]
    fn one_line_says_file_key_and_remedy() {
        let tls = "[tls]\ncert = \"/c\"\nkey = \"/k\"\n";
        for (text, parts) in [
            (format!("rot = \"/x\"\n{tls}"), ["line 1", "rot", "expected one of `root`, `listen`, `tls`"]),
            (format!("listen = \"here\"\n{tls}"), ["line 1", "listen", "socket address"]),
            (format!("root = 5\n{tls}"), ["line 1", "root", "expected path string"]),
            (format!("{tls}wait = 60\n"), ["line 4", "wait", "has no unit"]),
            (format!("{tls}wait = \"soon\"\n"), ["line 4", "wait", "ms, s, min or h"]),
            ("root = \"/x\"\n".into(), ["line 1", "tls", "write [tls] with cert and key"]),
            ("[tls]\ncert = \"/c\"\n".into(), ["line 1", "key", "paths of two PEM files"]),
            (format!("{tls}[storage]\nsilence = \"0s\"\n"), ["storage.silence", "0s", "write 60s"]),
            ("root = \n".into(), ["line 1", "root", "registry.toml"]),
        ] {
            let message = load(&text).unwrap_err();
            assert!(!message.contains('\n'), "{message}");
            assert!(message.contains("registry.toml"), "{message}");
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in: {message}");
            }
        }
    }
}
