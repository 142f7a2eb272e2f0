//! Root slots: the twin's layers as one image that dm-verity checks, the disk with two of them, and signed bundles.
//!
//! ```text
//! base, programs ──▶ rootfs.img: base │ programs │ hash tree       slot.env: what its boot entry is made of
//! rootfs.img, kernel, initramfs, slot.env ──sfdisk, mtools──▶ a disk: ESP │ root-a │ root-b
//!                                         ──rauc bundle─────▶ a bundle, signed
//! ```
//!
//! The boot entry is written by `bootslot`, the same script that writes it on a module and for the flight image.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::run;
use super::{Image, ImageError, cache, programs};
use crate::host::with_admin_path;

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const ESP: u64 = 128 * MIB;
const ROOT: u64 = 384 * MIB;
/// Partitions begin at whole MiB.
const FIRST: u64 = MIB;

/// What a slot is given: four files in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotImage {
    folder: PathBuf,
}

/// Makes a slot's image from the twin's layers. `arguments` are the kernel's, beside those that find the root.
///
/// # Errors
/// A host tool is missing or fails, or a file cannot be written.
pub fn image(image: &Image, version: &str, arguments: &str, folder: &Path) -> Result<SlotImage, ImageError> {
    let Some(firmware) = &image.firmware else {
        return Err(ImageError::NoFirmware);
    };
    cache::create(folder)?;
    let rootfs = folder.join("rootfs.img");
    let mut output = File::create(&rootfs).map_err(ImageError::file("creating", &rootfs))?;
    let base = append(&mut output, &image.base, &rootfs)?;
    let programs = append(&mut output, &image.programs, &rootfs)?;
    let blocks = base + programs;
    drop(output);
    // The salt need not be secret, only be there; a fixed one keeps the image a function of its content.
    let salt = "5ace".repeat(16);
    let mut veritysetup = Command::new("veritysetup");
    veritysetup.args([
        "format",
        "--no-superblock",
        "--hash=sha256",
        "--data-block-size=4096",
        "--hash-block-size=4096",
    ]);
    veritysetup.args([format!("--data-blocks={blocks}"), format!("--hash-offset={}", blocks * BLOCK)]);
    veritysetup.arg(format!("--salt={salt}")).args([&rootfs, &rootfs]);
    let said = run("veritysetup", with_admin_path(&mut veritysetup))?;
    let root = said
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .map(str::trim)
        .ok_or(ImageError::NoRootHash { path: rootfs })?;
    let env = format!(
        "blocks={blocks}\nroot={root}\nsalt={salt}\ninitrd=1\nversion='{version}'\n\
         arguments='spacecloud.layers={base} {arguments}'\n"
    );
    let slot = SlotImage { folder: folder.to_owned() };
    slot.write("slot.env", env.as_bytes())?;
    for (from, name) in [(&firmware.kernel, "linux"), (&image.initrd, "initrd")] {
        let to = folder.join(name);
        fs::copy(from, &to).map_err(ImageError::file("copying", from))?;
    }
    Ok(slot)
}

/// Appends a file, filled up to whole blocks; returns how many.
fn append(output: &mut File, layer: &Path, rootfs: &Path) -> Result<u64, ImageError> {
    let mut input = File::open(layer).map_err(ImageError::file("opening", layer))?;
    let length = io::copy(&mut input, output).map_err(ImageError::file("writing", rootfs))?;
    let blocks = length.div_ceil(BLOCK);
    let filled = output.stream_position().and_then(|end| {
        output.set_len(end + blocks * BLOCK - length)?;
        output.seek(SeekFrom::End(0))
    });
    filled.map(|_| blocks).map_err(ImageError::file("writing", rootfs))
}

impl SlotImage {
    /// Four files that somebody else has put into a folder: `rootfs.img`, `linux`, `initrd`, `slot.env`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The same image with other kernel arguments: the quickest way to a slot that boots and does not prove good.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn with_arguments(&self, version: &str, more: &str, folder: &Path) -> Result<Self, ImageError> {
        cache::create(folder)?;
        for name in ["rootfs.img", "linux", "initrd"] {
            let to = folder.join(name);
            let _ = fs::remove_file(&to);
            fs::hard_link(self.folder.join(name), &to).map_err(ImageError::file("linking", &to))?;
        }
        let path = self.folder.join("slot.env");
        let env = fs::read_to_string(&path).map_err(ImageError::file("reading", &path))?;
        let lines = env.lines().map(|line| match line.strip_prefix("arguments='") {
            Some(rest) => format!("arguments='{more} {rest}\n"),
            None if line.starts_with("version=") => format!("version='{version}'\n"),
            None => format!("{line}\n"),
        });
        let slot = Self { folder: folder.to_owned() };
        slot.write("slot.env", lines.collect::<String>().as_bytes())?;
        Ok(slot)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(ImageError::file("writing", &path))
    }
}

/// A module's disk: the image in slot a, proven; slot b empty. Sparse.
///
/// # Errors
/// A host tool is missing or fails, the image does not fit, or a file cannot be written.
pub fn disk(image: &Image, slot: &SlotImage, path: &Path) -> Result<(), ImageError> {
    let Some(firmware) = &image.firmware else {
        return Err(ImageError::NoFirmware);
    };
    let rootfs = slot.folder.join("rootfs.img");
    let length = fs::metadata(&rootfs).map_err(ImageError::file("reading", &rootfs))?.len();
    if length > ROOT {
        return Err(ImageError::TooBig { path: rootfs, limit: ROOT });
    }
    let disk = File::create(path).map_err(ImageError::file("creating", path))?;
    disk.set_len(FIRST + ESP + 2 * ROOT + MIB).map_err(ImageError::file("growing", path))?;
    drop(disk);
    let layout = format!(
        "label: gpt\n\
         start={}, size={}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp, uuid={}e5\n\
         start={}, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root-a, uuid={}0a\n\
         start={}, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root-b, uuid={}0b\n",
        FIRST / 512,
        ESP / 512,
        PARTITION,
        (FIRST + ESP) / 512,
        ROOT / 512,
        PARTITION,
        (FIRST + ESP + ROOT) / 512,
        ROOT / 512,
        PARTITION,
    );
    let script = slot.folder.join("layout");
    fs::write(&script, layout).map_err(ImageError::file("writing", &script))?;
    let layout = File::open(&script).map_err(ImageError::file("opening", &script))?;
    let mut sfdisk = Command::new("sfdisk");
    run("sfdisk", with_admin_path(sfdisk.arg("--quiet").arg(path).stdin(layout)))?;
    let esp = esp(firmware, slot)?;
    place(&esp, path, FIRST)?;
    place(&rootfs, path, FIRST + ESP)
}

/// The partitions' numbers but for their last two digits; `bootslot` and the flight image's layout have the same.
const PARTITION: &str = "5ace0001-0000-4000-8000-0000000000";

/// The ESP as a file of its own.
fn esp(firmware: &super::Firmware, slot: &SlotImage) -> Result<PathBuf, ImageError> {
    let path = slot.folder.join("esp.img");
    let file = File::create(&path).map_err(ImageError::file("creating", &path))?;
    file.set_len(ESP).map_err(ImageError::file("growing", &path))?;
    let mut format = Command::new("mkfs.vfat");
    run("mkfs.vfat", with_admin_path(format.args(["-F", "32", "-n", "ESP"]).arg(&path)))?;
    let bootslot = slot.folder.join("bootslot");
    fs::write(&bootslot, BOOTSLOT).map_err(ImageError::file("writing", &bootslot))?;
    let entry =
        run("sh", Command::new("sh").arg(&bootslot).args(["entry", "a"]).arg(slot.folder.join("slot.env")))?;
    slot.write("slot-a.conf", entry.as_bytes())?;
    slot.write("loader.conf", b"timeout 0\neditor no\nauto-entries no\n")?;
    let mut folders = Command::new("mmd");
    folders.arg("-i").arg(&path);
    run(
        "mmd",
        folders.args(["::EFI", "::EFI/BOOT", "::loader", "::loader/entries", "::slots", "::slots/a"]),
    )?;
    for (from, to) in [
        (firmware.manager.clone(), "::EFI/BOOT/BOOTX64.EFI"),
        (slot.folder.join("loader.conf"), "::loader/loader.conf"),
        (slot.folder.join("slot-a.conf"), "::loader/entries/slot-a.conf"),
        (slot.folder.join("linux"), "::slots/a/linux"),
        (slot.folder.join("initrd"), "::slots/a/initrd"),
    ] {
        run("mcopy", Command::new("mcopy").arg("-i").arg(&path).arg(&from).arg(to))?;
    }
    Ok(path)
}

const BOOTSLOT: &str = include_str!("../../../meta-spacecloud/recipes-core/spacecloud-conf/files/bootslot");

/// Writes a file into the disk.
fn place(from: &Path, disk: &Path, at: u64) -> Result<(), ImageError> {
    let mut input = File::open(from).map_err(ImageError::file("opening", from))?;
    let mut output = OpenOptions::new().write(true).open(disk).map_err(ImageError::file("opening", disk))?;
    let copied = output.seek(SeekFrom::Start(at)).and_then(|_| io::copy(&mut input, &mut output));
    copied.map(drop).map_err(ImageError::file("writing", disk))
}

/// Keys for signing bundles, made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Makes an authority and a signing key in a folder that has none, with the layer's own script.
    ///
    /// # Errors
    /// openssl is missing or fails.
    pub fn make(folder: &Path) -> Result<Self, ImageError> {
        let script = include_str!("../../../meta-spacecloud/scripts/make-keys");
        run("sh", Command::new("sh").args(["-c", script, "make-keys"]).arg(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The authority's certificate, for modules.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn authority(&self) -> Result<String, ImageError> {
        let path = self.folder.join("ca.cert.pem");
        fs::read_to_string(&path).map_err(ImageError::file("reading", &path))
    }
}

/// Makes a signed bundle of a slot's image, for modules of the kind `compatible` (the twin's where none is named).
///
/// # Errors
/// A host tool is missing or fails, or a file cannot be written.
pub fn bundle(
    slot: &SlotImage,
    version: &str,
    compatible: Option<&str>,
    keys: &Keys,
    path: &Path,
) -> Result<(), ImageError> {
    let content = slot.folder.join("bundle");
    let _ = fs::remove_dir_all(&content);
    cache::create(&content)?;
    for name in ["rootfs.img", "linux", "initrd", "slot.env"] {
        let to = content.join(name);
        fs::hard_link(slot.folder.join(name), &to).map_err(ImageError::file("linking", &to))?;
    }
    let manifest = content.join("manifest.raucm");
    let text = format!(
        "[update]\ncompatible={}\nversion={version}\n\n[bundle]\nformat=verity\n\n[image.rootfs]\nfilename=rootfs.img\n",
        compatible.unwrap_or(programs::COMPATIBLE)
    );
    fs::write(&manifest, text).map_err(ImageError::file("writing", &manifest))?;
    let _ = fs::remove_file(path);
    let mut rauc = Command::new("rauc");
    rauc.arg("bundle").arg("--cert").arg(keys.folder.join("signing.cert.pem"));
    // An emulated module takes longer to receive and to hash a byte than to unpack it.
    rauc.arg("--key").arg(keys.folder.join("signing.key.pem"));
    rauc.arg("--mksquashfs-args=-comp zstd -Xcompression-level 3");
    run("rauc", rauc.arg(&content).arg(path)).map(drop)
}
