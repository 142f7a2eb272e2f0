//! The control channel of a twin module: a root shell on a virtio-serial port.
//!
//! It needs no network, so it answers before the network does and through an isolation. It is part
//! of the twin only: a flight image has no such door.
//!
//! The port's name is `org.spacecloud.control`. Both directions are lines of ASCII that end in `\n`.
//!
//! ```text
//! host:    ID SP base64(command) LF      ID: 1 to 32 characters of [A-Za-z0-9_-], chosen by the host
//! module:  ID SP "out" SP base64 LF      zero or more: the command's output, stdout and stderr merged
//!          ID SP "exit" SP N LF          the last line: its exit code, 128+signal, or 127 (no shell)
//!          "ready" LF                    once, when the channel is served: a host that connects later misses it
//!          "?" LF                        answers a line that is no request
//! ```
//!
//! A command runs as root by `/bin/sh -c`, without standard input, in a process group of its own. Requests
//! run at the same time; their replies carry their ID. Output is sent when the command has ended (what
//! its background children print later is dropped). No time limit is kept here: a host that wants one
//! sends `timeout 5 …`. An empty line is ignored, so a host may send one first to end a torn line.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PORT: &str = "org.spacecloud.control";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bytes of output in one reply line; a multiple of 3, so that only the last line is padded.
const CHUNK: usize = 24 * 1024;

fn main() {
    let port = loop {
        match open_port() {
            Some(port) => break port,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let Ok(writer) = port.try_clone() else { std::process::exit(1) };
    let writer = Arc::new(Mutex::new(writer));
    say(&writer, "ready\n");
    serve(port, &writer);
}

/// Finds the port by its name in sysfs: there is no udev that would make a link.
fn open_port() -> Option<File> {
    std::fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT).then_some(())?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(std::path::Path::new("/dev").join(entry.file_name()))
            .ok()
    })
}

fn serve(mut port: File, writer: &Arc<Mutex<File>>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            // Nobody is connected on the host's side: the kernel says end of file until somebody is.
            Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(50)),
            Ok(length) => {
                pending.extend_from_slice(&buffer[..length]);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line).trim().to_owned();
                    if !line.is_empty() {
                        let writer = Arc::clone(writer);
                        std::thread::spawn(move || answer(&line, &writer));
                    }
                }
            }
        }
    }
}

fn answer(line: &str, writer: &Mutex<File>) {
    let request = line.split_once(' ').filter(|(id, _)| is_id(id));
    let Some((id, command)) = request.and_then(|(id, coded)| Some((id, decode(coded.as_bytes())?))) else {
        return say(writer, "?\n");
    };
    let (output, code) = run(id, &command).unwrap_or_else(|error| (error.to_string().into_bytes(), 127));
    for chunk in output.chunks(CHUNK) {
        say(writer, &format!("{id} out {}\n", encode(chunk)));
    }
    say(writer, &format!("{id} exit {code}\n"));
}

fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Output goes to a file that has no name, not to a pipe: a child that the command leaves behind
/// would hold a pipe open for ever.
fn run(id: &str, command: &[u8]) -> std::io::Result<(Vec<u8>, i32)> {
    let path = format!("/run/.control-{id}");
    let mut output = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(command));
    shell.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    shell.current_dir("/").process_group(0);
    shell.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let status = shell.status()?;
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    Ok((bytes, status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
}

/// One line is one write under the lock, so that replies to different requests never mix. With nobody
/// connected the line is lost, as it should be.
fn say(writer: &Mutex<File>, line: &str) {
    if let Ok(mut port) = writer.lock() {
        let _ = port.write_all(line.as_bytes());
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.chunks(4) {
        let symbols: Vec<u8> = group.iter().copied().filter(|symbol| *symbol != b'=').collect();
        if group.len() != 4 || symbols.len() < 2 {
            return None;
        }
        let mut word = 0_u32;
        for symbol in &symbols {
            word = word << 6 | u32::try_from(ALPHABET.iter().position(|known| known == symbol)?).ok()?;
        }
        word <<= 6 * (4 - symbols.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..symbols.len()]);
    }
    Some(bytes)
}
