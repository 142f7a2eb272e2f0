//! Dev only: what the tests of several rooms share. A container engine without containers, content for images and
//! disks, waiting for a condition.
//!
//! Neighbours: the engine implements `runtime::Runtime` and `runtime::Slots`, and is left out where only the rest is wanted (feature
//! `engine`); used by tests alone.

#[cfg(feature = "engine")]
mod engine;
#[cfg(feature = "engine")]
mod live;
#[cfg(feature = "engine")]
mod slots;

#[cfg(feature = "engine")]
pub use engine::FakeRuntime;
#[cfg(feature = "engine")]
pub use live::Step;
#[cfg(feature = "engine")]
pub use slots::FakeSlots;

use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program that was built with the tests; by its name alone where only the tests were taken to another machine, as an
/// image's ptest does: the one that is installed there.
#[must_use]
pub fn program(built: &'static str) -> &'static str {
    let path = Path::new(built);
    if path.exists() { built } else { path.file_name().and_then(|name| name.to_str()).unwrap_or(built) }
}

/// Waits until the condition has a value.
///
/// # Panics
/// It has none within [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that are neither zeros nor all alike, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(length.saturating_add(8));
    while content.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(length);
    content
}

/// A digest as registries write it.
pub fn sha256(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}
