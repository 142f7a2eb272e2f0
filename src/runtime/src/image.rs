//! What an image in containerd's store says: its configuration and the snapshot that its layers make.

use crate::{RuntimeError, containerd::Calls};
use containerd_client::services::v1::{GetImageRequest, ReadContentRequest};
use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, Os};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// An image, ready to be run.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    pub(crate) config: ImageConfiguration,
    /// The committed snapshot above which an instance's own is made.
    pub(crate) chain: String,
}

const LARGEST_JSON: i64 = 4 << 20;
/// Images whose configurations are kept at hand.
const KNOWN: usize = 64;

/// What is known of images, by the digest that their names led to: a digest's content never changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownImages(Arc<Mutex<HashMap<String, Unpacked>>>);

impl KnownImages {
    fn get(&self, digest: &str) -> Option<Unpacked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn put(&self, digest: String, image: Unpacked) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(digest, image);
    }
}

impl Calls {
    pub(crate) async fn image(&self, name: &str) -> Result<Unpacked, RuntimeError> {
        let bad = |reason: &str| RuntimeError::BadImage { image: name.to_owned(), reason: reason.to_owned() };
        let request = self.request(GetImageRequest { name: name.to_owned() });
        let image = self
            .images()
            .get(request)
            .await
            .map_err(RuntimeError::call("look up image", name))?
            .into_inner()
            .image;
        let target = image.and_then(|i| i.target).ok_or_else(|| bad("it has no target"))?;
        if let Some(known) = self.known.get(&target.digest) {
            return Ok(known);
        }
        let mut text = self.blob(&target.digest, name).await?;
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(&text) {
            let arch = if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 };
            // An index of one build often names no platform at all: then its first manifest is meant.
            let fits = |named: bool| {
                index.manifests().iter().find(|m| match m.platform() {
                    Some(p) => named && *p.architecture() == arch && *p.os() == Os::Linux,
                    None => !named,
                })
            };
            let ours = fits(true).or_else(|| fits(false));
            let digest =
                ours.ok_or_else(|| bad("it has no manifest for this architecture"))?.digest().to_string();
            text = self.blob(&digest, name).await?;
        }
        let manifest: ImageManifest =
            serde_json::from_slice(&text).map_err(|e| bad(&format!("its manifest is bad: {e}")))?;
        let text = self.blob(manifest.config().digest().as_ref(), name).await?;
        let config: ImageConfiguration =
            serde_json::from_slice(&text).map_err(|e| bad(&format!("its configuration is bad: {e}")))?;
        let chain = chain_id(config.rootfs().diff_ids()).ok_or_else(|| bad("it has no layers"))?;
        let image = Unpacked { config, chain };
        self.known.put(target.digest, image.clone());
        Ok(image)
    }

    async fn blob(&self, digest: &str, image: &str) -> Result<Vec<u8>, RuntimeError> {
        let request = self.request(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let read = "read content of image";
        let mut stream =
            self.content().read(request).await.map_err(RuntimeError::call(read, image))?.into_inner();
        let mut text = Vec::new();
        while let Some(part) = stream.message().await.map_err(RuntimeError::call(read, image))? {
            text.extend_from_slice(&part.data);
            if i64::try_from(text.len()).unwrap_or(i64::MAX) > LARGEST_JSON {
                return Err(RuntimeError::BadImage {
                    image: image.to_owned(),
                    reason: "its manifest is larger than 4MiB".into(),
                });
            }
        }
        Ok(text)
    }
}

/// OCI image-spec, "Layer ChainID".
fn chain_id(diffs: &[String]) -> Option<String> {
    let mut diffs = diffs.iter();
    let first = diffs.next()?.clone();
    Some(diffs.fold(first, |chain, diff| {
        format!("sha256:{}", hex::encode(Sha256::digest(format!("{chain} {diff}"))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_layers() {
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&["sha256:a".into()]).unwrap(), "sha256:a");
        let two = chain_id(&["sha256:a".into(), "sha256:b".into()]).unwrap();
        assert_eq!(two, format!("sha256:{}", hex::encode(Sha256::digest("sha256:a sha256:b"))));
    }
}
