//! What the host tool asks of a supervisor, and what it answers: one JSON line each way over a unix socket.

use crate::module::Link;
use crate::qemu::GroundPorts;
use crate::{Counters, SimError, Weather, run_dir};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Request {
    /// How is everyone?
    Status,
    /// Cut a module off.
    Isolate {
        /// Which.
        slot: u16,
        /// By its cable, so that it sees its carrier go, instead of at the switch.
        cable: bool,
    },
    /// Undo any isolation.
    Rejoin {
        /// Which.
        slot: u16,
    },
    /// What happens to frames on a cable.
    Weather {
        /// Whose.
        slot: u16,
        /// What.
        weather: Weather,
    },
    /// Give, take, or take and give power.
    Power {
        /// Which.
        slot: u16,
        /// What.
        change: PowerChange,
    },
    /// Run a command on a module.
    Exec {
        /// Which.
        slot: u16,
        /// For its shell.
        command: String,
        /// For how long at most.
        limit_ms: u64,
    },
    /// Take the chassis down.
    Down,
}

/// What to do with a module's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PowerChange {
    /// Give it.
    On,
    /// Take it, at once.
    Off,
    /// Take it, and give it again.
    Cycle,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Reply {
    /// It is done.
    Done,
    /// How everyone is.
    Status(ChassisStatus),
    /// What a command left.
    Output {
        /// Its exit code.
        status: i32,
        /// What it printed.
        stdout: String,
    },
    /// It is not done.
    Refused {
        /// Why, on one line.
        reason: String,
    },
}

/// A chassis at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChassisStatus {
    /// Its name.
    pub chassis: String,
    /// Its run directory.
    pub dir: PathBuf,
    /// The supervisor's process.
    pub supervisor: u32,
    /// Its modules, by slot.
    pub modules: Vec<ModuleStatus>,
}

/// A module at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// Its slot.
    pub slot: u16,
    /// `module-N`.
    pub name: String,
    /// `off`, `booting`, `ready`, `paused`, …, `dead`.
    pub state: String,
    /// Why it is dead.
    pub reason: Option<String>,
    /// Seconds since power-on.
    pub uptime_s: Option<u64>,
    /// Its backplane cable.
    pub link: Link,
    /// What its backplane port has carried.
    pub frames: Counters,
    /// Its address on the backplane.
    pub address: String,
    /// Ports on 127.0.0.1.
    pub ground: GroundPorts,
    /// Its serial console.
    pub console: PathBuf,
}

/// Asks the supervisor of the chassis in `dir`. A refusal is an error.
pub fn ask(dir: &Path, request: &Request) -> Result<Reply, SimError> {
    let not_up = |_| SimError::NotUp { dir: dir.to_owned() };
    let mut stream = UnixStream::connect(run_dir::supervisor_socket(dir)).map_err(not_up)?;
    send(&mut stream, request).map_err(not_up)?;
    match receive(&stream) {
        Ok(Reply::Refused { reason }) => Err(SimError::Refused { reason }),
        Ok(reply) => Ok(reply),
        Err(source) if hung_up(&source) => Err(not_up(source)),
        Err(source) => Err(SimError::io("read the supervisor's answer in", dir)(source)),
    }
}

/// A supervisor that ended between the question and its answer is one that is not there.
fn hung_up(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

/// Writes a value as a line.
pub(crate) fn send(to: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    to.write_all(line.as_bytes())?;
    to.flush()
}

/// Reads a line as a value.
pub(crate) fn receive<T: for<'de> Deserialize<'de>>(from: &UnixStream) -> std::io::Result<T> {
    let mut line = String::new();
    if BufReader::new(from).read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_way() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let asked = Request::Exec { slot: 3, command: "echo 'a\nb'".to_owned(), limit_ms: 5000 };
        send(&mut here, &asked).unwrap();
        assert_eq!(receive::<Request>(&there).unwrap(), asked);
    }

    #[test]
    fn a_supervisor_that_ends_before_it_answers_is_not_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(run_dir::supervisor_socket(dir.path()).parent().unwrap()).unwrap();
        let listener =
            std::os::unix::net::UnixListener::bind(run_dir::supervisor_socket(dir.path())).unwrap();
        // One hangs up with the question unread, which is a reset; the other after it, which is an end.
        for reads in [false, true] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (stream, _) = listener.accept().unwrap();
                    if reads {
                        receive::<Request>(&stream).unwrap();
                    }
                });
                assert_eq!(ask(dir.path(), &Request::Status).unwrap_err().exit_code(), 2);
            });
        }
    }

    #[test]
    fn where_nobody_listens_the_chassis_is_not_up() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(dir.path(), &Request::Status).unwrap_err();
        assert!(error.to_string().starts_with("no chassis is up in "), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
