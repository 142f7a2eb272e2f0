//! registry.toml.

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
    /// Certificate and key; required, since nothing but loopback is served in plain text.
    pub tls: Tls,
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

    /// Reads and checks a file.
    ///
    /// # Errors
    /// One line that names the file, the key and what would be right.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
        toml::from_str(&text).map_err(|error| content_error(file, &text, &error))
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
        Config::load(&file).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let config = load("[tls]\ncert = \"/c\"\nkey = \"/k\"\n").unwrap();
        assert_eq!(config.root, Path::new("/var/lib/space-registry"));
        assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
        assert_eq!(config.tls.wait, Span(60_000));
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
