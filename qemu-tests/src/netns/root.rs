//! The root file system of a module that is a namespace: the twin's two layers under a writable one, as the twin's
//! own init stacks them, and the kernel's file systems as a container's engine wants them.

use super::cgroups::{self, Hierarchy};
use super::init::Charge;
use crate::SimError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Folders of the data disk, each bound to `/var/lib/NAME`.
const STATE: [&str; 4] = ["spacecloud", "space-registry", "containerd", "docker"];
/// Character devices: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn os<T>(verb: &'static str, path: &Path, outcome: nix::Result<T>) -> Result<T, SimError> {
    outcome.map_err(|errno| SimError::io(verb, path)(errno.into()))
}

fn make(path: &Path) -> Result<(), SimError> {
    fs::create_dir_all(path).map_err(SimError::io("create", path))
}

fn file_system(kind: &str, at: &Path, flags: MsFlags, options: &str) -> Result<(), SimError> {
    make(at)?;
    os("mount", at, mount(Some(kind), at, Some(kind), flags, Some(options)))
}

/// Stacks the root, in the caller's mount namespace, and moves into it.
pub(super) fn enter(charge: &Charge) -> Result<(), SimError> {
    let root = stack(charge)?;
    for name in STATE {
        let (disk, place) = (charge.place.join("data").join(name), root.join("var/lib").join(name));
        make(&disk)?;
        make(&place)?;
        os("mount", &place, mount(Some(&disk), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>))?;
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    file_system("proc", &root.join("proc"), safe, "")?;
    file_system("sysfs", &root.join("sys"), safe, "")?;
    file_system("tmpfs", &root.join("run"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    file_system("tmpfs", &root.join("tmp"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    devices(&root.join("dev"))?;
    cgroup_mounts(&root, &charge.hierarchies)?;
    pivot(&root)
}

fn stack(charge: &Charge) -> Result<PathBuf, SimError> {
    let (writable, root) = (charge.place.join("writable"), charge.place.join("root"));
    file_system("tmpfs", &writable, MsFlags::empty(), "size=50%,mode=755")?;
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    make(&upper)?;
    make(&work)?;
    make(&root)?;
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        charge.layers.programs.display(),
        charge.layers.base.display(),
        upper.display(),
        work.display()
    );
    file_system("overlay", &root, MsFlags::empty(), &options)?;
    Ok(root)
}

fn devices(dev: &Path) -> Result<(), SimError> {
    file_system("tmpfs", dev, MsFlags::MS_NOSUID, "mode=755")?;
    // A mask would take from the modes that are asked for.
    nix::sys::stat::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        let mode = Mode::from_bits_truncate(0o666);
        os("make", &path, mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor)))?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    file_system("devpts", &dev.join("pts"), quiet, "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    file_system("tmpfs", &dev.join("shm"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    file_system("mqueue", &dev.join("mqueue"), quiet, "")?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let path = dev.join(name);
        symlink(target, &path).map_err(SimError::io("link", path))?;
    }
    Ok(())
}

/// The module's own subtrees, under the names that the host's have: the caller is in a cgroup namespace of its own.
fn cgroup_mounts(root: &Path, hierarchies: &[Hierarchy]) -> Result<(), SimError> {
    let top = root.join("sys/fs/cgroup");
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let hybrid = hierarchies.iter().any(|hierarchy| hierarchy.controllers.is_some());
    if hybrid {
        file_system("tmpfs", &top, safe, "mode=755")?;
    }
    for hierarchy in hierarchies {
        match &hierarchy.controllers {
            Some(controllers) => {
                let name = hierarchy.path.file_name().map_or_else(|| PathBuf::from("unnamed"), PathBuf::from);
                let named = if controllers.starts_with("name=") { "none," } else { "" };
                file_system("cgroup", &top.join(name), safe, &format!("{named}{controllers}"))?;
            }
            None => {
                let at = if hybrid { top.join("unified") } else { top.clone() };
                file_system("cgroup2", &at, safe, "")?;
                // A cgroup that has children with controllers may have no process of its own.
                let own = at.join("init");
                make(&own)?;
                let procs = own.join("cgroup.procs");
                fs::write(&procs, "0").map_err(SimError::io("write", procs))?;
                cgroups::hand_down(&at);
            }
        }
    }
    Ok(())
}

fn pivot(root: &Path) -> Result<(), SimError> {
    os("enter", root, nix::unistd::chdir(root))?;
    os("make the root of", root, nix::unistd::pivot_root(".", "."))?;
    // The host's tree is stacked over ours now; what is open in it stays open.
    os("leave", Path::new("/"), umount2(".", MntFlags::MNT_DETACH))?;
    os("enter", Path::new("/"), nix::unistd::chdir("/"))
}
