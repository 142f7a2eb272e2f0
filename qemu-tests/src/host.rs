//! What the simulator needs of its host: programs, free ports, and an ext4 for a module's data.

use crate::SimError;
use crate::chassis_file::Slot;
use crate::qemu::GroundPorts;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

/// File system and network tools are not on everyone's PATH.
pub(crate) fn with_admin_path(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
}

/// Why a program did not start.
pub(crate) fn not_started(program: &str, error: io::Error) -> SimError {
    match error.kind() {
        io::ErrorKind::NotFound => SimError::NoProgram { program: program.to_owned() },
        _ => SimError::Io { doing: format!("cannot start {program}"), source: error },
    }
}

/// Runs a program of the host's to its end.
pub(crate) fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), SimError> {
    let mut command = Command::new(program);
    with_admin_path(&mut command);
    let output = command.args(arguments).output().map_err(|error| not_started(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Err(SimError::Program { program: program.to_owned(), output: format!("{}: {said}", output.status) })
}

/// QEMU is there and runs.
pub(crate) fn check() -> Result<(), SimError> {
    run(crate::qemu::PROGRAM, &["--version".as_ref()])?;
    run("mkfs.ext4", &["-V".as_ref()])
}

/// A fresh, empty ext4 with project quotas, as a flight image's, in a sparse file of `size` bytes. An old one is gone.
pub(crate) fn make_data_disk(disk: &Path, size: u64) -> Result<(), SimError> {
    let file = File::create(disk).map_err(SimError::io("create", disk))?;
    file.set_len(size).map_err(SimError::io("size", disk))?;
    let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1,quotatype=prjquota";
    let options = ["-q", "-F", "-m", "0", "-L", "data", "-O", "project,quota", "-E", extended];
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
    arguments.push(disk.as_os_str());
    run("mkfs.ext4", &arguments)
}

/// Where the ground link's ports are looked for: below those that the kernel gives to outgoing connections. They are free
/// for a moment before QEMU takes them, and another chassis that starts just then should not draw the same.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 100;

fn any_port() -> std::io::Result<TcpListener> {
    let drawn = std::iter::repeat_with(|| rand::random_range(PORTS)).take(TRIES);
    let found = drawn.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).find(Result::is_ok);
    found.unwrap_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

/// Ports of the ground link that are free now. Held until dropped, so that no two modules get the same one.
#[derive(Debug)]
pub(crate) struct HeldPorts {
    pub(crate) ports: GroundPorts,
    pub(crate) listeners: [TcpListener; 3],
}

impl HeldPorts {
    /// Those that the chassis file fixes, and any free ones for the rest.
    pub(crate) fn choose(slot: &Slot) -> Result<Self, SimError> {
        let hold = |(key, fixed): (&'static str, Option<u16>)| {
            let listener = match fixed {
                Some(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, port)),
                None => any_port(),
            };
            let port = fixed.unwrap_or(0);
            let listener = listener.map_err(|_| SimError::PortTaken { slot: slot.number, key, port })?;
            let port =
                listener.local_addr().map_err(SimError::io("read the address of", "a local port"))?.port();
            Ok::<_, SimError>((port, listener))
        };
        let [grpc, http, registry] = slot.ground.all();
        let ((grpc, a), (http, b), (registry, c)) = (hold(grpc)?, hold(http)?, hold(registry)?);
        Ok(Self { ports: GroundPorts { grpc, http, registry }, listeners: [a, b, c] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chassis_file::ChassisFile;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_data_disk_is_an_ext4_that_takes_little_room() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("1.data");
        make_data_disk(&disk, 4 << 30).unwrap();
        let metadata = std::fs::metadata(&disk).unwrap();
        assert_eq!(metadata.len(), 4 << 30);
        assert!(metadata.blocks() * 512 < 64 << 20, "{} bytes on disk", metadata.blocks() * 512);
        let mut magic = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(&disk).unwrap(), &mut magic, 1080).unwrap();
        // The magic number of ext2 and its heirs: 0xEF53 at 56 in the superblock, which starts at 1024.
        assert_eq!(magic, [0x53, 0xef]);
    }

    #[test]
    fn a_fixed_port_that_is_taken_is_named_with_its_key() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text =
            format!("name = \"c\"\n[[slot]]\nnumber = 2\nkind = \"compute\"\nground = {{ http = {port} }}");
        let chassis = ChassisFile::parse(&text).unwrap();
        let error = HeldPorts::choose(chassis.slot(2).unwrap()).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("slot 2: ground.http = {port}: the port is taken")),
            "{error}"
        );
        assert_eq!(error.exit_code(), 78);
        drop(taken);
        let held = HeldPorts::choose(chassis.slot(2).unwrap()).unwrap();
        assert_eq!(held.ports.http, port);
        assert!(held.ports.grpc != held.ports.registry && held.ports.grpc > 0);
    }
}
