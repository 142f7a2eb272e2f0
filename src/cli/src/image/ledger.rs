//! What was begun and not ended: one small file for each upload, so that the next run goes on with it.
use super::{
    error::{ImageError, Result},
    hash,
};
use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Registries forget uploads that nobody touches; so do we, later.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    directory: Option<PathBuf>,
}

/// One upload's file, ours as long as we hold it.
#[derive(Debug)]
pub(super) struct Entry {
    file: Option<(PathBuf, File)>,
    location: Option<String>,
}

impl Ledger {
    /// `$XDG_STATE_HOME/spacecloud/uploads`, else `~/.local/state/spacecloud/uploads`; without a home nothing
    /// is remembered.
    pub(super) fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
        let ledger = Self { directory: state.map(|state| state.join("spacecloud/uploads")) };
        ledger.sweep();
        ledger
    }

    fn sweep(&self) {
        let Some(entries) = self.directory.as_ref().and_then(|d| fs::read_dir(d).ok()) else { return };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|found| found.modified());
            if modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Opens the file of one upload. When another run of ours holds it, or when there is no place for it, this
    /// upload is not remembered.
    pub(super) fn open(&self, registry: &str, repository: &str, digest: &str) -> Result<Entry> {
        let unknown = Entry { file: None, location: None };
        let Some(directory) = &self.directory else { return Ok(unknown) };
        fs::create_dir_all(directory).map_err(ImageError::file("create", directory))?;
        let name = hash::sha256(format!("{registry}\n{repository}\n{digest}").as_bytes()).replace(':', "-");
        let path = directory.join(name);
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(ImageError::file("open", &path))?;
        if file.try_lock().is_err() {
            return Ok(unknown);
        }
        let mut location = String::new();
        file.read_to_string(&mut location).map_err(ImageError::file("read", &path))?;
        let location = location.strip_suffix('\n').map(str::to_owned);
        Ok(Entry { file: Some((path, file)), location })
    }
}

impl Entry {
    /// Where the upload goes on.
    pub(super) fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    pub(super) fn remember(&mut self, location: &str) -> Result<()> {
        if self.location.as_deref() == Some(location) {
            return Ok(());
        }
        self.location = Some(location.into());
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        // The line's end is what makes it valid: half a location leads nowhere.
        let written = file.rewind().and_then(|()| file.set_len(0));
        written
            .and_then(|()| file.write_all(format!("{location}\n").as_bytes()))
            .map_err(ImageError::file("write", &*path))
    }

    /// The upload is over.
    pub(super) fn forget(&mut self) {
        self.location = None;
        if let Some((path, file)) = &self.file {
            let _ = file.set_len(0);
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let (Some((path, _)), None) = (&self.file, &self.location) {
            let _ = fs::remove_file(Path::new(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_found_again_by_the_next_run_and_by_one_run_only() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger { directory: Some(directory.path().join("a/b")) };
        let mut entry = ledger.open("r:1", "web", "sha256:1").unwrap();
        assert_eq!(entry.location(), None);
        entry.remember("/v2/web/blobs/uploads/1?state=x").unwrap();
        entry.remember("/v2/web/blobs/uploads/2").unwrap();
        assert_eq!(ledger.open("r:1", "web", "sha256:1").unwrap().location(), None);
        drop(entry);
        let mut again = ledger.open("r:1", "web", "sha256:1").unwrap();
        assert_eq!(again.location(), Some("/v2/web/blobs/uploads/2"));
        assert_eq!(ledger.open("r:1", "web", "sha256:2").unwrap().location(), None);
        again.forget();
        drop(again);
        assert_eq!(fs::read_dir(directory.path().join("a/b")).unwrap().count(), 0);
    }

    #[test]
    fn without_a_home_nothing_is_remembered() {
        let mut entry = Ledger { directory: None }.open("r", "a", "d").unwrap();
        entry.remember("/x").unwrap();
        assert_eq!(entry.location(), Some("/x"));
    }
}
