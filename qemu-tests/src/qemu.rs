//! QEMU's command line for one module: a function of what the module is. No I/O.

use crate::chassis_file::Slot;
use crate::image::Image;
use crate::run_dir::ModulePaths;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that emulates a module.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The NIC on the backplane, as QMP knows it.
pub(crate) const BACKPLANE_NIC: &str = "backplane-nic";
/// The control channel's port, as the module knows it.
const CONTROL_PORT: &str = "org.spacecloud.control";
/// PCIe slot N sits at this device number + N on the root bus, above what QEMU places by itself.
const FIRST_SLOT_ADDRESS: u8 = 0x0f;

/// Ports on 127.0.0.1 that lead to a module's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroundPorts {
    /// To 7440: gRPC.
    pub grpc: u16,
    /// To 7480: HTTP.
    pub http: u16,
    /// To 5000: the registry.
    pub registry: u16,
}

/// The module's MAC on the backplane.
pub fn backplane_mac(slot: u16) -> String {
    format!("52:54:00:44:00:{slot:02x}")
}

/// The module's MAC on the ground link.
pub fn ground_mac(slot: u16) -> String {
    format!("52:54:00:45:00:{slot:02x}")
}

/// How a chassis starts its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Start {
    /// With the virtual CPUs halted.
    pub(crate) paused: bool,
    /// The time-stamp counter's frequency, if the kernel is to be told.
    pub(crate) tsc_khz: Option<u64>,
}

/// What a module that boots from root slots has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    /// ESP and two root slots; see [`crate::image::slots::disk`].
    pub disk: PathBuf,
    /// The firmware's variables.
    pub variables: PathBuf,
    /// Further disks, read-only: virtio serial and file.
    pub extra: Vec<(String, PathBuf)>,
}

/// UEFI for PCs, from Debian's package ovmf; its variables' template lies beside it.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The template of the firmware's variables.
pub const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The whole command.
pub(crate) fn command(
    slot: &Slot,
    image: &Image,
    paths: &ModulePaths,
    ports: GroundPorts,
    start: Start,
    slots: Option<&Slots>,
) -> Command {
    let mut qemu = Command::new(PROGRAM);
    qemu.args(["-name", &format!("module-{}", slot.number)]);
    // Emulation with one host thread: with more, a guest that patches its own code panicked.
    qemu.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max,la57=off"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(["-smp", &slot.cores.to_string(), "-m", &format!("{}M", slot.memory.0 >> 20)]);
    if let Some(slots) = slots {
        firmware(&mut qemu, slot.number, slots);
    } else {
        direct(&mut qemu, slot.number, image, start);
    }
    channels(&mut qemu, paths);
    disks(&mut qemu, paths);
    networks(&mut qemu, slot.number, paths, ports);
    accelerators(&mut qemu, slot);
    if start.paused {
        qemu.arg("-S");
    }
    qemu
}

/// QEMU loads the kernel; base and programs are disks that all modules share.
fn direct(qemu: &mut Command, slot: u16, image: &Image, start: Start) {
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    let mut arguments = Image::kernel_arguments(u8::try_from(slot).unwrap_or(u8::MAX));
    if let Some(khz) = start.tsc_khz {
        arguments.push_str(&format!(" tsc_early_khz={khz}"));
    }
    qemu.args(["-append", &arguments]);
    for (serial, file) in [("base", &image.base), ("programs", &image.programs)] {
        disk(qemu, serial, file, "readonly=on,file.locking=off");
    }
}

/// UEFI starts systemd-boot from the module's own disk. A reset ends QEMU, as with a direct boot: a second start within
/// one QEMU was seen to hang after the boot manager.
fn firmware(qemu: &mut Command, slot: u16, slots: &Slots) {
    let code = option(Path::new(FIRMWARE));
    qemu.args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}")]);
    let variables = option(&slots.variables);
    qemu.args(["-drive", &format!("if=pflash,unit=1,format=raw,file={variables}")]);
    // The slot's number, as a chassis' firmware would know it.
    qemu.args(["-smbios", &format!("type=3,asset=slot-{slot}")]);
    disk(qemu, "slots", &slots.disk, "readonly=off");
    for (serial, file) in &slots.extra {
        disk(qemu, serial, file, "readonly=on,file.locking=off");
    }
}

fn disk(qemu: &mut Command, serial: &str, file: &Path, access: &str) {
    let file = option(file);
    let first = if serial == "slots" { ",bootindex=0" } else { "" };
    qemu.args(["-drive", &format!("if=none,id={serial},file={file},format=raw,cache=unsafe,{access}")]);
    qemu.args(["-device", &format!("virtio-blk-pci,drive={serial},serial={serial}{first}")]);
}

fn channels(qemu: &mut Command, paths: &ModulePaths) {
    let console = option(&paths.console);
    qemu.args([
        "-chardev",
        &format!("file,id=console,path={console},append=on"),
        "-serial",
        "chardev:console",
    ]);
    let qmp = option(&paths.qmp);
    qemu.args([
        "-chardev",
        &format!("socket,id=qmp,path={qmp},server=on,wait=off"),
        "-mon",
        "chardev=qmp,mode=control",
    ]);
    let control = option(&paths.control);
    qemu.args(["-chardev", &format!("socket,id=control,path={control},server=on,wait=off")]);
    qemu.args(["-device", "virtio-serial-pci"]);
    qemu.args(["-device", &format!("virtserialport,chardev=control,name={CONTROL_PORT}")]);
    qemu.args(["-device", "virtio-rng-pci"]);
}

fn disks(qemu: &mut Command, paths: &ModulePaths) {
    disk(qemu, "data", &paths.data, "readonly=off");
    disk(qemu, "identity", &paths.identity, "readonly=on");
}

fn networks(qemu: &mut Command, slot: u16, paths: &ModulePaths, ports: GroundPorts) {
    let (ours, theirs) = (option(&paths.backplane.module), option(&paths.backplane.switch));
    let link = format!("local.type=unix,local.path={ours},remote.type=unix,remote.path={theirs}");
    qemu.args(["-netdev", &format!("dgram,id=backplane,{link}")]);
    let nic = format!("id={BACKPLANE_NIC},netdev=backplane,mac={},romfile=", backplane_mac(slot));
    qemu.args(["-device", &format!("virtio-net-pci,{nic}")]);

    let forwards = [(ports.grpc, 7440), (ports.http, 7480), (ports.registry, 5000)];
    let forwards: String = forwards
        .iter()
        .map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-10.0.2.15:{guest}"))
        .collect();
    qemu.args(["-netdev", &format!("user,id=ground,restrict=on{forwards}")]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=ground,mac={},romfile=", ground_mac(slot))]);
}

fn accelerators(qemu: &mut Command, slot: &Slot) {
    if slot.accelerators.is_empty() {
        return;
    }
    // Without this the firmware's hot-plug tables hide the slots' numbers.
    qemu.args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
    for accelerator in &slot.accelerators {
        let n = accelerator.pcie_slot;
        let address = n.saturating_add(FIRST_SLOT_ADDRESS);
        qemu.args(["-device", &format!("pcie-root-port,id=rp{n},chassis={n},slot={n},addr={address:#x}")]);
        if !accelerator.empty {
            qemu.args(["-device", &format!("edu,bus=rp{n}")]);
        }
    }
}

/// A path inside a QEMU option, where a comma is written twice.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chassis_file::ChassisFile;

    fn line(text: &str, slot: u16, paused: bool) -> String {
        let chassis = ChassisFile::parse(text).unwrap();
        let image = Image {
            kernel: "/i/vmlinux".into(),
            initrd: "/i/initrd".into(),
            base: "/i/base,1.erofs".into(),
            programs: "/i/programs.erofs".into(),
            kernel_release: "6.12".into(),
            kernel_config: "/i/config".into(),
            firmware: None,
        };
        let paths = ModulePaths::new(Path::new("/r"), slot);
        let ports = GroundPorts { grpc: 40001, http: 40002, registry: 40003 };
        let start = Start { paused, tsc_khz: Some(2_596_122) };
        let command = command(chassis.slot(slot).unwrap(), &image, &paths, ports, start, None);
        command.get_args().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_module_has_its_addresses_disks_and_ports() {
        let line = line(
            "name = \"c\"\n[[slot]]\nnumber = 11\nkind = \"compute\"\nmemory = \"2GiB\"\ncores = 4",
            11,
            false,
        );
        for part in [
            "-smp 4 -m 2048M",
            "spacecloud.slot=11",
            "tsc_early_khz=2596122",
            "mac=52:54:00:44:00:0b",
            "mac=52:54:00:45:00:0b",
            "restrict=on,hostfwd=tcp:127.0.0.1:40001-10.0.2.15:7440",
            "hostfwd=tcp:127.0.0.1:40003-10.0.2.15:5000",
            "file=/i/base,,1.erofs,format=raw,cache=unsafe,readonly=on",
            "drive=data,serial=data",
            "local.path=/r/11.bp,remote.type=unix,remote.path=/r/11.sw",
            "file,id=console,path=/r/console/module-11.log,append=on",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("pcie-root-port") && !line.ends_with("-S"));
    }

    #[test]
    fn accelerators_sit_in_their_slots() {
        let text = "name = \"c\"\n[[slot]]\nnumber = 1\nkind = \"compute\"\n\
                    accelerators = [{ number = 0, pcie_slot = 5 }, { number = 1, pcie_slot = 6, empty = true }]";
        let line = line(text, 1, true);
        assert!(
            line.contains("pcie-root-port,id=rp5,chassis=5,slot=5,addr=0x14 -device edu,bus=rp5"),
            "{line}"
        );
        assert!(line.contains("pcie-root-port,id=rp6") && !line.contains("edu,bus=rp6"), "{line}");
        assert!(line.contains("acpi-pci-hotplug-with-bridge-support=off") && line.ends_with("-S"));
    }
}
