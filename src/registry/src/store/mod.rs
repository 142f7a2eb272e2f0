//! The files below the root. They are the only truth; what is kept in memory can be lost at any time.
//!
//! ```text
//! blobs/<algorithm>/<2>/<hex>                         content, of manifests too
//! repositories/<name>/_blobs/<algorithm>/<hex>        empty: the repository has this blob
//! repositories/<name>/_manifests/<algorithm>/<hex>    the manifest's media type
//! repositories/<name>/_tags/<tag>                     the manifest's digest
//! uploads/<id>                                        on its way
//! quarantine/<algorithm>-<hex>-<time>                 content that is no longer what its name says
//! index.db                                            what the files say, made anew when it may lag behind
//! index.clean                                         the index has everything: closed in good order
//! lock                                                held by the process that has the root
//! ```

mod blobs;
mod check;
mod collect;
mod documents;
mod durable;
mod index;
mod manifests;
mod pins;
mod scrub;
mod space;
mod uploads;
mod walk;

pub(crate) use check::{Findings, check};
pub(crate) use collect::{Collected, Keep};
pub(crate) use documents::Document;
pub(crate) use index::{Change, Feed, Version};
pub(crate) use manifests::{Put, PutError};
pub(crate) use scrub::{Need, Scrubbed, Verdict};
pub(crate) use space::Limits;
pub(crate) use space::Usage;
pub(crate) use uploads::{Commit, Session};

use crate::name::{Repository, UploadId};
use index::Index;
use pins::Pins;
use space::Space;
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicUsize},
};
use thiserror::Error;
use tokio::sync::watch;

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
    /// The index failed.
    #[error("cannot use the index {}; space-registry fsck --repair makes it anew", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The quota is used up.
    #[error(
        "{more} more bytes do not fit: {taken} of the quota of {quota} bytes are taken; delete images or collect garbage"
    )]
    Quota {
        /// Bytes stored and on their way.
        taken: u64,
        /// Bytes asked for.
        more: u64,
        /// The limit.
        quota: u64,
    },
    /// The file system is nearly full.
    #[error(
        "{more} more bytes do not fit: {free} bytes are free, of which {reserve} stay free; delete images or collect garbage"
    )]
    Reserve {
        /// Free bytes.
        free: u64,
        /// Bytes asked for.
        more: u64,
        /// The limit.
        reserve: u64,
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
        match self {
            Self::Io { source, .. } => full.contains(&source.kind()),
            Self::Index { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Quota { .. } | Self::Reserve { .. } => true,
            _ => false,
        }
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
    index: Index,
    pins: Pins,
    space: Arc<Space>,
    /// How many requests are at this moment giving a repository a blob.
    linking: AtomicUsize,
    /// Held while the index is told what a tag's file says.
    tagging: Mutex<()>,
    /// The number of the last change.
    changed: watch::Sender<u64>,
    /// Held locked as long as the process lives.
    _lock: File,
}

impl Store {
    /// Opens or creates the root, removes old uploads, and makes the index anew if it may lag behind.
    pub(crate) fn open(root: &Path, limits: Limits) -> Result<Self> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        let lock = take(root)?;
        let (index, stale) = Index::open(root)?;
        let store = Self {
            root: root.into(),
            durable: Mutex::default(),
            sessions: Mutex::default(),
            index,
            pins: Pins::default(),
            space: Arc::new(Space::new(root, limits)),
            linking: AtomicUsize::new(0),
            tagging: Mutex::default(),
            changed: watch::Sender::new(0),
            _lock: lock,
        };
        store.ensure_directories(&["blobs", "repositories", "uploads"].map(|name| root.join(name)))?;
        store.sweep_uploads();
        if stale {
            store.rebuild_index()?;
        }
        store.space.set_stored(store.index.blobs()?.0);
        store.space.add_uploading(store.bytes_on_their_way()?);
        store.announce();
        Ok(store)
    }

    /// Makes the index say what the files say.
    pub(crate) fn rebuild_index(&self) -> Result<()> {
        let began = std::time::Instant::now();
        let snapshot = walk::snapshot(&self.root)?;
        self.index.rebuild(&snapshot)?;
        tracing::info!(
            blobs = snapshot.blobs.len(),
            manifests = snapshot.manifests.len(),
            tags = snapshot.tags.len(),
            ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "index made anew from the files"
        );
        Ok(())
    }

    /// The last word of a process that ends in good order.
    pub(crate) fn close(&self) {
        if let Err(error) = self.index.close() {
            tracing::warn!(%error, "the index is not closed in good order and will be made anew");
        }
    }

    /// Whether files can be written.
    pub(crate) fn is_writable(&self) -> bool {
        nix::unistd::access(&self.root.join("uploads"), nix::unistd::AccessFlags::W_OK).is_ok()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// How much room is taken.
    pub(crate) fn usage(&self) -> Usage {
        self.space.usage()
    }

    /// How many blobs are on disk.
    pub(crate) fn blob_count(&self) -> Result<u64> {
        Ok(self.index.blobs()?.1)
    }

    /// Whether so many more bytes fit.
    ///
    /// # Errors
    /// Says which limit stands in the way.
    pub(crate) fn admit(&self, more: u64) -> Result<()> {
        self.space.admit(more)
    }

    /// Wakes whoever waits for changes.
    fn announce(&self) {
        match self.index.last_change() {
            Ok(last) => {
                self.changed.send_replace(last);
            }
            Err(error) => tracing::warn!(%error, "cannot tell followers of a change"),
        }
    }

    /// Wakes up when something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What the files say is true whatever the index says, so a failure there fails no request.
    fn noted(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::error!(%error, "the index lags behind the files until the next start");
        }
    }

    fn repository(&self, name: &Repository) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }
}

/// Locks a root for this process.
fn take(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let lock = File::create(&path).map_err(StoreError::io("create", &path))?;
    lock.try_lock().map_err(|_| StoreError::InUse { path: root.into() })?;
    Ok(lock)
}

/// Removes a file durably; false when there is none.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(StoreError::io("remove", path)(error)),
    }
    path.parent().map_or(Ok(()), durable::sync_directory)?;
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
