//! Files and directories that a power cut cannot take back.
//!
//! Syncing is what a push waits for, and several syncs at once take hardly longer than one: the disk is asked
//! to empty its cache only a few times. So what may be synced in any order is synced side by side.

use super::{MOST_REMEMBERED, Result, Store, StoreError};
use crate::name::UploadId;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::PoisonError,
    thread,
    time::SystemTime,
};

const STACK: usize = 64 << 10;

/// A file that is written whole: afterwards the old content or the new is there, whatever happens.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    pub(super) to: PathBuf,
    pub(super) content: &'a [u8],
    /// The time that the file shall bear.
    pub(super) time: Option<SystemTime>,
}

/// Makes a directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io("sync", path))
}

/// Does several things that wait for the disk at the same time.
fn side_by_side<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let Some((first, rest)) = items.split_first() else { return Ok(()) };
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = rest
            .iter()
            .map(|item| {
                (item, thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || work(item)))
            })
            .collect();
        let mut result = work(first);
        for (item, other) in others {
            let done = match other.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(done)) => done,
                // No thread to be had, or it died: then one after the other.
                Ok(Err(_)) | Err(_) => work(item),
            };
            result = result.and(done);
        }
        result
    })
}

impl Store {
    /// Makes a directory below the root, with its ancestors, so that a power cut cannot take it back.
    pub(super) fn ensure_directory(&self, path: &Path) -> Result<()> {
        self.ensure_directories(&[path])
    }

    /// Makes several, as one step.
    pub(super) fn ensure_directories(&self, paths: &[impl AsRef<Path>]) -> Result<()> {
        let mut missing = Vec::new();
        for path in paths {
            self.make_directory(path.as_ref(), &mut missing)?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut parents: Vec<&Path> = missing.iter().filter_map(|made| made.parent()).collect();
        parents.sort_unstable();
        parents.dedup();
        side_by_side(&parents, |parent| sync_directory(parent))?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= MOST_REMEMBERED {
            durable.clear();
        }
        durable.extend(missing);
        Ok(())
    }

    fn make_directory(&self, path: &Path, missing: &mut Vec<PathBuf>) -> Result<()> {
        if path == self.root || self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(path) {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        self.make_directory(parent, missing)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", path)(error));
            }
            // Also when it was there: another request may have made it and not yet synced it.
            _ => missing.push(path.into()),
        }
        Ok(())
    }

    /// Moves synced files to their places and makes their directories' entries durable.
    pub(super) fn place(&self, moves: &[(PathBuf, PathBuf)]) -> Result<()> {
        let mut parents: Vec<&Path> = moves.iter().filter_map(|(_, to)| to.parent()).collect();
        for parent in &parents {
            self.ensure_directory(parent)?;
        }
        for (from, to) in moves {
            fs::rename(from, to).map_err(StoreError::io("rename a new file to", to))?;
        }
        parents.sort_unstable();
        parents.dedup();
        side_by_side(&parents, |parent| sync_directory(parent))
    }

    /// Writes whole files. When this returns, a power cut cannot take any of them back; when it fails, each of
    /// them is there or not.
    pub(super) fn write(&self, files: &[NewFile<'_>]) -> Result<()> {
        let moves: Vec<_> = files
            .iter()
            .map(|file| (self.uploads().join(UploadId::random().as_str()), file.to.clone()))
            .collect();
        let pairs: Vec<_> = files.iter().zip(&moves).collect();
        let written = side_by_side(&pairs, |(file, (new, _))| write_synced(new, file))
            .and_then(|()| self.place(&moves));
        if written.is_err() {
            for (new, _) in &moves {
                let _ = fs::remove_file(new);
            }
        }
        written
    }

    /// Makes sure that these directories' entries are on disk.
    pub(super) fn sync_directories(&self, directories: &[PathBuf]) -> Result<()> {
        side_by_side(directories, |directory| sync_directory(directory))
    }
}

fn write_synced(new: &Path, file: &NewFile<'_>) -> Result<()> {
    File::create_new(new)
        .and_then(|mut opened| {
            opened.write_all(file.content)?;
            if let Some(time) = file.time {
                opened.set_modified(time)?;
            }
            opened.sync_all()
        })
        .map_err(StoreError::io("write", new))
}
