//! Bundles on disk, on the server and on each module: a part that grows, and, once its digest is right, a whole one.

use model::Bytes;
use nix::sys::statvfs::statvfs;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;
use tokio::{fs::File, io::AsyncWriteExt};

/// How much of a bundle travels in one message.
pub(crate) const PART: usize = 256 << 10;
/// What must stay free beside a bundle, for whatever else is written meanwhile.
const SPARE: u64 = 16 << 20;

/// Why a bundle cannot be kept.
#[derive(Debug, Error)]
pub(crate) enum BundleError {
    #[error("{0:?} is no SHA-256; write its 64 hexadecimal digits")]
    Digest(String),
    #[error("no room for the bundle: it takes {size}, {free} are free in {folder}")]
    NoRoom { size: Bytes, free: Bytes, folder: PathBuf },
    #[error("the part begins at byte {at}, byte {have} is next; ask how much is there and go on from there")]
    Gap { at: u64, have: u64 },
    #[error("the bundle has more than the {size} bytes that were announced; send it anew")]
    TooLong { size: u64 },
    #[error("the bundle is damaged: its SHA-256 is {found}; it was removed, send it anew")]
    Damaged { found: String },
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BundleError + 'a {
    move |source| BundleError::Io { operation, path: path.to_owned(), source }
}

/// A folder with at most one bundle that is whole and others that are about to be.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

/// One bundle: what it is called and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Bundle {
    /// Checks the name: it becomes a file's.
    pub(crate) fn new(digest: &str, size: u64) -> Result<Self, BundleError> {
        if digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BundleError::Digest(digest.to_owned()));
        }
        Ok(Self { digest: digest.to_owned(), size })
    }
}

impl Shelf {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn whole(&self, bundle: &Bundle) -> PathBuf {
        self.folder.join(format!("{}.raucb", bundle.digest))
    }

    fn part(&self, bundle: &Bundle) -> PathBuf {
        self.folder.join(format!("{}.part", bundle.digest))
    }

    /// It is there and was found to be right.
    pub(crate) fn has(&self, bundle: &Bundle) -> bool {
        fs::metadata(self.whole(bundle)).is_ok_and(|found| found.len() == bundle.size)
    }

    /// Bytes that are there.
    pub(crate) fn have(&self, bundle: &Bundle) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map(|found| found.len());
        if self.has(bundle) { bundle.size } else { length(self.part(bundle)).unwrap_or(0) }
    }

    pub(crate) fn remove(&self, bundle: &Bundle) {
        let _ = fs::remove_file(self.whole(bundle));
        let _ = fs::remove_file(self.part(bundle));
    }

    /// Makes room for a bundle: all others go. Fails when there is too little all the same.
    pub(crate) fn make_room(&self, bundle: &Bundle) -> Result<(), BundleError> {
        fs::create_dir_all(&self.folder).map_err(io_error("create", &self.folder))?;
        let entries = fs::read_dir(&self.folder).map_err(io_error("read", &self.folder))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let bundles = path.extension().is_some_and(|e| e == "raucb" || e == "part");
            if bundles && path.file_stem().is_none_or(|stem| stem != bundle.digest.as_str()) {
                let _ = fs::remove_file(path);
            }
        }
        let free = statvfs(&self.folder)
            .map_or(u64::MAX, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
        let size = bundle.size.saturating_sub(self.have(bundle));
        if free < size.saturating_add(SPARE) {
            return Err(BundleError::NoRoom {
                size: Bytes(size),
                free: Bytes(free),
                folder: self.folder.clone(),
            });
        }
        Ok(())
    }

    /// Goes on with a bundle where it stands.
    pub(crate) async fn write(&self, bundle: &Bundle) -> Result<Writer, BundleError> {
        let path = self.part(bundle);
        let mut options = File::options();
        let file = options.create(true).append(true).open(&path).await.map_err(io_error("open", &path))?;
        Ok(Writer { shelf: self.clone(), bundle: bundle.clone(), file, have: self.have(bundle), path })
    }

    /// Takes a bundle that has all its bytes for whole if its digest is right; else it is removed.
    pub(crate) async fn finish(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let (part, whole) = (self.part(bundle), self.whole(bundle));
        let read = part.clone();
        let hashed = tokio::task::spawn_blocking(move || digest(&read)).await.map_err(io::Error::other);
        let found = hashed.and_then(|digest| digest).map_err(io_error("read", &part))?;
        if found != bundle.digest {
            self.remove(bundle);
            return Err(BundleError::Damaged { found });
        }
        fs::rename(&part, &whole).map_err(io_error("put in place", &whole))?;
        let folder = File::open(&self.folder).await.map_err(io_error("open", &self.folder))?;
        folder.sync_all().await.map_err(io_error("sync", &self.folder))
    }
}

/// Appends parts to a bundle.
pub(crate) struct Writer {
    shelf: Shelf,
    bundle: Bundle,
    file: File,
    have: u64,
    path: PathBuf,
}

impl Writer {
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// One part, which must begin where the last one ended.
    pub(crate) async fn append(&mut self, at: u64, data: &[u8]) -> Result<(), BundleError> {
        if at != self.have {
            return Err(BundleError::Gap { at, have: self.have });
        }
        let after = self.have.saturating_add(data.len() as u64);
        if after > self.bundle.size {
            self.shelf.remove(&self.bundle);
            return Err(BundleError::TooLong { size: self.bundle.size });
        }
        self.file.write_all(data).await.map_err(io_error("write", &self.path))?;
        self.have = after;
        Ok(())
    }

    /// What was written is on the medium.
    pub(crate) async fn sync(mut self) -> Result<(), BundleError> {
        self.file.flush().await.map_err(io_error("write", &self.path))?;
        self.file.sync_all().await.map_err(io_error("sync", &self.path))
    }
}

fn digest(path: &Path) -> io::Result<String> {
    use sha2::{Digest, Sha256};
    let (mut hash, mut file) = (Sha256::new(), fs::File::open(path)?);
    io::copy(&mut file, &mut hash)?;
    // What counts as whole from now on must be so after a power cut too.
    file.sync_all()?;
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn bundle(content: &[u8]) -> Bundle {
        Bundle::new(&hex::encode(Sha256::digest(content)), content.len() as u64).unwrap()
    }

    #[tokio::test]
    async fn a_bundle_grows_over_a_cut_and_is_whole_when_its_digest_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("bundles"));
        let bundle = bundle(b"hello world");
        shelf.make_room(&bundle).unwrap();
        let mut writer = shelf.write(&bundle).await.unwrap();
        writer.append(0, b"hello ").await.unwrap();
        writer.sync().await.unwrap();
        assert_eq!((shelf.have(&bundle), shelf.has(&bundle)), (6, false));
        let mut writer = shelf.write(&bundle).await.unwrap();
        assert!(matches!(writer.append(0, b"x").await, Err(BundleError::Gap { at: 0, have: 6 })));
        writer.append(6, b"world").await.unwrap();
        writer.sync().await.unwrap();
        shelf.finish(&bundle).await.unwrap();
        assert_eq!((shelf.have(&bundle), shelf.has(&bundle)), (11, true));
    }

    #[tokio::test]
    async fn what_is_damaged_or_too_long_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned());
        let bundle = bundle(b"right");
        for content in [b"wrong".as_slice(), b"longer than that"] {
            let mut writer = shelf.write(&bundle).await.unwrap();
            let outcome = match writer.append(0, content).await {
                Ok(()) => {
                    writer.sync().await.unwrap();
                    shelf.finish(&bundle).await
                }
                Err(error) => Err(error),
            };
            assert!(matches!(outcome, Err(BundleError::Damaged { .. } | BundleError::TooLong { .. })));
            assert_eq!(shelf.have(&bundle), 0);
        }
    }

    #[test]
    fn room_is_made_and_an_end_of_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned());
        let (old, new) = (bundle(b"old"), bundle(b"new"));
        fs::write(shelf.whole(&old), b"old").unwrap();
        fs::write(folder.path().join("state.json"), b"{}").unwrap();
        shelf.make_room(&new).unwrap();
        assert!(!shelf.has(&old) && folder.path().join("state.json").exists());
        let huge = Bundle { size: u64::MAX / 2, ..new };
        let refused = shelf.make_room(&huge).unwrap_err().to_string();
        assert!(refused.contains("no room for the bundle") && refused.contains("are free"), "{refused}");
        for name in ["", "../../etc/passwd", &"G".repeat(64)] {
            assert!(matches!(Bundle::new(name, 1), Err(BundleError::Digest(_))), "{name}");
        }
    }
}
