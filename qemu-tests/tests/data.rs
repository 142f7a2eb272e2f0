//! The script that lays the data partition over the read-only root, run as it is, in a root of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// A root whose data partition is `DATA`: the host's programs, an image's files, the script; gone with the process.
const ROOT: &str = r#"
set -eu
cd "$1"
mkdir -p usr dev proc data etc/spacecloud var/lib/containerd var/lib/nfs
for name in bin sbin lib lib64; do [ ! -e "/$name" ] || ln -sfn "usr/$name" "$name"; done
mount --rbind /usr usr
mount --rbind /dev dev
mount --rbind /proc proc
mount --bind "$2" data
[ "$3" = writable ] || mount -o remount,bind,ro data
echo image >etc/spacecloud/spacecloud.toml
cp "$4" usr-local-script
# Twice: it is run at boot, and again without harm.
chroot . sh /usr-local-script
chroot . sh /usr-local-script
echo mission >etc/spacecloud/token
echo blob >var/lib/containerd/blob
cat etc/spacecloud/spacecloud.toml etc/spacecloud/token data/containerd/blob
ls var/lib
grep -c " $1/var/lib/" /proc/self/mounts
"#;

/// What such a root says, and its errors; then what is left on the data partition.
fn booted(data: &Path, partition: &str) -> (String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../meta-spacecloud/recipes-core/spacecloud-conf/files/spacecloud-data");
    let root = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    // Whoever is not root is root in a namespace of his own.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", ROOT, "sh"]);
    let output = unshare.arg(root.path()).arg(data).arg(partition).arg(script).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_a_module_writes_is_on_its_data_partition_and_there_again_after_a_boot() {
    let data = tempfile::tempdir().unwrap();
    let (said, errors) = booted(data.path(), "writable");
    // Each of the two folders that this image has is mounted once, also after the second run.
    assert_eq!((said.as_str(), errors.as_str()), ("image\nmission\nblob\ncontainerd\nnfs\n2\n", ""));
    let kept = |path: &str| fs::read_to_string(data.path().join(path)).unwrap();
    assert_eq!((kept("etc/upper/token").as_str(), kept("containerd/blob").as_str()), ("mission\n", "blob\n"));
    // A mission's own file lies over the image's of the same name.
    fs::write(data.path().join("etc/upper/spacecloud.toml"), "mine\n").unwrap();
    let (said, _) = booted(data.path(), "writable");
    assert!(said.starts_with("mine\nmission\n"), "{said}");
}

#[test]
fn without_a_data_partition_it_is_in_memory_and_said_so() {
    let data = tempfile::tempdir().unwrap();
    let (said, errors) = booted(data.path(), "read-only");
    assert_eq!(said, "image\nmission\nblob\ncontainerd\nnfs\n2\n");
    assert_eq!(errors, "/data cannot be written to: what is kept there is in memory\n");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
}
