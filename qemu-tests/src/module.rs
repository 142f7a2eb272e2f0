//! One module: a QEMU process with its power, its two cables, its console and its control channel.
//!
//! ```text
//!        power_on                      QEMU ends by itself
//!  off ───────────► on (booting … up) ────────────────────► dead
//!   ▲                │  ▲ power_cycle                         │ power_off, power_on
//!   └── power_off ───┘  └─────────────────────────────────────┘
//! ```

use crate::backplane::{Backplane, Counters};
use crate::chassis_file::Slot;
use crate::control::{Control, Output};
use crate::host;
use crate::image::Image;
use crate::qemu::{self, GroundPorts, Start};
use crate::run_dir::ModulePaths;
use crate::spawner::Spawner;
use crate::{Limit, Provision, Qmp, SimError, Times, wait_for, within};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A module in its slot.
#[derive(Debug)]
pub struct Module {
    slot: Slot,
    paths: ModulePaths,
    ports: GroundPorts,
    image: Arc<Image>,
    spawner: Arc<Spawner>,
    backplane: Arc<Backplane>,
    start: Start,
    identity: Mutex<Provision>,
    /// Numbers of accelerators whose devices have been taken out.
    taken_out: Mutex<BTreeSet<u32>>,
    power: Mutex<Option<Running>>,
    unplugged: AtomicBool,
}

#[derive(Debug)]
struct Running {
    child: Child,
    qmp: Qmp,
    control: Arc<Control>,
    since: Instant,
}

/// Whether a module runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// No QEMU.
    Off,
    /// QEMU runs, since so long, in this run state (`running`, `paused`, …).
    On {
        /// Since power-on.
        uptime: Duration,
        /// QEMU's name for it.
        state: String,
    },
    /// QEMU ended by itself: the guest powered off or rebooted, or QEMU failed.
    Dead {
        /// Exit status and last words.
        how: String,
    },
}

/// A module's cable to the backplane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Frames pass.
    Joined,
    /// Cut at the switch; the module sees its carrier.
    Isolated,
    /// Pulled out; the module sees that it has no carrier.
    Unplugged,
}

/// What a module is made of; all of it is the chassis'.
pub(crate) struct Parts {
    pub(crate) slot: Slot,
    pub(crate) paths: ModulePaths,
    pub(crate) ports: GroundPorts,
    pub(crate) image: Arc<Image>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) start: Start,
    pub(crate) identity: Provision,
}

impl Module {
    /// A module without power.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { slot, paths, ports, image, spawner, backplane, start, identity } = parts;
        let (power, unplugged) = (Mutex::new(None), AtomicBool::new(false));
        let (identity, taken_out) = (Mutex::new(identity), Mutex::default());
        Self { slot, paths, ports, image, spawner, backplane, start, identity, taken_out, power, unplugged }
    }

    /// Its slot's number.
    pub fn slot(&self) -> u16 {
        self.slot.number
    }

    /// What the chassis file says about it.
    pub fn spec(&self) -> &Slot {
        &self.slot
    }

    /// `module-N`.
    pub fn name(&self) -> String {
        format!("module-{}", self.slot.number)
    }

    /// Its address on the backplane.
    pub fn address(&self) -> String {
        format!("10.44.0.{}", self.slot.number)
    }

    /// Ports on 127.0.0.1 that lead to its services.
    pub fn ground(&self) -> GroundPorts {
        self.ports
    }

    /// The file that keeps its serial console, over power cycles.
    pub fn console_path(&self) -> &Path {
        &self.paths.console
    }

    /// All that its serial console has said.
    pub fn console(&self) -> Result<String, SimError> {
        let bytes = std::fs::read(&self.paths.console).map_err(SimError::io("read", &self.paths.console))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lays other files over its root from the next power-on.
    pub fn set_identity(&self, identity: Provision) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// From the next power-on, nothing is in the slots of these accelerators.
    pub fn take_out(&self, accelerators: BTreeSet<u32>) {
        *self.taken_out.lock().unwrap_or_else(PoisonError::into_inner) = accelerators;
    }

    /// Gives power. Returns when QEMU runs, which is long before the module is up: see [`Module::wait_ready`].
    pub fn power_on(&self) -> Result<(), SimError> {
        let mut power = self.power();
        if let Some(running) = power.as_mut() {
            if matches!(running.child.try_wait(), Ok(None)) {
                return Err(SimError::On { slot: self.slot() });
            }
            *power = None;
        }
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).write(&self.paths.identity)?;
        *power = Some(self.start()?);
        self.unplugged.store(false, Ordering::Relaxed);
        tracing::info!(module = %self.name(), "power on");
        Ok(())
    }

    /// Takes power away at once, as pulling the board does: what was not synced to the data disk is lost.
    pub fn power_off(&self) -> Result<(), SimError> {
        let mut running = self.power().take().ok_or(SimError::Off { slot: self.slot() })?;
        running.end();
        tracing::info!(module = %self.name(), "power off");
        Ok(())
    }

    /// Off and on again.
    pub fn power_cycle(&self) -> Result<(), SimError> {
        self.power_off()?;
        self.power_on()
    }

    /// Whether it runs.
    pub fn status(&self) -> Power {
        let mut power = self.power();
        let Some(running) = power.as_mut() else { return Power::Off };
        match running.child.try_wait() {
            Ok(Some(status)) => Power::Dead { how: self.last_words(status).one_line() },
            _ => {
                let state = running.qmp.status().unwrap_or_else(|error| error.one_line());
                Power::On { uptime: running.since.elapsed(), state }
            }
        }
    }

    /// Cuts it off at the switch: no frame passes, and it does not see why. It stays on.
    pub fn isolate(&self) -> Result<(), SimError> {
        tracing::info!(module = %self.name(), "isolated");
        self.backplane.cut(self.slot()).then_some(()).ok_or(SimError::Off { slot: self.slot() })
    }

    /// Undoes [`Module::isolate`] and [`Module::unplug`].
    pub fn rejoin(&self) -> Result<(), SimError> {
        if self.unplugged.load(Ordering::Relaxed) {
            self.set_link(true)?;
        }
        tracing::info!(module = %self.name(), "rejoined");
        self.backplane.rejoin(self.slot()).then_some(()).ok_or(SimError::Off { slot: self.slot() })
    }

    /// Pulls its backplane cable: it sees the carrier go. It stays on.
    pub fn unplug(&self) -> Result<(), SimError> {
        self.set_link(false)
    }

    /// The state of its backplane cable.
    pub fn link(&self) -> Link {
        match (self.backplane.is_cut(self.slot()), self.unplugged.load(Ordering::Relaxed)) {
            (_, true) => Link::Unplugged,
            (true, false) => Link::Isolated,
            (false, false) => Link::Joined,
        }
    }

    /// What its backplane port has carried.
    pub fn counters(&self) -> Counters {
        self.backplane.counters(self.slot())
    }

    /// Halts its virtual CPUs: a module that hangs.
    pub fn freeze(&self) -> Result<(), SimError> {
        self.with_qmp(Qmp::stop)
    }

    /// Lets a frozen module go on.
    pub fn thaw(&self) -> Result<(), SimError> {
        self.with_qmp(Qmp::cont)
    }

    /// Runs a shell command on it as root, through the control channel; works through an isolation. A
    /// module that still boots answers when it can.
    pub fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError> {
        let control = match self.power().as_ref() {
            Some(running) => Arc::clone(&running.control),
            None => return Err(SimError::Off { slot: self.slot() }),
        };
        control.exec(command, limit).map_err(|error| match (error, self.death()) {
            (SimError::Off { .. }, Some(death)) => death,
            (error, _) => error,
        })
    }

    /// As [`Module::exec`], for a command that must succeed: returns what it printed.
    pub fn run(&self, command: &str, limit: Limit) -> Result<String, SimError> {
        let Output { status, stdout } = self.exec(command, limit)?;
        if status == 0 {
            return Ok(stdout);
        }
        let output = stdout.trim().to_owned();
        Err(SimError::Command { slot: self.slot(), command: command.to_owned(), status, output })
    }

    /// Waits until it has booted: systemd has started all that it is going to start.
    pub fn wait_ready(&self, limit: Limit) -> Result<Duration, SimError> {
        let begun = Instant::now();
        // A failed unit makes it `degraded`, and the command fail; the unit's user is the one who must mind.
        let state = self.exec("systemctl is-system-running --wait", limit)?;
        match state.stdout.trim() {
            "running" | "degraded" => Ok(begun.elapsed()),
            _ => Err(SimError::Command {
                slot: self.slot(),
                command: "systemctl is-system-running".to_owned(),
                status: state.status,
                output: state.stdout.trim().to_owned(),
            }),
        }
    }

    /// Power off for good.
    pub(crate) fn retire(&self) {
        if let Some(mut running) = self.power().take() {
            running.end();
        }
        self.paths.remove_transient();
    }

    fn start(&self) -> Result<Running, SimError> {
        let paths = &self.paths;
        for stale in [&paths.qmp, &paths.control, &paths.backplane.module] {
            let _ = std::fs::remove_file(stale);
        }
        let said = File::create(&paths.said).map_err(SimError::io("create", &paths.said))?;
        let mut slot = self.slot.clone();
        let out = self.taken_out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for accelerator in slot.accelerators.iter_mut().filter(|a| out.contains(&a.number)) {
            accelerator.empty = true;
        }
        let mut command = qemu::command(&slot, &self.image, paths, self.ports, self.start);
        host::with_admin_path(&mut command);
        command
            .stdin(std::process::Stdio::null())
            .stdout(said.try_clone().map_err(SimError::io("share", &paths.said))?);
        command.stderr(said);
        let child = self.spawner.spawn(command).map_err(|error| host::not_started(qemu::PROGRAM, error))?;
        let mut starting = Starting(Some(child));
        let what = format!("QEMU of {} answers on {}", self.name(), paths.qmp.display());
        let (qmp, _) = wait_for(&what, within(60.s()), || match starting.exited() {
            Some(status) => Some(Err(self.last_words(status))),
            None => Qmp::connect(&paths.qmp).ok().map(Ok),
        })?;
        let (qmp, control) = (qmp?, Control::connect(self.slot(), &paths.control)?);
        let child = starting.0.take().ok_or(SimError::Off { slot: self.slot() })?;
        Ok(Running { child, qmp, control: Arc::new(control), since: Instant::now() })
    }

    fn set_link(&self, up: bool) -> Result<(), SimError> {
        self.with_qmp(|qmp| qmp.set_link(qemu::BACKPLANE_NIC, up))?;
        self.unplugged.store(!up, Ordering::Relaxed);
        tracing::info!(module = %self.name(), up, "backplane cable");
        Ok(())
    }

    fn with_qmp(&self, act: impl FnOnce(&mut Qmp) -> Result<(), SimError>) -> Result<(), SimError> {
        match self.power().as_mut() {
            Some(running) => act(&mut running.qmp),
            None => Err(SimError::Off { slot: self.slot() }),
        }
    }

    /// If QEMU has ended by itself: how.
    fn death(&self) -> Option<SimError> {
        // The channel may break a moment before the process can be waited for.
        let mut status = None;
        let ended = || {
            status = self.power().as_mut().and_then(|running| running.child.try_wait().ok().flatten());
            status.is_some()
        };
        crate::wait_until("QEMU has ended", within(2.s()), ended).ok()?;
        status.map(|status| self.last_words(status))
    }

    fn last_words(&self, status: ExitStatus) -> SimError {
        let said = std::fs::read_to_string(&self.paths.said).unwrap_or_default();
        let mut said: Vec<&str> = said.lines().rev().take(3).collect();
        said.reverse();
        let said = if said.is_empty() { "it said nothing".to_owned() } else { said.join("; ") };
        let console = self.paths.console.clone();
        SimError::Died { slot: self.slot(), status: status.to_string(), said, console }
    }

    fn power(&self) -> MutexGuard<'_, Option<Running>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Running {
    fn end(&mut self) {
        let _ = self.qmp.quit();
        let gone = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if crate::wait_until("QEMU ends", within(3.s()), || gone(&mut self.child)).is_err() {
            kill(&mut self.child);
        }
    }
}

/// A child that is killed unless it is taken out: no error on the way leaves it behind.
struct Starting(Option<Child>);

impl Starting {
    fn exited(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.0.as_mut() {
            kill(child);
        }
    }
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
