//! Disk images to flash, and things to flash them onto.
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use gpt::{GptConfig, disk::LogicalBlockSize, mbr::ProtectiveMBR, partition_types};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Cursor, Read, Seek, SeekFrom, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const ESP_BYTES: u64 = 4 << 20;
/// Bytes per second of an exported disk: slow enough that a test can do something meanwhile.
const PACE: u64 = 16 << 20;

/// A disk image as wic makes it: GPT, an EFI system partition, a root partition that is partly empty.
pub(crate) fn wic(size: usize, seed: u64) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; size]);
    let last = u32::try_from(size / 512 - 1).unwrap();
    ProtectiveMBR::with_lb_size(last).overwrite_lba0(&mut disk).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(disk, None).unwrap();
    table.add_partition("esp", ESP_BYTES, partition_types::EFI, 0, None).unwrap();
    table.add_partition("root", 1 << 20, partition_types::LINUX_FS, 0, None).unwrap();
    let (esp, root) = (span(&table, 1), span(&table, 2));
    let mut disk = table.write().unwrap();
    let mut volume = Part { disk: &mut disk, begin: esp.0, length: esp.1, at: 0 };
    fatfs::format_volume(&mut volume, FormatVolumeOptions::new()).unwrap();
    let mut image = disk.into_inner();
    let begin = usize::try_from(root.0).unwrap();
    let noise = crate::noise(seed, 300_000);
    image[begin..begin + noise.len()].copy_from_slice(&noise);
    image
}

fn span<D>(table: &gpt::GptDisk<D>, number: u32) -> (u64, u64) {
    let part = &table.partitions()[&number];
    let sector = LogicalBlockSize::Lb512;
    (part.bytes_start(sector).unwrap(), part.bytes_len(sector).unwrap())
}

/// What the slot's file in the EFI system partition holds; none if it is not there.
pub(crate) fn slot_of(disk: &[u8]) -> Option<String> {
    let mut disk = Cursor::new(disk.to_vec());
    let config = GptConfig::new().logical_block_size(LogicalBlockSize::Lb512);
    let table = config.open_from_device(Cursor::new(disk.get_ref().clone())).unwrap();
    let (begin, length) = span(&table, 1);
    let volume = FileSystem::new(Part { disk: &mut disk, begin, length, at: 0 }, FsOptions::new()).unwrap();
    let mut text = String::new();
    volume.root_dir().open_file("spacecloud/slot").ok()?.read_to_string(&mut text).unwrap();
    Some(text)
}

/// A partition.
struct Part<'a> {
    disk: &'a mut Cursor<Vec<u8>>,
    begin: u64,
    length: u64,
    at: u64,
}

impl Part<'_> {
    fn window(&mut self, wanted: usize) -> usize {
        self.disk.set_position(self.begin + self.at);
        wanted.min(usize::try_from(self.length - self.at).unwrap())
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.window(buffer.len());
        let count = self.disk.read(&mut buffer[..count])?;
        self.at += u64::try_from(count).unwrap();
        Ok(count)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.window(buffer.len());
        let count = self.disk.write(&buffer[..count])?;
        self.at += u64::try_from(count).unwrap();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.checked_add_signed(by).unwrap(),
            SeekFrom::End(by) => self.length.checked_add_signed(by).unwrap(),
        };
        Ok(self.at)
    }
}

/// A block map as bmaptool writes it: all but the holes. What a partitioning tool and mkfs write is no hole, zeros
/// or not: the tables at both ends, and here the whole EFI system partition.
pub(crate) fn bmap(image: &[u8]) -> String {
    const BLOCK: usize = 4096;
    let (begin, end) = ((6 << 20) / BLOCK, (image.len() - (64 << 10)) / BLOCK);
    let written = |(n, chunk): (usize, &[u8])| n < begin || n >= end || chunk.iter().any(|b| *b != 0);
    let full: Vec<bool> = image.chunks(BLOCK).enumerate().map(written).collect();
    let (mut ranges, mut mapped, mut at) = (String::new(), 0, 0);
    while at < full.len() {
        if !full[at] {
            at += 1;
            continue;
        }
        let end = (at..full.len()).find(|n| !full[*n]).unwrap_or(full.len());
        let sum = hex::encode(Sha256::digest(&image[at * BLOCK..(end * BLOCK).min(image.len())]));
        ranges.push_str(&format!("        <Range chksum=\"{sum}\"> {at}-{} </Range>\n", end - 1));
        mapped += end - at;
        at = end;
    }
    let zeros = "0".repeat(64);
    let text = format!(
        "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n<ImageSize> {} </ImageSize>\n<BlockSize> {BLOCK} </BlockSize>\n<BlocksCount> {} </BlocksCount>\n<MappedBlocksCount> {mapped} </MappedBlocksCount>\n<ChecksumType> sha256 </ChecksumType>\n<BmapFileChecksum> {zeros} </BmapFileChecksum>\n<BlockMap>\n{ranges}</BlockMap>\n</bmap>\n",
        image.len(),
        full.len()
    );
    let sum = hex::encode(Sha256::digest(&text));
    text.replacen(&zeros, &sum, 1)
}

/// A file exported over NBD by a process of its own.
pub(crate) struct Exported {
    child: Child,
    pub(crate) url: String,
}

impl Exported {
    /// Over TCP; `more` is added to the export's options.
    pub(crate) fn over_tcp(file: &Path, more: &str) -> Self {
        // A port that is free now; if somebody takes it meanwhile the daemon ends, and the test says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}");
        let mut exported =
            Self { child: spawn(file, &server, more), url: format!("nbd://127.0.0.1:{port}/module") };
        exported.wait(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        exported
    }

    /// Over a socket in the file's own directory.
    pub(crate) fn over_unix(file: &Path, more: &str) -> Self {
        let socket = file.with_extension("sock");
        let server = format!("addr.type=unix,addr.path={}", socket.display());
        let url = format!("nbd+unix:///module?socket={}", socket.display());
        let mut exported = Self { child: spawn(file, &server, more), url };
        exported.wait(|| UnixStream::connect(&socket).is_ok());
        exported
    }

    fn wait(&mut self, is_open: impl Fn() -> bool) {
        crate::wait_for("the NBD server", || {
            assert!(self.child.try_wait().unwrap().is_none(), "qemu-storage-daemon ended at its start");
            is_open().then_some(())
        });
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(file: &Path, server: &str, more: &str) -> Child {
    Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=file,filename={}", file.display()))
        .args(["--object", &format!("throttle-group,id=pace,x-bps-write={PACE}")])
        .args(["--blockdev", "driver=throttle,node-name=disk,throttle-group=pace,file=file"])
        .args(["--nbd-server", server, "--export"])
        .arg(format!("type=nbd,id=e,node-name=disk,name=module{more}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-storage-daemon (Debian's qemu-system-common) must be installed to test NBD")
}

/// A file as a disk of the kernel's; needs root.
pub(crate) struct Loop {
    pub(crate) device: String,
    mounts: Vec<PathBuf>,
}

impl Loop {
    /// With sectors of so many bytes. None where this user or this kernel has no loop devices.
    pub(crate) fn of(file: &Path, sectors: u32) -> Option<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--partscan", "--sector-size", &sectors.to_string()]).arg(file);
        let output = losetup.output().ok()?;
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        output.status.success().then_some(Self { device, mounts: Vec::new() })
    }

    pub(crate) fn mount(&mut self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        run("mount", &[&self.device, at.to_str().unwrap()]);
        self.mounts.push(at.into());
    }

    pub(crate) fn unmount(&mut self) {
        for mount in self.mounts.drain(..) {
            run("umount", &[mount.to_str().unwrap()]);
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let _ = Command::new("umount").arg(mount).status();
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system with little room; gone when dropped, also after a failure.
pub(crate) struct Room(PathBuf);

impl Room {
    /// None where this user may not mount.
    pub(crate) fn at(directory: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory);
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then(|| Self(directory.into()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
