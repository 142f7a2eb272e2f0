//! The storage module's export, mounted by the kernel's NFSv4 client.

use crate::RuntimeError;
use nix::mount::{MntFlags, MsFlags, mount as mount_fs, umount2};
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::TcpStream;

/// The storage module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its address on the backplane.
    pub server: Ipv4Addr,
    /// What it exports, as an absolute path.
    pub export: String,
    /// How long anybody waits for it.
    pub limit: Duration,
}

/// The state of a connection that both ends have done with, in /proc/net/tcp.
const TIME_WAIT: &str = "06";
/// NFSv4 needs no other port.
const PORT: u16 = 2049;
/// It is there, or it is not: what a TCP handshake over the backplane may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

impl Storage {
    /// `SERVER:EXPORT`, as mounts are written.
    pub fn source(&self) -> String {
        format!("{}:{}", self.server, self.export)
    }

    /// Tenths of a second until a connection that is not answered is given up for a new one: the kernel waits for
    /// `timeo` and `retrans` more of it. The module's header says why hard and sync.
    fn options(&self) -> String {
        format!("vers=4.2,proto=tcp,sec=sys,hard,timeo=30,retrans=2,addr={}", self.server)
    }

    pub(super) async fn fault(&self) -> Option<String> {
        let told = |why: &str| Some(format!("storage module {}: {why}", self.server));
        match tokio::time::timeout(HANDSHAKE.min(self.limit), TcpStream::connect((self.server, PORT))).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => told(&error.to_string()),
            Err(_) => told("does not answer"),
        }
    }
}

/// Mounts it, unless it is mounted.
pub(super) fn mount(storage: &Storage, target: &Path) -> Result<(), RuntimeError> {
    if is_mounted(target) {
        return Ok(());
    }
    fs::create_dir_all(target).map_err(RuntimeError::io("create", target))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_SYNCHRONOUS | MsFlags::MS_NOATIME;
    let (source, options) = (storage.source(), storage.options());
    mount_fs(Some(source.as_str()), target, Some("nfs4"), flags, Some(options.as_str()))
        .map_err(|errno| RuntimeError::Storage { source_name: source.clone(), source: errno.into() })
}

/// Takes it away, if it is there. An instance that has a volume of it keeps that.
pub(super) fn unmount(target: &Path) -> Result<(), RuntimeError> {
    if !is_mounted(target) {
        return Ok(());
    }
    umount2(target, MntFlags::MNT_DETACH).map_err(|e| RuntimeError::io("unmount", target)(e.into()))
}

/// Takes it away for a fence: whatever is under way to the server is given up. May wait in the kernel.
pub(crate) fn abandon(target: &Path) -> Result<(), RuntimeError> {
    umount2(target, MntFlags::MNT_FORCE).map_err(|e| RuntimeError::io("abandon", target)(e.into()))
}

/// Whether anything is mounted there. It is read from the kernel's list: looking at the directory itself would wait
/// for a server that is away.
pub(crate) fn is_mounted(target: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    list.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == target))
}

/// Whether the module has a connection to the server's port, also one that is closed and has yet to send its last.
pub(crate) fn connected(server: Ipv4Addr) -> bool {
    // proc(5): the remote address is the third column, in the byte order of the machine.
    let remote = format!("{:08X}:{PORT:04X}", u32::from_ne_bytes(server.octets()));
    let list = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    list.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next() == Some(remote.as_str()) && columns.next() != Some(TIME_WAIT)
    })
}

/// The device of the file system that a directory is on, and its type.
pub(super) fn device_of(directory: &Path) -> Option<(PathBuf, String)> {
    let directory = fs::canonicalize(directory).ok()?;
    let list = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let at = PathBuf::from(left.split(' ').nth(4)?);
        let mut rest = right.split(' ');
        let kind = rest.next()?.to_owned();
        Some((at, PathBuf::from(rest.next()?), kind))
    };
    // Of mounts at one place the last one lies on top.
    let mounts: Vec<_> =
        list.lines().filter_map(parse).filter(|(at, ..)| directory.starts_with(at)).collect();
    let depth = mounts.iter().map(|(at, ..)| at.components().count()).max()?;
    let on_top = mounts.into_iter().rev().find(|(at, ..)| at.components().count() == depth)?;
    Some((on_top.1, on_top.2))
}
