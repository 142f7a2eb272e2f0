//! Blobs that somebody relies on, though no manifest may name them yet: a client that was told "this one is
//! here" will not send it again.

use crate::digest::Digest;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many may be remembered before the old ones are looked through.
const MANY: usize = 1 << 16;

#[derive(Debug, Clone, Copy)]
struct Pin {
    holders: u32,
    last: Instant,
}

/// Who relies on what. Digests are known by their first 64 bits: two that are alike there are both kept.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<u64, Pin>>);

/// As long as this lives, collection leaves its blobs alone.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    pins: &'a Pins,
    keys: Vec<u64>,
}

/// When a collection began and how long a blob that nobody asks for is left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) began: Instant,
    pub(super) grace: Duration,
}

pub(super) fn key(digest: &Digest) -> u64 {
    digest.hex().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default()
}

impl Pins {
    /// Keeps blobs until the answer is given away, and then as long as a touched one.
    pub(super) fn hold<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) -> Hold<'_> {
        let keys: Vec<u64> = digests.into_iter().map(key).collect();
        let now = Instant::now();
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            let pin = pins.entry(*key).or_insert(Pin { holders: 0, last: now });
            pin.holders += 1;
            pin.last = now;
        }
        drop(pins);
        Hold { pins: self, keys }
    }

    /// Removes something unless somebody relies on it; both happen as one step.
    pub(super) fn unless_pinned<T>(
        &self,
        digest: &Digest,
        since: Since,
        remove: impl FnOnce() -> T,
    ) -> Option<T> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pins.get(&key(digest)).is_some_and(|pin| {
            // Whatever was touched since the collection looked around may be in use by now.
            pin.holders > 0 || pin.last >= since.began || pin.last.elapsed() < since.grace
        });
        if pinned { None } else { Some(remove()) }
    }

    /// Forgets who has not asked for longer than `grace`.
    pub(super) fn forget(&self, grace: Duration) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() > MANY || grace.is_zero() {
            pins.shrink_to_fit();
        }
        pins.retain(|_, pin| pin.holders > 0 || pin.last.elapsed() < grace);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(pin) = pins.get_mut(key) {
                pin.holders = pin.holders.saturating_sub(1);
                pin.last = Instant::now();
            }
        }
    }
}
