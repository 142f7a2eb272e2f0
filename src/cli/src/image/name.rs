//! Names of images: in the cluster, and in other registries.
use super::error::{ImageError, Result};
use oci_spec::image::Digest;
use std::fmt;

/// The name on the registry's certificate, and in the modules' app files.
pub(super) const CLUSTER_HOST: &str = "registry.spacecloud";
const TAG_LIMIT: usize = 128;
const NAME_LIMIT: usize = 255;

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// Only if it was said.
    pub(super) host: Option<String>,
    pub(super) repository: String,
    /// Only if it was said.
    pub(super) reference: Option<Reference>,
}

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad =
            |remedy: &str| ImageError::Name { text: text.into(), what: "image name", remedy: remedy.into() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if is_host(first) => (Some(first.to_owned()), path),
            _ => (None, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad("a tag has letters, digits, '_', '.' and '-', 128 at most"));
        }
        if !is_repository(repository) {
            return Err(bad("write NAME:TAG in lower case, as telemetry:1.2 or demo/web:1"));
        }
        // With both the digest decides, as everywhere.
        let reference =
            digest.map(Reference::Digest).or_else(|| tag.map(|tag| Reference::Tag(tag.to_owned())));
        Ok(Self { host, repository: repository.to_owned(), reference })
    }

    /// The tag or digest, else `latest`.
    pub(super) fn reference(&self) -> Reference {
        self.reference.clone().unwrap_or_else(|| Reference::Tag("latest".into()))
    }

    /// A name in the cluster's registry: another registry's name would be a mistake.
    pub(super) fn in_cluster(text: &str, registry: &str) -> Result<Self> {
        let name = Self::parse(text)?;
        match &name.host {
            Some(host) if !is_cluster(host, registry) => Err(ImageError::Usage(format!(
                "{text}: {host} is not the cluster's registry, which is {registry}; leave the host out, or use --registry"
            ))),
            _ => Ok(name),
        }
    }
}

/// Whether a host means the cluster's registry at `registry`.
pub(super) fn is_cluster(host: &str, registry: &str) -> bool {
    host == registry || host.split(':').next() == Some(CLUSTER_HOST)
}

pub(super) fn parse_digest(text: &str) -> Result<Digest> {
    let bad = || ImageError::Name {
        text: text.into(),
        what: "digest",
        remedy: "write sha256: or sha512: and the lower-case hexadecimal digits".into(),
    };
    let digest: Digest = text.parse().map_err(|_| bad())?;
    match digest.algorithm().as_ref() {
        "sha256" | "sha512" => Ok(digest),
        _ => Err(bad()),
    }
}

/// Whether the first part of a name is a host; the rule that all clients follow.
fn is_host(text: &str) -> bool {
    (text.contains('.') || text.contains(':') || text == "localhost")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-:_[]".contains(c))
}

pub(super) fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= TAG_LIMIT && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Distribution spec: parts of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_repository(text: &str) -> bool {
    text.len() <= NAME_LIMIT && text.split('/').all(is_part)
}

fn is_part(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(word).filter(|between| !between.is_empty());
    let separated = |between: &str| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-');
    text.starts_with(word) && text.ends_with(word) && separators.into_iter().all(separated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_parts() {
        let name = |text: &str| Name::parse(text).unwrap();
        let tag = |text: &str| Some(Reference::Tag(text.into()));
        let plain = name("demo/web:1");
        assert_eq!((plain.host.as_deref(), plain.repository.as_str()), (None, "demo/web"));
        assert_eq!(plain.reference, tag("1"));
        let far = name("10.44.0.1:5000/a");
        assert_eq!((far.host.as_deref(), far.reference()), (Some("10.44.0.1:5000"), tag("latest").unwrap()));
        let digest = format!("sha256:{}", "a".repeat(64));
        let fixed = name(&format!("localhost/a__b/c-d:2@{digest}"));
        assert_eq!(fixed.reference().to_string(), digest);
        assert_eq!((fixed.host.as_deref(), fixed.repository.as_str()), (Some("localhost"), "a__b/c-d"));
    }

    #[test]
    fn what_is_no_name() {
        for bad in
            ["", "A:1", "a:", "a:-1", "a/../b:1", "a//b", "/a", "a_", "a..b", "a@sha256:12", "a@md5:1", "a b"]
        {
            let error = Name::parse(bad).unwrap_err();
            assert_eq!(error.exit_code(), 64, "{bad}: {error}");
        }
    }

    #[test]
    fn another_registry_is_no_destination() {
        for right in ["a:1", "registry.spacecloud:5000/a:1", "10.0.0.1:5000/a:1"] {
            assert_eq!(Name::in_cluster(right, "10.0.0.1:5000").unwrap().repository, "a");
        }
        let wrong = Name::in_cluster("other.org/a:1", "10.0.0.1:5000").unwrap_err();
        assert!(wrong.to_string().contains("--registry") && wrong.exit_code() == 64, "{wrong}");
    }
}
