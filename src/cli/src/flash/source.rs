//! The image: a plain file or a zstd stream, and the block map beside it.
use super::{
    bmap::Bmap,
    error::{FlashError, Result},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Behind a byte from 0x50 to 0x5f: a frame that is to be skipped, with which pzstd's streams begin.
const SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Compressed files of other kinds, and what unpacks them.
const FOREIGN: [(&[u8], &str); 6] = [
    (&[0x1f, 0x8b], "gzip"),
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X'], "xz"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf", "7z"),
];
/// What a RAUC bundle begins with.
const SQUASHFS: &[u8] = b"hsqs";
const DISCARD: usize = 1 << 20;

/// An image and its map.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) image: PathBuf,
    pub(super) bmap: Option<Bmap>,
    /// Unpacked, where that is certain.
    pub(super) size: Option<u64>,
    /// The same, or what a compressed image says of its first part.
    pub(super) least: Option<u64>,
    compressed: bool,
}

impl Source {
    /// Finds what belongs to `given`, which may be the image or its map.
    pub(super) fn find(given: &Path, bmap: Option<&Path>, no_bmap: bool) -> Result<Self> {
        let (image, beside) = pair(given)?;
        let map = match (bmap, no_bmap) {
            (_, true) => None,
            (Some(named), false) => Some(named.to_owned()),
            (None, false) => beside,
        };
        let bmap = map.as_deref().map(Bmap::load).transpose()?;
        let mut file = File::open(&image).map_err(FlashError::file("open", &image))?;
        let length = file.metadata().map_err(FlashError::file("look at", &image))?.len();
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(64).read_to_end(&mut head).map_err(FlashError::file("read", &image))?;
        if let Some((_, program)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(FlashError::Usage(format!(
                "{}: is compressed by {program}; unpack it first, or use .wic.zst",
                image.display()
            )));
        }
        if head.starts_with(SQUASHFS) {
            let reason = "is a bundle, not a disk's image; give it to `spacectl update`".into();
            return Err(FlashError::Image { image, reason });
        }
        let skipped = |head: &[u8]| matches!(head, [0x50..=0x5f, rest @ ..] if rest.starts_with(&SKIPPED));
        let compressed = head.starts_with(&ZSTD) || skipped(&head);
        if !compressed && image.extension().is_some_and(|extension| extension == "zst") {
            let reason = "does not begin as a zstd stream does; build or fetch it anew".into();
            return Err(FlashError::Image { image, reason });
        }
        let own = if compressed {
            zstd::zstd_safe::get_frame_content_size(&head).ok().flatten().filter(|_| !skipped(&head))
        } else {
            Some(length)
        };
        // A stream may have more than one frame: that it is too short is found when it ends.
        if let (Some(bmap), Some(own)) = (&bmap, own)
            && (bmap.image_size < own || bmap.image_size > own && !compressed)
        {
            let reason = format!("has {own} bytes, its block map says {}", bmap.image_size);
            return Err(FlashError::Image { image, reason });
        }
        if own == Some(0) {
            return Err(FlashError::Image { image, reason: "is empty".into() });
        }
        let mapped = bmap.as_ref().map(|bmap| bmap.image_size);
        let (size, least) = (mapped.or(own.filter(|_| !compressed)), mapped.or(own));
        Ok(Self { image, bmap, size, least, compressed })
    }

    pub(super) fn open(&self) -> Result<Content> {
        let file = File::open(&self.image).map_err(FlashError::file("open", &self.image))?;
        let reader = if self.compressed {
            let decoder = zstd::Decoder::new(file).map_err(FlashError::file("unpack", &self.image))?;
            Reader::Packed(Box::new(decoder))
        } else {
            Reader::Plain(file)
        };
        Ok(Content { image: self.image.clone(), reader, at: 0 })
    }
}

enum Reader {
    Plain(File),
    Packed(Box<zstd::Decoder<'static, BufReader<File>>>),
}

/// An image's unpacked bytes, read forwards.
pub(super) struct Content {
    image: PathBuf,
    reader: Reader,
    at: u64,
}

impl Content {
    /// Goes on to a byte that lies ahead.
    pub(super) fn skip_to(&mut self, offset: u64) -> Result<()> {
        if let Reader::Plain(file) = &mut self.reader {
            file.seek(SeekFrom::Start(offset)).map_err(FlashError::file("read", &self.image))?;
            self.at = offset;
            return Ok(());
        }
        let mut scrap = vec![0; DISCARD];
        while self.at < offset {
            let count = usize::try_from(offset - self.at).unwrap_or(DISCARD).min(DISCARD);
            let Some(part) = scrap.get_mut(..count) else { break };
            self.read_exact(part)?;
        }
        Ok(())
    }

    /// Reads so many bytes, which must be there.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.read(buffer)? {
            count if count == buffer.len() => Ok(()),
            _ => Err(FlashError::Image {
                image: self.image.clone(),
                reason: format!("ends after {} bytes", self.at),
            }),
        }
    }

    /// Fills a buffer as far as the image goes.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match &mut self.reader {
                Reader::Plain(file) => file.read(rest),
                Reader::Packed(decoder) => decoder.read(rest),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = format!("cannot be unpacked after {} bytes ({error})", self.at);
                    return Err(FlashError::Image { image: self.image.clone(), reason });
                }
            }
        }
        self.at = self.at.saturating_add(u64::try_from(filled).unwrap_or_default());
        Ok(filled)
    }
}

/// The image and the map that lies beside it.
fn pair(given: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let with = |path: &Path, suffix: &str| {
        let mut name: OsString = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if given.extension().is_some_and(|extension| extension == "bmap") {
        let bare = given.with_extension("");
        let image = [bare.clone(), with(&bare, ".zst")].into_iter().find(|path| path.is_file());
        let missing = || FlashError::Usage(format!("{}: there is no image beside it", given.display()));
        return Ok((image.ok_or_else(missing)?, Some(given.to_owned())));
    }
    let mut maps = vec![with(given, ".bmap")];
    if given.extension().is_some_and(|extension| extension == "zst") {
        maps.push(with(&given.with_extension(""), ".bmap"));
    }
    Ok((given.to_owned(), maps.into_iter().find(|path| path.is_file())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::bmap::tests::map_of;
    use std::fs;

    #[test]
    fn an_image_is_found_by_its_own_name_and_by_its_map() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let content = vec![7; 5000];
        fs::write(path("a.wic"), &content).unwrap();
        fs::write(path("a.wic.bmap"), map_of(&content, 4096)).unwrap();
        fs::write(path("b.wic.zst"), zstd::encode_all(&content[..], 3).unwrap()).unwrap();
        fs::write(path("b.wic.bmap"), map_of(&content, 4096)).unwrap();
        for (given, image) in [
            ("a.wic", "a.wic"),
            ("a.wic.bmap", "a.wic"),
            ("b.wic.zst", "b.wic.zst"),
            ("b.wic.bmap", "b.wic.zst"),
        ] {
            let source = Source::find(&path(given), None, false).unwrap();
            assert_eq!((source.image.clone(), source.size), (path(image), Some(5000)), "{given}");
            assert!(source.bmap.is_some());
            let mut read = content.clone();
            let mut opened = source.open().unwrap();
            opened.skip_to(4000).unwrap();
            assert_eq!(opened.read(&mut read).unwrap(), 1000);
        }
        assert!(Source::find(&path("a.wic"), None, true).unwrap().bmap.is_none());
    }

    #[test]
    fn what_is_no_image_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.wic"), [1; 100]).unwrap();
        fs::write(path("a.wic.bmap"), map_of(&[1; 200], 4096)).unwrap();
        fs::write(path("b.wic.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
        fs::write(path("empty.wic"), []).unwrap();
        fs::write(path("c.wic.bmap"), "").unwrap();
        for (given, told) in [
            ("a.wic", "has 100 bytes, its block map says 200"),
            ("b.wic.gz", "unpack it first"),
            ("empty.wic", "is empty"),
            ("c.wic.bmap", "no image beside it"),
            ("none.wic", "cannot open"),
        ] {
            let error = Source::find(&path(given), None, false).unwrap_err().to_string();
            assert!(error.contains(told), "{given}: {error}");
        }
        // Half a stream ends where it was cut.
        let mut packed = zstd::encode_all(&vec![5; 1 << 20][..], 3).unwrap();
        packed.truncate(packed.len() - 8);
        fs::write(path("d.wic.zst"), packed).unwrap();
        let mut opened = Source::find(&path("d.wic.zst"), None, false).unwrap().open().unwrap();
        let mut all = vec![0; 1 << 20];
        assert!(opened.read_exact(&mut all).is_err());
    }
}
