//! The process that owns a chassis while it is up: QEMUs and switch live in it, and die with it.
//!
//! `spacesim up` starts it detached and hears from it over a pipe until the chassis is up; after that the
//! tool's other verbs talk to it over a socket in the run directory.
//!
//! ```text
//!  spacesim up ──Charge──► supervisor ──┬── chassis
//!              ◄──Progress──            │
//!  spacesim isolate 3 ──Request──► spacesim.sock
//!                     ◄──Reply──
//! ```

use crate::image::Image;
use crate::module::{Module, Power};
use crate::wire::{self, ChassisStatus, ModuleStatus, PowerChange, Reply, Request};
use crate::{BackplaneKind, Chassis, ChassisFile, Plan, SimError, Times, run_dir, scenario, within};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a supervisor is told on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Charge {
    /// The text of the chassis file; it has been checked.
    pub chassis: String,
    /// Where to run it.
    pub dir: PathBuf,
    /// What to boot.
    #[serde(with = "ImageFiles")]
    pub image: Image,
    /// With halted CPUs.
    pub paused: bool,
    /// What modules are made of.
    pub backplane: BackplaneKind,
    /// Wait so long, in seconds, until all modules are ready, and take the chassis down if they are not.
    pub ready_within_s: Option<u64>,
}

/// [`Image`] on the wire.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Image")]
struct ImageFiles {
    kernel: PathBuf,
    initrd: PathBuf,
    base: PathBuf,
    programs: PathBuf,
    kernel_release: String,
    kernel_config: PathBuf,
    // Chassis with slots are built by tests, not by `spacesim up`.
    #[serde(skip)]
    firmware: Option<crate::image::Firmware>,
}

/// What a supervisor says on its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "lowercase")]
pub enum Progress {
    /// All modules have power; there are so many.
    Powered {
        /// Modules.
        modules: usize,
    },
    /// A module is ready.
    Ready {
        /// Its name.
        module: String,
        /// Seconds since power-on.
        seconds: f64,
    },
    /// Everything that was to be waited for is there.
    Up,
    /// It failed; nothing is left running.
    Failed {
        /// Why, on one line.
        reason: String,
        /// For the tool to exit with.
        exit: u8,
    },
}

/// What ends the supervisor: a request, whose asker wants to hear, or a signal.
type End = Option<UnixStream>;

struct Shared {
    chassis: Chassis,
    ready: Mutex<BTreeSet<u16>>,
}

/// Runs a chassis until it is told to end. `out` hears how it starts.
pub fn supervise(charge: Charge, mut out: impl Write + Send) -> Result<(), SimError> {
    let stop = signals()?;
    let outcome = run(charge, &stop, &mut out);
    if let Err(error) = &outcome {
        tracing::error!(reason = %error.one_line(), "the chassis is down");
        let _ = wire::send(&mut out, &Progress::Failed { reason: error.one_line(), exit: error.exit_code() });
    }
    outcome
}

fn run(charge: Charge, stop: &SigSet, out: &mut (impl Write + Send)) -> Result<(), SimError> {
    let chassis = ChassisFile::parse(&charge.chassis).map_err(|reason| SimError::Refused { reason })?;
    let mut plan = Plan::new(chassis, charge.image, &charge.dir).on(charge.backplane);
    plan.paused = charge.paused;
    let papers = scenario::provision(&mut plan)?;
    let begun = std::time::Instant::now();
    let chassis = Chassis::power_on(plan)?;
    if let Some(server) = chassis.modules().find(|module| module.spec().roles.contains(&crate::Role::Server))
    {
        papers.write_client(&charge.dir.join("operator"), &format!("127.0.0.1:{}", server.ground().grpc))?;
    }
    let shared = Arc::new(Shared { chassis, ready: Mutex::new(BTreeSet::new()) });
    let socket = Listening::bind(run_dir::supervisor_socket(&charge.dir))?;
    let (end, ended) = channel::<End>();
    serve(socket.listener.try_clone().map_err(SimError::io("share", &socket.path))?, &shared, &end);
    wait_for_signal(*stop, end);
    // Whoever started us may be gone by now; the chassis stays up all the same.
    let _ = wire::send(out, &Progress::Powered { modules: shared.chassis.modules().count() });
    if let Some(seconds) = charge.ready_within_s {
        let out = Mutex::new(out);
        let tell = |module: &Module| {
            let seconds = begun.elapsed().as_secs_f64();
            shared.is_ready(module.slot());
            let told = Progress::Ready { module: module.name(), seconds };
            let _ = wire::send(*out.lock().unwrap_or_else(PoisonError::into_inner), &told);
        };
        shared.chassis.wait_ready(within(seconds.s()), &tell)?;
        let _ = wire::send(*out.lock().unwrap_or_else(PoisonError::into_inner), &Progress::Up);
    } else {
        let _ = wire::send(out, &Progress::Up);
    }
    let asker = ended.recv().unwrap_or_default();
    shared.chassis.shut_down();
    drop(socket);
    if let Some(mut asker) = asker {
        let _ = wire::send(&mut asker, &Reply::Done);
    }
    tracing::info!("down");
    Ok(())
}

/// Blocks the signals that end us, in this thread and those that it starts, so that one of them can wait for them.
fn signals() -> Result<SigSet, SimError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().map_err(|errno| SimError::io("block signals of", "this process")(errno.into()))?;
    Ok(set)
}

fn wait_for_signal(set: SigSet, end: Sender<End>) {
    std::thread::spawn(move || {
        if let Ok(signal) = set.wait() {
            tracing::info!(signal = signal.as_str(), "taking the chassis down");
            let _ = end.send(None);
        }
    });
}

fn serve(listener: UnixListener, shared: &Arc<Shared>, end: &Sender<End>) {
    let (shared, end) = (Arc::clone(shared), end.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (shared, end) = (Arc::clone(&shared), end.clone());
            std::thread::spawn(move || answer(stream, &shared, &end));
        }
    });
}

fn answer(mut stream: UnixStream, shared: &Shared, end: &Sender<End>) {
    let reply = match wire::receive::<Request>(&stream) {
        Ok(Request::Down) => {
            let _ = end.send(Some(stream));
            return;
        }
        Ok(request) => {
            shared.act(request).unwrap_or_else(|error| Reply::Refused { reason: error.one_line() })
        }
        Err(error) => Reply::Refused { reason: format!("this is no request: {error}") },
    };
    // An asker that has gone away needs no answer.
    let _ = wire::send(&mut stream, &reply);
}

impl Shared {
    fn act(&self, request: Request) -> Result<Reply, SimError> {
        let module = |slot| self.chassis.module(slot);
        match request {
            Request::Status => return Ok(Reply::Status(self.status())),
            Request::Isolate { slot, cable: true } => module(slot)?.unplug()?,
            Request::Isolate { slot, cable: false } => module(slot)?.isolate()?,
            Request::Rejoin { slot } => module(slot)?.rejoin()?,
            Request::Weather { slot, weather } => module(slot)?.set_weather(weather)?,
            Request::Power { slot, change } => {
                let module = module(slot)?;
                self.not_ready(slot);
                match change {
                    PowerChange::On => module.power_on()?,
                    PowerChange::Off => module.power_off()?,
                    PowerChange::Cycle => module.power_cycle()?,
                }
            }
            Request::Exec { slot, command, limit_ms } => {
                let output = module(slot)?.exec(&command, within(Duration::from_millis(limit_ms)))?;
                return Ok(Reply::Output { status: output.status, stdout: output.stdout });
            }
            Request::Down => {}
        }
        Ok(Reply::Done)
    }

    fn status(&self) -> ChassisStatus {
        let modules = self.chassis.modules().map(|module| self.status_of(module)).collect();
        let (chassis, dir) = (self.chassis.name().to_owned(), self.chassis.dir().to_owned());
        ChassisStatus { chassis, dir, supervisor: std::process::id(), modules }
    }

    fn status_of(&self, module: &Module) -> ModuleStatus {
        let (state, uptime_s, reason) = match module.status() {
            Power::Off => ("off".to_owned(), None, None),
            Power::Dead { how } => ("dead".to_owned(), None, Some(how)),
            Power::On { uptime, state } => (self.stage(module, state), Some(uptime.as_secs()), None),
        };
        ModuleStatus {
            slot: module.slot(),
            name: module.name(),
            state,
            reason,
            uptime_s,
            link: module.link(),
            frames: module.counters(),
            address: module.address(),
            ground: module.ground(),
            console: module.console_path().to_owned(),
        }
    }

    /// A module that runs is `booting` until it was once found ready.
    fn stage(&self, module: &Module, state: String) -> String {
        if state != "running" {
            return state;
        }
        let slot = module.slot();
        let known = self.ready.lock().unwrap_or_else(PoisonError::into_inner).contains(&slot);
        if known || module.wait_ready(within(2.s())).is_ok() {
            self.is_ready(slot);
            return "ready".to_owned();
        }
        "booting".to_owned()
    }

    fn is_ready(&self, slot: u16) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
    }

    fn not_ready(&self, slot: u16) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}

/// The socket's file lives as long as somebody answers on it.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listening {
    fn bind(path: PathBuf) -> Result<Self, SimError> {
        // The run directory is ours: what lies there is of a supervisor that was killed.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(SimError::io("listen on", &path))?;
        Ok(Self { listener, path })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
