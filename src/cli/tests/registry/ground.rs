//! An operator on the ground.
use super::{Link, Registry};
use crate::common::{self, spacectl};
use identity::Authority;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A registry, a link to it, and an operator who knows the link's other end only.
pub(crate) struct Ground {
    pub(crate) registry: Registry,
    pub(crate) link: Link,
    pub(crate) home: TempDir,
}

/// One with a registry that lets everybody in.
pub(crate) fn ground() -> Ground {
    ground_with("", &[])
}

/// One whose registry has more in its configuration, and these users and passwords.
pub(crate) fn ground_with(more: &str, users: &[(&str, &str)]) -> Ground {
    let authority = Authority::create().unwrap().0;
    let registry = Registry::start_with(&authority, more, users);
    let link = Link::to(registry.port);
    let home = common::home(&authority, "127.0.0.1:1");
    configure(home.path(), &link.address());
    Ground { registry, link, home }
}

fn configure(home: &Path, registry: &str) {
    let file = home.join(".config/spacecloud/spacectl.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("registry = \"{registry}\"\n{text}")).unwrap();
}

impl Ground {
    pub(crate) fn done(&self, words: &[&str]) -> String {
        let (code, out, err) = spacectl(self.home.path(), words);
        assert_eq!(code, 0, "{words:?}: {err}");
        out
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.done(words)).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The registry's own copy of a blob.
    pub(crate) fn stored(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").unwrap();
        fs::read(self.registry.root.path().join("images/blobs/sha256").join(&hex[..2]).join(hex)).unwrap()
    }
}
