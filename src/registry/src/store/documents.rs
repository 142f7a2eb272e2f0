//! What manifests say, as far as a registry must know (OCI image-spec; Docker's schema 2 is alike).

use super::{PutError, index::Entry};
use crate::digest::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    INDEX,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Layers that may not be distributed and therefore live elsewhere.
const FOREIGN: [&str; 2] =
    ["application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign."];

/// The parts of image manifests and indexes that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(super) media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    urls: Option<Vec<String>>,
}

/// Everything that a manifest needs to be whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Configuration and layers.
    pub(crate) blobs: Vec<Digest>,
    /// Other manifests.
    pub(crate) manifests: Vec<Digest>,
    /// What an index lists besides manifests, as build caches do.
    pub(crate) either: Vec<Digest>,
}

impl Needs {
    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().chain(&self.manifests).chain(&self.either)
    }
}

impl Descriptor {
    fn digest(&self) -> Result<Digest, PutError> {
        self.digest.parse().map_err(|error| PutError::Invalid(format!("in the manifest: {error}")))
    }

    fn is_elsewhere(&self) -> bool {
        let named = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        named || FOREIGN.iter().any(|prefix| self.media_type.starts_with(prefix))
    }
}

impl Document {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is no JSON of this shape, or nests deeper than anything sensible.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, PutError> {
        serde_json::from_slice(content).map_err(PutError::Json)
    }

    /// The manifest that this one is about.
    pub(super) fn subject(&self) -> Result<Option<Digest>, PutError> {
        self.subject.as_ref().map(Descriptor::digest).transpose()
    }

    /// What must be there before the manifest is.
    pub(crate) fn needs(&self) -> Result<Needs, PutError> {
        let mut needs = Needs::default();
        let layers = [&self.layers, &self.blobs].into_iter().flatten().flatten();
        for blob in self.config.iter().chain(layers.filter(|layer| !layer.is_elsewhere())) {
            needs.blobs.push(blob.digest()?);
        }
        for child in self.manifests.iter().flatten() {
            let known = MANIFESTS.contains(&child.media_type.as_str());
            if known { &mut needs.manifests } else { &mut needs.either }.push(child.digest()?);
        }
        Ok(needs)
    }

    /// What the index keeps of it.
    pub(super) fn entry(&self, digest: Digest, media_type: String, size: u64) -> Result<Entry, PutError> {
        // An image manifest that names no artifact type is of its configuration's type.
        let of_config =
            self.config.as_ref().filter(|_| media_type != INDEX).map(|config| config.media_type.clone());
        let artifact_type = self.artifact_type.clone().filter(|text| !text.is_empty()).or(of_config);
        let annotations = self.annotations.as_ref().and_then(|map| serde_json::to_string(map).ok());
        Ok(Entry { digest, media_type, size, artifact_type, subject: self.subject()?, annotations })
    }
}
