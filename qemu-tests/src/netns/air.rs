//! Bad weather on the cable of a module that is a namespace. Its port leaves the backplane's bridge for one of its own,
//! and frames go to and fro between two taps, where they can be lost, doubled and delayed.
//!
//! ```text
//!  module bp0 ─ veth ─ portN ─ airN (bridge) ─ nearN (tap) ─ Sky, Later ─ farN (tap) ─ backplane (bridge)
//! ```
//! Taps rather than packet sockets: the kernel completes checksums for a tap, which the module's card leaves to it.

use crate::SimError;
use crate::backplane::{Later, Sky, Weather};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Larger than any frame here: a tap has no segmentation offload.
const FRAME_LIMIT: usize = 4096;
const DEVICE: &str = "/dev/net/tun";
/// `IFF_TAP | IFF_NO_PI`: frames as they are, without a header of the kernel's in front.
const TAP_FLAGS: libc::c_short = 0x0002 | 0x1000;

nix::ioctl_write_ptr_bad!(name_tap, libc::TUNSETIFF, libc::ifreq);

/// A cable with weather. The taps go when this does.
#[derive(Debug)]
pub(crate) struct Air {
    skies: Arc<Mutex<[Sky; 2]>>,
    ended: Arc<AtomicBool>,
    slot: u16,
}

impl Air {
    /// The bridge that the module's port joins.
    pub(crate) fn bridge(slot: u16) -> String {
        format!("air{slot}")
    }

    /// The taps' names: towards the module, and towards the backplane.
    pub(crate) fn taps(slot: u16) -> [String; 2] {
        [format!("near{slot}"), format!("far{slot}")]
    }

    /// Makes both taps in the network namespace of the thread that calls this, and lets frames pass between them.
    pub(crate) fn start(slot: u16, weather: Weather) -> Result<Self, SimError> {
        let [near, far] = Self::taps(slot);
        let (near, far) = (Arc::new(tap(&near)?), Arc::new(tap(&far)?));
        let skies = Arc::new(Mutex::new(skies(slot, weather)));
        let ended = Arc::new(AtomicBool::new(false));
        let air = Self { skies, ended, slot };
        air.blow(0, &near, &far)?;
        air.blow(1, &far, &near)?;
        Ok(air)
    }

    /// From now on.
    pub(crate) fn change(&self, weather: Weather) {
        *self.skies.lock().unwrap_or_else(PoisonError::into_inner) = skies(self.slot, weather);
    }

    /// One direction. Its thread ends when its tap is deleted.
    fn blow(&self, way: usize, from: &Arc<File>, to: &Arc<File>) -> Result<(), SimError> {
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        let (skies, ended) = (Arc::clone(&self.skies), Arc::clone(&self.ended));
        // A tap that is full, or down, loses the frame.
        let later = Later::start(move |frame: Vec<u8>| drop((&*to).write(&frame)))?;
        let thread = std::thread::Builder::new().name("air".to_owned());
        let work = move || {
            let mut buffer = vec![0; FRAME_LIMIT];
            while !ended.load(Ordering::Acquire) {
                let Ok(length) = (&*from).read(&mut buffer) else { return };
                let arrivals = match skies.lock().unwrap_or_else(PoisonError::into_inner).get_mut(way) {
                    Some(sky) => sky.next(),
                    None => return,
                };
                for delay in arrivals {
                    later.send(delay, buffer.get(..length).unwrap_or_default().to_vec());
                }
            }
        };
        thread.spawn(work).map(drop).map_err(SimError::io("start a thread for", "a cable's weather"))
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

fn skies(slot: u16, weather: Weather) -> [Sky; 2] {
    [0, 1].map(|way| Sky::new(weather, u64::from(slot) * 2 + way))
}

/// A new tap, down, that is there as long as its file is open.
fn tap(name: &str) -> Result<File, SimError> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE);
    let file = file.map_err(SimError::io("open", DEVICE))?;
    // SAFETY: all of an ifreq is plain integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the kernel's end of the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = TAP_FLAGS;
    // SAFETY: the file is open and the request outlives the call, which only reads and writes within it.
    let named = unsafe { name_tap(file.as_raw_fd(), &raw const request) };
    named.map_err(|errno| SimError::io("make a tap with", DEVICE)(errno.into()))?;
    Ok(file)
}
