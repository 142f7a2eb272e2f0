//! One module: a board in its slot, with its power, its two cables, its console and its control channel.
//!
//! ```text
//!        power_on                      the board ends by itself
//!  off ───────────► on (booting … up) ────────────────────► dead
//!   ▲                │  ▲ power_cycle                         │ power_off, power_on
//!   └── power_off ───┘  └─────────────────────────────────────┘
//! ```

use crate::backplane::{Counters, Weather};
use crate::board::Board;
use crate::chassis_file::Slot;
use crate::control::Output;
use crate::qemu::GroundPorts;
use crate::{Limit, Provision, SimError};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A module in its slot.
#[derive(Debug)]
pub struct Module {
    slot: Slot,
    console: PathBuf,
    ports: GroundPorts,
    board: Box<dyn Board>,
}

/// Whether a module runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// It has none.
    Off,
    /// It runs, since so long, in this run state (`running`, `paused`, …).
    On {
        /// Since power-on.
        uptime: Duration,
        /// QEMU's name for it.
        state: String,
    },
    /// It ended by itself: the guest powered off or rebooted, or what makes the module failed.
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

impl Module {
    /// A module without power.
    pub(crate) fn new(slot: Slot, console: PathBuf, ports: GroundPorts, board: Box<dyn Board>) -> Self {
        Self { slot, console, ports, board }
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
        address(self.slot.number)
    }

    /// Ports on 127.0.0.1 that lead to its services.
    pub fn ground(&self) -> GroundPorts {
        self.ports
    }

    /// The file that keeps its console, over power cycles.
    pub fn console_path(&self) -> &Path {
        &self.console
    }

    /// All that its console has said.
    pub fn console(&self) -> Result<String, SimError> {
        let bytes = std::fs::read(&self.console).map_err(SimError::io("read", &self.console))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lays other files over its root from the next power-on.
    pub fn set_identity(&self, identity: Provision) {
        self.board.set_identity(identity);
    }

    /// From the next power-on, nothing is in the slots of these accelerators.
    pub fn take_out(&self, accelerators: BTreeSet<u32>) {
        self.board.take_out(accelerators);
    }

    /// Gives power. Returns when the board runs, which may be long before the module is up: see
    /// [`Module::wait_ready`].
    pub fn power_on(&self) -> Result<(), SimError> {
        self.board.power_on()?;
        tracing::info!(module = %self.name(), "power on");
        Ok(())
    }

    /// Takes power away at once, as pulling the board does: what was not synced to the data disk is lost.
    pub fn power_off(&self) -> Result<(), SimError> {
        self.board.power_off()?;
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
        self.board.status()
    }

    /// Cuts it off at the switch: no frame passes, and it does not see why. It stays on.
    pub fn isolate(&self) -> Result<(), SimError> {
        self.board.isolate()?;
        tracing::info!(module = %self.name(), "isolated");
        Ok(())
    }

    /// What its cable does to frames from now on; [`Weather::FAIR`] is nothing. Power does not change it in QEMU; a
    /// module of namespaces has a new cable each time.
    pub fn set_weather(&self, weather: Weather) -> Result<(), SimError> {
        self.board.set_weather(weather.check()?)?;
        tracing::info!(module = %self.name(), ?weather, "weather");
        Ok(())
    }

    /// Undoes [`Module::isolate`] and [`Module::unplug`].
    pub fn rejoin(&self) -> Result<(), SimError> {
        self.board.rejoin()?;
        tracing::info!(module = %self.name(), "rejoined");
        Ok(())
    }

    /// Pulls its backplane cable: it sees the carrier go. It stays on.
    pub fn unplug(&self) -> Result<(), SimError> {
        self.board.unplug()
    }

    /// The state of its backplane cable.
    pub fn link(&self) -> Link {
        self.board.link()
    }

    /// What its backplane port has carried.
    pub fn counters(&self) -> Counters {
        self.board.counters()
    }

    /// Halts it: a module that hangs.
    pub fn freeze(&self) -> Result<(), SimError> {
        self.board.freeze()
    }

    /// Lets a frozen module go on.
    pub fn thaw(&self) -> Result<(), SimError> {
        self.board.thaw()
    }

    /// Runs a shell command on it as root, through the control channel; works through an isolation. A
    /// module that still boots answers when it can.
    pub fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError> {
        self.board.exec(command, limit)
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

    /// Waits until it has booted: it has started all that it is going to start.
    pub fn wait_ready(&self, limit: Limit) -> Result<Duration, SimError> {
        self.board.wait_ready(limit)
    }

    /// Where the cgroup v2 tree is mounted on it.
    pub fn cgroup(&self) -> &str {
        self.board.cgroup()
    }

    /// Power off for good.
    pub(crate) fn retire(&self) {
        self.board.retire();
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.retire();
    }
}

/// The address on the backplane of the module in a slot.
pub(crate) fn address(slot: u16) -> String {
    format!("10.44.0.{slot}")
}
