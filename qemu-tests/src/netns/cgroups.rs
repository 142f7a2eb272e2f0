//! A cgroup subtree for each module, in every hierarchy that the host has: v2 alone, or v1 with v2 beside it.
//!
//! Trees are named after the process that owns them, so that what a crash has left is known: its owner is dead.

use crate::{SimError, Times, wait_until, within};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const PREFIX: &str = "spacesim-";
/// Flags of a mount that are not the name of a controller.
const FLAGS: [&str; 8] = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr"];
/// What runc asks of a v2 tree.
const WANTED: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Where the host has it.
    pub(crate) path: PathBuf,
    /// v1: its controllers or its name, as mount(2) wants them. v2: nothing.
    pub(crate) controllers: Option<String>,
}

/// All subtrees of one chassis.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

impl Cgroups {
    /// Finds the host's hierarchies and removes what chassis have left whose process is gone.
    pub(crate) fn open() -> Result<Self, SimError> {
        let hierarchies = mounted()?;
        sweep(&hierarchies);
        let pid = std::process::id();
        // More than one chassis of a process, as tests have them, get one tree each.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{PREFIX}{pid}-{}-{number}", born(pid).unwrap_or(0));
        Ok(Self { hierarchies, name })
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// As [`seen_by_modules`].
    pub(crate) fn seen_by_modules(&self) -> &'static str {
        seen(&self.hierarchies)
    }

    fn branch(&self, hierarchy: &Hierarchy, slot: u16) -> PathBuf {
        hierarchy.path.join(&self.name).join(format!("module-{slot}"))
    }

    /// Makes a module's subtree and puts the process `pid` into it.
    pub(crate) fn take_in(&self, slot: u16, pid: i32) -> Result<(), SimError> {
        for hierarchy in &self.hierarchies {
            let branch = self.branch(hierarchy, slot);
            fs::create_dir_all(&branch).map_err(SimError::io("create", &branch))?;
            let way = [hierarchy.path.join(&self.name), branch.clone()];
            if hierarchy.controllers.as_deref().is_some_and(|names| names.split(',').any(|n| n == "cpuset")) {
                // A new v1 cpuset is empty, and takes no process in.
                inherit_cpuset(&hierarchy.path, &way)?;
            } else if hierarchy.controllers.is_none() {
                for parent in [&hierarchy.path, &hierarchy.path.join(&self.name)] {
                    hand_down(parent);
                }
            }
            weigh(&hierarchy.path.join(&self.name));
            let procs = branch.join("cgroup.procs");
            fs::write(&procs, pid.to_string()).map_err(SimError::io("write", procs))?;
        }
        Ok(())
    }

    /// Halts or thaws all that a module runs.
    pub(crate) fn freeze(&self, slot: u16, frozen: bool) -> Result<(), SimError> {
        let Some(unified) = self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_none()) else {
            return Ok(());
        };
        let file = self.branch(unified, slot).join("cgroup.freeze");
        fs::write(&file, if frozen { "1" } else { "0" }).map_err(SimError::io("write", file))
    }

    /// Removes a module's subtree, once its processes are gone.
    pub(crate) fn remove(&self, slot: u16) {
        for hierarchy in &self.hierarchies {
            let branch = self.branch(hierarchy, slot);
            // Processes that were killed leave their cgroup when they are reaped, a moment later.
            let _ = wait_until("the cgroups are empty", within(5.s()), || remove_tree(&branch));
            // The last module takes the tree along.
            let _ = fs::remove_dir(hierarchy.path.join(&self.name));
        }
    }
}

/// The host's hierarchies; one of them is v2, or fencing could not work.
fn mounted() -> Result<Vec<Hierarchy>, SimError> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(SimError::io("read", "/proc/self/mounts"))?;
    let hierarchies = parse(&mounts);
    if hierarchies.iter().any(|hierarchy| hierarchy.controllers.is_none()) {
        return Ok(hierarchies);
    }
    let reason = "this host mounts no cgroup v2; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified";
    Err(SimError::Refused { reason: reason.to_owned() })
}

/// Where modules find cgroup v2: alone, or beside v1.
pub(crate) fn seen_by_modules() -> Result<&'static str, SimError> {
    mounted().map(|hierarchies| seen(&hierarchies))
}

fn seen(hierarchies: &[Hierarchy]) -> &'static str {
    let hybrid = hierarchies.iter().any(|hierarchy| hierarchy.controllers.is_some());
    if hybrid { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" }
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let controllers = match kind {
            "cgroup" => {
                let names: Vec<&str> = options
                    .split(',')
                    .filter(|o| {
                        !FLAGS.contains(o) && !o.starts_with("release_agent=") && *o != "clone_children"
                    })
                    .collect();
                Some(names.join(","))
            }
            "cgroup2" => None,
            _ => continue,
        };
        // The same hierarchy may be mounted twice.
        if !found.iter().any(|known| known.controllers == controllers) {
            found.push(Hierarchy { path: path.into(), controllers });
        }
    }
    found
}

fn inherit_cpuset(root: &Path, way: &[PathBuf]) -> Result<(), SimError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = root.join(file);
        let value = fs::read_to_string(&all).map_err(SimError::io("read", all))?;
        for branch in way {
            let path = branch.join(file);
            fs::write(&path, value.trim()).map_err(SimError::io("write", path))?;
        }
    }
    Ok(())
}

/// A tree weighs as much as one process beside it unless it is told otherwise: a host that is busy elsewhere would
/// starve a whole chassis.
fn weigh(tree: &Path) {
    for (file, most) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
        let file = tree.join(file);
        if file.exists()
            && let Err(error) = fs::write(&file, most)
        {
            tracing::debug!(file = %file.display(), %error, "the chassis gets no larger share of the processors");
        }
    }
}

/// Lets the children of a v2 cgroup have what controllers it has itself.
pub(super) fn hand_down(parent: &Path) {
    let there = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in there.split_whitespace().filter(|name| WANTED.contains(name)) {
        if let Err(error) = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(controller, parent = %parent.display(), %error, "controller is not handed down");
        }
    }
}

/// Answers whether nothing of it is left.
fn remove_tree(top: &Path) -> bool {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(top).is_ok() || !top.exists()
}

fn sweep(hierarchies: &[Hierarchy]) {
    for hierarchy in hierarchies {
        for entry in fs::read_dir(&hierarchy.path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut words = name.strip_prefix(PREFIX).unwrap_or_default().split('-').map(str::parse::<u64>);
            let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else { continue };
            if u32::try_from(pid).ok().and_then(born) != Some(start) {
                let gone = remove_tree(&entry.path());
                tracing::info!(tree = %entry.path().display(), gone, "cgroups of a chassis that is no more");
            }
        }
    }
}

/// When a process began, in ticks since boot (proc(5), stat, field 22), if it lives.
fn born(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_with_what_mount_wants() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
            cgroup2 /elsewhere cgroup2 rw 0 0\n";
        let controllers: Vec<_> = parse(mounts).into_iter().map(|h| h.controllers).collect();
        assert_eq!(controllers, [Some("cpu,cpuacct".into()), Some("name=systemd".into()), None]);
    }

    #[test]
    fn a_process_is_known_by_its_birth() {
        assert!(born(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(born(u32::MAX), None);
    }

    #[test]
    fn trees_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!("{PREFIX}{}-{}-1", std::process::id(), born(std::process::id()).unwrap());
        for name in [own.as_str(), "spacesim-4294967295-7-1", "another"] {
            fs::create_dir_all(dir.path().join(name).join("module-1/spacecloud/stop")).unwrap();
        }
        sweep(&[Hierarchy { path: dir.path().into(), controllers: None }]);
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["another", own.as_str()]);
    }
}
