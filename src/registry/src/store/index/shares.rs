//! Who takes how much.

use super::{Index, Result, count};
use serde::Serialize;

/// One repository's part; what several have is counted in each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Share {
    pub(crate) name: String,
    pub(crate) tags: u64,
    pub(crate) manifests: u64,
    /// Of its manifests and blobs.
    pub(crate) bytes: u64,
}

const SHARES: &str = "
    SELECT repository, sum(tags), sum(manifests), sum(bytes) FROM (
        SELECT repository, count(*) AS tags, 0 AS manifests, 0 AS bytes FROM tag GROUP BY repository
        UNION ALL
        SELECT repository, 0, count(*), sum(size) FROM manifest GROUP BY repository
        UNION ALL
        SELECT link.repository, 0, 0, sum(blob.size) FROM link JOIN blob ON blob.digest = link.digest
        GROUP BY link.repository)
    GROUP BY repository ORDER BY repository";

impl Index {
    /// Every repository's part, in the order of their names.
    pub(crate) fn shares(&self) -> Result<Vec<Share>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(SHARES).map_err(self.failed())?;
        let shares = statement.query_map([], |row| {
            Ok(Share {
                name: row.get(0)?,
                tags: count(row.get(1)?),
                manifests: count(row.get(2)?),
                bytes: count(row.get(3)?),
            })
        });
        shares.and_then(Iterator::collect).map_err(self.failed())
    }
}
