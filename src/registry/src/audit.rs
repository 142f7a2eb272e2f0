//! Who pushed and deleted what: one line of JSON each, in the log and, if asked for, in a file of its own.

use crate::config;
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    PushBlob,
    MountBlob,
    PushManifest,
    DeleteManifest,
    DeleteBlob,
    Collect,
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) act: Act,
    pub(crate) user: &'a str,
    /// Where the request came from.
    pub(crate) peer: String,
    pub(crate) repository: &'a str,
    /// Tag or digest.
    pub(crate) reference: String,
    pub(crate) digest: Option<String>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Trail {
    path: PathBuf,
    size: u64,
    file: Mutex<File>,
}

impl Trail {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn open(config: &config::Audit) -> io::Result<Self> {
        let file = Mutex::new(append(&config.file)?);
        Ok(Self { path: config.file.clone(), size: config.size.0, file })
    }

    /// Writes a line. One that cannot be written is in the log at least.
    pub(crate) fn write(&self, line: &Line<'_>) {
        if let Err(error) = self.try_write(line) {
            tracing::error!(file = %self.path.display(), %error, ?line, "the audit file cannot be written");
        }
    }

    fn try_write(&self, line: &Line<'_>) -> io::Result<()> {
        #[derive(Serialize)]
        struct Stamped<'a> {
            time: String,
            #[serde(flatten)]
            line: &'a Line<'a>,
        }
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut text = serde_json::to_vec(&Stamped { time, line }).map_err(io::Error::other)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text)?;
        if file.metadata()?.len() >= self.size {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            *file = append(&self.path)?;
        }
        Ok(())
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}
