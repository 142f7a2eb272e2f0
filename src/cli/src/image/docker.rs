//! Archives as `docker save` writes them: layers that nobody has packed, and no manifest.
use super::{
    error::{ImageError, Result},
    files::{Extent, Files},
    graph::{Blob, Image, Manifest, OCI_MANIFEST, Place, describe},
    hash::{self, Hasher},
    local::{Found, choose},
    name::parse_digest,
};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde::Deserialize;
use std::io::Read;
use tempfile::TempPath;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Slow enough for a link that is slower, and no burden for the module that unpacks it.
const LEVEL: i32 = 12;
/// What a layer's first bytes say about it.
const LAYERS: [(&[u8], &str); 2] = [(&[0x1f, 0x8b], "+gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "+zstd")];
/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Reads the image that `manifest.json` describes; with `compress` its layers become smaller for the way.
pub(super) fn read(files: &Files, list: &[u8], select: Option<&str>, compress: bool) -> Result<Found> {
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
    let (mut layers, mut packed) = (Vec::new(), Vec::new());
    for name in &entry.layers {
        let mut extent = files.find(name).ok_or_else(|| lacks(name))?;
        if let Some((smaller, path)) = if compress { pack(&extent)? } else { None } {
            extent = smaller;
            packed.push(path);
        }
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
    Ok(Found { image: Image { origin, manifests, blobs }, names, packed })
}

/// The archive does not say a layer's digest: reading it does.
fn describe_layer(extent: &Extent) -> Result<Descriptor> {
    let magic = head(extent)?;
    let suffix = kind(&magic);
    let hasher = Hasher::Sha256(sha2::Sha256::default());
    let digest = hash::of_reader(hasher, extent.open(0)?).map_err(ImageError::file("read", &extent.path))?;
    Ok(Descriptor::new(
        MediaType::from(format!("{LAYER}{suffix}").as_str()),
        extent.size,
        parse_digest(&digest)?,
    ))
}

fn head(extent: &Extent) -> Result<Vec<u8>> {
    let mut magic = Vec::new();
    extent.open(0)?.take(4).read_to_end(&mut magic).map_err(ImageError::file("read", &extent.path))?;
    Ok(magic)
}

fn kind(magic: &[u8]) -> &'static str {
    LAYERS.iter().find(|(begin, _)| magic.starts_with(begin)).map_or("", |(_, suffix)| suffix)
}

/// Packs a layer into a file of its own; none if it is packed already, or does not become smaller. The same layer
/// always becomes the same bytes, so that a later run finds them in the registry, or goes on with them.
fn pack(extent: &Extent) -> Result<Option<(Extent, TempPath)>> {
    if !kind(&head(extent)?).is_empty() {
        return Ok(None);
    }
    let scratch = std::env::temp_dir();
    let file = tempfile::NamedTempFile::new().map_err(ImageError::file("create a file in", &scratch))?;
    let written = zstd::Encoder::new(&file, LEVEL).and_then(|mut encoder| {
        encoder.include_checksum(true)?;
        std::io::copy(&mut extent.open(0).map_err(std::io::Error::other)?, &mut encoder)?;
        encoder.finish().map(drop)
    });
    written.map_err(ImageError::file("pack a layer into", file.path()))?;
    let size = file.as_file().metadata().map_err(ImageError::file("look at", file.path()))?.len();
    let path = file.into_temp_path();
    let smaller = Extent { path: path.to_path_buf(), offset: 0, size };
    Ok((size < extent.size).then_some((smaller, path)))
}
