//! Project quotas of ext4 and XFS: a directory, and all that is made in it, counts as one project with a limit.

use super::nfs::device_of;
use model::Bytes;
use nix::{errno::Errno, libc};
use std::{
    ffi::CString,
    fs,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write: u32,
    padding: [u8; 8],
}

/// FS_XFLAG_PROJINHERIT: what is made inside is of the same project.
const INHERIT: u32 = 0x0000_0200;
/// Q_SETQUOTA and PRJQUOTA of linux/quota.h.
const SET_QUOTA: i32 = 0x80_0008;
const PROJECT: i32 = 2;
/// Blocks of `dqb_bhardlimit` are of this many bytes.
const BLOCK: u64 = 1024;
/// Project numbers of others are usually small.
const FIRST: u32 = 1 << 24;

nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);

/// Limits what `directory` holds, as often as one likes.
pub(super) fn limit(directory: &Path, size: Bytes) -> Result<(), String> {
    let (device, kind) = device_of(directory).ok_or("the file system's device is not known")?;
    if !matches!(kind.as_str(), "ext4" | "xfs") {
        return Err(format!("{kind} has no project quota"));
    }
    let project = mark(directory).map_err(|e| format!("{kind} without the feature project ({e})"))?;
    set(&device, project, size).map_err(|e| match e {
        Errno::ESRCH | Errno::ENOSYS => format!("{kind} is mounted without prjquota"),
        other => format!("its project quota is refused ({other})"),
    })
}

/// Makes the directory a project of its own. The number is its inode's: nothing else on this file system has it.
fn mark(directory: &Path) -> Result<u32, Errno> {
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let file = fs::File::open(directory).map_err(errno)?;
    let inode = file.metadata().map_err(errno)?.ino();
    let project = FIRST | u32::try_from(inode & 0x00ff_ffff).unwrap_or(0);
    let mut now = Attributes::default();
    // SAFETY: the descriptor is open, and `now` is a whole `struct fsxattr` that the kernel fills.
    unsafe { get_attributes(file.as_raw_fd(), &raw mut now) }?;
    if now.project != project || now.flags & INHERIT == 0 {
        let next = Attributes { project, flags: now.flags | INHERIT, ..now };
        // SAFETY: the descriptor is open, and `next` is a whole `struct fsxattr` that the kernel reads.
        unsafe { set_attributes(file.as_raw_fd(), &raw const next) }?;
    }
    Ok(project)
}

fn set(device: &Path, project: u32, size: Bytes) -> Result<(), Errno> {
    let device = CString::new(device.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: zeroes are a valid `struct dqblk`: no limits.
    let mut block: libc::dqblk = unsafe { std::mem::zeroed() };
    block.dqb_bhardlimit = size.0.div_ceil(BLOCK);
    block.dqb_bsoftlimit = block.dqb_bhardlimit;
    block.dqb_valid = libc::QIF_BLIMITS;
    let number = i32::try_from(project).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `device` ends with a zero byte and `block` is a whole `struct dqblk`; both outlive the call.
    let answer = unsafe {
        libc::quotactl(libc::QCMD(SET_QUOTA, PROJECT), device.as_ptr(), number, (&raw mut block).cast())
    };
    Errno::result(answer).map(drop)
}
