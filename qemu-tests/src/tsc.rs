//! How fast the virtual processors' time-stamp counter runs.
//!
//! QEMU's emulation hands the host's counter through. A kernel that boots on a busy host measures it
//! against timers that stall, and may be wrong by a factor: its clock then races, leases run out early and
//! time limits too. So it is measured here, and told to the kernel.

/// Kilohertz. `None` where the host is of another kind; the kernel must then measure by itself.
#[cfg(target_arch = "x86_64")]
pub(crate) fn kilohertz() -> Option<u64> {
    use std::time::{Duration, Instant};
    let (clock, counter) = reading();
    // Both counters run whatever this thread does; only their two readings must be close.
    std::thread::sleep(Duration::from_millis(50));
    let (clock_later, counter_later) = reading();
    let nanoseconds = Instant::duration_since(&clock_later, clock).as_nanos();
    let ticks = u128::from(counter_later.checked_sub(counter)?);
    let kilohertz = ticks.checked_mul(1_000_000)?.checked_div(nanoseconds)?;
    u64::try_from(kilohertz).ok().filter(|khz| (100_000..10_000_000).contains(khz))
}

/// Kilohertz. `None` where the host is of another kind; the kernel must then measure by itself.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn kilohertz() -> Option<u64> {
    None
}

/// The moment and the counter, as close together as one of several tries gets them.
#[cfg(target_arch = "x86_64")]
fn reading() -> (std::time::Instant, u64) {
    // SAFETY: RDTSC reads a register and touches no memory; every x86-64 has it.
    let counter = || unsafe { core::arch::x86_64::_rdtsc() };
    let try_once = || {
        let before = counter();
        let clock = std::time::Instant::now();
        let after = counter();
        (after.wrapping_sub(before), clock, before.wrapping_add(after.wrapping_sub(before) / 2))
    };
    let mut best = try_once();
    for _ in 0..20 {
        let next = try_once();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn two_measurements_agree_to_a_thousandth() {
        let (one, two) = (super::kilohertz().unwrap(), super::kilohertz().unwrap());
        assert!(one.abs_diff(two) < one / 1000, "{one} kHz, {two} kHz");
    }
}
