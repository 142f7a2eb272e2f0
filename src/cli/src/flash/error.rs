use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a device was not flashed. Each prints as one line.
#[derive(Debug, Error)]
pub enum FlashError {
    /// The command line does not fit what was found; exit code 64.
    #[error("{0}")]
    Usage(String),
    /// A file on this side cannot be used.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The image cannot be unpacked, or ends early.
    #[error("{image}: {reason}; nothing that was written can be used, build or fetch it anew", image = .image.display())]
    Image {
        /// Its file.
        image: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The block map is broken.
    #[error("{file}: {reason}; build or fetch it anew, or use --no-bmap", file = .file.display())]
    Bmap {
        /// The block map's file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The image does not have the content that its block map promises.
    #[error("{image} is damaged: blocks {first} to {last} do not have the checksum that its block map says", image = .image.display())]
    Damaged {
        /// Its file.
        image: PathBuf,
        /// First block of the range.
        first: u64,
        /// Last block of the range.
        last: u64,
    },
    /// Flashing it would destroy what is in use.
    #[error("{target} is in use: {why}; unmount it, or use --force if you are sure")]
    InUse {
        /// The device.
        target: String,
        /// By what.
        why: String,
    },
    /// The image does not fit.
    #[error(
        "{target} has {have} bytes and the image needs {}; use a larger one",
        .need.map_or("more".to_owned(), |need| need.to_string())
    )]
    TooSmall {
        /// The device or file.
        target: String,
        /// Its size in bytes.
        have: u64,
        /// The image's size in bytes, if it was known before its end.
        need: Option<u64>,
    },
    /// The partition table would not be found on it.
    #[error(
        "{target} has sectors of {have} bytes, and the image's partition table counts in {made_for}: nothing would start from it; build the image for such a disk (docs/porting.md), take another one, or use --force if you are sure"
    )]
    Sectors {
        /// The device.
        target: String,
        /// Bytes of its sectors.
        have: u64,
        /// Bytes of the sectors that the image is made for.
        made_for: u64,
    },
    /// The target cannot be opened, or not as it must be.
    #[error("cannot {operation} {target}: {reason}")]
    Target {
        /// What was tried.
        operation: &'static str,
        /// The device, file or address.
        target: String,
        /// Why it failed.
        reason: String,
    },
    /// A network block device that cannot be reached; exit code 2.
    #[error("cannot reach {target}: {reason}; look at the address and whether it exports")]
    Unreachable {
        /// Its address.
        target: String,
        /// Why.
        reason: String,
    },
    /// The target was there and is not any more, or does not work any more; exit code 2.
    #[error(
        "{target} vanished while {doing}, after {done} of {total} bytes ({source}); it cannot be booted: put it back and flash it again"
    )]
    Vanished {
        /// The device, file or address.
        target: String,
        /// `it was written` or `it was read back`.
        doing: &'static str,
        /// What is certainly on it.
        done: u64,
        /// What should be.
        total: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Reading it back gave something else.
    #[error(
        "{target} does not hold what was written: bytes {first} to {last} differ; it is worn out or has less room than it says"
    )]
    Differs {
        /// The device, file or address.
        target: String,
        /// First byte of the range.
        first: u64,
        /// Last byte of the range.
        last: u64,
    },
    /// The disk is larger than the image, and the table's copy cannot be put where it belongs.
    #[error(
        "{target} is written, but the copy of its partition table cannot be put at its end: {source}; flash it again"
    )]
    Table {
        /// The device, file or address.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The identity cannot be put on it.
    #[error("{target} is written, but its slot cannot be set: {reason}")]
    Slot {
        /// The device, file or address.
        target: String,
        /// Why not.
        reason: String,
    },
}

impl FlashError {
    /// 1 refused, 2 not reached or lost, 64 usage.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Unreachable { .. } | Self::Vanished { .. } => 2,
            _ => 1,
        }
    }

    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

pub(super) type Result<T> = std::result::Result<T, FlashError>;
