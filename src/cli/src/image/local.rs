//! Images in files: OCI layouts here, and archives as `docker save` writes them in `docker`.
use super::{
    docker,
    error::{ImageError, Result},
    files::{Extent, Files},
    graph::{Blob, Image, Place, Walk, is_manifest},
    hash::{self, Hasher},
    name::{Name, parse_digest},
};
use oci_spec::image::{Descriptor, ImageIndex};
use tempfile::TempPath;

/// Where names are: the OCI's own, and containerd's, which is a full one.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One image of a file's, with what it is called there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) image: Image,
    pub(super) names: Vec<String>,
    /// Layers that were packed for the way; gone when this is.
    pub(super) packed: Vec<TempPath>,
}

/// Finds the one image, or the one that is called `select`.
pub(super) fn find(
    files: &Files,
    select: Option<&str>,
    platform: Option<&str>,
    compress: bool,
) -> Result<Found> {
    if let Some(index) = files.read("index.json")? {
        return from_layout(files, &index, select, platform);
    }
    if let Some(list) = files.read("manifest.json")? {
        return docker::read(files, &list, select, compress);
    }
    Err(ImageError::source(
        files.origin(),
        "is neither an OCI layout (index.json) nor a docker archive (manifest.json)",
    ))
}

/// Chooses the one of several that has this name.
pub(super) fn choose<T>(
    origin: &str,
    all: Vec<(T, Vec<String>)>,
    select: Option<&str>,
) -> Result<(T, Vec<String>)> {
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
    Ok(Found { image, names, packed: Vec::new() })
}

fn blob_name(descriptor: &Descriptor) -> String {
    let digest = descriptor.digest();
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
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
