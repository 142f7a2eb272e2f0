use super::*;
use std::fs;

fn key(created: u64) -> VolumeKey {
    VolumeKey { name: "data".parse().unwrap(), class: Class::Local, created }
}

#[test]
fn data_stays_until_it_is_erased_and_an_earlier_volume_s_is_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(dir.path().join("volumes"));
    let data = shelf.open(&key(1), (0, 0)).unwrap();
    fs::write(data.join("file"), vec![1; 100_000]).unwrap();
    assert!(shelf.used(&key(1)).unwrap().0 >= 100_000);
    assert_eq!(shelf.open(&key(1), (0, 0)).unwrap(), data);
    assert!(data.join("file").exists());
    // Erasing another volume of that name erases nothing of this one.
    shelf.erase(&key(7)).unwrap();
    assert!(data.join("file").exists());
    let new = shelf.open(&key(2), (0, 0)).unwrap();
    assert!(!new.join("file").exists());
    assert!(dir.path().join("volumes/.earlier-data-1/_data/file").exists());
    fs::write(new.join("file"), "x").unwrap();
    shelf.erase(&key(2)).unwrap();
    shelf.erase(&key(2)).unwrap();
    assert!(!dir.path().join("volumes/data").exists());
}

#[test]
fn what_is_no_volume_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(dir.path().to_owned());
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/precious"), "x").unwrap();
    let error = shelf.open(&key(1), (0, 0)).unwrap_err().to_string();
    assert!(error.contains("volume.json"), "{error}");
    assert!(shelf.erase(&key(1)).is_err());
    assert!(dir.path().join("data/precious").exists());
}

#[test]
fn hard_links_count_once_and_symbolic_links_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(dir.path().join("volumes"));
    let data = shelf.open(&key(1), (0, 0)).unwrap();
    fs::write(data.join("a"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(data.join("a"), data.join("b")).unwrap();
    std::os::unix::fs::symlink("/usr", data.join("c")).unwrap();
    let used = shelf.used(&key(1)).unwrap().0;
    assert!((1 << 20..2 << 20).contains(&used), "{used}");
}

#[tokio::test]
async fn without_a_storage_module_a_chassis_volume_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path(), dir.path(), None);
    let chassis = VolumeKey { class: Class::Chassis, ..key(1) };
    let error = volumes.erase(&chassis).await.unwrap_err().to_string();
    assert!(error.contains("[storage]"), "{error}");
}

/// A real ext4 with project quotas, on a loop device of its own.
/// Where the kernel has them (CONFIG_QFMT_V2, as kernel-config asks): many a build host's has not.
#[test]
fn the_file_system_holds_a_volume_to_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Ext4::mount(dir.path(), "-Oquota,project", "prjquota") else { return };
    let shelf = Shelf::new(disk.at.join("volumes"));
    let data = shelf.open(&key(1), (0, 0)).unwrap();
    shelf.limit(&key(1), Bytes(4 << 20)).unwrap();
    // Root goes beyond every limit; an instance, which has not this capability, does not.
    let write = || {
        let file = format!("of={}", data.join("file").display());
        let dd = ["--bounding-set=-sys_resource", "dd", "if=/dev/zero", &file, "bs=1M", "count=8"];
        std::process::Command::new("setpriv").args(dd).output().unwrap()
    };
    let full = write();
    assert!(String::from_utf8_lossy(&full.stderr).contains("quota exceeded"), "{full:?}");
    assert!(shelf.used(&key(1)).unwrap().0 <= 4 << 20);
    shelf.limit(&key(1), Bytes(16 << 20)).unwrap();
    assert!(write().status.success());
}

#[test]
fn without_project_quota_the_reason_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Ext4::mount(dir.path(), "-O^project", "noatime") else { return };
    let shelf = Shelf::new(disk.at.join("volumes"));
    shelf.open(&key(1), (0, 0)).unwrap();
    let why = shelf.limit(&key(1), Bytes(4 << 20)).unwrap_err();
    assert!(why.contains("ext4"), "{why}");
}

struct Ext4 {
    at: PathBuf,
}

impl Ext4 {
    /// Nothing, and words on what is not tested, where this host cannot mount it.
    fn mount(dir: &Path, features: &str, options: &str) -> Option<Self> {
        let (file, at) = (dir.join("disk"), dir.join("mounted"));
        fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let done = std::process::Command::new(program).args(args).output().unwrap();
            done.status.success().then_some(()).ok_or(String::from_utf8_lossy(&done.stderr).trim().to_owned())
        };
        run("mkfs.ext4", &["-q".as_ref(), features.as_ref(), file.as_ref()]).unwrap();
        let options = format!("loop,{options}");
        if let Err(why) = run("mount", &["-o".as_ref(), options.as_ref(), file.as_ref(), at.as_ref()]) {
            eprintln!("NOT RUN: a file system with the options {options} cannot be mounted here: {why}");
            return None;
        }
        Some(Self { at })
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

use nix::mount::{MntFlags, umount2};
