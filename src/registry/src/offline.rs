//! What can be done with the images of a registry that is not running, and with passwords.

use crate::{
    auth::{PasswordError, password_line},
    store::{Findings, Keep, Limits, Store, StoreError, check},
};
use std::{
    io::{self, BufRead},
    path::Path,
    process::ExitCode,
};
use thiserror::Error;

/// It could not be done.
#[derive(Debug, Error)]
pub enum OfflineError {
    /// With the images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// With a password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No password came.
    #[error("no password on standard input; write one line")]
    Input(#[source] io::Error),
    /// A name that cannot stand in the file.
    #[error("{0:?} is no user name; it may not be empty and holds no colon")]
    User(String),
}

/// Checks the images; the exit code is 0 when nothing is wrong any more.
///
/// # Errors
/// They could not be checked.
pub fn fsck(root: &Path, repair: bool) -> Result<ExitCode, OfflineError> {
    let Findings { problems, repaired, notes, blobs, bytes, manifests, tags } = check(root, repair)?;
    for (kind, lines) in [("note", &notes), ("repaired", &repaired), ("problem", &problems)] {
        for line in lines {
            println!("{kind}: {line}");
        }
    }
    println!(
        "read {blobs} blobs of {bytes} bytes, {manifests} manifests, {tags} tags: {} problems",
        problems.len()
    );
    if !problems.is_empty() && !repair {
        println!("space-registry fsck --repair mends what can be mended");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Collects garbage.
///
/// # Errors
/// A file could not be read or removed.
pub fn gc(root: &Path, keep: Keep) -> Result<ExitCode, OfflineError> {
    let store = Store::open(root, Limits::default())?;
    let collected = store.collect(keep)?;
    store.close();
    println!(
        "removed {} manifests, {} blobs from repositories, {} files of {} bytes",
        collected.manifests, collected.links, collected.blobs, collected.bytes
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes a line for the htpasswd file.
///
/// # Errors
/// No password came, or it cannot be hashed.
pub fn passwd(user: &str) -> Result<ExitCode, OfflineError> {
    if user.is_empty() || user.contains([':', '\n', '#']) {
        return Err(OfflineError::User(user.into()));
    }
    let mut password = String::new();
    io::stdin().lock().read_line(&mut password).map_err(OfflineError::Input)?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(OfflineError::Input(io::ErrorKind::UnexpectedEof.into()));
    }
    println!("{}", password_line(user, password)?);
    Ok(ExitCode::SUCCESS)
}
