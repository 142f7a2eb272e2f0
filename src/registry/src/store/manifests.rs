//! Manifests and tags.

use super::{
    Document, Result, Store, StoreError, Version, durable::NewFile, if_present, index::Entry, remove,
};
use crate::{
    digest::{Algorithm, Digest},
    name::{Reference, Repository, Tag},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, SystemTime},
};
use thiserror::Error;

/// A manifest as it is handed out.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) content: Vec<u8>,
}

/// A manifest that somebody brings.
#[derive(Debug)]
pub(crate) struct Put<'a> {
    pub(crate) reference: &'a Reference,
    /// More tags for it.
    pub(crate) tags: &'a [Tag],
    /// What its Content-Type says.
    pub(crate) media_type: Option<&'a str>,
    pub(crate) content: &'a [u8],
    /// When it was first put, in milliseconds since 1970; None: now.
    pub(crate) stamp: Option<i64>,
}

/// What became of a manifest that was put.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
}

/// Why a manifest was not taken.
#[derive(Debug, Error)]
pub(crate) enum PutError {
    #[error("the manifest is not valid")]
    Json(#[source] serde_json::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("the manifest's digest is {found}, not {wanted}")]
    Digest { found: Digest, wanted: Digest },
    #[error("the manifest refers to {0}, which this repository does not have; push it first")]
    Missing(Digest),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time_of(stamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(stamp).unwrap_or_default())
}

/// Reads a tag's file: where it leads to and since when. None when there is no such tag.
pub(super) fn read_tag(path: &Path) -> Result<Option<(Digest, i64)>> {
    let Some(content) = if_present(fs::read_to_string(path), "read", path)? else { return Ok(None) };
    let modified = fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let parsed = content.parse().map_err(|_| StoreError::Content { path: path.into(), content })?;
    Ok(Some((parsed, milliseconds(modified))))
}

impl Store {
    pub(super) fn manifest_link(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.repository(repository).join("_manifests").join(digest.algorithm().name()).join(digest.hex())
    }

    fn tag_link(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.repository(repository).join("_tags").join(tag.as_str())
    }

    pub(crate) fn has_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let link = self.manifest_link(repository, digest);
        Ok(if_present(fs::metadata(&link), "look at", &link)?.is_some() && self.blob_path(digest).is_file())
    }

    /// Reads a manifest; None when there is none.
    pub(crate) fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Manifest>> {
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match read_tag(&self.tag_link(repository, tag))? {
                Some((digest, _)) => digest,
                None => return Ok(None),
            },
        };
        let _hold = self.pins.hold([&digest]);
        let link = self.manifest_link(repository, &digest);
        let Some(media_type) = if_present(fs::read_to_string(&link), "read", &link)? else { return Ok(None) };
        let path = self.blob_path(&digest);
        let content = if_present(fs::read(&path), "read", &path)?;
        Ok(content.map(|content| Manifest { digest, media_type, content }))
    }

    /// Stores a manifest whose blobs are all there. When this returns, a power cut cannot take it back.
    pub(crate) fn put_manifest(
        &self,
        repository: &Repository,
        put: &Put<'_>,
    ) -> std::result::Result<Stored, PutError> {
        let document = Document::parse(put.content)?;
        let media_type = agreed_media_type(put.media_type, document.media_type.as_deref())?;
        let digest = match put.reference {
            Reference::Tag(_) => Digest::of(Algorithm::Sha256, put.content),
            Reference::Digest(wanted) => {
                let found = Digest::of(wanted.algorithm(), put.content);
                if found != *wanted {
                    return Err(PutError::Digest { found, wanted: wanted.clone() });
                }
                found
            }
        };
        let size = u64::try_from(put.content.len()).unwrap_or(u64::MAX);
        let entry = document.entry(digest, media_type, size)?;
        let needs = document.needs()?;
        let _hold = self.pins.hold(needs.all().chain([&entry.digest]));
        for blob in &needs.blobs {
            self.require(self.blob_size(repository, blob)?.is_some(), blob)?;
        }
        for child in &needs.manifests {
            self.require(self.has_manifest(repository, child)?, child)?;
        }
        for other in &needs.either {
            let found = self.has_manifest(repository, other)? || self.blob_size(repository, other)?.is_some();
            self.require(found, other)?;
        }
        self.sync_blob_links(repository)?;
        let tags: Vec<&Tag> = match put.reference {
            Reference::Tag(tag) => [tag].into_iter().chain(put.tags).collect(),
            Reference::Digest(_) => put.tags.iter().collect(),
        };
        self.write_manifest(repository, &entry, put, &tags)?;
        Ok(Stored { digest: entry.digest, subject: entry.subject })
    }

    fn require(&self, found: bool, digest: &Digest) -> std::result::Result<(), PutError> {
        if found { Ok(()) } else { Err(PutError::Missing(digest.clone())) }
    }

    fn write_manifest(
        &self,
        repository: &Repository,
        entry: &Entry,
        put: &Put<'_>,
        tags: &[&Tag],
    ) -> Result<()> {
        let content = self.blob_path(&entry.digest);
        let text = entry.digest.to_string();
        let is_new = !content.is_file();
        if is_new {
            self.admit(entry.size)?;
        }
        let now = self.stamp(repository, &text, put.stamp)?;
        let mut first = vec![
            NewFile { to: content, content: put.content, time: None },
            NewFile {
                to: self.manifest_link(repository, &entry.digest),
                content: entry.media_type.as_bytes(),
                time: Some(time_of(now)),
            },
        ];
        let mut second = Vec::new();
        for tag in tags {
            let to = self.tag_link(repository, tag);
            let stamp = self.stamp(repository, tag.as_str(), put.stamp)?;
            let known = self.index.version(repository, tag.as_str())?;
            if known.is_some_and(|known| known > (stamp, Some(text.clone()))) {
                // It comes from a peer, and somebody has moved the tag here while it was copied.
                continue;
            }
            // A tag that leads elsewhere moves only when its manifest is safe. A new one has nothing to lose.
            let files = if to.exists() { &mut second } else { &mut first };
            files.push(NewFile { to, content: text.as_bytes(), time: Some(time_of(stamp)) });
        }
        self.write(&first)?;
        if !second.is_empty() {
            self.write(&second)?;
        }
        if is_new {
            self.space.add_stored(entry.size);
            self.noted(self.index.add_blob(&entry.digest, entry.size));
        }
        self.noted(self.index_manifest(repository, entry, now, tags));
        self.announce();
        Ok(())
    }

    /// Of two requests that move a tag at once the files know the winner: the index says what they say.
    fn index_manifest(
        &self,
        repository: &Repository,
        entry: &Entry,
        stamp: i64,
        tags: &[&Tag],
    ) -> Result<()> {
        let _one_at_a_time = self.tagging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = Vec::with_capacity(tags.len());
        for tag in tags {
            if let Some((digest, stamp)) = read_tag(&self.tag_link(repository, tag))? {
                read.push(((*tag).clone(), digest, stamp));
            }
        }
        self.index.add_manifest(repository, entry, stamp, &read)
    }

    /// Removes a tag, or a manifest with its tags; false when there is none. The content stays until the next
    /// collection.
    pub(crate) fn delete_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        stamp: Option<i64>,
    ) -> Result<bool> {
        let removed = match reference {
            Reference::Tag(tag) => self.delete_tag(repository, tag, stamp)?,
            Reference::Digest(digest) => {
                // Tags first: none may ever lead to a manifest that is not there.
                for name in self.index.tags(repository, "", u64::MAX)? {
                    let Ok(tag) = name.parse::<Tag>() else { continue };
                    let leads_to = read_tag(&self.tag_link(repository, &tag))?;
                    if leads_to.is_some_and(|(found, _)| found == *digest) {
                        self.delete_tag(repository, &tag, stamp)?;
                    }
                }
                let removed = remove(&self.manifest_link(repository, digest))?;
                if removed {
                    self.note_removal(repository, &digest.to_string(), stamp);
                }
                removed
            }
        };
        if removed {
            self.announce();
        }
        Ok(removed)
    }

    fn delete_tag(&self, repository: &Repository, tag: &Tag, stamp: Option<i64>) -> Result<bool> {
        let _one_at_a_time = self.tagging.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = remove(&self.tag_link(repository, tag))?;
        if removed {
            self.note_removal(repository, tag.as_str(), stamp);
        }
        Ok(removed)
    }

    pub(super) fn note_removal(&self, repository: &Repository, reference: &str, stamp: Option<i64>) {
        let noted = self
            .stamp(repository, reference, stamp)
            .and_then(|stamp| self.index.remove(repository, reference, stamp));
        self.noted(noted);
    }

    /// The time of a change, unless a peer has `given` it: a later one bears a later time, whatever the clock says.
    fn stamp(&self, repository: &Repository, reference: &str, given: Option<i64>) -> Result<i64> {
        if let Some(stamp) = given {
            return Ok(stamp);
        }
        let known = self.index.version(repository, reference)?;
        let after = known.map_or(0, |(stamp, _)| stamp.saturating_add(1));
        Ok(milliseconds(SystemTime::now()).max(after))
    }

    /// Notes that something was deleted at a peer which never was here, so that nobody brings it later.
    pub(crate) fn note_deleted(&self, repository: &Repository, reference: &str, stamp: i64) {
        self.note_removal(repository, reference, Some(stamp));
        self.announce();
    }

    /// The last change of a tag or manifest, also if that was its deletion.
    pub(crate) fn version(&self, repository: &Repository, reference: &str) -> Result<Option<Version>> {
        self.index.version(repository, reference)
    }

    /// A repository's tags in order, at most `n` after `last`; None when there is no such repository.
    pub(crate) fn tags(&self, repository: &Repository, last: &str, n: u64) -> Result<Option<Vec<String>>> {
        if !self.index.has_repository(repository)? {
            return Ok(None);
        }
        self.index.tags(repository, last, n).map(Some)
    }

    /// The repositories that hold manifests, in order, at most `n` after `last`.
    pub(crate) fn repositories(&self, last: &str, n: u64) -> Result<Vec<String>> {
        self.index.repositories(last, n)
    }

    /// The referrers of a digest as descriptors.
    pub(crate) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Value>> {
        let mut found = self.index.referrers(repository, subject)?;
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| descriptor.get("artifactType").and_then(Value::as_str) == Some(wanted));
        }
        Ok(found)
    }
}

fn agreed_media_type(header: Option<&str>, field: Option<&str>) -> std::result::Result<String, PutError> {
    let header =
        header.and_then(|text| text.split(';').next()).map(str::trim).filter(|text| !text.is_empty());
    let media_type = match (header, field) {
        (Some(header), Some(field)) if header != field => {
            return Err(PutError::Invalid(format!(
                "Content-Type is {header:?}, but the manifest's mediaType {field:?}"
            )));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) => {
            return Err(PutError::Invalid("Content-Type is missing; send the manifest's media type".into()));
        }
    };
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(PutError::Invalid("Docker's schema 1 is not supported; push schema 2 or OCI".into()));
    }
    Ok(media_type.to_owned())
}
