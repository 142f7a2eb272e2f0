//! Content digests: `sha256:…` and `sha512:…` (OCI image-spec, descriptor digests).

use sha2::{Digest as _, Sha256, Sha512};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The digest algorithms that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// Why a text is no digest.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum DigestError {
    #[error("{0:?} is no digest; write sha256:… or sha512:…")]
    Form(String),
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    Algorithm(String),
    #[error("{text:?} is not {length} lower-case hexadecimal digits")]
    Hex { text: String, length: usize },
}

/// A validated digest; safe to use in a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }

    /// The digest of bytes that are all in memory.
    pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        found.ok_or_else(|| DigestError::Algorithm(text.into()))
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or_else(|| DigestError::Form(text.into()))?;
        let algorithm: Algorithm = name.parse()?;
        let length = algorithm.hex_length();
        if hex.len() != length || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Hex { text: hex.into(), length });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// A digest in the making.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => {
                Digest { algorithm: Algorithm::Sha256, hex: hex::encode(hasher.finalize()) }
            }
            Self::Sha512(hasher) => {
                Digest { algorithm: Algorithm::Sha512, hex: hex::encode(hasher.finalize()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Digest::of(Algorithm::Sha256, b"")));
        let long = Digest::of(Algorithm::Sha512, b"abc");
        assert!(long.hex().starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn what_is_no_digest() {
        let short = "sha256:e3b0";
        let upper = format!("sha256:{}", "A".repeat(64));
        let wrong_length = format!("sha512:{}", "a".repeat(64));
        let path = format!("sha256:../{}", "a".repeat(61));
        for text in [
            "",
            "latest",
            "sha256",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            short,
            &upper,
            &wrong_length,
            &path,
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?} was taken for a digest");
        }
    }
}
