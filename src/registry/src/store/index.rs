//! The index: what the files say, where it can be asked quickly. A cache and never the truth: it is made anew
//! from the files whenever it may lag behind them.
//!
//! Changes are written after the files they follow and are not synced one by one. So a file beside the index says
//! that it was closed in good order and not changed since; without that file, `rebuild` reads all the others again.

mod changes;
mod rebuild;
mod shares;

pub(crate) use changes::{Change, Feed, Version};
pub(super) use rebuild::Snapshot;

use super::{Result, StoreError};
use crate::{digest::Digest, name::Repository};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Raised whenever the tables change: an index of another version is made anew.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS blob (digest TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS link (
        repository TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS link_digest ON link (digest);
    CREATE TABLE IF NOT EXISTS manifest (
        repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        artifact_type TEXT, subject TEXT, annotations TEXT,
        PRIMARY KEY (repository, digest)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS manifest_subject ON manifest (repository, subject) WHERE subject IS NOT NULL;
    CREATE TABLE IF NOT EXISTS tag (
        repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, stamp INTEGER NOT NULL,
        PRIMARY KEY (repository, tag)) WITHOUT ROWID;
    -- The last change of each tag and manifest, in order: what a follower reads. No digest: deleted.
    CREATE TABLE IF NOT EXISTS change (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, repository TEXT NOT NULL, reference TEXT NOT NULL,
        digest TEXT, stamp INTEGER NOT NULL, UNIQUE (repository, reference));
";

/// A manifest as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) artifact_type: Option<String>,
    pub(crate) subject: Option<Digest>,
    /// As JSON.
    pub(crate) annotations: Option<String>,
}

fn connect(path: &Path, trusted: bool) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // A new index that is lost in a power cut is made again: its making need not be synced. Afterwards NORMAL keeps
    // the file whole; what that may lose is read from the files again.
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; PRAGMA cache_size = -512;")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        VERSION if trusted => {}
        VERSION => {
            let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                return Err(rusqlite::Error::InvalidColumnName(verdict));
            }
        }
        0 => {
            connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?
        }
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    }
    connection.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 500; PRAGMA journal_size_limit = 1048576;",
    )?;
    Ok(connection)
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Says that everything is in the index and on disk.
    clean: PathBuf,
    /// Whether the file is there no more.
    changed: AtomicBool,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

impl Index {
    /// Opens the index below the root; the second value says that it must be made anew.
    pub(super) fn open(root: &Path) -> Result<(Self, bool)> {
        let (path, clean) = (root.join("index.db"), root.join("index.clean"));
        let in_order = clean.exists();
        let opened = match connect(&path, in_order) {
            Ok(connection) => Ok((connection, in_order)),
            // Whatever is wrong with it: it holds nothing that the files do not say.
            Err(error) => {
                tracing::warn!(index = %path.display(), %error, "the index cannot be used and is made anew");
                for end in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(root.join(format!("index.db{end}")));
                }
                connect(&path, true).map(|connection| (connection, false))
            }
        };
        let failed = |source| StoreError::Index { path: path.clone(), source };
        let (connection, in_order) = opened.map_err(failed)?;
        let known: Option<String> = connection
            .query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        let index = Self { path, connection: Mutex::new(connection), clean, changed: AtomicBool::new(false) };
        if known.is_none() {
            index.set_note("epoch", &format!("{:016x}", rand::random::<u64>()))?;
        }
        Ok((index, !in_order || known.is_none()))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for a change. That there are changes must be on disk before the first of them.
    fn writing(&self) -> Result<MutexGuard<'_, Connection>> {
        let connection = self.lock();
        if !self.changed.load(Ordering::Relaxed) {
            super::remove(&self.clean)?;
            self.changed.store(true, Ordering::Relaxed);
        }
        Ok(connection)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        |source| StoreError::Index { path: self.path.clone(), source }
    }

    /// Says that everything the files say is in here: the last word before the process ends.
    pub(super) fn close(&self) -> Result<()> {
        let connection = self.lock();
        if !self.changed.load(Ordering::Relaxed) && self.clean.exists() {
            return Ok(());
        }
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(self.failed())?;
        File::create(&self.clean)
            .and_then(|file| file.sync_all())
            .map_err(StoreError::io("write", &self.clean))?;
        self.changed.store(false, Ordering::Relaxed);
        self.clean.parent().map_or(Ok(()), super::durable::sync_directory)
    }

    pub(super) fn add_blob(&self, digest: &Digest, size: u64) -> Result<()> {
        let connection = self.writing()?;
        let mut statement =
            connection.prepare_cached("INSERT OR REPLACE INTO blob VALUES (?, ?)").map_err(self.failed())?;
        statement.execute(params![digest.to_string(), number(size)]).map_err(self.failed())?;
        Ok(())
    }

    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.writing()?
            .execute("DELETE FROM blob WHERE digest = ?", [digest.to_string()])
            .map_err(self.failed())?;
        Ok(())
    }

    /// Bytes of all blobs, and how many they are.
    pub(super) fn blobs(&self) -> Result<(u64, u64)> {
        self.lock()
            .query_row("SELECT coalesce(sum(size), 0), count(*) FROM blob", [], |row| {
                Ok((count(row.get(0)?), count(row.get(1)?)))
            })
            .map_err(self.failed())
    }

    pub(super) fn add_link(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let connection = self.writing()?;
        let mut statement =
            connection.prepare_cached("INSERT OR IGNORE INTO link VALUES (?, ?)").map_err(self.failed())?;
        statement.execute(params![repository.as_str(), digest.to_string()]).map_err(self.failed())?;
        Ok(())
    }

    pub(super) fn remove_link(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.writing()?
            .execute(
                "DELETE FROM link WHERE repository = ? AND digest = ?",
                params![repository.as_str(), digest.to_string()],
            )
            .map_err(self.failed())?;
        Ok(())
    }

    /// Some of the repositories that hold a blob.
    pub(super) fn holders(&self, digest: &Digest) -> Result<Vec<Repository>> {
        self.some("SELECT repository FROM link WHERE digest = ? ORDER BY repository LIMIT 32", digest)
    }

    fn some(&self, query: &str, digest: &Digest) -> Result<Vec<Repository>> {
        let names = self.names(query, [digest.to_string()])?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Whether a repository has anything at all.
    pub(super) fn has_repository(&self, repository: &Repository) -> Result<bool> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1)
                     OR EXISTS (SELECT 1 FROM link WHERE repository = ?1)",
            )
            .map_err(self.failed())?;
        statement.query_row([repository.as_str()], |row| row.get(0)).map_err(self.failed())
    }

    /// Tags in order: at most `n` after `last`.
    pub(super) fn tags(&self, repository: &Repository, last: &str, n: u64) -> Result<Vec<String>> {
        self.names(
            "SELECT tag FROM tag WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3",
            params![repository.as_str(), last, number(n)],
        )
    }

    /// Repositories that hold manifests, in order: at most `n` after `last`.
    pub(super) fn repositories(&self, last: &str, n: u64) -> Result<Vec<String>> {
        self.names(
            "SELECT DISTINCT repository FROM manifest WHERE repository > ?1 ORDER BY repository LIMIT ?2",
            params![last, number(n)],
        )
    }

    fn names(&self, query: &str, parameters: impl rusqlite::Params) -> Result<Vec<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(query).map_err(self.failed())?;
        let rows = statement.query_map(parameters, |row| row.get(0));
        rows.and_then(Iterator::collect).map_err(self.failed())
    }

    /// The manifests whose subject is `subject`, as the descriptors that the referrers interface answers with.
    pub(super) fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Value>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT digest, media_type, size, artifact_type, annotations FROM manifest
                 WHERE repository = ? AND subject = ? ORDER BY digest",
            )
            .map_err(self.failed())?;
        let rows = statement.query_map(params![repository.as_str(), subject.to_string()], |row| {
            let mut descriptor = serde_json::json!({
                "digest": row.get::<_, String>(0)?,
                "mediaType": row.get::<_, String>(1)?,
                "size": row.get::<_, i64>(2)?,
            });
            if let Some(fields) = descriptor.as_object_mut() {
                let annotations: Option<String> = row.get(4)?;
                let artifact_type: Option<String> = row.get(3)?;
                fields.extend(artifact_type.map(|text| ("artifactType".into(), text.into())));
                let parsed = annotations.and_then(|text| serde_json::from_str(&text).ok());
                fields.extend(parsed.map(|value: Value| ("annotations".to_owned(), value)));
            }
            Ok(descriptor)
        });
        rows.and_then(Iterator::collect).map_err(self.failed())
    }

    /// A value that is kept for good, such as how far a follower has read; None when there is none.
    pub(crate) fn note(&self, key: &str) -> Result<Option<String>> {
        self.lock()
            .query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0))
            .optional()
            .map_err(self.failed())
    }

    /// Keeps a value.
    pub(crate) fn set_note(&self, key: &str, value: &str) -> Result<()> {
        self.writing()?
            .execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])
            .map_err(self.failed())?;
        Ok(())
    }
}
