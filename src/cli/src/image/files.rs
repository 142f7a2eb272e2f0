//! A directory or a tar archive as a set of named files, none of which is unpacked.
use super::{
    error::{ImageError, Result},
    graph::LARGEST_MANIFEST,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Extent {
    /// Reads it from `skip` bytes after its begin to its end.
    pub(super) fn open(&self, skip: u64) -> Result<impl Read + use<>> {
        let mut file = File::open(&self.path).map_err(ImageError::file("open", &self.path))?;
        file.seek(SeekFrom::Start(self.offset + skip)).map_err(ImageError::file("read", &self.path))?;
        Ok(file.take(self.size.saturating_sub(skip)))
    }
}

#[derive(Debug)]
pub(super) enum Files {
    Directory(PathBuf),
    Archive { path: PathBuf, entries: BTreeMap<String, Entry> },
}

#[derive(Debug)]
pub(super) enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// A link inside the archive, already resolved to a name.
    Link(String),
}

impl Files {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.into()));
        }
        let entries = read_archive(path)?;
        Ok(Self::Archive { path: path.into(), entries })
    }

    /// For people.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path.display().to_string(),
        }
    }

    /// Where a file is; none if there is no such file.
    pub(super) fn find(&self, name: &str) -> Option<Extent> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(plain(Path::new(name))?);
                let found = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some(Extent { path, offset: 0, size: found.len() })
            }
            Self::Archive { path, entries } => {
                let mut name = plain(Path::new(name))?;
                // Archives of old Dockers link layers to layers; a link to a link is still one step.
                for _ in 0..8 {
                    match entries.get(&name)? {
                        Entry::File { offset, size } => {
                            return Some(Extent { path: path.clone(), offset: *offset, size: *size });
                        }
                        Entry::Link(target) => name.clone_from(target),
                    }
                }
                None
            }
        }
    }

    /// Reads a small file; none if there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let Some(extent) = self.find(name) else { return Ok(None) };
        if extent.size > LARGEST_MANIFEST {
            let reason =
                format!("{name} has {} bytes; more than {LARGEST_MANIFEST} is no manifest", extent.size);
            return Err(ImageError::source(self.origin(), reason));
        }
        let mut content = Vec::new();
        extent.open(0)?.read_to_end(&mut content).map_err(ImageError::file("read", &extent.path))?;
        Ok(Some(content.into()))
    }
}

fn read_archive(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let mut file = File::open(path).map_err(ImageError::file("open", path))?;
    let mut magic = [0; 4];
    let count = file.read(&mut magic).map_err(ImageError::file("read", path))?;
    if let Some(program) = packed_by(magic.get(..count).unwrap_or_default()) {
        let reason = format!("is compressed; unpack it first with `{program} -d`");
        return Err(ImageError::source(path.display().to_string(), reason));
    }
    file.rewind().map_err(ImageError::file("read", path))?;
    let bad = |e: std::io::Error| {
        let reason = format!("is no tar archive, or it was cut short ({e})");
        ImageError::source(path.display().to_string(), reason)
    };
    let length = file.metadata().map_err(ImageError::file("look at", path))?.len();
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(BufReader::new(file));
    for entry in archive.entries_with_seek().map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let Some(name) = entry.path().ok().and_then(|path| plain(&path)) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(size) > length {
                return Err(bad(std::io::ErrorKind::UnexpectedEof.into()));
            }
            entries.insert(name, Entry::File { offset, size });
        } else if (kind.is_symlink() || kind.is_hard_link())
            && let Ok(Some(target)) = entry.link_name()
        {
            // A symbolic link starts in its own directory, a hard link at the top.
            let here = if kind.is_symlink() { Path::new(&name).parent() } else { None };
            if let Some(target) = plain(&here.unwrap_or(Path::new("")).join(target)) {
                entries.insert(name, Entry::Link(target));
            }
        }
    }
    if entries.is_empty() {
        return Err(ImageError::source(path.display().to_string(), "is no tar archive, or an empty one"));
    }
    Ok(entries)
}

fn packed_by(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd"),
        [0xfd, b'7', b'z', b'X'] => Some("xz"),
        _ => None,
    }
}

/// A name without `.` and `..`; none if it leads out of the archive.
fn plain(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        let plain = |text: &str| plain(Path::new(text));
        assert_eq!(plain("./a/../b/layer.tar").unwrap(), "b/layer.tar");
        assert_eq!((plain("../a"), plain("/etc/passwd"), plain("a/../../b")), (None, None, None));
    }

    #[test]
    fn an_archive_is_read_in_place_through_its_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "./one/layer.tar", &b"hello"[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
        builder.into_inner().unwrap();
        let files = Files::open(&path).unwrap();
        assert_eq!(files.read("one/layer.tar").unwrap().unwrap(), "hello");
        assert_eq!(files.find("two/layer.tar"), files.find("one/layer.tar"));
        let mut rest = String::new();
        files.find("two/layer.tar").unwrap().open(2).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "llo");
        assert_eq!(files.find("three"), None);
    }

    #[test]
    fn what_is_no_archive_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        for (content, told) in [
            (&b"\x1f\x8b\x08\x00rest"[..], "gzip -d"),
            (&b""[..], "no tar archive"),
            (&[7; 2000][..], "no tar archive"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Files::open(&path).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains("a.tar"), "{error}");
        }
    }
}
