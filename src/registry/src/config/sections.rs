//! The sections that have defaults.

use model::{Bytes, Span};
use serde::Deserialize;
use std::path::PathBuf;

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Most bytes of blobs and uploads together.
    pub quota: Option<Bytes>,
    /// Bytes of the file system that pushes leave free.
    pub reserve: Bytes,
    /// An upload whose client sends nothing for this long has broken off.
    pub silence: Span,
}

impl Default for Storage {
    fn default() -> Self {
        Self { quota: None, reserve: Bytes(64 << 20), silence: Span(60_000) }
    }
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// File of lines `user:bcrypt`, as `htpasswd -B` and `space-registry passwd` write them.
    pub htpasswd: PathBuf,
    /// Whether anybody may pull everything.
    #[serde(default)]
    pub anonymous_pull: bool,
    /// Where clients get tokens, if they cannot reach the registry by the name that they use for it.
    pub realm: Option<String>,
    /// How long a token is good for.
    #[serde(default = "Auth::token_life_default")]
    pub token_life: Span,
    /// Who may do what.
    #[serde(default)]
    pub grant: Vec<Grant>,
}

impl Auth {
    fn token_life_default() -> Span {
        Span(300_000)
    }
}

/// `[[auth.grant]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A user of the htpasswd file, or `*` for each of them.
    pub user: String,
    /// Repositories of this name or below it; empty: all.
    #[serde(default)]
    pub prefix: String,
    /// What the user may do there.
    pub role: Role,
}

/// What somebody may do. Each may also do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Delete, and with the empty prefix collect garbage.
    Admin,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// A file that grows by one line of JSON for each push and deletion.
    pub file: PathBuf,
    /// The file's size at which it becomes `FILE.1` and a new one begins.
    #[serde(default = "Audit::size_default")]
    pub size: Bytes,
}

impl Audit {
    fn size_default() -> Bytes {
        Bytes(8 << 20)
    }
}

/// `[gc]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// How often; zero: never.
    pub every: Span,
    /// What is younger, or was asked for within this time, stays.
    pub grace: Span,
    /// Whether manifests that no tag leads to stay.
    pub keep_untagged: bool,
}

impl Default for Gc {
    fn default() -> Self {
        Self { every: Span(24 * 3_600_000), grace: Span(2 * 3_600_000), keep_untagged: true }
    }
}

/// `[scrub]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// How often everything is read again; zero: never.
    pub every: Span,
    /// Bytes a second.
    pub rate: Bytes,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { every: Span(7 * 24 * 3_600_000), rate: Bytes(8 << 20) }
    }
}

/// `[[replica]]`: a registry that this one follows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// `https://HOST:PORT`; `http://` on loopback only.
    pub url: String,
    /// PEM file of the authority that its certificate comes from; None: this registry's own certificate chain.
    pub ca: Option<PathBuf>,
    /// Who to be there.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
}

impl Replica {
    /// Whether it speaks TLS, its host and its port.
    pub(crate) fn address(&self) -> Option<(bool, &str, u16)> {
        let (tls, rest) = match self.url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, self.url.strip_prefix("http://")?),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if host.is_empty() || host.contains('/') || !(tls || loopback) {
            return None;
        }
        Some((tls, host, port.parse().ok()?))
    }
}
