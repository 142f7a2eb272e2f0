//! The image's layers as folders, for modules that are namespaces: not every kernel mounts erofs.

use super::cache::{self, Key};
use super::{Image, ImageError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Both layers, unpacked. Nothing may be written there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Debian's part; kept in the cache.
    pub base: PathBuf,
    /// Our programs, their configuration and units.
    pub programs: PathBuf,
}

impl Layers {
    /// Unpacks the base into the cache if it is not there, and the programs into a folder in `place`: they are small,
    /// and change with each build.
    ///
    /// # Errors
    /// fsck.erofs is missing or fails, or there is no room.
    pub fn unpack(cache: &Path, image: &Image, place: &Path) -> Result<Self, ImageError> {
        let programs = place.join("programs");
        if programs.exists() {
            std::fs::remove_dir_all(&programs).map_err(ImageError::file("removing", &programs))?;
        }
        extract(&image.programs, &programs)?;
        let _lock = cache::lock(cache)?;
        cache::sweep(cache);
        let bases = cache.join("roots");
        cache::create(&bases)?;
        let base = bases.join(key(&image.base)?);
        if !base.is_dir() {
            let work = cache::work(cache)?;
            let root = work.path().join("root");
            extract(&image.base, &root)?;
            std::fs::rename(&root, &base).map_err(ImageError::file("putting in place", &base))?;
        }
        cache::touch(&base);
        cache::prune(&bases);
        Ok(Self { base, programs })
    }
}

/// By place, size and age: reading hundreds of megabytes at every start would cost more than it is worth.
fn key(file: &Path) -> Result<String, ImageError> {
    let metadata = std::fs::metadata(file).map_err(ImageError::file("reading", file))?;
    let modified = metadata.modified().map_err(ImageError::file("reading", file))?;
    let mut key = Key::default();
    key.add("file", file.as_os_str().as_encoded_bytes());
    key.add("size", &metadata.len().to_le_bytes());
    key.add("modified", format!("{modified:?}").as_bytes());
    Ok(key.finish())
}

fn extract(image: &Path, folder: &Path) -> Result<(), ImageError> {
    const TOOL: &str = "fsck.erofs";
    let mut extract = std::ffi::OsString::from("--extract=");
    extract.push(folder);
    let output = Command::new(TOOL)
        .arg(extract)
        .arg(image)
        .output()
        .map_err(|source| ImageError::Tool { tool: TOOL, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ImageError::Failed { tool: TOOL, status: output.status, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_comes_out_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let (source, packed) = (dir.path().join("source"), dir.path().join("layer.erofs"));
        std::fs::create_dir_all(source.join("etc")).unwrap();
        std::fs::write(source.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        let made = Command::new("mkfs.erofs").arg("--quiet").args([&packed, &source]).status().unwrap();
        assert!(made.success());
        let out = dir.path().join("out");
        extract(&packed, &out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("etc/hosts")).unwrap(), "127.0.0.1 localhost\n");
        assert!(matches!(extract(&source.join("etc/hosts"), &out), Err(ImageError::Failed { .. })));
    }
}
