//! How much room is taken, and how much there may be.

use super::StoreError;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Most bytes of blobs and uploads together; None: as much as the disk holds.
    pub(crate) quota: Option<u64>,
    /// Bytes of the file system that pushes leave free.
    pub(crate) reserve: u64,
}

/// The account. Counts are of content; what the file system needs for itself is not seen.
#[derive(Debug)]
pub(super) struct Space {
    root: PathBuf,
    limits: Limits,
    stored: AtomicU64,
    uploading: AtomicU64,
}

/// The state of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) stored: u64,
    pub(crate) uploading: u64,
    pub(crate) quota: Option<u64>,
    pub(crate) reserve: u64,
    /// Free bytes of the file system.
    pub(crate) free: u64,
}

impl Space {
    pub(super) fn new(root: &Path, limits: Limits) -> Self {
        Self { root: root.into(), limits, stored: AtomicU64::new(0), uploading: AtomicU64::new(0) }
    }

    pub(super) fn set_stored(&self, bytes: u64) {
        self.stored.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub_stored(&self, bytes: u64) {
        let _ =
            self.stored.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(bytes)));
    }

    pub(super) fn add_uploading(&self, bytes: u64) {
        self.uploading.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub_uploading(&self, bytes: u64) {
        let _ = self
            .uploading
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(bytes)));
    }

    fn free(&self) -> u64 {
        // A file system that does not say how full it is, is taken for one that has room: writing will tell.
        nix::sys::statvfs::statvfs(&self.root)
            .map_or(u64::MAX, |found| found.blocks_available().saturating_mul(found.fragment_size()))
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            stored: self.stored.load(Ordering::Relaxed),
            uploading: self.uploading.load(Ordering::Relaxed),
            quota: self.limits.quota,
            reserve: self.limits.reserve,
            free: self.free(),
        }
    }

    /// Whether so many more bytes fit.
    pub(super) fn admit(&self, more: u64) -> Result<(), StoreError> {
        if let Some(quota) = self.limits.quota {
            let taken =
                self.stored.load(Ordering::Relaxed).saturating_add(self.uploading.load(Ordering::Relaxed));
            if taken.saturating_add(more) > quota {
                return Err(StoreError::Quota { taken, more, quota });
            }
        }
        if self.limits.reserve > 0 {
            let free = self.free();
            if free.saturating_sub(more) < self.limits.reserve || free < more {
                return Err(StoreError::Reserve { free, more, reserve: self.limits.reserve });
            }
        }
        Ok(())
    }
}
