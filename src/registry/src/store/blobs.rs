//! Blobs and which repository has them.

use super::{Result, Store, StoreError, if_present, remove, sync_directory};
use crate::{
    digest::{Algorithm, Digest},
    name::Repository,
};
use std::{
    fs::{self, File},
    path::PathBuf,
};

impl Store {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let shelf = digest.hex().get(..2).unwrap_or_default();
        self.root.join("blobs").join(digest.algorithm().name()).join(shelf).join(digest.hex())
    }

    fn blob_links(&self, repository: &Repository, algorithm: Algorithm) -> PathBuf {
        self.repository(repository).join("_blobs").join(algorithm.name())
    }

    /// The size of a repository's blob.
    pub(crate) fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
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
        let links = self.blob_links(repository, digest.algorithm());
        self.ensure_directory(&links)?;
        let link = links.join(digest.hex());
        File::create(&link).and_then(|file| file.sync_all()).map_err(StoreError::io("write", &link))?;
        sync_directory(&links)
    }

    /// Gives a repository a blob of another; false when the other has no such blob.
    pub(crate) fn mount_blob(&self, from: &Repository, to: &Repository, digest: &Digest) -> Result<bool> {
        if self.blob_size(from, digest)?.is_none() {
            return Ok(false);
        }
        self.link_blob(to, digest)?;
        Ok(true)
    }

    /// Takes a blob from a repository; its content stays. False when the repository has no such blob.
    pub(crate) fn unlink_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        remove(&self.blob_links(repository, digest.algorithm()).join(digest.hex()))
    }

    /// Makes sure that links which a request has seen are on disk, though another request may have made
    /// them a moment ago and not yet synced them.
    pub(super) fn sync_blob_links(&self, repository: &Repository) -> Result<()> {
        for algorithm in Algorithm::ALL {
            let links = self.blob_links(repository, algorithm);
            if links.is_dir() {
                self.ensure_directory(&links)?;
                sync_directory(&links)?;
            }
        }
        Ok(())
    }
}
