//! The disks of this machine, and what they are used for; read from sysfs and procfs.
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const SECTOR: u64 = 512;
/// Not what one boots a module from.
const OTHERS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
/// Where a system runs from.
const SYSTEM: [&str; 6] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var"];

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Disk {
    /// Its path in /dev.
    pub(super) device: String,
    /// In bytes.
    pub(super) size: u64,
    pub(super) model: String,
    /// `usb`, `mmc`, `nvme`, `virtio`, `sata` or nothing that is known.
    pub(super) transport: &'static str,
    pub(super) removable: bool,
    /// Why not to flash it; none if nothing speaks against it.
    pub(super) in_use: Option<String>,
}

impl Disk {
    /// Whether it is of the kind that one plugs in to flash it.
    pub(super) fn is_target(&self) -> bool {
        (self.removable || matches!(self.transport, "usb" | "mmc")) && self.in_use.is_none() && self.size > 0
    }
}

/// Where the kernel tells of itself.
struct Kernel {
    sys: PathBuf,
    proc: PathBuf,
}

impl Kernel {
    fn here() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }

    fn read(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    fn disks(&self) -> Vec<Disk> {
        let mut names = children(&self.sys.join("block"));
        names.retain(|name| !OTHERS.iter().any(|other| name.starts_with(other)));
        // An eMMC's boot areas are no place for an image.
        names.retain(|name| !(name.starts_with("mmcblk") && name.contains("boot")));
        let disk = |name: &String| {
            let path = self.sys.join("block").join(name);
            let sectors: u64 = self.read(&path.join("size")).parse().unwrap_or(0);
            let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            let words = [self.read(&path.join("device/vendor")), self.read(&path.join("device/model"))];
            let model = words.join(" ").trim().to_owned();
            Disk {
                device: format!("/dev/{name}"),
                size: sectors.saturating_mul(SECTOR),
                model: if model.is_empty() { self.read(&path.join("device/name")) } else { model },
                transport: transport(name, &real.to_string_lossy()),
                removable: self.read(&path.join("removable")) == "1",
                in_use: self.use_of(name),
            }
        };
        names.iter().map(disk).collect()
    }

    /// What a disk or partition is used for, also through its partitions and what stands on them.
    fn use_of(&self, name: &str) -> Option<String> {
        let mut names = BTreeSet::new();
        self.family(name, &mut names);
        let swaps = self.read(&self.proc.join("swaps"));
        let mounts = self.read(&self.proc.join("self/mountinfo"));
        let mut mounted = Vec::new();
        for member in &names {
            let device = format!("/dev/{member}");
            if swaps.lines().any(|line| line.split_whitespace().next() == Some(&device)) {
                return Some(format!("{device} is swap of this system"));
            }
            let number = self.read(&self.sys.join("class/block").join(member).join("dev"));
            let on_it = mounts
                .lines()
                .filter_map(mount)
                .filter(|(dev, _, source)| (!number.is_empty() && *dev == number) || *source == device);
            mounted.extend(on_it.map(|(_, point, _)| (device.clone(), point.replace("\\040", " "))));
        }
        if let Some((device, point)) = mounted.iter().find(|(_, point)| SYSTEM.contains(&point.as_str())) {
            return Some(format!("this system runs from it ({device} is {point})"));
        }
        mounted.first().map(|(device, point)| format!("{device} is mounted at {point}"))
    }

    /// The same of a device's number: a node may have any name.
    fn use_of_number(&self, number: u64) -> Option<String> {
        self.look_at(number).unwrap_or_else(|error| Some(unseen(&error)))
    }

    fn look_at(&self, number: u64) -> io::Result<Option<String>> {
        let within = |path: PathBuf| move |error| io::Error::other(format!("{}: {error}", path.display()));
        let mounts = self.proc.join("self/mountinfo");
        fs::metadata(&mounts).map_err(within(mounts))?;
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let link = self.sys.join(format!("dev/block/{major}:{minor}"));
        let path = fs::canonicalize(&link).map_err(within(link))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let partition = path.join("partition").exists();
        let partition = partition.then(|| "it is a partition, and an image is a whole disk's".to_owned());
        Ok(self.use_of(&name).or(partition))
    }

    fn family(&self, name: &str, names: &mut BTreeSet<String>) {
        if !names.insert(name.to_owned()) {
            return;
        }
        let path = self.sys.join("class/block").join(name);
        let partitions =
            children(&path).into_iter().filter(|child| path.join(child).join("partition").exists());
        let holders = children(&path.join("holders"));
        partitions.chain(holders).for_each(|next| self.family(&next, names));
    }
}

/// All disks, in the order of their names.
pub(super) fn list() -> Vec<Disk> {
    Kernel::here().disks()
}

/// What a device, by any of its names, is used for. What cannot be seen counts as used.
pub(super) fn in_use(device: &Path) -> Option<String> {
    match fs::metadata(device) {
        Ok(found) => Kernel::here().use_of_number(found.rdev()),
        Err(error) => Some(unseen(&error)),
    }
}

fn unseen(error: &io::Error) -> String {
    format!("what it is used for cannot be seen ({error})")
}

/// (device number, mount point, source) of a line of mountinfo (proc(5)).
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let number = fields.next()?;
    let point = fields.nth(1)?;
    Some((number, point, after.split(' ').nth(1)?))
}

fn transport(name: &str, real: &str) -> &'static str {
    let known =
        [("/usb", "usb"), ("/mmc", "mmc"), ("/nvme", "nvme"), ("/virtio", "virtio"), ("/ata", "sata")];
    let found = known.iter().find(|(part, _)| real.contains(part)).map(|(_, transport)| *transport);
    found.unwrap_or(if name.starts_with("mmcblk") { "mmc" } else { "" })
}

fn children(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel with a system disk, a card, and a stick whose second partition is held by a mapping.
    fn kernel() -> (tempfile::TempDir, Kernel) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, number, sectors, removable) in [
            ("nvme0n1", "259:0", "2000", "0"),
            ("mmcblk0", "179:0", "100", "0"),
            ("sda", "8:0", "300", "1"),
            ("dm-0", "253:0", "9", "0"),
            ("loop0", "7:0", "0", "0"),
        ] {
            put(&format!("sys/class/block/{name}/dev"), number);
            put(&format!("sys/class/block/{name}/size"), sectors);
            put(&format!("sys/class/block/{name}/removable"), removable);
        }
        for (part, number) in [("nvme0n1/nvme0n1p2", "259:2"), ("sda/sda1", "8:1"), ("sda/sda2", "8:2")] {
            put(&format!("sys/class/block/{part}/partition"), "1");
            let alone = part.split('/').next_back().unwrap();
            put(&format!("sys/class/block/{alone}/dev"), number);
        }
        put("sys/class/block/sda2/holders/dm-0", "");
        put("sys/class/block/sda/device/model", "Stick 3000 \n");
        std::os::unix::fs::symlink("class/block", root.join("sys/block")).unwrap();
        for partition in ["nvme0n1p2", "sda1", "sda2"] {
            // The kernel keeps partitions out of /sys/block; a disk without a size would be one here.
            put(&format!("sys/class/block/{partition}/size"), "1");
        }
        put("proc/swaps", "Filename Type Size Used Priority\n");
        put(
            "proc/self/mountinfo",
            "22 1 259:2 / / rw - ext4 /dev/root rw\n30 22 253:0 / /media/my\\040stick rw,nosuid shared:1 - ext4 /dev/mapper/x rw\n",
        );
        let kernel = Kernel { sys: root.join("sys"), proc: root.join("proc") };
        (directory, kernel)
    }

    #[test]
    fn what_a_disk_is_used_for_is_found_through_partitions_and_mappings() {
        let (directory, kernel) = kernel();
        assert_eq!(kernel.use_of("nvme0n1").unwrap(), "this system runs from it (/dev/nvme0n1p2 is /)");
        assert_eq!(kernel.use_of("sda").unwrap(), "/dev/dm-0 is mounted at /media/my stick");
        assert_eq!(kernel.use_of("sda1"), None);
        assert_eq!(kernel.use_of("mmcblk0"), None);
        let number = nix::sys::stat::makedev(8, 0);
        let unseen = kernel.use_of_number(number).unwrap();
        assert!(unseen.contains("cannot be seen") && unseen.contains("dev/block/8:0"), "{unseen}");
        fs::create_dir_all(directory.path().join("sys/dev/block")).unwrap();
        std::os::unix::fs::symlink("../../class/block/sda", directory.path().join("sys/dev/block/8:0"))
            .unwrap();
        assert_eq!(kernel.use_of_number(number), kernel.use_of("sda"));
        fs::rename(directory.path().join("proc/self/mountinfo"), directory.path().join("away")).unwrap();
        assert!(kernel.use_of_number(number).unwrap().contains("mountinfo"));
        fs::write(directory.path().join("proc/swaps"), "Filename Type\n/dev/sda1 partition 1 0 -2\n")
            .unwrap();
        assert_eq!(kernel.use_of("sda").unwrap(), "/dev/sda1 is swap of this system");
    }

    #[test]
    fn the_list_says_what_one_could_flash() {
        let (_directory, kernel) = kernel();
        let disks = kernel.disks();
        let find = |name: &str| disks.iter().find(|disk| disk.device == name).unwrap();
        assert!(find("/dev/mmcblk0").is_target());
        assert!(!find("/dev/sda").is_target() && !find("/dev/nvme0n1").is_target());
        assert_eq!((find("/dev/sda").size, find("/dev/sda").model.as_str()), (300 * 512, "Stick 3000"));
        assert!(disks.iter().all(|disk| !disk.device.contains("loop") && !disk.device.contains("dm-")));
    }
}
