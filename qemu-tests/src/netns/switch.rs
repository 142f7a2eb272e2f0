//! The backplane between namespaces: a bridge in a network namespace that one thread holds.

use super::air::Air;
use crate::backplane::{Counters, Weather};
use crate::{SimError, host, qemu};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const BRIDGE: &str = "backplane";
/// Where whoever stands beside the modules on the backplane is found.
pub(crate) const OUTSIDE: &str = "10.44.0.254";

/// The switch.
#[derive(Debug)]
pub(crate) struct Switch {
    orders: Mutex<Option<Sender<Order>>>,
    thread: Option<JoinHandle<()>>,
    /// Cables that are not as they should be.
    airs: Mutex<BTreeMap<u16, Air>>,
}

/// Something to do in the switch's namespace.
type Order = Box<dyn FnOnce() + Send>;

fn gone() -> SimError {
    SimError::Refused { reason: "the switch's thread is gone".to_owned() }
}

impl Switch {
    /// A bridge without ports.
    pub(crate) fn start() -> Result<Self, SimError> {
        let (orders, inbox) = channel::<Order>();
        let (ready, made) = channel();
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || hold(&inbox, &ready))
            .map_err(SimError::io("start a thread for", "the switch"))?;
        made.recv().map_err(|_| gone())??;
        let switch = Self { orders: Mutex::new(Some(orders)), thread: Some(thread), airs: Mutex::default() };
        switch.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        switch.ip(&["address", "add", &format!("{OUTSIDE}/24"), "dev", BRIDGE])?;
        switch.ip(&["link", "set", BRIDGE, "up"])?;
        switch.ip(&["link", "set", "lo", "up"])?;
        Ok(switch)
    }

    /// Lays a cable from a port to the module whose network namespace the process `pid` has.
    pub(crate) fn plug(&self, slot: u16, pid: i32) -> Result<(), SimError> {
        let (port, mac, pid) = (port(slot), qemu::backplane_mac(slot), pid.to_string());
        let _ = self.ip(&["link", "delete", &port]);
        let cable = ["link", "add", &port, "type", "veth", "peer", "name", "bp0"];
        self.ip(&[&cable[..], &["address", &mac, "netns", &pid]].concat())?;
        self.rejoin(slot)
    }

    /// Takes the cable away, with the module's end.
    pub(crate) fn remove(&self, slot: u16) {
        // It may have gone with the module's namespace already.
        let _ = self.ip(&["link", "delete", &port(slot)]);
        let _ = self.clear_up(slot);
    }

    /// What happens to the frames on a module's cable from now on.
    pub(crate) fn set_weather(&self, slot: u16, weather: Weather, joined: bool) -> Result<(), SimError> {
        if let Some(air) = self.airs().get(&slot) {
            air.change(weather);
            return Ok(());
        }
        if weather == Weather::FAIR {
            return Ok(());
        }
        let air = self.here(move || Air::start(slot, weather))??;
        let bridge = Air::bridge(slot);
        self.ip(&["link", "add", &bridge, "type", "bridge"])?;
        for (tap, master) in Air::taps(slot).iter().zip([bridge.as_str(), BRIDGE]) {
            self.ip(&["link", "set", tap, "master", master, "up"])?;
        }
        self.ip(&["link", "set", &bridge, "up"])?;
        self.airs().insert(slot, air);
        if joined { self.rejoin(slot) } else { Ok(()) }
    }

    /// A new cable is a good one.
    fn clear_up(&self, slot: u16) -> Result<(), SimError> {
        let Some(air) = self.airs().remove(&slot) else { return Ok(()) };
        drop(air);
        for link in Air::taps(slot).iter().chain([&Air::bridge(slot)]) {
            self.ip(&["link", "delete", link])?;
        }
        Ok(())
    }

    fn airs(&self) -> MutexGuard<'_, BTreeMap<u16, Air>> {
        self.airs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No frame passes; the module keeps its carrier.
    pub(crate) fn cut(&self, slot: u16) -> Result<(), SimError> {
        self.ip(&["link", "set", &port(slot), "nomaster"]).map(drop)
    }

    /// The module loses its carrier.
    pub(crate) fn unplug(&self, slot: u16) -> Result<(), SimError> {
        self.ip(&["link", "set", &port(slot), "down"]).map(drop)
    }

    /// Undoes both.
    pub(crate) fn rejoin(&self, slot: u16) -> Result<(), SimError> {
        let air = self.airs().contains_key(&slot).then(|| Air::bridge(slot));
        let master = air.as_deref().unwrap_or(BRIDGE);
        self.ip(&["link", "set", &port(slot), "master", master, "up"]).map(drop)
    }

    /// As the port's interface has counted: what it received is what the module has sent.
    pub(crate) fn counters(&self, slot: u16) -> Counters {
        let said = self.ip(&["-s", "-j", "link", "show", &port(slot)]).unwrap_or_default();
        let links: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let count = |way: &str, what: &str| {
            links
                .pointer(&format!("/0/stats64/{way}/{what}"))
                .and_then(serde_json::Value::as_u64)
                .unwrap_or(0)
        };
        Counters {
            received: count("rx", "packets"),
            sent: count("tx", "packets"),
            dropped: count("rx", "dropped") + count("tx", "dropped"),
        }
    }

    fn ip(&self, arguments: &[&str]) -> Result<String, SimError> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.here(move || ip(&arguments))?
    }

    /// Does something in the switch's namespace.
    fn here<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, SimError> {
        let (reply, answer) = channel();
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let order: Order = Box::new(move || drop(reply.send(work())));
        orders.ok_or_else(gone)?.send(order).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let slots: Vec<u16> = self.airs().keys().copied().collect();
        for slot in slots {
            let _ = self.clear_up(slot);
        }
        *self.orders.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn port(slot: u16) -> String {
    format!("port{slot}")
}

/// The thread: its network namespace is its own, and what it starts is in there.
fn hold(inbox: &Receiver<Order>, ready: &Sender<Result<(), SimError>>) {
    let made = unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| SimError::io("make a network namespace for", "the switch")(errno.into()));
    let failed = made.is_err();
    if ready.send(made).is_err() || failed {
        return;
    }
    for order in inbox {
        order();
    }
}

fn ip(arguments: &[String]) -> Result<String, SimError> {
    let mut command = Command::new("ip");
    host::with_admin_path(&mut command);
    let output = command.args(arguments).output().map_err(|error| host::not_started("ip", error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(SimError::Program { program: format!("ip {}", arguments.join(" ")), output: said })
}
