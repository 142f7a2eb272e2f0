//! Garbage collection: what no manifest needs goes, while pushes go on.
//!
//! Nothing is locked but one blob at a time, for the moment of its removal. What a push relies on is pinned
//! before the push looks whether it is there; so either the push finds it gone and sends it again, or the
//! collection finds it pinned and leaves it. See `pins`.

use super::{
    Document, Result, Store, StoreError,
    blobs::blob_path,
    if_present, is_absent,
    pins::{Since, key},
    walk,
};
use crate::{digest::Digest, name::Repository};
use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// What stays though no tag needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Whatever is younger than this, or was asked for within this time.
    pub grace: Duration,
    /// Manifests that can be reached by their digest only.
    pub untagged: bool,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct Collected {
    /// Untagged manifests.
    pub(crate) manifests: u64,
    /// Blobs that a repository no longer needs.
    pub(crate) links: u64,
    /// Files.
    pub(crate) blobs: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
}

fn is_younger(path: &Path, grace: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|found| found.modified());
    // A time in the future is a clock that was set back: too young, then.
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).map_or(true, |age| age < grace))
}

impl Store {
    /// Removes what nobody needs. Takes its time; pushes and pulls go on.
    ///
    /// # Errors
    /// A file could not be read or removed; what was removed before stays removed.
    pub(crate) fn collect(&self, keep: Keep) -> Result<Collected> {
        let since = Since { began: Instant::now(), grace: keep.grace };
        let mut collected = Collected::default();
        let mut linked = HashSet::new();
        for (repository, directory) in walk::repositories(&self.root)? {
            if !keep.untagged {
                self.collect_untagged(&repository, &directory, since, &mut collected)?;
            }
            self.collect_links(&repository, &directory, since, &mut collected)?;
            for part in ["_blobs", "_manifests"] {
                linked.extend(walk::digests(&directory.join(part))?.iter().map(key));
            }
        }
        self.collect_contents(&linked, since, &mut collected)?;
        self.pins.forget(keep.grace);
        Ok(collected)
    }

    /// Manifests without a tag, unless an index or something that stays refers to them.
    fn collect_untagged(
        &self,
        repository: &Repository,
        directory: &Path,
        since: Since,
        collected: &mut Collected,
    ) -> Result<()> {
        let manifests = walk::digests(&directory.join("_manifests"))?;
        let mut kept: HashSet<Digest> = HashSet::new();
        let mut waiting = Vec::new();
        for (_, digest, _) in walk::tags(directory)? {
            waiting.push(digest);
        }
        for digest in &manifests {
            if is_younger(&self.manifest_link(repository, digest), since.grace) {
                waiting.push(digest.clone());
            }
        }
        loop {
            while let Some(digest) = waiting.pop() {
                if kept.insert(digest.clone())
                    && let Some(document) = self.document(&digest)?
                    && let Ok(needs) = document.needs()
                {
                    waiting.extend(needs.manifests.into_iter().chain(needs.either));
                }
            }
            // Signatures and the like stay as long as their subject does.
            for digest in manifests.iter().filter(|digest| !kept.contains(digest)) {
                let subject = self.document(digest)?.and_then(|document| document.subject().ok().flatten());
                if subject.is_some_and(|subject| kept.contains(&subject)) {
                    waiting.push(digest.clone());
                }
            }
            if waiting.is_empty() {
                break;
            }
        }
        for digest in manifests.iter().filter(|digest| !kept.contains(digest)) {
            let link = self.manifest_link(repository, digest);
            match self.pins.unless_pinned(digest, since, || fs::remove_file(&link)) {
                None => {}
                Some(Ok(())) => {
                    collected.manifests += 1;
                    let name = digest.to_string();
                    // As of the moment after its last change: whoever has put it at a peer since then wants it.
                    let known = self.index.version(repository, &name)?;
                    let stamp = known.map(|(stamp, _)| stamp.saturating_add(1));
                    self.note_removal(repository, &name, stamp);
                    self.announce();
                }
                Some(Err(error)) if is_absent(&error) => {}
                Some(Err(error)) => return Err(StoreError::io("remove", &link)(error)),
            }
        }
        Ok(())
    }

    fn document(&self, digest: &Digest) -> Result<Option<Document>> {
        let path = self.blob_path(digest);
        let content = if_present(fs::read(&path), "read", &path)?;
        Ok(content.and_then(|content| Document::parse(&content).ok()))
    }

    /// Blobs of a repository that none of its manifests needs.
    fn collect_links(
        &self,
        repository: &Repository,
        directory: &Path,
        since: Since,
        collected: &mut Collected,
    ) -> Result<()> {
        // Links first: a manifest that comes after this was read has pinned what it needs.
        let links = walk::digests(&directory.join("_blobs"))?;
        let mut needed = HashSet::new();
        for digest in walk::digests(&directory.join("_manifests"))? {
            let path = self.blob_path(&digest);
            let Some(content) = if_present(fs::read(&path), "read", &path)? else { continue };
            match Document::parse(&content).and_then(|document| document.needs()) {
                Ok(needs) => needed.extend(needs.all().map(key)),
                Err(error) => {
                    // What a damaged manifest needs is not known: everything of this repository stays.
                    tracing::warn!(%repository, manifest = %digest, %error, "cannot be read; repository not collected");
                    return Ok(());
                }
            }
        }
        for digest in links.iter().filter(|digest| !needed.contains(&key(digest))) {
            let link = self.blob_links(repository, digest.algorithm()).join(digest.hex());
            if is_younger(&link, since.grace) {
                continue;
            }
            let removed = self.pins.unless_pinned(digest, since, || fs::remove_file(&link));
            match removed {
                None => {}
                Some(Ok(())) => {
                    collected.links += 1;
                    self.noted(self.index.remove_link(repository, digest));
                }
                Some(Err(error)) if is_absent(&error) => {}
                Some(Err(error)) => return Err(StoreError::io("remove", &link)(error)),
            }
        }
        Ok(())
    }

    /// Content that no repository has.
    fn collect_contents(&self, linked: &HashSet<u64>, since: Since, collected: &mut Collected) -> Result<()> {
        let mut garbage = Vec::new();
        walk::contents(&self.root, |digest, path| {
            if !linked.contains(&key(&digest)) && !is_younger(&path, since.grace) {
                garbage.push(digest);
            }
            Ok(())
        })?;
        for digest in garbage {
            let path = blob_path(&self.root, &digest);
            let Ok(found) = fs::metadata(&path) else { continue };
            let removed = self.pins.unless_pinned(&digest, since, || {
                // The link that a push made since then counts, and so does one that it will make: it is pinned.
                let removed = fs::remove_file(&path);
                self.noted(self.index.remove_blob(&digest));
                removed
            });
            match removed {
                None => {}
                Some(Ok(())) => {
                    collected.blobs += 1;
                    collected.bytes += found.len();
                    self.space.sub_stored(found.len());
                }
                Some(Err(error)) if is_absent(&error) => {}
                Some(Err(error)) => return Err(StoreError::io("remove", &path)(error)),
            }
        }
        Ok(())
    }
}
