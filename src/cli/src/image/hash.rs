//! Digests of content.
use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha512};
use std::io::{self, Read};

const AT_ONCE: usize = 1 << 20;

/// A digest in the making, of the same kind as the one that is expected.
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(super) fn like(expected: &Digest) -> Self {
        match expected.algorithm() {
            DigestAlgorithm::Sha512 => Self::Sha512(Box::default()),
            _ => Self::Sha256(Sha256::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => format!("sha256:{}", hex::encode(hasher.finalize())),
            Self::Sha512(hasher) => format!("sha512:{}", hex::encode(hasher.finalize())),
        }
    }
}

/// The sha256 of bytes that are all in memory, as a digest's text.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Reads to the end.
pub(super) fn of_reader(mut hasher: Hasher, mut reader: impl Read) -> io::Result<String> {
    let mut buffer = vec![0; AT_ONCE];
    loop {
        let count = reader.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(read) if count > 0 => hasher.update(read),
            _ => return Ok(hasher.finish()),
        }
    }
}
