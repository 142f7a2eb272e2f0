use crate::SpecError;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A full image reference: `HOST[:PORT]/PATH[:TAG][@DIGEST]`. The host is always written: a module has no
/// default registry but its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    text: String,
    host: usize,
}

impl ImageRef {
    /// The whole reference as text, with a tag or a digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The registry's host, with its port if one was written.
    pub fn host(&self) -> &str {
        self.text.get(..self.host).unwrap_or_default()
    }

    /// The same image where another registry, `HOST[:PORT]`, has it.
    pub fn at(&self, host: &str) -> String {
        format!("{host}{}", self.text.get(self.host..).unwrap_or_default())
    }
}

impl FromStr for ImageRef {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = |reason: &str| SpecError::value("image", text, reason);
        let (host, path) = text
            .split_once('/')
            .filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
            .ok_or_else(|| {
                bad("names no registry; write it in full, as registry.spacecloud:5000/NAME:TAG")
            })?;
        let (path, digest) = match path.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (path, None),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if repository.is_empty() || !repository.chars().all(plain) || repository.split('/').any(str::is_empty)
        {
            return Err(bad("has a bad repository name; use a-z, 0-9 and . _ - between slashes"));
        }
        let tag_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if tag.is_some_and(|t| t.is_empty() || t.len() > 128 || !t.chars().all(tag_char)) {
            return Err(bad("has a bad tag"));
        }
        if digest.is_some_and(|d| !d.starts_with("sha256:") && !d.starts_with("sha512:")) {
            return Err(bad("has a bad digest; write sha256:… or sha512:…"));
        }
        let text = if tag.is_none() && digest.is_none() { format!("{text}:latest") } else { text.to_owned() };
        Ok(Self { host: host.len(), text })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.text
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_its_registry() {
        let image: ImageRef = "registry.spacecloud:5000/demo/app:1.2".parse().unwrap();
        assert_eq!(image.host(), "registry.spacecloud:5000");
        assert_eq!(image.at("module-2:5000"), "module-2:5000/demo/app:1.2");
        assert_eq!(
            "registry.spacecloud:5000/a".parse::<ImageRef>().unwrap().as_str(),
            "registry.spacecloud:5000/a:latest"
        );
        for bad in ["demo:1", "library/demo", "r.s:5000/", "r.s:5000/A:1", "r.s:5000/a:", "r.s:5000/a@md5:1"]
        {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }
}
