//! The kernel without its decompressor: an emulator boots the ELF file inside a bzImage directly.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ImageError;

/// How a kernel's payload is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    fn of(payload: &[u8]) -> Option<Self> {
        match payload {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn tool(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Where the packed kernel lies in a bzImage (Linux x86 boot protocol 2.08 and later: `setup_sects`,
/// `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Result<(Range<usize>, Compression), &'static str> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: Range<usize> = 0x202..0x206;
    const OFFSET: usize = 0x248;
    const LENGTH: usize = 0x24c;
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.and_then(|bytes| usize::try_from(u32::from_le_bytes(bytes)).ok()).ok_or("it ends in its header")
    };
    if image.get(MAGIC) != Some(b"HdrS".as_slice()) {
        return Err("it has no boot protocol header");
    }
    // Zero stands for four, from the days of the floppy.
    let sectors = match *image.get(SETUP_SECTORS).ok_or("it ends in its header")? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(OFFSET)?;
    let end = start + word(LENGTH)?;
    let packed = image.get(start..end).ok_or("it is cut short")?;
    let compression = Compression::of(packed).ok_or("its compression is not gzip, xz or zstd")?;
    // The kernel's build appends the unpacked size to formats that do not carry it themselves.
    let end = if compression == Compression::Gzip { end } else { end.saturating_sub(4) };
    Ok((start..end, compression))
}

/// Unpacks the kernel in a bzImage to a file.
pub(super) fn unpack(image: &Path, vmlinux: &Path) -> Result<(), ImageError> {
    use std::io::Write as _;

    let content = std::fs::read(image).map_err(ImageError::file("reading", image))?;
    let wrong = |why| ImageError::Kernel { path: image.to_owned(), why };
    let (range, compression) = payload(&content).map_err(wrong)?;
    let tool = compression.tool();
    let output = File::create(vmlinux).map_err(ImageError::file("creating", vmlinux))?;
    let mut child = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .map_err(|source| ImageError::Tool { tool, source })?;
    let packed = content.get(range).unwrap_or_default();
    if let Some(mut input) = child.stdin.take() {
        // A tool that stops reading says why by its status.
        let _ = input.write_all(packed);
    }
    let status = child.wait().map_err(|source| ImageError::Tool { tool, source })?;
    if !status.success() {
        return Err(ImageError::Failed { tool, status, said: "the kernel does not unpack".to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(packed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        image.extend_from_slice(packed);
        image
    }

    #[test]
    fn the_payload_is_found_without_the_appended_size() {
        let image = bzimage(b"\xfd7zXZ\0packed\x01\x02\x03\x04");
        let (range, compression) = payload(&image).unwrap();
        assert_eq!(compression, Compression::Xz);
        assert_eq!(&image[range], b"\xfd7zXZ\0packed");
    }

    #[test]
    fn a_gzip_payload_is_taken_whole() {
        let image = bzimage(b"\x1f\x8bpacked");
        let (range, compression) = payload(&image).unwrap();
        assert_eq!(compression, Compression::Gzip);
        assert_eq!(&image[range], b"\x1f\x8bpacked");
    }

    #[test]
    fn what_is_no_kernel_is_told_apart() {
        assert_eq!(payload(b"MZ"), Err("it has no boot protocol header"));
        assert_eq!(payload(&bzimage(b"plain")), Err("its compression is not gzip, xz or zstd"));
        let mut short = bzimage(b"\x1f\x8bpacked");
        short.truncate(short.len() - 1);
        assert_eq!(payload(&short), Err("it is cut short"));
    }

    #[test]
    fn a_kernel_is_unpacked_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let packed = {
            let plain = folder.path().join("plain");
            std::fs::write(&plain, b"\x7fELF and so on").unwrap();
            Command::new("gzip").arg("-c").arg(&plain).output().unwrap().stdout
        };
        let image = folder.path().join("vmlinuz");
        std::fs::write(&image, bzimage(&packed)).unwrap();
        let vmlinux = folder.path().join("vmlinux");
        unpack(&image, &vmlinux).unwrap();
        assert_eq!(std::fs::read(&vmlinux).unwrap(), b"\x7fELF and so on");
    }
}
