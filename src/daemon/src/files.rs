//! Small files that must be whole and, some of them, secret.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, chown},
    path::Path,
};

/// Writes a file of `mode` beside its place, syncs it and renames it there. The directory is made if missing.
pub(crate) fn write_whole(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Gives a file to a user of the system, if there is such a user.
pub(crate) fn give_to(path: &Path, user: &str) -> io::Result<()> {
    match nix::unistd::User::from_name(user) {
        Ok(Some(user)) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        _ => Ok(()),
    }
}
