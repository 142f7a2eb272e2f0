//! Reading everything that is below the root.

use super::{
    Document, Result,
    blobs::blob_path,
    entries, if_present,
    index::Snapshot,
    manifests::{milliseconds, read_tag},
};
use crate::{
    digest::{Algorithm, Digest},
    name::{Repository, Tag},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// All repositories, also those that hold nothing any more, with their directories.
pub(super) fn repositories(root: &Path) -> Result<Vec<(Repository, PathBuf)>> {
    let mut found = Vec::new();
    let top = root.join("repositories");
    let mut waiting = vec![(top, String::new())];
    while let Some((directory, name)) = waiting.pop() {
        for entry in entries(&directory)? {
            if entry.starts_with('_') {
                continue;
            }
            let below = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            let path = directory.join(&entry);
            if let Ok(repository) = below.parse()
                && ["_blobs", "_manifests", "_tags"].iter().any(|part| path.join(part).is_dir())
            {
                found.push((repository, path.clone()));
            }
            waiting.push((path, below));
        }
    }
    found.sort();
    Ok(found)
}

/// The digests that a directory's files are named after.
pub(super) fn digests(directory: &Path) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let names = entries(&directory.join(algorithm.name()))?;
        found.extend(
            names.iter().filter_map(|hex| format!("{}:{hex}", algorithm.name()).parse::<Digest>().ok()),
        );
    }
    Ok(found)
}

/// Every blob's content on disk, one shelf after the other.
pub(super) fn contents(root: &Path, mut each: impl FnMut(Digest, PathBuf) -> Result<()>) -> Result<()> {
    for algorithm in Algorithm::ALL {
        let shelves = root.join("blobs").join(algorithm.name());
        for shelf in entries(&shelves)? {
            for hex in entries(&shelves.join(&shelf))? {
                if let Ok(digest) = format!("{}:{hex}", algorithm.name()).parse::<Digest>() {
                    let path = blob_path(root, &digest);
                    each(digest, path)?;
                }
            }
        }
    }
    Ok(())
}

/// A repository's tags, where they lead to and since when; a file that is no tag is none.
pub(super) fn tags(directory: &Path) -> Result<Vec<(Tag, Digest, i64)>> {
    let links = directory.join("_tags");
    let mut found = Vec::new();
    for name in entries(&links)? {
        if let Ok(tag) = name.parse::<Tag>()
            && let Ok(Some((digest, stamp))) = read_tag(&links.join(&name))
        {
            found.push((tag, digest, stamp));
        }
    }
    Ok(found)
}

/// Everything that the index should say.
pub(super) fn snapshot(root: &Path) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    contents(root, |digest, path| {
        if let Some(found) = if_present(fs::metadata(&path), "look at", &path)? {
            snapshot.blobs.push((digest, found.len()));
        }
        Ok(())
    })?;
    for (repository, directory) in repositories(root)? {
        for digest in digests(&directory.join("_blobs"))? {
            snapshot.links.push((repository.clone(), digest));
        }
        for digest in digests(&directory.join("_manifests"))? {
            let path = blob_path(root, &digest);
            let link = directory.join("_manifests").join(digest.algorithm().name()).join(digest.hex());
            let Some(media_type) = if_present(fs::read_to_string(&link), "read", &link)? else { continue };
            let written = fs::metadata(&link).and_then(|found| found.modified());
            let stamp = milliseconds(written.unwrap_or(SystemTime::UNIX_EPOCH));
            let Some(content) = if_present(fs::read(&path), "read", &path)? else {
                snapshot.lost.push((repository.clone(), digest, stamp));
                continue;
            };
            let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
            match Document::parse(&content)
                .and_then(|document| document.entry(digest.clone(), media_type, size))
            {
                Ok(entry) => snapshot.manifests.push((repository.clone(), entry, stamp)),
                Err(error) => {
                    tracing::warn!(manifest = %path.display(), %error, "not a manifest any more");
                    snapshot.lost.push((repository.clone(), digest, stamp));
                }
            }
        }
        for (tag, digest, stamp) in tags(&directory)? {
            snapshot.tags.push((repository.clone(), tag, digest, stamp));
        }
    }
    Ok(snapshot)
}
