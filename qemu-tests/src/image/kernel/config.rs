//! Configurations: a base, the fragments merged onto it, and what has become of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::kernel_config::{self, Modules};
use super::super::{ImageError, cache};
use super::source::{self, Source};
use super::{Arch, Fragment, lacks};

/// What the fragments are merged onto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The architecture's default configuration.
    Default,
    /// Nothing.
    Nothing,
}

impl Base {
    fn target(self, arch: Arch) -> &'static str {
        match (self, arch) {
            (Self::Nothing, _) => "allnoconfig",
            (Self::Default, Arch::X86_64) => "x86_64_defconfig",
            (Self::Default, Arch::Arm64) => "defconfig",
        }
    }
}

/// A configuration in which everything that was asked for has survived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The whole `.config`.
    pub text: String,
    /// How many options the fragments ask for.
    pub asked: usize,
}

/// Configures in a folder of its own and compares the result with what was asked for.
pub(super) fn configure(
    source: &Source,
    arch: Arch,
    base: Base,
    fragments: &[Fragment],
) -> Result<Configured, ImageError> {
    // Not in the cache: who builds there holds its lock, and sweeps away what others have left unfinished.
    let work = tempfile::tempdir().map_err(ImageError::file("creating", &std::env::temp_dir()))?;
    let out = work.path().join("out");
    cache::create(&out)?;
    let text = merge(&source.tree, &out, arch, base, fragments)?;
    let pairs = fragments.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let missing = kernel_config::missing(pairs.clone(), &text, Modules::Refused);
    if missing.is_empty() {
        let asked = kernel_config::missing(pairs, "", Modules::Refused).len();
        return Ok(Configured { text, asked });
    }
    let known = known_options(&source.tree)?;
    let unknown: Vec<_> = missing
        .iter()
        .filter(|m| m.option.strip_prefix("CONFIG_").is_none_or(|option| !known.contains(option)))
        .cloned()
        .collect();
    Err(lacks(&missing, &unknown))
}

/// Leaves `.config` in `out` and returns its text.
pub(super) fn merge(
    tree: &Path,
    out: &Path,
    arch: Arch,
    base: Base,
    fragments: &[Fragment],
) -> Result<String, ImageError> {
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(tree).arg(format!("O={}", out.display()));
        make.args([format!("ARCH={}", arch.name()), target.to_owned()]);
        make
    };
    source::run("make", &mut make(base.target(arch)))?;
    let config = out.join(".config");
    let mut files: Vec<PathBuf> = Vec::new();
    for (name, text) in fragments {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(ImageError::file("writing", &path))?;
        files.push(path);
    }
    let mut merge = Command::new(tree.join("scripts/kconfig/merge_config.sh"));
    merge.args(["-m", "-O"]).arg(out).arg(&config).args(files).current_dir(out);
    source::run("merge_config.sh", &mut merge)?;
    source::run("make", &mut make("olddefconfig"))?;
    std::fs::read_to_string(&config).map_err(ImageError::file("reading", &config))
}

/// Every option that some Kconfig file defines, without the prefix.
fn known_options(tree: &Path) -> Result<BTreeSet<String>, ImageError> {
    let mut folders = vec![tree.to_owned()];
    let mut known = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(ImageError::file("reading", &folder))? {
            let path = entry.map_err(ImageError::file("reading", &folder))?.path();
            let named = |prefix: &str| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            };
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if named("Kconfig") {
                let text = std::fs::read(&path).map_err(ImageError::file("reading", &path))?;
                known
                    .extend(String::from_utf8_lossy(&text).lines().filter_map(definition).map(str::to_owned));
            }
        }
    }
    Ok(known)
}

/// The option that a line of Kconfig defines.
fn definition(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("config ").or_else(|| line.strip_prefix("menuconfig ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_told_from_uses() {
        assert_eq!(definition("config VETH"), Some("VETH"));
        assert_eq!(definition("\tmenuconfig MD "), Some("MD"));
        assert_eq!(definition("\tdepends on VETH"), None);
        assert_eq!(definition("configured by"), None);
    }
}
