//! The control channel: a root shell on a module's virtio-serial port, which answers without a network.
//!
//! The line protocol is described in `image/control.rs`, its other end. Requests may overlap; a thread
//! reads the replies and hands them out by their identifiers.

use crate::{Limit, SimError};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// `timeout`'s exit code for a command that it ended.
const TIMED_OUT: i32 = 124;
/// How much longer than the module's own limit the host waits, for the way there and back.
const GRACE: Duration = Duration::from_secs(5);

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub status: i32,
    /// What it printed, stdout and stderr together.
    pub stdout: String,
}

/// A connection to one module's control channel.
#[derive(Debug)]
pub struct Control {
    slot: u16,
    writer: Mutex<UnixStream>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
}

/// Requests whose replies are outstanding. `None` once the channel is closed.
type Waiting = Option<BTreeMap<String, Pending>>;

#[derive(Debug)]
struct Pending {
    output: Vec<u8>,
    done: Sender<Output>,
}

impl Control {
    /// Connects to the socket that QEMU listens on. The module need not be up yet: requests wait for it.
    pub fn connect(slot: u16, socket: &Path) -> Result<Self, SimError> {
        let stream = UnixStream::connect(socket).map_err(SimError::io("connect to", socket))?;
        let reader = stream.try_clone().map_err(SimError::io("read from", socket))?;
        let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let shared = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name(format!("control-{slot}"))
            .spawn(move || deliver(BufReader::new(reader), &shared))
            .map_err(SimError::io("start a reader for", socket))?;
        Ok(Self { slot, writer: Mutex::new(stream), waiting, next: AtomicU64::new(1) })
    }

    /// Runs a shell command as root, for `limit` at most: after that the module kills it.
    pub fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError> {
        let begun = Instant::now();
        let limit = limit.duration();
        let seconds = limit.as_secs_f64().max(0.001);
        let bounded = format!("exec timeout -k 1 {seconds:.3} sh -c {}", quoted(command));
        let (id, reply) = self.ask(&bounded)?;
        let answer = reply.recv_timeout(limit + GRACE);
        forget(&self.waiting, &id);
        match answer {
            Ok(output) if output.status == TIMED_OUT && begun.elapsed() >= limit => {
                Err(self.no_answer(command, limit))
            }
            Ok(output) => Ok(output),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(self.no_answer(command, limit)),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(SimError::Off { slot: self.slot }),
        }
    }

    fn no_answer(&self, command: &str, limit: Duration) -> SimError {
        SimError::NoAnswer { slot: self.slot, command: command.to_owned(), limit }
    }

    fn ask(&self, command: &str) -> Result<(String, Receiver<Output>), SimError> {
        let id = format!("h{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let (done, reply) = channel();
        match locked(&self.waiting).as_mut() {
            Some(table) => table.insert(id.clone(), Pending { output: Vec::new(), done }),
            None => return Err(SimError::Off { slot: self.slot }),
        };
        let line = format!("{id} {}\n", BASE64.encode(command));
        if locked(&self.writer).write_all(line.as_bytes()).is_err() {
            forget(&self.waiting, &id);
            return Err(SimError::Off { slot: self.slot });
        }
        Ok((id, reply))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Ends the reader's thread, which holds the other half.
        let _ = locked(&self.writer).shutdown(Shutdown::Both);
    }
}

/// Reads replies until the channel closes; then those that still wait learn it by their sender's end.
fn deliver(reader: impl BufRead, waiting: &Mutex<Waiting>) {
    for line in reader.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let mut words = line.trim().splitn(3, ' ');
        let (Some(id), Some(kind), Some(rest)) = (words.next(), words.next(), words.next()) else { continue };
        let mut guard = locked(waiting);
        let Some(table) = guard.as_mut() else { return };
        if kind == "out" {
            if let (Some(pending), Ok(bytes)) = (table.get_mut(id), BASE64.decode(rest)) {
                pending.output.extend(bytes);
            }
        } else if kind == "exit"
            && let Some(Pending { output, done }) = table.remove(id)
        {
            let stdout = String::from_utf8_lossy(&output).into_owned();
            // Nobody waits any more if the limit ran out meanwhile.
            let _ = done.send(Output { status: rest.parse().unwrap_or(127), stdout });
        }
    }
    *locked(waiting) = None;
}

fn forget(waiting: &Mutex<Waiting>, id: &str) {
    if let Some(table) = locked(waiting).as_mut() {
        table.remove(id);
    }
}

/// A thread that panicked leaves these tables whole: each change is one insertion or removal.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
