//! Which manifests have another one as their subject.

use super::{
    Result, Store,
    manifests::{Document, Manifest},
};
use crate::{
    digest::Digest,
    name::{Reference, Repository},
};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Store {
    /// The referrers of a digest as descriptors, found by reading the repository's manifests.
    pub(crate) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for digest in self.manifest_digests(repository)? {
            let Some(manifest) = self.manifest(repository, &Reference::Digest(digest))? else { continue };
            let Ok(document) = serde_json::from_slice::<Document>(&manifest.content) else { continue };
            if document.subject.as_ref().is_none_or(|descriptor| descriptor.digest != subject.to_string()) {
                continue;
            }
            let descriptor = describe(&manifest, document);
            let actual = descriptor.get("artifactType").and_then(Value::as_str);
            if artifact_type.is_none_or(|wanted| actual == Some(wanted)) {
                found.push(descriptor);
            }
        }
        Ok(found)
    }
}

fn describe(manifest: &Manifest, document: Document) -> Value {
    let mut descriptor = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest.to_string(),
        "size": manifest.content.len(),
    });
    // An image manifest that names no artifact type is of its configuration's type.
    let of_config = document.config.filter(|_| manifest.media_type != INDEX).map(|config| config.media_type);
    let artifact_type = document.artifact_type.filter(|text| !text.is_empty()).or(of_config);
    if let Some(fields) = descriptor.as_object_mut() {
        fields.extend(artifact_type.map(|text| ("artifactType".to_owned(), text.into())));
        fields.extend(document.annotations.map(|map| ("annotations".to_owned(), map.into())));
    }
    descriptor
}
