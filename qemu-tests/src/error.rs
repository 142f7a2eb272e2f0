//! What can go wrong in the simulator, with what to do about it, and the exit code that it gets.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the simulator refuses or fails at. `Display` does not repeat its source.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The chassis file is broken; the text names key and remedy.
    #[error("{}: {problem}", file.display())]
    ChassisFile {
        /// The file.
        file: PathBuf,
        /// Key, what is wrong and what would be right, on one line.
        problem: String,
    },
    /// QEMU is not on this host.
    #[error("{program} is not installed on this host; install the packages in qemu-tests/host-packages")]
    NoProgram {
        /// The program that was looked for.
        program: String,
    },
    /// A program of the host's failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program.
        program: String,
        /// What it said, on one line.
        output: String,
    },
    /// The image to boot lacks a file.
    #[error("{} is missing; build the image with `spacesim image build`", path.display())]
    NoImage {
        /// The file that is missing.
        path: PathBuf,
    },
    /// The image could not be built.
    #[error("the twin image could not be built")]
    Image(#[source] Box<crate::image::ImageError>),
    /// A kernel could not be built.
    #[error("the kernel could not be built")]
    Kernel(#[source] Box<crate::image::ImageError>),
    /// The kernel to boot is no file.
    #[error("{} is no kernel file; name one, or `built` for the one that `spacesim kernel build` makes", path.display())]
    NoKernel {
        /// What was named.
        path: PathBuf,
    },
    /// Our programs are nowhere.
    #[error(
        "spacecloudd, space-registry and spacectl are not built; run `cargo build --release`, or name their folder in {variable}"
    )]
    NoPrograms {
        /// The environment variable.
        variable: &'static str,
    },
    /// A fixed ground port is in use.
    #[error(
        "slot {slot}: {key} = {port}: the port is taken on 127.0.0.1; free it, or leave the key out for a free one"
    )]
    PortTaken {
        /// The slot.
        slot: u16,
        /// Key in the chassis file.
        key: &'static str,
        /// The port.
        port: u16,
    },
    /// Another process runs a chassis in this run directory.
    #[error("a chassis is already up in {}; take it down with `spacesim down`, or name another --dir", dir.display())]
    AlreadyUp {
        /// The run directory.
        dir: PathBuf,
    },
    /// Nobody answers in this run directory.
    #[error("no chassis is up in {}; start one with `spacesim up`, or name its --dir", dir.display())]
    NotUp {
        /// The run directory.
        dir: PathBuf,
    },
    /// A socket's path would not fit into `sockaddr_un`.
    #[error("{} is too long for a unix socket ({length} bytes, at most 107); choose a shorter --dir", path.display())]
    LongPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// No module in that slot.
    #[error("slot {slot} is empty; modules are in {}", list(present))]
    NoModule {
        /// The slot asked for.
        slot: u16,
        /// The slots that are taken.
        present: Vec<u16>,
    },
    /// The module has no power.
    #[error("module-{slot} is off; turn it on with `spacesim power on {slot}`")]
    Off {
        /// Its slot.
        slot: u16,
    },
    /// The module is on already.
    #[error("module-{slot} is on already; `spacesim power cycle {slot}` restarts it")]
    On {
        /// Its slot.
        slot: u16,
    },
    /// What makes a module ended by itself.
    #[error("module-{slot}: {program} ended ({status}): {said}; console: {}", console.display())]
    Died {
        /// The module's slot.
        slot: u16,
        /// QEMU, or the first process of a namespace.
        program: &'static str,
        /// Exit status or signal.
        status: String,
        /// The last lines that it wrote to stderr, on one line.
        said: String,
        /// Its console's file.
        console: PathBuf,
    },
    /// QMP said no.
    #[error("QMP {command}: {reason}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// QEMU's reason.
        reason: String,
    },
    /// A command on a module took too long.
    #[error("module-{slot}: no answer to `{command}` within {limit:?}; is it up? its console says")]
    NoAnswer {
        /// The module's slot.
        slot: u16,
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// A command on a module failed.
    #[error("module-{slot}: `{command}` exited {status}: {output}")]
    Command {
        /// The module's slot.
        slot: u16,
        /// The command.
        command: String,
        /// Its exit code.
        status: i32,
        /// Its output.
        output: String,
    },
    /// A condition did not come true in time.
    #[error("not within {limit:?}: {what}")]
    Waited {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The supervisor refused, or failed at, a request; the text is its own.
    #[error("{reason}")]
    Refused {
        /// One line.
        reason: String,
    },
    /// The supervisor failed to bring the chassis up; the text is its own.
    #[error("{reason}")]
    Supervised {
        /// One line.
        reason: String,
        /// The exit code that its own error gets.
        exit: u8,
    },
    /// An operation of the host's system failed.
    #[error("{doing}")]
    Io {
        /// What was tried, with its path.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl SimError {
    /// For `map_err`: `fs::write(&p, b).map_err(SimError::io("write", &p))`.
    pub fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing: format!("cannot {verb} {}", path.display()), source }
    }

    /// 78 for a broken chassis file, 2 if nobody could be reached, else 1. (Usage, 64, is the command line's own.)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ChassisFile { .. } | Self::PortTaken { .. } => 78,
            Self::NotUp { .. } => 2,
            Self::Supervised { exit, .. } => *exit,
            _ => 1,
        }
    }

    /// The error and its sources on one line.
    pub fn one_line(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            line.push_str(": ");
            line.push_str(&source.to_string());
            next = source.source();
        }
        line.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

fn list(slots: &[u16]) -> String {
    slots.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}
