//! Where the image goes: a disk, a plain file, or a disk at the other end of a socket.
use super::{
    disks,
    error::{FlashError, Result},
    nbd,
};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

nix::ioctl_none!(
    /// Drops what the kernel remembers of a disk, so that reading reads the disk.
    flush_buffers,
    0x12,
    97
);

nix::ioctl_none!(
    /// Reads a disk's partition table again.
    read_partitions,
    0x12,
    95
);

nix::ioctl_read_bad!(
    /// How many bytes a disk's sectors have, by which its partition table counts.
    sector_size,
    nix::request_code_none!(0x12, 104),
    nix::libc::c_int
);

/// Something that can be written at any byte.
pub(super) struct Target {
    name: String,
    size: u64,
    medium: Medium,
}

enum Medium {
    /// New or grown: what is not written reads as zeros.
    Fresh(File),
    File(File),
    Disk(File),
    Nbd(Box<nbd::Export>),
}

impl Target {
    /// Opens a target for an image of `need` bytes, or of `least` bytes and more (if that is known), unless it is in use or
    /// too small.
    pub(super) fn open(name: &str, need: Option<u64>, least: Option<u64>, force: bool) -> Result<Self> {
        let target = if let Some(address) = name.strip_prefix("nbd://") {
            Self::open_nbd(name, address)?
        } else if let Some(address) = name.strip_prefix("nbd+unix://") {
            Self::open_nbd_unix(name, address)?
        } else {
            Self::open_path(name, need, force)?
        };
        match least {
            Some(need) if target.size < need && !force => {
                Err(FlashError::TooSmall { target: name.into(), have: target.size, need: Some(need) })
            }
            _ => Ok(target),
        }
    }

    /// `HOST[:PORT]/EXPORT`
    fn open_nbd(name: &str, address: &str) -> Result<Self> {
        let (host, export) = address.split_once('/').unwrap_or((address, ""));
        if host.is_empty() {
            return Err(FlashError::Usage(format!("{name}: write nbd://HOST[:PORT]/EXPORT")));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
            port.parse::<u16>().is_ok() && (!before.contains(':') || before.ends_with(']'))
        });
        let host = if has_port { host.to_owned() } else { format!("{host}:{}", nbd::PORT) };
        Self::of_export(name, nbd::Export::connect(&host, export))
    }

    /// `/EXPORT?socket=PATH`
    fn open_nbd_unix(name: &str, address: &str) -> Result<Self> {
        let parts = address.strip_prefix('/').and_then(|rest| rest.split_once("?socket="));
        let (export, path) = parts
            .ok_or_else(|| FlashError::Usage(format!("{name}: write nbd+unix:///EXPORT?socket=PATH")))?;
        Self::of_export(name, nbd::Export::connect_unix(path, export))
    }

    fn of_export(name: &str, opened: io::Result<nbd::Export>) -> Result<Self> {
        let export = opened
            .map_err(|error| FlashError::Unreachable { target: name.into(), reason: error.to_string() })?;
        if export.is_read_only() {
            return Err(refused("write to", name, "it is exported for reading only"));
        }
        Ok(Self { name: name.into(), size: export.size(), medium: Medium::Nbd(Box::new(export)) })
    }

    fn open_path(name: &str, need: Option<u64>, force: bool) -> Result<Self> {
        let path = Path::new(name);
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Self::open_disk(name, force),
            Ok(found) if found.is_file() => Self::open_file(name, found.len(), need, force),
            Ok(_) => Err(refused("write to", name, "it is neither a disk nor a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !name.starts_with("/dev/") => {
                Self::open_file(name, 0, need, true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(refused(
                "open",
                name,
                "there is no such device; `spacectl flash --list` shows those there are",
            )),
            Err(error) => Err(refused("look at", name, &error.to_string())),
        }
    }

    fn open_file(name: &str, have: u64, need: Option<u64>, grow: bool) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(name);
        let file = file.map_err(|error| refused("open", name, &error.to_string()))?;
        // A file that somebody made so large stands for a disk of that size.
        let grown = need.filter(|need| (have == 0 || grow) && have < *need);
        if let Some(size) = grown {
            file.set_len(size).map_err(|error| refused("make", name, &error.to_string()))?;
        }
        let size = match (have, need) {
            (0, None) => u64::MAX,
            _ => grown.unwrap_or(have),
        };
        let medium = if have == 0 { Medium::Fresh(file) } else { Medium::File(file) };
        Ok(Self { name: name.into(), size, medium })
    }

    fn open_disk(name: &str, force: bool) -> Result<Self> {
        if !force && let Some(why) = disks::in_use(Path::new(name)) {
            return Err(FlashError::InUse { target: name.into(), why });
        }
        // The kernel itself refuses a disk that somebody holds.
        let flags = if force { 0 } else { nix::libc::O_EXCL };
        let file = File::options().read(true).write(true).custom_flags(flags).open(name).map_err(
            |error| match error.raw_os_error() {
                Some(nix::libc::EBUSY) => {
                    FlashError::InUse { target: name.into(), why: "the system holds it".into() }
                }
                _ => refused("open", name, &error.to_string()),
            },
        )?;
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0));
        let size = size.map_err(|error| refused("look at", name, &error.to_string()))?;
        Ok(Self { name: name.into(), size, medium: Medium::Disk(file) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of a sector, where the target itself has them.
    pub(super) fn sector(&self) -> Option<u64> {
        let Medium::Disk(file) = &self.medium else { return None };
        let mut size = 0;
        // SAFETY: BLKSSZGET writes one int, and the descriptor is open as long as `file` is.
        unsafe { sector_size(file.as_raw_fd(), &raw mut size) }.ok()?;
        u64::try_from(size).ok()
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &mut self.medium {
            Medium::Fresh(file) | Medium::File(file) | Medium::Disk(file) => file.write_all_at(bytes, offset),
            Medium::Nbd(export) => export.write_at(bytes, offset),
        }
    }

    pub(super) fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match &mut self.medium {
            Medium::Fresh(file) | Medium::File(file) | Medium::Disk(file) => {
                file.read_exact_at(bytes, offset)
            }
            Medium::Nbd(export) => export.read_at(bytes, offset),
        }
    }

    /// Makes bytes zero in the cheapest way that the target has.
    pub(super) fn zero_at(&mut self, zeros: &[u8], offset: u64) -> io::Result<()> {
        let length = u64::try_from(zeros.len()).unwrap_or(u64::MAX);
        let cheap = match &mut self.medium {
            Medium::Fresh(_) => true,
            Medium::File(file) | Medium::Disk(file) => zero_range(file, offset, length),
            Medium::Nbd(export) => export.zero_at(length, offset)?,
        };
        if cheap { Ok(()) } else { self.write_at(zeros, offset) }
    }

    /// A new file whose size nobody knew before ends here, with what was left out as a hole.
    pub(super) fn end_at(&mut self, size: u64) -> io::Result<()> {
        if let (Medium::Fresh(file), u64::MAX) = (&self.medium, self.size) {
            file.set_len(size)?;
            self.size = size;
        }
        Ok(())
    }

    /// When this returns, what was written is on the medium.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &mut self.medium {
            Medium::Fresh(file) | Medium::File(file) | Medium::Disk(file) => file.sync_data(),
            Medium::Nbd(export) => export.flush(),
        }
    }

    /// Lets the system see what is on a disk now.
    pub(super) fn announce(&self) {
        if let Medium::Disk(file) = &self.medium {
            // SAFETY: BLKRRPART takes no argument, and the descriptor is open as long as `file` is.
            let _ = unsafe { read_partitions(file.as_raw_fd()) };
        }
    }

    /// Lets the next reads come from the medium, not from memory.
    pub(super) fn forget(&mut self) {
        match &self.medium {
            Medium::Fresh(file) | Medium::File(file) => {
                let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            }
            Medium::Disk(file) => {
                // SAFETY: BLKFLSBUF takes no argument, and the descriptor is open as long as `file` is.
                let _ = unsafe { flush_buffers(file.as_raw_fd()) };
                let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            }
            Medium::Nbd(_) => {}
        }
    }
}

fn zero_range(file: &File, offset: u64, length: u64) -> bool {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return false };
    let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset, length).is_ok()
}

fn refused(operation: &'static str, target: &str, reason: &str) -> FlashError {
    FlashError::Target { operation, target: target.into(), reason: reason.into() }
}
