//! Where built things are kept: keyed by what they are made of, put in place whole, pruned by age.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ImageError;

/// How many keys of a kind stay in the cache: the current one and the one before it.
const KEPT: usize = 2;

/// The cache folder: `$SPACECLOUD_CACHE`, else `spacecloud` in the user's cache folder.
///
/// # Errors
/// When no variable says where that is.
pub fn default_cache() -> Result<PathBuf, ImageError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SPACECLOUD_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("spacecloud")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/spacecloud")))
        .ok_or(ImageError::NoCache)
}

/// Waits until this process is the only one that builds in the cache. The lock ends with the value.
pub(super) fn lock(cache: &Path) -> Result<File, ImageError> {
    create(cache)?;
    let path = cache.join("lock");
    let file = File::create(&path).map_err(ImageError::file("creating", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(path = %path.display(), "waiting for another builder")
        }
        Err(TryLockError::Error(source)) => {
            return Err(ImageError::File { operation: "locking", path, source });
        }
    }
    file.lock().map_err(ImageError::file("locking", &path))?;
    Ok(file)
}

/// What the names of unfinished work begin with.
const UNFINISHED: &str = "building-";

/// A folder for unfinished work on the cache's own file system, so that a rename puts the result in place.
pub(super) fn work(cache: &Path) -> Result<tempfile::TempDir, ImageError> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(cache)
        .map_err(ImageError::file("creating a folder in", cache))
}

/// Removes what a builder that was killed has left. Only under the lock: then nobody else is building.
pub(super) fn sweep(cache: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(cache) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // Removing through a mount that is left there would remove what is mounted.
        let mounted = mounts.contains(&format!("{}/", path.display()));
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) && !mounted {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

pub(super) fn create(folder: &Path) -> Result<(), ImageError> {
    std::fs::create_dir_all(folder).map_err(ImageError::file("creating", folder))
}

/// The digest of named pieces, in the order given.
#[derive(Default)]
pub(super) struct Key(Sha256);

impl Key {
    /// Lengths go in too, so that no two lists of pieces look the same.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        for part in [name.as_bytes(), content] {
            self.0.update(part.len().to_le_bytes());
            self.0.update(part);
        }
    }

    pub(super) fn add_file(&mut self, name: &str, path: &Path) -> Result<(), ImageError> {
        let content = std::fs::read(path).map_err(ImageError::file("reading", path))?;
        self.add(name, &content);
        Ok(())
    }

    pub(super) fn finish(self) -> String {
        hex::encode(self.0.finalize()).chars().take(24).collect()
    }
}

/// Says that an entry is in use, so that pruning by age keeps it.
pub(super) fn touch(entry: &Path) {
    if let Ok(file) = File::open(entry) {
        let _ = file.set_modified(std::time::SystemTime::now());
    }
}

/// Removes all entries of a folder but the newest ones. What cannot be removed stays: it costs disk, no more.
pub(super) fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut aged: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    aged.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    for (_, path) in aged.into_iter().skip(KEPT) {
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "old image stays in the cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_key_tells_pieces_apart_that_read_the_same_when_joined() {
        let key = |pieces: &[(&str, &str)]| {
            let mut key = Key::default();
            for (name, content) in pieces {
                key.add(name, content.as_bytes());
            }
            key.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("c", "d"), ("a", "b")]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
    }

    #[test]
    fn pruning_keeps_the_entries_used_last() {
        let folder = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 300), ("used", 200), ("new", 10), ("older", 400)] {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        touch(&folder.path().join("used"));
        prune(folder.path());
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["new", "used"]);
    }

    #[test]
    fn what_a_killed_builder_left_is_swept_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::mem::forget(work(folder.path()).unwrap());
        create(&folder.path().join("base")).unwrap();
        sweep(folder.path());
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["base"]);
    }

    #[test]
    fn the_second_builder_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let second = File::open(folder.path().join("lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        second.try_lock().unwrap();
    }
}
