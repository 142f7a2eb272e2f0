//! Names in paths: repositories, tags and uploads. Whatever parses here is safe as a path below the root.

use crate::digest::{Algorithm, Digest, DigestError};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// Names longer than this are refused (host name and repository share 255 characters in clients).
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// A name outside its grammar.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum NameError {
    #[error(
        "repository name {0:?} is outside the grammar; use lower-case letters, digits and single separators"
    )]
    Repository(String),
    #[error("tag {0:?} is outside the grammar; use up to 128 letters, digits, '_', '.' and '-'")]
    Tag(String),
    #[error("invalid digest")]
    Digest(#[from] DigestError),
    #[error("{0:?} is no upload of this registry")]
    Upload(String),
}

/// A repository's name: `component ('/' component)*` of the distribution spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Repository(String);

impl Repository {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= LONGEST_REPOSITORY && text.split('/').all(is_component) {
            return Ok(Self(text.into()));
        }
        Err(NameError::Repository(text.into()))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `[a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = text;
    loop {
        let after_word = rest.trim_start_matches(alphanumeric);
        if after_word.len() == rest.len() {
            return false;
        }
        if after_word.is_empty() {
            return true;
        }
        let next = after_word.trim_start_matches(['.', '_', '-']);
        let separator = after_word.strip_suffix(next).unwrap_or(after_word);
        let allowed = matches!(separator, "." | "_" | "__") || separator.chars().all(|c| c == '-');
        if separator.is_empty() || !allowed {
            return false;
        }
        rest = next;
    }
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag(String);

impl Tag {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let first = text.bytes().next().is_some_and(word);
        if first && text.len() <= LONGEST_TAG && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-')) {
            return Ok(Self(text.into()));
        }
        Err(NameError::Tag(text.into()))
    }
}

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // A tag cannot hold a colon, a digest must.
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.pad(tag.as_str()),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An upload's identity: 96 random bits, so that nobody guesses another's, and 32 of its repository's name, so
/// that it can be told from another repository's also after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UploadId(String);

impl UploadId {
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    pub(crate) fn of(repository: &Repository) -> Self {
        let random = rand::random::<u128>() >> 32;
        Self(format!("{random:024x}{}", mark(repository)))
    }

    /// Whether the upload was begun in this repository.
    pub(crate) fn belongs_to(&self, repository: &Repository) -> bool {
        self.0.ends_with(&mark(repository))
    }

    /// The upload that fetches a blob from elsewhere: always the same, so that it goes on where it stopped.
    pub(crate) fn fetching(digest: &Digest) -> Self {
        Self(digest.hex().chars().take(32).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn mark(repository: &Repository) -> String {
    Digest::of(Algorithm::Sha256, repository.as_str().as_bytes()).hex().chars().take(8).collect()
}

impl FromStr for UploadId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.into()));
        }
        Err(NameError::Upload(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        let longest = "a".repeat(255);
        for good in ["app", "demo/app", "a/b/c/d", "a.b_c__d-e---f", "0", "library/x86", &longest] {
            assert!(good.parse::<Repository>().is_ok(), "{good:?} was refused");
        }
        let too_long = "a".repeat(256);
        let bad = [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", ".", "a/.", "-a", "a-", "_blobs", "a/_blobs",
            "a..b", "a___b", "a._b", "A", "a b", "a%2fb", "ä", "a\0b", &too_long,
        ];
        for bad in bad {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn tags_and_references() {
        let longest = "t".repeat(128);
        for good in ["latest", "1.2", "_x", "V1-rc.1", &longest] {
            assert!(matches!(good.parse(), Ok(Reference::Tag(_))), "{good:?} was refused");
        }
        let too_long = "t".repeat(129);
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "sha256:12", &too_long] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
    }

    #[test]
    fn uploads() {
        let id = UploadId::random();
        assert_eq!(id.as_str().parse(), Ok(id));
        let (one, other) = ("a/b".parse().unwrap(), "a/c".parse().unwrap());
        let id = UploadId::of(&one);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!(id.belongs_to(&one) && !id.belongs_to(&other));
        assert!("../../etc/passwd".parse::<UploadId>().is_err());
    }
}
