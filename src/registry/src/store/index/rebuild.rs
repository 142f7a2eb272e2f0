//! Making the index anew from the files.

use super::{Entry, Index, Result, changes::insert_manifest, number};
use crate::{
    digest::Digest,
    name::{Repository, Tag},
};
use rusqlite::{Connection, params};

/// Everything that the files say.
#[derive(Debug, Default)]
pub(in crate::store) struct Snapshot {
    pub(in crate::store) blobs: Vec<(Digest, u64)>,
    pub(in crate::store) links: Vec<(Repository, Digest)>,
    /// With the time of the manifest's file, in milliseconds.
    pub(in crate::store) manifests: Vec<(Repository, Entry, i64)>,
    pub(in crate::store) tags: Vec<(Repository, Tag, Digest, i64)>,
    /// Manifests whose content is damaged or gone, with the time of their files. Nobody has deleted them.
    pub(in crate::store) lost: Vec<(Repository, Digest, i64)>,
}

/// What happened while nobody wrote it down: new or moved references, and those that are gone.
const CATCH_UP: &str = "
    INSERT OR REPLACE INTO change (repository, reference, digest, stamp)
        SELECT present.repository, present.reference, present.digest, present.stamp FROM present
        LEFT JOIN change USING (repository, reference)
        WHERE change.seq IS NULL OR change.digest IS NOT present.digest
        ORDER BY present.stamp, present.reference;
    INSERT OR REPLACE INTO change (repository, reference, digest, stamp)
        SELECT change.repository, change.reference, NULL, change.stamp + 1 FROM change
        LEFT JOIN present USING (repository, reference)
        WHERE present.reference IS NULL AND change.digest IS NOT NULL;
    DROP VIEW present;
";

const PRESENT: &str = "
    CREATE TEMP TABLE IF NOT EXISTS seen (repository TEXT, digest TEXT, stamp INTEGER);
    CREATE TEMP VIEW present AS
        SELECT repository, digest AS reference, digest, stamp FROM seen
        UNION ALL SELECT repository, tag, digest, stamp FROM tag;
";

impl Index {
    /// Replaces everything; numbers that followers have read up to stay valid.
    pub(in crate::store) fn rebuild(&self, snapshot: &Snapshot) -> Result<()> {
        let mut connection = self.writing()?;
        write(&mut connection, snapshot).map_err(self.failed())
    }

    /// How many rows differ from what the files say.
    pub(in crate::store) fn differences(&self, snapshot: &Snapshot) -> Result<usize> {
        let connection = self.lock();
        compare(&connection, snapshot).map_err(self.failed())
    }
}

fn write(connection: &mut Connection, snapshot: &Snapshot) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction
        .execute_batch("DELETE FROM blob; DELETE FROM link; DELETE FROM manifest; DELETE FROM tag;")?;
    transaction.execute_batch(PRESENT)?;
    for (digest, size) in &snapshot.blobs {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO blob VALUES (?, ?)")?
            .execute(params![digest.to_string(), number(*size)])?;
    }
    for (repository, digest) in &snapshot.links {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO link VALUES (?, ?)")?
            .execute(params![repository.as_str(), digest.to_string()])?;
    }
    for (repository, entry, stamp) in &snapshot.manifests {
        insert_manifest(&transaction, repository, entry)?;
        see(&transaction, repository, &entry.digest, *stamp)?;
    }
    for (repository, digest, stamp) in &snapshot.lost {
        // Followers must not take the damage for a deletion: they have what heals it.
        see(&transaction, repository, digest, *stamp)?;
    }
    for (repository, tag, digest, stamp) in &snapshot.tags {
        transaction.prepare_cached("INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?)")?.execute(params![
            repository.as_str(),
            tag.as_str(),
            digest.to_string(),
            stamp
        ])?;
    }
    transaction.execute_batch(CATCH_UP)?;
    transaction.execute_batch("DROP TABLE seen")?;
    transaction.commit()
}

fn see(
    connection: &Connection,
    repository: &Repository,
    digest: &Digest,
    stamp: i64,
) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT INTO seen VALUES (?, ?, ?)")?.execute(params![
        repository.as_str(),
        digest.to_string(),
        stamp
    ])?;
    Ok(())
}

fn compare(connection: &Connection, snapshot: &Snapshot) -> rusqlite::Result<usize> {
    let mut differences = 0;
    let mut table = |name: &str, expected: usize, found: usize| -> rusqlite::Result<()> {
        let rows: i64 =
            connection.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0))?;
        let rows = usize::try_from(rows).unwrap_or_default();
        // What is not in the index, and what is only there.
        differences += (expected - found) + rows.saturating_sub(found);
        Ok(())
    };
    let mut found = 0;
    for (digest, size) in &snapshot.blobs {
        found += exists(
            connection,
            "blob WHERE digest = ? AND size = ?",
            params![digest.to_string(), number(*size)],
        )?;
    }
    table("blob", snapshot.blobs.len(), found)?;
    found = 0;
    for (repository, digest) in &snapshot.links {
        let parameters = params![repository.as_str(), digest.to_string()];
        found += exists(connection, "link WHERE repository = ? AND digest = ?", parameters)?;
    }
    table("link", snapshot.links.len(), found)?;
    found = 0;
    for (repository, entry, _) in &snapshot.manifests {
        let parameters = params![repository.as_str(), entry.digest.to_string(), entry.media_type];
        found += exists(
            connection,
            "manifest WHERE repository = ? AND digest = ? AND media_type = ?",
            parameters,
        )?;
    }
    table("manifest", snapshot.manifests.len(), found)?;
    found = 0;
    for (repository, tag, digest, _) in &snapshot.tags {
        let parameters = params![repository.as_str(), tag.as_str(), digest.to_string()];
        found += exists(connection, "tag WHERE repository = ? AND tag = ? AND digest = ?", parameters)?;
    }
    table("tag", snapshot.tags.len(), found)?;
    Ok(differences)
}

fn exists(connection: &Connection, what: &str, parameters: impl rusqlite::Params) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM {what})"))?;
    statement.query_row(parameters, |row| row.get::<_, bool>(0)).map(usize::from)
}
