//! A directory of volumes: `NAME/volume.json` says which volume it is, `NAME/_data` is what instances see.

use super::quota;
use crate::RuntimeError;
use model::{Bytes, VolumeKey};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    root: PathBuf,
}

/// What is written beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    name: String,
    created: u64,
}

impl Shelf {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, key: &VolumeKey) -> PathBuf {
        self.root.join(key.name.as_str())
    }

    /// Names that begin with a dot are no volumes'.
    fn aside(&self, word: &str, name: &str, created: u64) -> PathBuf {
        self.root.join(format!(".{word}-{name}-{created}"))
    }

    /// Where the data is; made when the volume is new. Data of an earlier volume of the name is put aside, not lost.
    pub(crate) fn open(&self, key: &VolumeKey, owner: (u32, u32)) -> Result<PathBuf, RuntimeError> {
        let place = self.place(key);
        for _ in 0..3 {
            match read_marker(&place)? {
                Some(marker) if marker.created == key.created => return Ok(place.join("_data")),
                Some(other) => {
                    let aside = self.aside("earlier", &key.name, other.created);
                    tracing::warn!(volume = %key.name, kept = %aside.display(), "data of an earlier volume is put aside");
                    fs::rename(&place, &aside).map_err(RuntimeError::io("put aside", &place))?;
                }
                None => self.make(key, &place, owner)?,
            }
        }
        let reason = format!("{} is changed by somebody else", place.display());
        Err(RuntimeError::Volume { volume: key.name.to_string(), reason })
    }

    /// Whole or not at all; that another module was quicker is no error.
    fn make(&self, key: &VolumeKey, place: &Path, owner: (u32, u32)) -> Result<(), RuntimeError> {
        let unfinished = self.root.join(format!(".new-{}-{}-{}", key.name, key.created, std::process::id()));
        let data = unfinished.join("_data");
        fs::create_dir_all(&data).map_err(RuntimeError::io("create", &data))?;
        chown(&data, Some(owner.0), Some(owner.1)).map_err(RuntimeError::io("give away", &data))?;
        let marker = Marker { name: key.name.to_string(), created: key.created };
        let file = unfinished.join("volume.json");
        let text = serde_json::to_vec(&marker).map_err(|e| io::Error::other(e.to_string()));
        text.and_then(|text| {
            let mut out = fs::File::create(&file)?;
            out.write_all(&text)?;
            out.sync_all()
        })
        .map_err(RuntimeError::io("write", &file))?;
        if let Err(error) = fs::rename(&unfinished, place) {
            let _ = fs::remove_dir_all(&unfinished);
            if !place.join("volume.json").exists() {
                return Err(RuntimeError::io("create", place)(error));
            }
        }
        Ok(())
    }

    /// Lets the file system hold a volume to its size.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub(crate) fn limit(&self, key: &VolumeKey, size: Bytes) -> Result<(), String> {
        quota::limit(&self.place(key).join("_data"), size)
    }

    /// How much a volume holds, as its file system counts it.
    pub(crate) fn used(&self, key: &VolumeKey) -> Result<Bytes, RuntimeError> {
        let data = self.place(key).join("_data");
        let mut counted = BTreeSet::new();
        let mut waiting = vec![data.clone()];
        let mut sum: u64 = 0;
        while let Some(directory) = waiting.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                // An instance may take away what was there a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(RuntimeError::io("read", directory)(error)),
            };
            for entry in entries.flatten() {
                let Ok(found) = entry.metadata() else { continue };
                if found.nlink() > 1 && found.is_file() && !counted.insert(found.ino()) {
                    continue;
                }
                sum = sum.saturating_add(found.blocks().saturating_mul(512));
                if found.is_dir() {
                    waiting.push(entry.path());
                }
            }
        }
        Ok(Bytes(sum))
    }

    /// First out of the way, then piece by piece: half a volume is never taken for a whole one.
    pub(crate) fn erase(&self, key: &VolumeKey) -> Result<(), RuntimeError> {
        let (place, doomed) = (self.place(key), self.aside("erased", &key.name, key.created));
        if read_marker(&place)?.is_some_and(|marker| marker.created == key.created) {
            fs::rename(&place, &doomed).map_err(RuntimeError::io("erase", &place))?;
        }
        match fs::remove_dir_all(&doomed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::io("erase", &doomed)(error))
            }
            _ => Ok(()),
        }
    }
}

/// None when nothing is there. A directory without a marker is somebody's, and is left alone.
fn read_marker(place: &Path) -> Result<Option<Marker>, RuntimeError> {
    let file = place.join("volume.json");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !place.exists() => return Ok(None),
        Err(error) => return Err(RuntimeError::io("read", file)(error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|e| RuntimeError::io("read", file)(e.into()))
}
