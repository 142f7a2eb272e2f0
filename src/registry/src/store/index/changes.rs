//! Manifests and tags as they come and go, in an order that followers can read.

use super::{Entry, Index, Result, count, number};
use crate::{
    digest::Digest,
    name::{Repository, Tag},
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

/// One step of a registry's history. Only the last one of each tag and manifest is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Grows with every change.
    pub(crate) seq: i64,
    pub(crate) repository: String,
    /// A tag or a digest.
    pub(crate) reference: String,
    /// What the reference leads to now; None: it was deleted.
    pub(crate) digest: Option<String>,
    /// Milliseconds since 1970, when the first registry saw it. The later one of two wins.
    pub(crate) stamp: i64,
}

/// A piece of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feed {
    /// Another one than before: the numbers have begun anew.
    pub(crate) epoch: String,
    pub(crate) changes: Vec<Change>,
}

/// When a tag or manifest last changed, in milliseconds since 1970, and to what. Of two the greater one counts,
/// wherever they are compared: the later, then what is there before what is deleted, then the digest.
pub(crate) type Version = (i64, Option<String>);

fn record(
    transaction: &Transaction<'_>,
    repository: &Repository,
    reference: &str,
    digest: Option<&str>,
    stamp: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO change (repository, reference, digest, stamp) VALUES (?, ?, ?, ?)",
        )?
        .execute(params![repository.as_str(), reference, digest, stamp])?;
    Ok(())
}

fn version(
    connection: &Connection,
    repository: &Repository,
    reference: &str,
) -> rusqlite::Result<Option<Version>> {
    connection
        .prepare_cached("SELECT stamp, digest FROM change WHERE repository = ? AND reference = ?")?
        .query_row(params![repository.as_str(), reference], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub(super) fn insert_manifest(
    transaction: &Transaction<'_>,
    repository: &Repository,
    entry: &Entry,
) -> rusqlite::Result<()> {
    transaction.prepare_cached("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?, ?, ?)")?.execute(
        params![
            repository.as_str(),
            entry.digest.to_string(),
            entry.media_type,
            number(entry.size),
            entry.artifact_type,
            entry.subject.as_ref().map(Digest::to_string),
            entry.annotations,
        ],
    )?;
    Ok(())
}

impl Index {
    /// Adds a manifest and what tags lead to it.
    pub(in crate::store) fn add_manifest(
        &self,
        repository: &Repository,
        entry: &Entry,
        stamp: i64,
        tags: &[(Tag, Digest, i64)],
    ) -> Result<()> {
        let mut connection = self.writing()?;
        let digest = entry.digest.to_string();
        let write = |connection: &mut rusqlite::Connection| {
            let transaction = connection.transaction()?;
            let known = version(&transaction, repository, &digest)?;
            insert_manifest(&transaction, repository, entry)?;
            // Also when it was here: whoever deleted it elsewhere before must not win over who puts it now.
            let new = (stamp, Some(digest.clone()));
            if known.is_none_or(|known| known < new) {
                record(&transaction, repository, &digest, Some(&digest), stamp)?;
            }
            for (tag, digest, stamp) in tags {
                let digest = digest.to_string();
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)")?
                    .execute(params![repository.as_str(), tag.as_str(), digest, stamp])?;
                record(&transaction, repository, tag.as_str(), Some(&digest), *stamp)?;
            }
            transaction.commit()
        };
        write(&mut connection).map_err(self.failed())
    }

    /// Removes a manifest or a tag.
    pub(in crate::store) fn remove(
        &self,
        repository: &Repository,
        reference: &str,
        stamp: i64,
    ) -> Result<()> {
        let mut connection = self.writing()?;
        let write = |connection: &mut rusqlite::Connection| {
            let transaction = connection.transaction()?;
            let parameters = params![repository.as_str(), reference];
            transaction.execute("DELETE FROM manifest WHERE repository = ? AND digest = ?", parameters)?;
            transaction.execute("DELETE FROM tag WHERE repository = ? AND tag = ?", parameters)?;
            record(&transaction, repository, reference, None, stamp)?;
            transaction.commit()
        };
        write(&mut connection).map_err(self.failed())
    }

    /// The last change of a tag or manifest; None when it never did.
    pub(in crate::store) fn version(
        &self,
        repository: &Repository,
        reference: &str,
    ) -> Result<Option<Version>> {
        version(&self.lock(), repository, reference).map_err(self.failed())
    }

    /// The changes after `after`, at most `most`.
    pub(crate) fn feed(&self, after: i64, most: u64) -> Result<Feed> {
        let connection = self.lock();
        let read = || {
            let epoch =
                connection.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))?;
            let mut statement = connection.prepare_cached(
                "SELECT seq, repository, reference, digest, stamp FROM change WHERE seq > ? ORDER BY seq LIMIT ?",
            )?;
            let rows = statement.query_map(params![after, number(most)], |row| {
                Ok(Change {
                    seq: row.get(0)?,
                    repository: row.get(1)?,
                    reference: row.get(2)?,
                    digest: row.get(3)?,
                    stamp: row.get(4)?,
                })
            })?;
            Ok(Feed { epoch, changes: rows.collect::<rusqlite::Result<_>>()? })
        };
        read().map_err(self.failed())
    }

    /// The number of the last change.
    pub(in crate::store) fn last_change(&self) -> Result<u64> {
        self.lock()
            .query_row("SELECT coalesce(max(seq), 0) FROM change", [], |row| row.get(0))
            .map(count)
            .map_err(self.failed())
    }
}
