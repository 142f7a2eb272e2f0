//! The files below the root. They are the only truth; what is kept in memory can be lost at any time.
//!
//! ```text
//! blobs/<algorithm>/<2>/<hex>                         content, of manifests too
//! repositories/<name>/_blobs/<algorithm>/<hex>        empty: the repository has this blob
//! repositories/<name>/_manifests/<algorithm>/<hex>    the manifest's media type
//! repositories/<name>/_tags/<tag>                     the manifest's digest
//! uploads/<id>                                        on its way
//! ```

mod blobs;
mod manifests;
mod referrers;
mod uploads;

pub(crate) use manifests::PutError;
pub(crate) use uploads::{Commit, Session};

use crate::name::{Repository, UploadId};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use thiserror::Error;

/// More directories than these are not remembered; forgetting costs one fsync each.
const MOST_REMEMBERED: usize = 4096;

/// A file could not be handled.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has this root.
    #[error("{} is in use by another space-registry; stop it or choose another root", path.display())]
    InUse {
        /// The root.
        path: PathBuf,
    },
    /// A file holds what this program never writes.
    #[error("{} holds {content:?}, which is not what belongs there", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is in it.
        content: String,
    },
}

impl StoreError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.into(), source }
    }

    /// Whether the disk has no room.
    pub(crate) fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// The images.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Directories whose entry in their parent is known to be on disk.
    durable: Mutex<HashSet<PathBuf>>,
    sessions: Mutex<HashMap<UploadId, Arc<tokio::sync::Mutex<Session>>>>,
    /// Held locked as long as the process lives.
    _lock: File,
}

impl Store {
    /// Opens or creates the root and removes old uploads.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(StoreError::io("create", &lock_path))?;
        lock.try_lock().map_err(|_| StoreError::InUse { path: root.into() })?;
        let store =
            Self { root: root.into(), durable: Mutex::default(), sessions: Mutex::default(), _lock: lock };
        for name in ["blobs", "repositories", "uploads"] {
            store.ensure_directory(&root.join(name))?;
        }
        store.sweep_uploads();
        Ok(store)
    }

    /// Whether files can be written.
    pub(crate) fn is_writable(&self) -> bool {
        nix::unistd::access(&self.root.join("uploads"), nix::unistd::AccessFlags::W_OK).is_ok()
    }

    fn repository(&self, name: &Repository) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Makes a directory below the root, with its ancestors, so that a power cut cannot take it back.
    fn ensure_directory(&self, path: &Path) -> Result<()> {
        if path == self.root || self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(path) {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        self.ensure_directory(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", path)(error));
            }
            // Also when it was there: another request may have made it and not yet synced it.
            _ => sync_directory(parent)?,
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= MOST_REMEMBERED {
            durable.clear();
        }
        durable.insert(path.into());
        Ok(())
    }

    /// Moves a synced file to its place, durably.
    fn place(&self, from: &Path, to: &Path) -> Result<()> {
        let Some(parent) = to.parent() else { return Ok(()) };
        self.ensure_directory(parent)?;
        fs::rename(from, to).map_err(StoreError::io("rename a new file to", to))?;
        sync_directory(parent)
    }

    /// Writes a whole file: afterwards the old content or the new is there, whatever happens.
    fn write(&self, to: &Path, content: &[u8]) -> Result<()> {
        let new = self.uploads().join(UploadId::random().as_str());
        let written = File::create_new(&new)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(StoreError::io("write", &new))
            .and_then(|()| self.place(&new, to));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// Makes a directory's entries durable.
fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io("sync", path))
}

/// Removes a file durably; false when there is none.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(StoreError::io("remove", path)(error)),
    }
    path.parent().map_or(Ok(()), sync_directory)?;
    Ok(true)
}

/// What an operation on a file gave, None when the file is not there.
fn if_present<T>(result: io::Result<T>, operation: &'static str, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io(operation, path)(error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names of a directory's entries; none when there is no directory.
fn entries(path: &Path) -> Result<Vec<String>> {
    let Some(directory) = if_present(fs::read_dir(path), "read", path)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in directory {
        let entry = entry.map_err(StoreError::io("read", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
