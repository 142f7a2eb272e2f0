//! Waits on conditions, with a bound: `wait_until("module-3 answers", within(20.s()), || …)`.

use crate::SimError;
use std::time::{Duration, Instant};

/// How long to wait at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(Duration);

/// Reads as prose: `exec("true", within(5.s()))`.
pub fn within(limit: Duration) -> Limit {
    Limit(limit)
}

impl Limit {
    /// As a duration.
    pub fn duration(self) -> Duration {
        self.0
    }

    /// The moment that the limit, counted from now, runs out.
    pub fn deadline(self) -> Instant {
        Instant::now() + self.0
    }
}

/// Numbers as durations: `20.s()`, `3.mins()`, `250.ms()`.
pub trait Times {
    /// Milliseconds.
    fn ms(self) -> Duration;
    /// Seconds.
    fn s(self) -> Duration;
    /// Minutes.
    fn mins(self) -> Duration;
}

impl Times for u64 {
    fn ms(self) -> Duration {
        Duration::from_millis(self)
    }
    fn s(self) -> Duration {
        Duration::from_secs(self)
    }
    fn mins(self) -> Duration {
        Duration::from_secs(self.saturating_mul(60))
    }
}

/// Asks `condition` again and again, with growing pauses of up to a quarter second, until it is true.
/// Returns how long that took.
pub fn wait_until(
    what: &str,
    limit: Limit,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration, SimError> {
    wait_for(what, limit, || condition().then_some(())).map(|((), took)| took)
}

/// As [`wait_until`], for a condition that brings a value: returns it and how long it took.
pub fn wait_for<T>(
    what: &str,
    limit: Limit,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<(T, Duration), SimError> {
    let begun = Instant::now();
    let mut pause = 5.ms();
    loop {
        if let Some(value) = probe() {
            return Ok((value, begun.elapsed()));
        }
        let left = limit.0.checked_sub(begun.elapsed()).unwrap_or_default();
        if left.is_zero() {
            return Err(SimError::Waited { what: what.to_owned(), limit: limit.0 });
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(250.ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait_and_one_that_does_not_is_named() {
        let mut asked = 0;
        wait_until("third time", within(5.s()), || {
            asked += 1;
            asked == 3
        })
        .unwrap();
        assert_eq!(asked, 3);
        let refused = wait_until("pigs fly", within(30.ms()), || false).unwrap_err();
        assert_eq!(refused.to_string(), "not within 30ms: pigs fly");
    }
}
