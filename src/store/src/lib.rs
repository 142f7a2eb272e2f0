//! Durable records behind one trait; SQLite now, another backend later.
//!
//! Neighbours: knows `model` and the planner's `Change`; only the daemon's server opens it.
//! Contract: a step's changes are committed as one batch of puts and deletes, fenced by the leadership epoch;
//! on start all records are loaded. A batch of an older epoch than the newest is refused.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

use model::{Record, RecordKind};
use planner::Change;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What went wrong with the records.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open the database {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Reading failed.
    #[error("cannot load the records")]
    Load(#[source] rusqlite::Error),
    /// A record is damaged.
    #[error("record {key} in table {table} is damaged")]
    Damaged {
        /// Where.
        table: &'static str,
        /// Which.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Writing failed; nothing of the batch was written.
    #[error("cannot commit {changes} changes")]
    Commit {
        /// How many.
        changes: usize,
        /// Why.
        source: rusqlite::Error,
    },
    /// A record cannot be written as JSON.
    #[error("cannot write record {key} as JSON")]
    Encode {
        /// Which.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A newer leader has taken over.
    #[error("epoch {ours} is over: epoch {newest} leads")]
    Fenced {
        /// The epoch of this process.
        ours: u64,
        /// The newest.
        newest: u64,
    },
}

/// Where the server keeps its records.
pub trait Store: Send {
    /// All records.
    ///
    /// # Errors
    /// The backend cannot be read, or a record is damaged.
    fn load(&mut self) -> Result<Vec<Record>, StoreError>;
    /// Commits a batch: all of it, durably, or nothing.
    ///
    /// # Errors
    /// Nothing was written: the backend failed, or a newer leader has taken over.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

/// One SQLite file in WAL mode, one table for each kind of record: `key` and the record's JSON.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    epoch: u64,
}

impl Sqlite {
    /// Opens or creates the file and begins a new epoch.
    ///
    /// # Errors
    /// The file cannot be opened or is no database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::begin(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })
    }

    fn begin(path: &Path) -> Result<Self, rusqlite::Error> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -512)?;
        let transaction = connection.transaction()?;
        for kind in RecordKind::ALL {
            let table = kind.table();
            transaction.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID"
            ))?;
        }
        transaction.execute_batch("CREATE TABLE IF NOT EXISTS leader (epoch INTEGER NOT NULL)")?;
        let epoch = newest_epoch(&transaction)?.unwrap_or(0) + 1;
        transaction.execute("DELETE FROM leader", [])?;
        transaction.execute("INSERT INTO leader (epoch) VALUES (?1)", [epoch.cast_signed()])?;
        transaction.commit()?;
        Ok(Self { connection, epoch })
    }
}

fn newest_epoch(connection: &Connection) -> Result<Option<u64>, rusqlite::Error> {
    let epoch = connection
        .query_row("SELECT max(epoch) FROM leader", [], |row| row.get::<_, Option<i64>>(0))
        .optional()?;
    Ok(epoch.flatten().map(i64::cast_unsigned))
}

impl Store for Sqlite {
    fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for kind in RecordKind::ALL {
            let table = kind.table();
            let mut statement = self
                .connection
                .prepare(&format!("SELECT key, record FROM {table} ORDER BY key"))
                .map_err(StoreError::Load)?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                .map_err(StoreError::Load)?;
            for row in rows {
                let (key, text) = row.map_err(StoreError::Load)?;
                let record = Record::from_json(kind, &text).map_err(|source| StoreError::Damaged {
                    table,
                    key,
                    source,
                })?;
                records.push(record);
            }
        }
        Ok(records)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let failed = |source| StoreError::Commit { changes: changes.len(), source };
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(failed)?;
        let newest = newest_epoch(&transaction).map_err(failed)?.unwrap_or(0);
        if newest != self.epoch {
            return Err(StoreError::Fenced { ours: self.epoch, newest });
        }
        for change in changes {
            let table = change.kind.table();
            match &change.record {
                Some(record) => {
                    let text = record
                        .to_json()
                        .map_err(|source| StoreError::Encode { key: change.key.clone(), source })?;
                    let sql = format!("INSERT OR REPLACE INTO {table} (key, record) VALUES (?1, ?2)");
                    transaction
                        .prepare_cached(&sql)
                        .and_then(|mut s| s.execute(params![change.key, text]))
                        .map_err(failed)?;
                }
                None => {
                    let sql = format!("DELETE FROM {table} WHERE key = ?1");
                    transaction
                        .prepare_cached(&sql)
                        .and_then(|mut s| s.execute([&change.key]))
                        .map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Event, Severity};

    fn put(number: u64) -> Change {
        let event = Event {
            number,
            at: 0,
            severity: Severity::Normal,
            subject: "x".into(),
            reason: "y".into(),
            message: "z".into(),
        };
        let record = Record::Event(event);
        Change { kind: record.kind(), key: record.key(), record: Some(record) }
    }

    #[test]
    fn what_is_committed_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut store = Sqlite::open(&path).unwrap();
        store.commit(&[put(2), put(1)]).unwrap();
        store.commit(&[Change { record: None, ..put(2) }]).unwrap();
        drop(store);
        let records = Sqlite::open(&path).unwrap().load().unwrap();
        assert_eq!(records, [put(1).record.unwrap()]);
    }

    #[test]
    fn an_old_leader_is_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut old = Sqlite::open(&path).unwrap();
        let mut new = Sqlite::open(&path).unwrap();
        assert!(matches!(old.commit(&[put(1)]), Err(StoreError::Fenced { ours: 1, newest: 2 })));
        new.commit(&[put(2)]).unwrap();
        assert_eq!(new.load().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(
            &path,
            "this is a text and not a database, and long enough to be looked at as one".repeat(20),
        )
        .unwrap();
        assert!(Sqlite::open(&path).unwrap_err().to_string().contains("state.db"));
    }
}
