//! Uploads: bytes that come in one or many requests and become a blob when their digest is right.

use super::{Result, Store, StoreError, if_present, space::Space};
use crate::{
    digest::{Algorithm, Digest, Hasher},
    name::{Repository, UploadId},
};
use bytes::Bytes;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

const OLD: Duration = Duration::from_secs(24 * 3600);
const READ_AT_ONCE: usize = 128 << 10;

/// An upload between its requests.
pub(crate) struct Session {
    id: UploadId,
    space: Arc<Space>,
    path: PathBuf,
    length: u64,
    /// Of all bytes so far. None after a restart: then the file is read again at the end.
    hasher: Option<Hasher>,
    /// Committed or cancelled while another request waited for it.
    gone: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("path", &self.path)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn id(&self) -> &UploadId {
        &self.id
    }

    /// How many bytes have come.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Appends; what could not be written is as if it had not come.
    pub(crate) fn append(&mut self, parts: &[Bytes]) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let more = parts.iter().map(Bytes::len).sum::<usize>();
        self.space.admit(u64::try_from(more).unwrap_or(u64::MAX))?;
        let file = self.open()?;
        for part in parts {
            file.write_all_at(part, self.length).map_err(StoreError::io("write", &self.path))?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(part);
            }
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            self.length += length;
            self.space.add_uploading(length);
        }
        Ok(())
    }

    /// Drops everything that has come.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.open()?.set_len(0).map_err(StoreError::io("cut", &self.path))?;
        self.space.sub_uploading(self.length);
        self.length = 0;
        self.hasher = Some(Hasher::new(Algorithm::Sha256));
        Ok(())
    }

    /// Says how the content will be named, so that it need not be read again at the end.
    pub(crate) fn expect(&mut self, algorithm: Algorithm) {
        if self.length == 0 {
            self.hasher = Some(Hasher::new(algorithm));
        }
    }

    fn open(&self) -> Result<File> {
        File::options().read(true).write(true).open(&self.path).map_err(StoreError::io("open", &self.path))
    }

    fn digest(&mut self, algorithm: Algorithm, file: &File) -> Result<Digest> {
        match self.hasher.take() {
            Some(hasher) if hasher.algorithm() == algorithm => Ok(hasher.finish()),
            _ => hash_file(file, algorithm).map_err(StoreError::io("read", &self.path)),
        }
    }
}

/// How an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// It is a blob of the repository now, and stays one.
    Stored,
    /// Its content has another digest; nothing is left of it.
    Mismatch(Digest),
}

impl Store {
    /// Begins an upload.
    pub(crate) fn begin_upload(&self, repository: &Repository) -> Result<Arc<Mutex<Session>>> {
        self.admit(1)?;
        let id = UploadId::of(repository);
        let path = self.uploads().join(id.as_str());
        File::create_new(&path).map_err(StoreError::io("create", &path))?;
        Ok(self.remember(id, path, 0))
    }

    /// Finds an upload of this name or begins it: one that goes on where it stopped, also after a restart.
    pub(crate) fn resume_upload(&self, id: &UploadId) -> Result<Arc<Mutex<Session>>> {
        if let Some(session) = self.find_upload(id)? {
            return Ok(session);
        }
        let path = self.uploads().join(id.as_str());
        File::create(&path).map_err(StoreError::io("create", &path))?;
        Ok(self.remember(id.clone(), path, 0))
    }

    /// Bytes that came before this process and are not lost.
    pub(super) fn bytes_on_their_way(&self) -> Result<u64> {
        let names = super::entries(&self.uploads())?;
        let sizes = names.iter().filter_map(|name| fs::metadata(self.uploads().join(name)).ok());
        Ok(sizes.map(|found| found.len()).sum())
    }

    /// Finds an upload, also one begun before a restart.
    pub(crate) fn find_upload(&self, id: &UploadId) -> Result<Option<Arc<Mutex<Session>>>> {
        if let Some(session) = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some(session.clone()));
        }
        let path = self.uploads().join(id.as_str());
        let found = if_present(fs::metadata(&path), "look at", &path)?;
        Ok(found.map(|found| self.remember(id.clone(), path, found.len())))
    }

    fn remember(&self, id: UploadId, path: PathBuf, length: u64) -> Arc<Mutex<Session>> {
        let hasher = (length == 0).then(|| Hasher::new(Algorithm::Sha256));
        let space = self.space.clone();
        let session = Session { id: id.clone(), space, path, length, hasher, gone: false };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // Two requests may have found the same file: both must get the same session.
        sessions.entry(id).or_insert_with(|| Arc::new(Mutex::new(session))).clone()
    }

    /// Makes an upload a blob. When this returns `Stored`, a power cut cannot take it back.
    pub(crate) fn commit_upload(
        &self,
        mut session: OwnedMutexGuard<Session>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Commit> {
        let file = session.open()?;
        // A write that failed half-way may have left bytes behind the end.
        file.set_len(session.length).map_err(StoreError::io("cut", &session.path))?;
        let found = session.digest(digest.algorithm(), &file)?;
        if found != *digest {
            self.cancel_upload(session)?;
            return Ok(Commit::Mismatch(found));
        }
        file.sync_all().map_err(StoreError::io("sync", &session.path))?;
        drop(file);
        self.shelve(&mut session, repository, digest)?;
        Ok(Commit::Stored)
    }

    /// The content goes to its name, and the repository gets it.
    fn shelve(&self, session: &mut Session, repository: &Repository, digest: &Digest) -> Result<()> {
        let _hold = self.pins.hold([digest]);
        let path = self.blob_path(digest);
        let shelf = path.parent().unwrap_or(&self.root).to_owned();
        self.ensure_directory(&shelf)?;
        let known = fs::metadata(&path).is_ok();
        fs::rename(&session.path, &path).map_err(StoreError::io("rename a new file to", &path))?;
        self.forget(session);
        self.linking.fetch_add(1, Ordering::SeqCst);
        let linked =
            self.create_link(repository, digest).and_then(|links| self.sync_directories(&[shelf, links]));
        self.linking.fetch_sub(1, Ordering::SeqCst);
        linked?;
        if !known {
            self.space.add_stored(session.length);
            self.noted(self.index.add_blob(digest, session.length));
        }
        self.noted(self.index.add_link(repository, digest));
        Ok(())
    }

    /// Drops an upload and its bytes.
    pub(crate) fn cancel_upload(&self, mut session: OwnedMutexGuard<Session>) -> Result<()> {
        if_present(fs::remove_file(&session.path), "remove", &session.path)?;
        self.forget(&mut session);
        Ok(())
    }

    fn forget(&self, session: &mut Session) {
        session.gone = true;
        self.space.sub_uploading(session.length);
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
    }

    /// Removes uploads that nobody touched for a day. What cannot be removed is logged and left.
    pub(crate) fn sweep_uploads(&self) {
        match super::entries(&self.uploads()) {
            Ok(names) => names.iter().for_each(|name| self.sweep(name)),
            Err(error) => tracing::warn!(%error, "cannot look for old uploads"),
        }
    }

    fn sweep(&self, name: &str) {
        let path = self.uploads().join(name);
        if !is_old(&path) {
            return;
        }
        let session = name.parse().ok().and_then(|id: UploadId| {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
        });
        let removed = match session.map(Mutex::try_lock_owned) {
            // Somebody is at work on it after all.
            Some(Err(_)) => return,
            Some(Ok(session)) => self.cancel_upload(session),
            None => {
                let length = fs::metadata(&path).map_or(0, |found| found.len());
                self.space.sub_uploading(length);
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))
            }
        };
        match removed {
            Ok(()) => tracing::info!(upload = name, "removed an old upload"),
            Err(error) => tracing::warn!(%error, "cannot remove an old upload"),
        }
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD))
}

fn hash_file(mut file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_AT_ONCE];
    loop {
        let count = file.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(read) if count > 0 => hasher.update(read),
            _ => return Ok(hasher.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Limits, *};

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        (directory, store)
    }

    #[test]
    fn old_uploads_go_and_young_ones_stay() {
        let (directory, store) = store();
        let old = store.begin_upload(&"a/b".parse().unwrap()).unwrap().try_lock().unwrap().path.clone();
        let young = store.begin_upload(&"a/b".parse().unwrap()).unwrap().try_lock().unwrap().path.clone();
        let day_before = SystemTime::now() - OLD - Duration::from_secs(60);
        File::options().write(true).open(&old).unwrap().set_modified(day_before).unwrap();
        drop(store);
        Store::open(directory.path(), Limits::default()).unwrap();
        assert!(!old.exists());
        assert!(young.exists());
    }

    #[test]
    fn a_root_has_one_owner() {
        let (directory, _store) = store();
        assert!(matches!(Store::open(directory.path(), Limits::default()), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn sha512_and_an_upload_found_after_a_restart_are_read_again() {
        let (directory, store) = store();
        let session = store.begin_upload(&"a/b".parse().unwrap()).unwrap();
        session.try_lock().unwrap().append(&[Bytes::from_static(b"first ")]).unwrap();
        let id = session.try_lock().unwrap().id.clone();
        drop(store);
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let session = store.find_upload(&id).unwrap().unwrap();
        assert_eq!(session.try_lock().unwrap().length(), 6);
        session.try_lock().unwrap().append(&[Bytes::from_static(b"second")]).unwrap();
        let repository = "a/b".parse().unwrap();
        let digest = Digest::of(Algorithm::Sha512, b"first second");
        let guard = session.clone().try_lock_owned().unwrap();
        assert_eq!(store.commit_upload(guard, &repository, &digest).unwrap(), Commit::Stored);
        assert_eq!(store.blob_size(&repository, &digest).unwrap(), Some(12));
        assert!(session.try_lock().unwrap().is_gone());
        assert!(store.find_upload(&id).unwrap().is_none());
    }
}
