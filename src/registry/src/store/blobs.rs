//! Blobs and which repository has them.

use super::{Result, Store, StoreError, durable::sync_directory, if_present, remove};
use crate::{
    digest::{Algorithm, Digest},
    name::Repository,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// Where a blob's content is below a root.
pub(super) fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let shelf = digest.hex().get(..2).unwrap_or_default();
    root.join("blobs").join(digest.algorithm().name()).join(shelf).join(digest.hex())
}

impl Store {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.root, digest)
    }

    pub(super) fn blob_links(&self, repository: &Repository, algorithm: Algorithm) -> PathBuf {
        self.repository(repository).join("_blobs").join(algorithm.name())
    }

    /// The size of a repository's blob. Whoever is told stays able to rely on it for a while.
    pub(crate) fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        let _hold = self.pins.hold([digest]);
        let link = self.blob_links(repository, digest.algorithm()).join(digest.hex());
        if if_present(fs::metadata(&link), "look at", &link)?.is_none() {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        Ok(if_present(fs::metadata(&path), "look at", &path)?.map(|found| found.len()))
    }

    /// Opens a repository's blob for reading.
    pub(crate) fn open_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<(File, u64)>> {
        let Some(size) = self.blob_size(repository, digest)? else { return Ok(None) };
        let path = self.blob_path(digest);
        Ok(if_present(File::open(&path), "open", &path)?.map(|file| (file, size)))
    }

    /// Gives a repository a blob that is already on disk.
    pub(crate) fn link_blob(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let _hold = self.pins.hold([digest]);
        self.linking.fetch_add(1, Ordering::SeqCst);
        let linked = self.create_link(repository, digest).and_then(|links| sync_directory(&links));
        self.linking.fetch_sub(1, Ordering::SeqCst);
        linked?;
        self.noted(self.index.add_link(repository, digest));
        Ok(())
    }

    /// Makes the link and says which directory must be synced. The link is an empty file: once its directory
    /// is on disk there is nothing of it that could be missing.
    pub(super) fn create_link(&self, repository: &Repository, digest: &Digest) -> Result<PathBuf> {
        let links = self.blob_links(repository, digest.algorithm());
        self.ensure_directory(&links)?;
        let link = links.join(digest.hex());
        File::create(&link).map_err(StoreError::io("write", &link))?;
        Ok(links)
    }

    /// Gives a repository a blob of another; false when the other has no such blob.
    pub(crate) fn mount_blob(&self, from: &Repository, to: &Repository, digest: &Digest) -> Result<bool> {
        let _hold = self.pins.hold([digest]);
        if self.blob_size(from, digest)?.is_none() {
            return Ok(false);
        }
        self.link_blob(to, digest)?;
        Ok(true)
    }

    /// The repositories that are known to have a blob.
    pub(crate) fn holders(&self, digest: &Digest) -> Result<Vec<Repository>> {
        self.index.holders(digest)
    }

    /// Takes a blob from a repository; its content stays until the next collection. False when the repository
    /// has no such blob.
    pub(crate) fn unlink_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let removed = remove(&self.blob_links(repository, digest.algorithm()).join(digest.hex()))?;
        self.noted(self.index.remove_link(repository, digest));
        Ok(removed)
    }

    /// Makes sure that links which a request has seen are on disk, though another request may have made
    /// them a moment ago and not yet synced them.
    pub(super) fn sync_blob_links(&self, repository: &Repository) -> Result<()> {
        if self.linking.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let links = Algorithm::ALL.map(|algorithm| self.blob_links(repository, algorithm));
        let present: Vec<_> = links.into_iter().filter(|links| links.is_dir()).collect();
        for links in &present {
            self.ensure_directory(links)?;
        }
        self.sync_directories(&present)
    }
}
