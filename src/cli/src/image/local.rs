//! Images in files: OCI layouts, and archives as `docker save` writes them.
use super::{
    error::{ImageError, Result},
    files::{Extent, Files},
    graph::{Blob, Image, Manifest, OCI_MANIFEST, Place, Walk, describe, is_manifest},
    hash::{self, Hasher},
    name::{Name, parse_digest},
};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifestBuilder, MediaType};
use serde::Deserialize;
use std::io::Read;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What a layer's first bytes say about it.
const LAYERS: [(&[u8], &str); 2] = [(&[0x1f, 0x8b], "+gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "+zstd")];
/// Where names are: the OCI's own, and containerd's, which is a full one.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One image of a file's, with what it is called there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) image: Image,
    pub(super) names: Vec<String>,
}

/// Finds the one image, or the one that is called `select`.
pub(super) fn find(files: &Files, select: Option<&str>, platform: Option<&str>) -> Result<Found> {
    if let Some(index) = files.read("index.json")? {
        return from_layout(files, &index, select, platform);
    }
    if let Some(list) = files.read("manifest.json")? {
        return from_docker(files, &list, select);
    }
    Err(ImageError::source(
        files.origin(),
        "is neither an OCI layout (index.json) nor a docker archive (manifest.json)",
    ))
}

/// Chooses the one of several that has this name.
fn choose<T>(origin: &str, all: Vec<(T, Vec<String>)>, select: Option<&str>) -> Result<(T, Vec<String>)> {
    let names: Vec<String> = all.iter().flat_map(|(_, names)| names.clone()).collect();
    let mut fitting: Vec<_> = match select {
        Some(wanted) => all.into_iter().filter(|(_, names)| names.iter().any(|n| n == wanted)).collect(),
        None => all,
    };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) if names.is_empty() => Err(ImageError::source(origin, "holds no image")),
        (None, _) => Err(ImageError::Usage(format!(
            "{origin} holds no image of that name; there are {}",
            names.join(", ")
        ))),
        (Some(_), false) => Err(ImageError::Usage(format!(
            "{origin} holds several images; choose one with --select: {}",
            names.join(", ")
        ))),
    }
}

fn from_layout(files: &Files, index: &[u8], select: Option<&str>, platform: Option<&str>) -> Result<Found> {
    let origin = files.origin();
    let index: ImageIndex = serde_json::from_slice(index)
        .map_err(|e| ImageError::source(origin.as_str(), format!("index.json is no OCI index: {e}")))?;
    let named = |descriptor: &Descriptor| {
        let annotations = descriptor.annotations().clone().unwrap_or_default();
        NAMES.iter().filter_map(|key| annotations.get(*key).cloned()).collect::<Vec<_>>()
    };
    let mut all: Vec<(Descriptor, Vec<String>)> = Vec::new();
    for descriptor in index.manifests().iter().filter(|d| is_manifest(d.media_type())) {
        // The same image under two names is one image.
        match all.iter_mut().find(|(known, _)| known.digest() == descriptor.digest()) {
            Some((_, names)) => names.extend(named(descriptor)),
            None => all.push((descriptor.clone(), named(descriptor))),
        }
    }
    let (root, names) = choose(&origin, all, select)?;
    let mut walk = Walk::new(&origin, root, platform);
    while let Some(wanted) = walk.next() {
        parse_digest(wanted.digest().as_ref())?;
        let content = files.read(&blob_name(&wanted))?;
        let missing =
            || ImageError::source(origin.as_str(), format!("lacks the manifest {}", wanted.digest()));
        walk.bring(content.ok_or_else(missing)?)?;
    }
    let mut image = walk.finish();
    for blob in &mut image.blobs {
        let name = format!("blobs/{}/{}", blob.digest.algorithm(), blob.digest.digest());
        let wrong = |reason: String| ImageError::source(origin.as_str(), reason);
        let extent = files.find(&name).ok_or_else(|| wrong(format!("lacks {}", blob.digest)))?;
        if extent.size != blob.size {
            return Err(wrong(format!("{} has {} bytes, not {}", blob.digest, extent.size, blob.size)));
        }
        blob.place = Place::File { path: extent.path, offset: extent.offset };
    }
    Ok(Found { image, names })
}

fn blob_name(descriptor: &Descriptor) -> String {
    let digest = descriptor.digest();
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn from_docker(files: &Files, list: &[u8], select: Option<&str>) -> Result<Found> {
    let origin = files.origin();
    let wrong = |reason: String| ImageError::source(origin.as_str(), reason);
    let list: Vec<DockerImage> = serde_json::from_slice(list)
        .map_err(|e| wrong(format!("manifest.json is none of a docker archive: {e}")))?;
    let all = list.into_iter().map(|mut image| {
        let names = image.repo_tags.take().unwrap_or_default();
        (image, names)
    });
    let (entry, names) = choose(&origin, all.collect(), select)?;
    let lacks = |name: &str| wrong(format!("lacks {name}, which manifest.json names"));
    let config = files.read(&entry.config)?.ok_or_else(|| lacks(&entry.config))?;
    let described = describe(CONFIG, &config)?;
    let mut blobs = vec![Blob {
        digest: described.digest().clone(),
        size: described.size(),
        place: Place::Memory(config),
    }];
    let mut layers = Vec::new();
    for name in &entry.layers {
        let extent = files.find(name).ok_or_else(|| lacks(name))?;
        let layer = describe_layer(&extent)?;
        if !blobs.iter().any(|blob| blob.digest == *layer.digest()) {
            blobs.push(Blob {
                digest: layer.digest().clone(),
                size: extent.size,
                place: Place::File { path: extent.path, offset: extent.offset },
            });
        }
        layers.push(layer);
    }
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(described)
        .layers(layers)
        .build()
        .and_then(|manifest| manifest.to_string())
        .map_err(|e| wrong(format!("no manifest can be made of it: {e}")))?;
    let root = describe(OCI_MANIFEST, manifest.as_bytes())?;
    let manifests = vec![Manifest {
        digest: root.digest().clone(),
        media_type: OCI_MANIFEST.into(),
        content: manifest.into(),
    }];
    Ok(Found { image: Image { origin, manifests, blobs }, names })
}

/// The archive does not say a layer's digest: reading it does.
fn describe_layer(extent: &Extent) -> Result<Descriptor> {
    let mut magic = Vec::new();
    extent.open(0)?.take(4).read_to_end(&mut magic).map_err(ImageError::file("read", &extent.path))?;
    let suffix = LAYERS.iter().find(|(begin, _)| magic.starts_with(begin)).map_or("", |(_, suffix)| suffix);
    let hasher = Hasher::Sha256(sha2::Sha256::default());
    let digest = hash::of_reader(hasher, extent.open(0)?).map_err(ImageError::file("read", &extent.path))?;
    Ok(Descriptor::new(
        MediaType::from(format!("{LAYER}{suffix}").as_str()),
        extent.size,
        parse_digest(&digest)?,
    ))
}

/// Makes sure that a file's bytes are what their name says: a link to orbit is no place to find out.
pub(super) fn verify(origin: &str, blob: &Blob) -> Result<()> {
    let Place::File { path, offset } = &blob.place else { return Ok(()) };
    let extent = Extent { path: path.clone(), offset: *offset, size: blob.size };
    let found = hash::of_reader(Hasher::like(&blob.digest), extent.open(0)?)
        .map_err(ImageError::file("read", path))?;
    if found == blob.digest.to_string() {
        return Ok(());
    }
    Err(ImageError::Damaged { origin: origin.into(), digest: blob.digest.clone(), found })
}

/// What a source's own names make of it in the cluster: the first that names a repository.
pub(super) fn name_of(names: &[String]) -> Option<Name> {
    let parsed = names.iter().filter_map(|name| Name::parse(name).ok());
    // A layout's name is often a bare tag, as `latest`, which would be taken for a repository.
    parsed.into_iter().find(|name| name.reference.is_some()).map(|name| Name { host: None, ..name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_tag_is_no_name() {
        let name = |names: &[&str]| {
            name_of(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
                .map(|n| format!("{}:{}", n.repository, n.reference()))
        };
        assert_eq!(name(&["latest"]), None);
        assert_eq!(name(&["docker.io/library/web:1", "1"]).unwrap(), "library/web:1");
        assert_eq!(name(&["web:2"]).unwrap(), "web:2");
    }

    #[test]
    fn several_images_want_a_choice() {
        let all = || vec![(1, vec!["a:1".to_owned()]), (2, vec!["b:1".to_owned()])];
        assert_eq!(choose("f", all(), Some("b:1")).unwrap().0, 2);
        for (select, told) in [(None, "--select: a:1, b:1"), (Some("c"), "there are a:1, b:1")] {
            let error = choose("f", all(), select).unwrap_err();
            assert!(error.to_string().contains(told) && error.exit_code() == 64, "{error}");
        }
        assert_eq!(choose::<u8>("f", vec![], None).unwrap_err().exit_code(), 1);
    }
}
