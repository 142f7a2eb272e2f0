//! A board that QEMU emulates: kernel, processor and network cards are its own.

use crate::backplane::{Backplane, Counters, Weather};
use crate::board::Board;
use crate::chassis_file::Slot;
use crate::control::{Control, Output};
use crate::host;
use crate::image::Image;
use crate::module::{Link, Power};
use crate::qemu::{self, GroundPorts, Slots, Start};
use crate::run_dir::ModulePaths;
use crate::spawner::Spawner;
use crate::{Limit, Provision, Qmp, SimError, Times, wait_for, within};
use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A QEMU process, or the place for one.
#[derive(Debug)]
pub(crate) struct Emulated {
    slot: Slot,
    paths: ModulePaths,
    ports: GroundPorts,
    image: Arc<Image>,
    slots: Option<Slots>,
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

/// What a module is made of; all of it is the chassis'.
pub(crate) struct Parts {
    pub(crate) slot: Slot,
    pub(crate) paths: ModulePaths,
    pub(crate) ports: GroundPorts,
    pub(crate) image: Arc<Image>,
    pub(crate) slots: Option<Slots>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) start: Start,
    pub(crate) identity: Provision,
}

impl Emulated {
    /// A board without power.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { slot, paths, ports, image, slots, spawner, backplane, start, identity } = parts;
        let (power, unplugged) = (Mutex::new(None), AtomicBool::new(false));
        let (identity, taken_out) = (Mutex::new(identity), Mutex::default());
        Self {
            slot,
            paths,
            ports,
            image,
            slots,
            spawner,
            backplane,
            start,
            identity,
            taken_out,
            power,
            unplugged,
        }
    }

    fn slot(&self) -> u16 {
        self.slot.number
    }

    fn or_off(&self, done: bool) -> Result<(), SimError> {
        done.then_some(()).ok_or(SimError::Off { slot: self.slot() })
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
        let mut command =
            qemu::command(&slot, &self.image, paths, self.ports, self.start, self.slots.as_ref());
        host::with_admin_path(&mut command);
        command
            .stdin(std::process::Stdio::null())
            .stdout(said.try_clone().map_err(SimError::io("share", &paths.said))?);
        command.stderr(said);
        let child = self.spawner.spawn(command).map_err(|error| host::not_started(qemu::PROGRAM, error))?;
        let mut starting = Starting(Some(child));
        let what = format!("QEMU of module-{} answers on {}", self.slot(), paths.qmp.display());
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
        tracing::info!(slot = self.slot(), up, "backplane cable");
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
        SimError::Died { slot: self.slot(), program: "QEMU", status: status.to_string(), said, console }
    }

    fn power(&self) -> MutexGuard<'_, Option<Running>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board for Emulated {
    fn take_out(&self, accelerators: BTreeSet<u32>) {
        *self.taken_out.lock().unwrap_or_else(PoisonError::into_inner) = accelerators;
    }

    fn set_identity(&self, identity: Provision) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn power_on(&self) -> Result<(), SimError> {
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
        Ok(())
    }

    fn power_off(&self) -> Result<(), SimError> {
        let mut running = self.power().take().ok_or(SimError::Off { slot: self.slot() })?;
        running.end();
        Ok(())
    }

    fn status(&self) -> Power {
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

    fn isolate(&self) -> Result<(), SimError> {
        self.or_off(self.backplane.cut(self.slot()))
    }

    fn unplug(&self) -> Result<(), SimError> {
        self.set_link(false)
    }

    fn rejoin(&self) -> Result<(), SimError> {
        if self.unplugged.load(Ordering::Relaxed) {
            self.set_link(true)?;
        }
        self.or_off(self.backplane.rejoin(self.slot()))
    }

    fn set_weather(&self, weather: Weather) -> Result<(), SimError> {
        self.backplane.set_weather(self.slot(), weather)
    }

    fn link(&self) -> Link {
        match (self.backplane.is_cut(self.slot()), self.unplugged.load(Ordering::Relaxed)) {
            (_, true) => Link::Unplugged,
            (true, false) => Link::Isolated,
            (false, false) => Link::Joined,
        }
    }

    fn counters(&self) -> Counters {
        self.backplane.counters(self.slot())
    }

    fn freeze(&self) -> Result<(), SimError> {
        self.with_qmp(Qmp::stop)
    }

    fn thaw(&self) -> Result<(), SimError> {
        self.with_qmp(Qmp::cont)
    }

    fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError> {
        let control = match self.power().as_ref() {
            Some(running) => Arc::clone(&running.control),
            None => return Err(SimError::Off { slot: self.slot() }),
        };
        control.exec(command, limit).map_err(|error| match (error, self.death()) {
            (SimError::Off { .. }, Some(death)) => death,
            (error, _) => error,
        })
    }

    /// Until systemd has started all that it is going to start.
    fn wait_ready(&self, limit: Limit) -> Result<Duration, SimError> {
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

    fn cgroup(&self) -> &str {
        "/sys/fs/cgroup"
    }

    fn retire(&self) {
        if let Some(mut running) = self.power().take() {
            running.end();
        }
        self.paths.remove_transient();
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
