//! The ground link of a module that is a namespace: ports on 127.0.0.1 that lead into it, past the backplane.

use crate::SimError;
use crate::host::HeldPorts;
use crate::qemu::GroundPorts;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ports of the module's own services, in the order of [`GroundPorts`].
const SERVICES: [u16; 3] = [7440, 7480, 5000];

/// Three ports, one module.
#[derive(Debug)]
pub(crate) struct Ground {
    ports: GroundPorts,
    inside: Inside,
    over: Arc<AtomicBool>,
}

/// The network namespace of the module while it has power.
type Inside = Arc<Mutex<Option<File>>>;

impl Ground {
    /// Listens on the ports that are held; they refuse until the module has power.
    pub(crate) fn start(held: HeldPorts) -> Result<Self, SimError> {
        let HeldPorts { ports, listeners } = held;
        let (inside, over) = (Inside::default(), Arc::new(AtomicBool::new(false)));
        for (listener, service) in listeners.into_iter().zip(SERVICES) {
            let (inside, over) = (Arc::clone(&inside), Arc::clone(&over));
            std::thread::Builder::new()
                .name(format!("ground-{service}"))
                .spawn(move || accept(&listener, service, &inside, &over))
                .map_err(SimError::io("start a thread for", "the ground link"))?;
        }
        Ok(Self { ports, inside, over })
    }

    pub(crate) fn ports(&self) -> GroundPorts {
        self.ports
    }

    /// Leads to the namespace of that process from now on, or nowhere.
    pub(crate) fn lead_to(&self, pid: Option<i32>) -> Result<(), SimError> {
        let open = |pid| {
            let path = format!("/proc/{pid}/ns/net");
            File::open(&path).map_err(SimError::io("open", path))
        };
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) = pid.map(open).transpose()?;
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for port in [self.ports.grpc, self.ports.http, self.ports.registry] {
            // Wakes the thread that waits for a connection.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
    }
}

fn accept(listener: &TcpListener, service: u16, inside: &Inside, over: &AtomicBool) {
    for stream in listener.incoming().map_while(Result::ok) {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let namespace = inside.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(namespace) = namespace.as_ref().and_then(|file| file.try_clone().ok()) else { continue };
        // A thread of its own: it never leaves the namespace that it enters.
        std::thread::spawn(move || {
            // Whoever called sees his connection end, as he would on a wire.
            let _ = connect(&namespace, service).and_then(|inner| join(stream, inner));
        });
    }
}

fn connect(namespace: &File, service: u16) -> io::Result<TcpStream> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    TcpStream::connect((Ipv4Addr::LOCALHOST, service))
}

/// Carries bytes both ways until both ends are done.
fn join(outer: TcpStream, inner: TcpStream) -> io::Result<()> {
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    let (from_outer, to_inner) = (outer.try_clone()?, inner.try_clone()?);
    let there = std::thread::spawn(move || carry(&from_outer, &to_inner));
    carry(&inner, &outer);
    let _ = there.join();
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
