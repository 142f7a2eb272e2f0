use super::UpdateError;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A bundle on this machine. Whether its signature is good only a module can tell, which has the mission's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) file: PathBuf,
    pub(crate) size: u64,
    /// SHA-256 in hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) compatible: String,
    pub(crate) version: String,
}

/// What a squashfs begins with.
const SQUASHFS: &[u8] = b"hsqs";
/// Behind the squashfs: the signature, which holds the manifest, and its length in eight bytes, the highest first.
const LENGTH: u64 = 8;
/// A signature with a manifest takes some kilobytes.
const SIGNATURE_LIMIT: u64 = 16 << 20;

impl Bundle {
    /// Reads all of it.
    pub(crate) fn open(file: &Path) -> Result<Self, UpdateError> {
        let failed = |source| UpdateError::Read { file: file.to_owned(), source };
        let none = |reason| UpdateError::NoBundle { file: file.to_owned(), reason };
        let mut input = File::open(file).map_err(failed)?;
        let manifest = manifest(&mut input).map_err(failed)?.map_err(none)?;
        let value = |key: &str| {
            let line = manifest.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim().to_owned())
        };
        let compatible =
            value("compatible").ok_or_else(|| none("its manifest does not say what it is for"))?;
        let version = value("version").unwrap_or_default();
        input.rewind().map_err(failed)?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut input, &mut hash).map_err(failed)?;
        let digest = hex::encode(hash.finalize());
        Ok(Self { file: file.to_owned(), size, digest, compatible, version })
    }

    /// For people: the version where it has one.
    pub(crate) fn name(&self) -> &str {
        if self.version.is_empty() { "the bundle" } else { &self.version }
    }
}

/// The manifest's text, or what is not as it should be.
fn manifest(input: &mut File) -> io::Result<Result<String, &'static str>> {
    let size = input.metadata()?.len();
    let mut magic = [0; 4];
    if size < LENGTH + 4 || input.read_exact(&mut magic).is_err() || magic != SQUASHFS {
        return Ok(Err("it does not begin as one"));
    }
    let mut length = [0; 8];
    input.seek(SeekFrom::Start(size - LENGTH))?;
    input.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    if length == 0 || length > SIGNATURE_LIMIT || length > size - LENGTH {
        return Ok(Err("no signature at its end: it was cut short"));
    }
    input.seek(SeekFrom::Start(size - LENGTH - length))?;
    let mut signature = Vec::new();
    input.take(length).read_to_end(&mut signature)?;
    let head = b"[update]";
    let begin = signature.windows(head.len()).position(|window| window == head);
    let Some(text) = begin.and_then(|begin| signature.get(begin..)) else {
        return Ok(Err("no manifest in its signature"));
    };
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    let text: Vec<u8> = text.iter().copied().take_while(is_text).collect();
    Ok(Ok(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RAUC lays it out, but for the signature's mathematics.
    fn laid_out(manifest: &str) -> Vec<u8> {
        let signature = [b"0\x82\x01\x00".as_slice(), manifest.as_bytes(), b"\x00\xa0certificate"].concat();
        let mut bytes = [b"hsqs".as_slice(), &[7; 5000], &signature].concat();
        bytes.extend((signature.len() as u64).to_be_bytes());
        bytes
    }

    fn opened(bytes: &[u8]) -> Result<Bundle, UpdateError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Bundle::open(file.path())
    }

    const MANIFEST: &str = "[update]\ncompatible=board\nversion=2.0\n\n[bundle]\nformat=verity\n";

    #[test]
    fn a_bundle_says_what_it_is_for() {
        let bytes = laid_out(MANIFEST);
        let bundle = opened(&bytes).unwrap();
        assert_eq!((bundle.compatible.as_str(), bundle.version.as_str()), ("board", "2.0"));
        assert_eq!((bundle.size, bundle.digest), (bytes.len() as u64, hex::encode(Sha256::digest(&bytes))));
    }

    #[test]
    fn what_is_none_is_refused_with_what_is_missing() {
        let whole = laid_out(MANIFEST);
        let mut other = whole.clone();
        other[0] = b'x';
        for (bytes, word) in [
            (&whole[..whole.len() / 2], "cut short"),
            (&whole[..whole.len() - 1], "cut short"),
            (&other, "does not begin"),
            (b"".as_slice(), "does not begin"),
            (&laid_out("[image]\n"), "no manifest"),
            (&laid_out("[update]\nversion=1\n"), "what it is for"),
        ] {
            let error = opened(bytes).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error} lacks {word}");
        }
        assert!(matches!(Bundle::open(Path::new("/none")), Err(UpdateError::Read { .. })));
    }
}
