//! An image as a graph: manifests that lead to manifests and blobs. No I/O: whoever walks it brings the content.
use super::{
    error::{ImageError, Result},
    hash::{self, Hasher},
};
use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use std::{collections::BTreeSet, path::PathBuf};

/// The largest manifest that registries take.
pub(super) const LARGEST_MANIFEST: u64 = 4 << 20;
/// An index of indexes of indexes is no image any more.
const MOST_MANIFESTS: usize = 4096;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest or an index, byte for byte.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) content: Bytes,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Whoever walks the graph has still to say it.
    Unknown,
    /// In a file, from this byte on.
    File { path: PathBuf, offset: u64 },
    /// Here.
    Memory(Bytes),
    /// In the registry that the image comes from.
    Remote,
}

#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) place: Place,
}

/// A whole image; of its manifests the last is the root, and none leads to a later one.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) origin: String,
    pub(super) manifests: Vec<Manifest>,
    pub(super) blobs: Vec<Blob>,
}

impl Image {
    pub(super) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// What a manifest's content leads to.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

impl Document {
    pub(super) fn parse(content: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Kind {
            manifests: Option<serde::de::IgnoredAny>,
        }
        let told = |e: serde_json::Error| format!("is no OCI or docker manifest: {e}");
        let kind: Kind = serde_json::from_slice(content).map_err(told)?;
        if kind.manifests.is_some() {
            serde_json::from_slice(content).map(|index| Self::Index(Box::new(index))).map_err(told)
        } else {
            serde_json::from_slice(content).map(|manifest| Self::Manifest(Box::new(manifest))).map_err(told)
        }
    }

    fn media_type(&self) -> String {
        let (own, usual) = match self {
            Self::Manifest(manifest) => (manifest.media_type(), OCI_MANIFEST),
            Self::Index(index) => (index.media_type(), OCI_INDEX),
        };
        own.as_ref().map_or_else(|| usual.to_owned(), MediaType::to_string)
    }
}

/// Goes from the root to all that it leads to; `next` says what must be brought, `bring` takes it.
pub(super) struct Walk {
    pending: Vec<Descriptor>,
    seen: BTreeSet<String>,
    platform: Option<String>,
    image: Image,
}

impl Walk {
    /// `platform` is `OS/ARCH[/VARIANT]`; it replaces an index at the root by its manifest for that platform.
    pub(super) fn new(origin: &str, root: Descriptor, platform: Option<&str>) -> Self {
        Self {
            pending: vec![root],
            seen: BTreeSet::new(),
            platform: platform.map(str::to_owned),
            image: Image { origin: origin.into(), manifests: Vec::new(), blobs: Vec::new() },
        }
    }

    /// The manifest that is wanted next.
    pub(super) fn next(&self) -> Option<Descriptor> {
        self.pending.last().cloned()
    }

    /// Takes the content of what `next` asked for.
    pub(super) fn bring(&mut self, content: Bytes) -> Result<()> {
        let Some(wanted) = self.pending.pop() else { return Ok(()) };
        let origin = self.image.origin.clone();
        let mut hasher = Hasher::like(wanted.digest());
        hasher.update(&content);
        let found = hasher.finish();
        if found != wanted.digest().to_string() {
            return Err(ImageError::Damaged { origin, digest: wanted.digest().clone(), found });
        }
        let document = Document::parse(&content)
            .map_err(|why| ImageError::source(origin.as_str(), format!("{} {why}", wanted.digest())))?;
        if let (Document::Index(index), Some(platform)) = (&document, self.platform.take()) {
            let chosen = choose_platform(&origin, index, &platform)?;
            self.pending.push(chosen);
            return Ok(());
        }
        let media_type = document.media_type();
        match document {
            Document::Manifest(manifest) => {
                self.blob(manifest.config())?;
                manifest.layers().iter().try_for_each(|layer| self.blob(layer))?;
            }
            Document::Index(index) => {
                for child in index.manifests() {
                    self.child(child)?;
                }
            }
        }
        self.image.manifests.push(Manifest { digest: wanted.digest().clone(), media_type, content });
        Ok(())
    }

    fn child(&mut self, child: &Descriptor) -> Result<()> {
        // An index may list other things than manifests (build caches do); those are blobs.
        if !is_manifest(child.media_type()) {
            return self.blob(child);
        }
        self.check(child)?;
        if self.seen.insert(child.digest().to_string()) {
            if self.seen.len() > MOST_MANIFESTS {
                let reason = format!("leads to more than {MOST_MANIFESTS} manifests");
                return Err(ImageError::source(self.image.origin.as_str(), reason));
            }
            self.pending.push(child.clone());
        }
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<()> {
        self.check(blob)?;
        if is_elsewhere(blob) || self.image.blobs.iter().any(|known| known.digest == *blob.digest()) {
            return Ok(());
        }
        self.image.blobs.push(Blob {
            digest: blob.digest().clone(),
            size: blob.size(),
            place: Place::Unknown,
        });
        Ok(())
    }

    fn check(&self, descriptor: &Descriptor) -> Result<()> {
        super::name::parse_digest(descriptor.digest().as_ref())
            .map(drop)
            .map_err(|error| ImageError::source(self.image.origin.as_str(), error.to_string()))
    }

    /// When nothing is wanted any more.
    pub(super) fn finish(mut self) -> Image {
        // The root came first; a registry wants it last.
        self.image.manifests.reverse();
        self.image
    }
}

pub(super) fn is_manifest(media_type: &MediaType) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type.to_string().as_str())
}

/// Layers that may not be distributed live elsewhere.
fn is_elsewhere(layer: &Descriptor) -> bool {
    let media_type = layer.media_type().to_string();
    layer.urls().as_ref().is_some_and(|urls| !urls.is_empty())
        || media_type.contains(".layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// `linux/arm64/v8` of a descriptor.
pub(super) fn platform_of(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    let variant = platform.variant().as_ref().map(|v| format!("/{v}")).unwrap_or_default();
    Some(format!("{}/{}{variant}", platform.os(), platform.architecture()))
}

fn choose_platform(origin: &str, index: &ImageIndex, platform: &str) -> Result<Descriptor> {
    let matches =
        |found: &str| found == platform || found.strip_prefix(platform).is_some_and(|v| v.starts_with('/'));
    let found = index.manifests().iter().find(|m| platform_of(m).is_some_and(|found| matches(&found)));
    found.cloned().ok_or_else(|| {
        let there: Vec<String> = index.manifests().iter().filter_map(platform_of).collect();
        ImageError::Usage(format!("{origin} has nothing for {platform}, only for {}", there.join(", ")))
    })
}

/// A descriptor of bytes that are all in memory.
pub(super) fn describe(media_type: &str, content: &[u8]) -> Result<Descriptor> {
    let digest = super::name::parse_digest(&hash::sha256(content))?;
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
    Ok(Descriptor::new(MediaType::from(media_type), size, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layer: &str) -> Vec<u8> {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":9}}]}}"#,
            digest("c"),
            digest(layer)
        )
        .into_bytes()
    }

    fn index(children: &[(&[u8], &str)]) -> Vec<u8> {
        let children: Vec<String> = children
            .iter()
            .map(|(content, architecture)| {
                format!(
                    r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                    hash::sha256(content),
                    content.len()
                )
            })
            .collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(",")).into_bytes()
    }

    fn walk(root: &[u8], others: &[&[u8]], platform: Option<&str>) -> Result<Image> {
        let mut walk = Walk::new("test", describe(OCI_INDEX, root).unwrap(), platform);
        while let Some(wanted) = walk.next() {
            let all = others.iter().copied().chain([root]);
            let content = all.into_iter().find(|c| hash::sha256(c) == wanted.digest().to_string()).unwrap();
            walk.bring(Bytes::copy_from_slice(content))?;
        }
        Ok(walk.finish())
    }

    #[test]
    fn children_come_before_their_index_and_shared_blobs_once() {
        let (amd, arm) = (manifest("a"), manifest("b"));
        let root = index(&[(&amd, "amd64"), (&arm, "arm64")]);
        let image = walk(&root, &[&amd, &arm], None).unwrap();
        assert_eq!(image.manifests.len(), 3);
        assert_eq!(image.manifests.last().unwrap().digest.to_string(), hash::sha256(&root));
        assert_eq!((image.blobs.len(), image.bytes()), (3, 20));
    }

    #[test]
    fn one_platform_stands_for_its_index() {
        let (amd, arm) = (manifest("a"), manifest("b"));
        let root = index(&[(&amd, "amd64"), (&arm, "arm64")]);
        let image = walk(&root, &[&amd, &arm], Some("linux/arm64")).unwrap();
        assert_eq!(image.manifests.len(), 1);
        assert_eq!(image.manifests[0].digest.to_string(), hash::sha256(&arm));
        let none = walk(&root, &[&amd, &arm], Some("linux/riscv64")).unwrap_err();
        assert!(none.to_string().contains("linux/amd64, linux/arm64") && none.exit_code() == 64, "{none}");
    }

    #[test]
    fn damage_is_noticed() {
        let good = manifest("a");
        let mut walk = Walk::new("test", describe(OCI_MANIFEST, &good).unwrap(), None);
        assert!(matches!(walk.bring(Bytes::from(manifest("b"))), Err(ImageError::Damaged { .. })));
        let text = b"hello".to_vec();
        let mut walk = Walk::new("test", describe(OCI_MANIFEST, &text).unwrap(), None);
        assert!(matches!(walk.bring(Bytes::from(text)), Err(ImageError::Source { .. })));
    }
}
