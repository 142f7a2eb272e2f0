//! Manifests and tags.

use super::{Result, Store, StoreError, entries, if_present, remove};
use crate::{
    digest::{Algorithm, Digest},
    name::{Reference, Repository, Tag},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    fs,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A manifest as it is handed out.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) content: Vec<u8>,
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

/// The parts of image manifests and indexes that matter here (OCI image-spec; Docker's v2s2 is alike).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    pub(super) subject: Option<Descriptor>,
    pub(super) annotations: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    urls: Option<Vec<String>>,
}

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Layers that may not be distributed and therefore live elsewhere.
const FOREIGN: [&str; 2] =
    ["application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign."];

impl Descriptor {
    fn digest(&self) -> std::result::Result<Digest, PutError> {
        self.digest.parse().map_err(|error| PutError::Invalid(format!("in the manifest: {error}")))
    }

    fn is_elsewhere(&self) -> bool {
        let named = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        named || FOREIGN.iter().any(|prefix| self.media_type.starts_with(prefix))
    }
}

impl Store {
    fn manifest_links(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_manifests")
    }

    fn manifest_link(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.manifest_links(repository).join(digest.algorithm().name()).join(digest.hex())
    }

    fn tag_links(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_tags")
    }

    fn has_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
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
            Reference::Tag(tag) => match self.tag(repository, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let link = self.manifest_link(repository, &digest);
        let Some(media_type) = if_present(fs::read_to_string(&link), "read", &link)? else { return Ok(None) };
        let path = self.blob_path(&digest);
        let content = if_present(fs::read(&path), "read", &path)?;
        Ok(content.map(|content| Manifest { digest, media_type, content }))
    }

    fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Digest>> {
        let path = self.tag_links(repository).join(tag.as_str());
        let Some(content) = if_present(fs::read_to_string(&path), "read", &path)? else { return Ok(None) };
        content.parse().map(Some).map_err(|_| StoreError::Content { path, content })
    }

    /// Stores a manifest whose blobs are all there. When this returns, a power cut cannot take it back.
    pub(crate) fn put_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        media_type: Option<&str>,
        content: &[u8],
    ) -> std::result::Result<Stored, PutError> {
        let document: Document = serde_json::from_slice(content).map_err(PutError::Json)?;
        let media_type = agreed_media_type(media_type, document.media_type.as_deref())?;
        let digest = match reference {
            Reference::Tag(_) => Digest::of(Algorithm::Sha256, content),
            Reference::Digest(wanted) => {
                let found = Digest::of(wanted.algorithm(), content);
                if found != *wanted {
                    return Err(PutError::Digest { found, wanted: wanted.clone() });
                }
                found
            }
        };
        let subject = document.subject.as_ref().map(Descriptor::digest).transpose()?;
        self.check_references(repository, &document)?;
        self.sync_blob_links(repository)?;
        self.write(&self.blob_path(&digest), content)?;
        self.write(&self.manifest_link(repository, &digest), media_type.as_bytes())?;
        if let Reference::Tag(tag) = reference {
            self.write(&self.tag_links(repository).join(tag.as_str()), digest.to_string().as_bytes())?;
        }
        Ok(Stored { digest, subject })
    }

    fn check_references(
        &self,
        repository: &Repository,
        document: &Document,
    ) -> std::result::Result<(), PutError> {
        let layers = [&document.layers, &document.blobs].into_iter().flatten().flatten();
        for blob in document.config.iter().chain(layers.filter(|layer| !layer.is_elsewhere())) {
            let digest = blob.digest()?;
            if self.blob_size(repository, &digest)?.is_none() {
                return Err(PutError::Missing(digest));
            }
        }
        for child in document.manifests.iter().flatten() {
            let digest = child.digest()?;
            // An index may list other things than manifests (build caches do); those are blobs.
            let may_be_blob = !MANIFESTS.contains(&child.media_type.as_str());
            let found = self.has_manifest(repository, &digest)?
                || (may_be_blob && self.blob_size(repository, &digest)?.is_some());
            if !found {
                return Err(PutError::Missing(digest));
            }
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with its tags; false when there is none. The content stays.
    pub(crate) fn delete_manifest(&self, repository: &Repository, reference: &Reference) -> Result<bool> {
        match reference {
            Reference::Tag(tag) => remove(&self.tag_links(repository).join(tag.as_str())),
            Reference::Digest(digest) => {
                // Tags first: none may ever lead to a manifest that is not there.
                for name in self.tags(repository)?.unwrap_or_default() {
                    let path = self.tag_links(repository).join(&name);
                    let content = if_present(fs::read_to_string(&path), "read", &path)?;
                    if content.is_some_and(|content| content == digest.to_string()) {
                        remove(&path)?;
                    }
                }
                remove(&self.manifest_link(repository, digest))
            }
        }
    }

    /// A repository's tags in order; None when there is no such repository.
    pub(crate) fn tags(&self, repository: &Repository) -> Result<Option<Vec<String>>> {
        let path = self.repository(repository);
        let known = ["_blobs", "_manifests", "_tags"].iter().any(|part| path.join(part).is_dir());
        if known { entries(&self.tag_links(repository)).map(Some) } else { Ok(None) }
    }

    /// The digests of all manifests of a repository.
    pub(super) fn manifest_digests(&self, repository: &Repository) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let names = entries(&self.manifest_links(repository).join(algorithm.name()))?;
            digests.extend(names.iter().filter_map(|hex| format!("{}:{hex}", algorithm.name()).parse().ok()));
        }
        Ok(digests)
    }

    /// All repositories that hold manifests, in order.
    pub(crate) fn repositories(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        collect_repositories(&self.root.join("repositories"), "", &mut found)?;
        found.sort_unstable();
        Ok(found)
    }
}

fn collect_repositories(directory: &Path, name: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in entries(directory)? {
        if entry == "_manifests" {
            found.push(name.to_owned());
        } else if !entry.starts_with('_') {
            let below = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            collect_repositories(&directory.join(&entry), &below, found)?;
        }
    }
    Ok(())
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
