//! The backplane: a switch in user space between QEMU's `dgram` netdevs. It needs no privileges, and
//! any module's port can be cut and rejoined while the module sees its carrier up.
//!
//! Each port is a pair of unix datagram sockets: the switch binds one, to which QEMU sends; QEMU binds
//! the other. A thread for each port receives; what it decides is in [`fabric`]. A port may have bad [`weather`]: its
//! frames are lost, or wait on the [`later`] line.

mod fabric;
mod later;
mod weather;

pub use fabric::Counters;
pub(crate) use later::Later;
pub(crate) use weather::Sky;
pub use weather::Weather;

use crate::SimError;
use fabric::Fabric;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Larger than any frame that QEMU sends: with segmentation offload it hands over up to 64 KiB and headers.
const FRAME_LIMIT: usize = 68 * 1024;
/// How long a module that is slow in taking frames may hold up a sender, before its frame is dropped.
const STALL: Duration = Duration::from_millis(20);

/// Where the two ends of a port's socket pair are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPaths {
    /// Bound by the switch.
    pub switch: PathBuf,
    /// Bound by QEMU.
    pub module: PathBuf,
}

/// The running switch. Dropping it stops its threads and removes its sockets.
#[derive(Debug)]
pub struct Backplane {
    wires: Arc<Wires>,
    threads: Vec<JoinHandle<()>>,
}

/// A frame that has yet to leave at a port.
#[derive(Debug)]
struct UnderWay {
    exit: u16,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Wires {
    fabric: Mutex<Fabric>,
    skies: Mutex<BTreeMap<u16, Sky>>,
    /// Since the first bad weather.
    later: Mutex<Option<Later<UnderWay>>>,
    stopping: AtomicBool,
    ports: BTreeMap<u16, Wire>,
}

#[derive(Debug)]
struct Wire {
    socket: UnixDatagram,
    paths: PortPaths,
}

impl Backplane {
    /// Binds the switch's socket of each port and starts to switch.
    pub fn start(ports: BTreeMap<u16, PortPaths>) -> Result<Self, SimError> {
        let numbers: Vec<u16> = ports.keys().copied().collect();
        let ports = ports.into_iter().map(|(number, paths)| Ok((number, Wire::bind(paths)?)));
        let ports = ports.collect::<Result<BTreeMap<_, _>, SimError>>()?;
        let wires = Arc::new(Wires {
            fabric: Mutex::new(Fabric::new(&numbers)),
            skies: Mutex::default(),
            later: Mutex::default(),
            stopping: AtomicBool::new(false),
            ports,
        });
        let mut backplane = Self { wires: Arc::clone(&wires), threads: Vec::new() };
        for number in numbers {
            let wires = Arc::clone(&wires);
            let thread = std::thread::Builder::new().name(format!("port-{number}"));
            let thread = thread.spawn(move || wires.serve(number));
            backplane
                .threads
                .push(thread.map_err(SimError::io("start a thread for", format!("port {number}")))?);
        }
        Ok(backplane)
    }

    /// Cuts a module off: nothing passes its port, and it does not see that.
    pub fn cut(&self, port: u16) -> bool {
        self.wires.fabric().set_cut(port, true)
    }

    /// Undoes [`Backplane::cut`].
    pub fn rejoin(&self, port: u16) -> bool {
        self.wires.fabric().set_cut(port, false)
    }

    /// Whether a port is cut.
    pub fn is_cut(&self, port: u16) -> bool {
        self.wires.fabric().is_cut(port)
    }

    /// What happens to the frames of a port from now on, in either direction.
    ///
    /// # Errors
    /// No thread can be started for delayed frames.
    pub fn set_weather(&self, port: u16, weather: Weather) -> Result<(), SimError> {
        let mut later = locked(&self.wires.later);
        if later.is_none() {
            let wires = Arc::downgrade(&self.wires);
            *later = Some(Later::start(move |under_way: UnderWay| {
                if let Some(wires) = wires.upgrade() {
                    wires.leave(under_way.exit, &under_way.frame);
                }
            })?);
        }
        let mut skies = locked(&self.wires.skies);
        skies.remove(&port);
        if weather != Weather::FAIR {
            skies.insert(port, Sky::new(weather, u64::from(port)));
        }
        Ok(())
    }

    /// What a port has carried since the start.
    pub fn counters(&self, port: u16) -> Counters {
        self.wires.fabric().counters(port)
    }
}

impl Drop for Backplane {
    fn drop(&mut self) {
        self.wires.stopping.store(true, Ordering::Release);
        drop(locked(&self.wires.later).take());
        for wire in self.wires.ports.values() {
            let _ = wire.socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for wire in self.wires.ports.values() {
            let _ = std::fs::remove_file(&wire.paths.switch);
        }
    }
}

impl Wire {
    fn bind(paths: PortPaths) -> Result<Self, SimError> {
        let at = &paths.switch;
        let socket = UnixDatagram::bind(at).map_err(SimError::io("bind the switch's socket", at))?;
        socket.set_write_timeout(Some(STALL)).map_err(SimError::io("bound sends on", at))?;
        Ok(Self { socket, paths })
    }
}

impl Wires {
    /// A frame at a time, until the switch stops. A frame that cannot be received is lost, as on any wire.
    fn serve(&self, number: u16) {
        let Some(wire) = self.ports.get(&number) else { return };
        let mut buffer = vec![0; FRAME_LIMIT];
        while !self.stopping.load(Ordering::Acquire) {
            match wire.socket.recv(&mut buffer) {
                Ok(length) => self.forward(number, buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => std::thread::sleep(STALL),
            }
        }
    }

    fn forward(&self, number: u16, frame: &[u8]) {
        if frame.is_empty() {
            return;
        }
        let exits = self.fabric().forward(number, frame);
        for exit in exits {
            let arrivals = self.arrivals(number, exit);
            if arrivals.is_empty() {
                self.fabric().left(exit, false);
            }
            for delay in arrivals {
                if delay.is_zero() {
                    self.leave(exit, frame);
                } else {
                    let under_way = UnderWay { exit, frame: frame.to_vec() };
                    let taken =
                        locked(&self.later).as_ref().is_some_and(|later| later.send(delay, under_way));
                    if !taken {
                        self.fabric().left(exit, false);
                    }
                }
            }
        }
    }

    /// When the copies of a frame arrive that passes the cables of both its ports.
    fn arrivals(&self, from: u16, exit: u16) -> Vec<Duration> {
        let mut skies = locked(&self.skies);
        if skies.is_empty() {
            return vec![Duration::ZERO];
        }
        let mut pass = |port: u16| skies.get_mut(&port).map_or_else(|| vec![Duration::ZERO], Sky::next);
        let first = pass(from);
        first.into_iter().flat_map(|so_far| pass(exit).into_iter().map(move |more| so_far + more)).collect()
    }

    fn leave(&self, exit: u16, frame: &[u8]) {
        if self.fabric().is_cut(exit) {
            return self.fabric().left(exit, false);
        }
        // A module that is off has no socket; one that is halted does not empty it. Either way the frame is lost.
        let taken =
            self.ports.get(&exit).is_some_and(|to| to.socket.send_to(frame, &to.paths.module).is_ok());
        self.fabric().left(exit, taken);
    }

    fn fabric(&self) -> MutexGuard<'_, Fabric> {
        locked(&self.fabric)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Times, wait_until, within};
    use std::path::Path;

    struct Bench {
        dir: tempfile::TempDir,
        backplane: Backplane,
        modules: BTreeMap<u16, UnixDatagram>,
    }

    fn paths(dir: &Path, port: u16) -> PortPaths {
        PortPaths { switch: dir.join(format!("{port}.sw")), module: dir.join(format!("{port}.bp")) }
    }

    /// A switch with a plain socket for each module.
    fn bench(ports: &[u16]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let backplane =
            Backplane::start(ports.iter().map(|p| (*p, paths(dir.path(), *p))).collect()).unwrap();
        let modules = ports.iter().map(|port| {
            let socket = UnixDatagram::bind(paths(dir.path(), *port).module).unwrap();
            socket.set_read_timeout(Some(10.s())).unwrap();
            (*port, socket)
        });
        Bench { modules: modules.collect(), backplane, dir }
    }

    impl Bench {
        fn send(&self, from: u16, to: u8, text: &str) {
            let source = u8::try_from(from).unwrap();
            let mac = |last: u8| if last == 255 { [255; 6] } else { [0x52, 0x54, 0, 0x44, 0, last] };
            let frame = [mac(to).as_slice(), mac(source).as_slice(), text.as_bytes()].concat();
            self.modules[&from].send_to(&frame, paths(self.dir.path(), from).switch).unwrap();
        }

        fn received(&self, at: u16) -> String {
            let mut buffer = [0; 2000];
            let length = self.modules[&at].recv(&mut buffer).unwrap();
            String::from_utf8(buffer[12..length].to_vec()).unwrap()
        }

        fn wait_for_dropped(&self, port: u16, frames: u64) {
            let what = format!("frames that port {port} has dropped: {frames}");
            wait_until(&what, within(30.s()), || self.backplane.counters(port).dropped == frames).unwrap();
        }
    }

    #[test]
    fn frames_pass_between_modules_and_a_cut_port_hears_nothing() {
        let bench = bench(&[1, 2, 3]);
        bench.send(1, 255, "who is there");
        assert_eq!(bench.received(2), "who is there");
        assert_eq!(bench.received(3), "who is there");
        bench.send(2, 1, "me");
        assert_eq!(bench.received(1), "me");

        assert!(bench.backplane.cut(3));
        bench.send(1, 255, "while cut");
        bench.send(3, 1, "from the cut one");
        assert_eq!(bench.received(2), "while cut");
        bench.wait_for_dropped(3, 2);
        assert!(bench.backplane.rejoin(3));
        bench.send(1, 255, "after");
        // The next that 3 hears is this: nothing of what passed meanwhile was kept for it.
        assert_eq!(bench.received(3), "after");
        bench.send(2, 1, "last");
        assert_eq!(bench.received(1), "last");
    }

    #[test]
    fn a_module_that_is_off_loses_frames_and_nobody_else_does() {
        let mut bench = bench(&[1, 2, 3]);
        bench.modules.remove(&2);
        std::fs::remove_file(paths(bench.dir.path(), 2).module).unwrap();
        bench.send(1, 255, "hello");
        assert_eq!(bench.received(3), "hello");
        wait_until("counted", within(10.s()), || bench.backplane.counters(2).dropped == 1).unwrap();
    }

    #[test]
    fn bad_weather_loses_doubles_and_delays_on_one_cable_alone() {
        let bench = bench(&[1, 2, 3]);
        let weather = |weather| bench.backplane.set_weather(2, weather).unwrap();
        weather(Weather { loss: 100, ..Weather::FAIR });
        bench.send(1, 255, "lost");
        bench.send(2, 255, "lost too");
        assert_eq!(bench.received(3), "lost");
        // Each port has a thread of its own: the weather holds until both frames have met it.
        bench.wait_for_dropped(1, 1);
        bench.wait_for_dropped(2, 1);
        bench.wait_for_dropped(3, 1);
        weather(Weather { duplicate: 100, delay: model::Span(50), ..Weather::FAIR });
        bench.send(1, 255, "twice");
        assert_eq!([bench.received(2), bench.received(2)], ["twice", "twice"]);
        weather(Weather::FAIR);
        bench.send(2, 255, "fair");
        assert_eq!([bench.received(3), bench.received(3)], ["twice", "fair"]);
        assert_eq!(bench.received(1), "fair");
    }

    #[test]
    fn an_empty_frame_does_not_end_a_port() {
        let bench = bench(&[1, 2]);
        let to = paths(bench.dir.path(), 1).switch;
        bench.modules[&1].send_to(&[], &to).unwrap();
        bench.send(1, 255, "after");
        assert_eq!(bench.received(2), "after");
    }

    #[test]
    fn stopping_ends_the_threads_and_removes_the_sockets() {
        let Bench { dir, backplane, modules } = bench(&[1, 2]);
        drop(modules);
        drop(backplane);
        assert!(!paths(dir.path(), 1).switch.exists() && !paths(dir.path(), 2).switch.exists());
    }
}
