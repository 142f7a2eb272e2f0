//! What makes one module differ from another: a tar that is laid over its root at each boot.

use crate::SimError;
use std::io;
use std::path::{Path, PathBuf};

/// The files that a module finds on its identity disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provision {
    files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: String,
    mode: u32,
    owner: Owner,
    bytes: Vec<u8>,
}

/// Whom a file belongs to on the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// By number.
    pub uid: u32,
    /// By number.
    pub gid: u32,
    /// By name, which the module looks up and prefers; for users whose numbers its image has chosen.
    pub name: Option<String>,
}

impl Owner {
    /// The superuser.
    pub fn root() -> Self {
        Self::default()
    }

    /// A user and the group of the same name, as the module knows them.
    pub fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }

    /// A user and a group by number.
    pub fn numbered(uid: u32, gid: u32) -> Self {
        Self { uid, gid, name: None }
    }
}

impl Provision {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of root's. A leading `/` in `path` is allowed; folders come into being on the way.
    pub fn file(self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.file_of(path, mode, Owner::root(), bytes)
    }

    /// Adds a file of somebody's. A path that was added before is replaced.
    pub fn file_of(mut self, path: &str, mode: u32, owner: Owner, bytes: impl Into<Vec<u8>>) -> Self {
        let path = path.trim_start_matches('/').to_owned();
        self.files.retain(|entry| entry.path != path);
        self.files.push(Entry { path, mode, owner, bytes: bytes.into() });
        self
    }

    /// The tar, as the disk holds it: a multiple of 512 bytes by its nature.
    pub fn tar(&self) -> io::Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(entry.bytes.len() as u64);
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.uid.into());
            header.set_gid(entry.owner.gid.into());
            if let Some(name) = &entry.owner.name {
                header.set_username(name)?;
                header.set_groupname(name)?;
            }
            builder.append_data(&mut header, PathBuf::from(&entry.path), entry.bytes.as_slice())?;
        }
        builder.into_inner()
    }

    /// Writes the tar to where QEMU reads it: readable by its owner only, for it may hold keys.
    pub(crate) fn write(&self, disk: &Path) -> Result<(), SimError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let tar = self.tar().map_err(SimError::io("make the tar for", disk))?;
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(disk);
        file.and_then(|mut file| file.write_all(&tar)).map_err(SimError::io("write", disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_tar_brings_each_file_with_mode_owner_and_content() {
        let provision = Provision::new()
            .file("/etc/spacecloud/a.toml", 0o644, "slot = 1\n")
            .file_of("/etc/spacecloud/key", 0o600, Owner::named("spacecloud"), b"old".as_slice())
            .file_of("/etc/spacecloud/key", 0o600, Owner::named("spacecloud"), b"key".as_slice())
            .file_of("/srv/n", 0o400, Owner::numbered(7, 8), vec![0; 1000]);
        let bytes = provision.tar().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let (mut content, header) = (Vec::new(), entry.header().clone());
                entry.read_to_end(&mut content).unwrap();
                let user = header.username().unwrap().unwrap_or_default().to_owned();
                let owner = (header.uid().unwrap(), header.gid().unwrap(), user);
                (entry.path().unwrap().display().to_string(), header.mode().unwrap(), owner, content)
            })
            .collect();
        assert_eq!(found.len(), 3);
        assert_eq!(
            found[0],
            ("etc/spacecloud/a.toml".into(), 0o644, (0, 0, String::new()), b"slot = 1\n".to_vec())
        );
        assert_eq!(
            found[1],
            ("etc/spacecloud/key".into(), 0o600, (0, 0, "spacecloud".into()), b"key".to_vec())
        );
        assert_eq!(found[2], ("srv/n".into(), 0o400, (7, 8, String::new()), vec![0; 1000]));
    }

    #[test]
    fn a_long_path_survives_and_the_disk_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("1.identity");
        let long = format!("etc/{}/file", "d".repeat(150));
        Provision::new().file(&long, 0o644, "x").write(&disk).unwrap();
        assert_eq!(std::fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o600);
        let mut archive = tar::Archive::new(std::fs::File::open(&disk).unwrap());
        assert_eq!(
            archive.entries().unwrap().next().unwrap().unwrap().path().unwrap().to_str(),
            Some(long.as_str())
        );
    }
}
