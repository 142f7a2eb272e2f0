//! From probes to a verdict: thresholds and the start period. A value, stepped by the instance's own task.
//!
//! ```text
//!  Starting ──successes──► Healthy ──failures──► Unhealthy (it is started anew)
//!     └──── failures after the start period ─────────▲
//! ```

use model::Health;
use std::time::Duration;

/// An instance that has just been started is asked again so soon, then half as often with each time, but at least as
/// often as [`EAGER`] until it is first healthy: a failover waits for it, and a small program listens within milliseconds.
const FIRST: Duration = Duration::from_millis(10);
const EAGER: Duration = Duration::from_millis(200);

/// What a probe's outcome makes of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Same,
    /// Now it may serve.
    Healthy,
    /// It is to be started anew.
    Unhealthy,
}

/// One run of one instance.
#[derive(Debug)]
pub(super) struct Watch {
    health: Health,
    healthy: bool,
    failures: u32,
    successes: u32,
    /// Before it is first healthy.
    eager: Duration,
}

impl Watch {
    pub(super) fn new(health: Health) -> Self {
        Self { health, healthy: false, failures: 0, successes: 0, eager: FIRST }
    }

    /// It is known to be healthy already.
    pub(super) fn trust(&mut self) {
        self.healthy = true;
    }

    /// It may serve.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// A probe answered, or did not, `age` after the instance's start.
    pub(super) fn take(&mut self, passed: bool, age: Duration) -> Verdict {
        if passed {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if !self.healthy && self.successes >= self.health.successes {
                self.healthy = true;
                return Verdict::Healthy;
            }
            return Verdict::Same;
        }
        self.successes = 0;
        if !self.healthy && age < self.health.start_period.duration() {
            return Verdict::Same;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.health.failures { Verdict::Unhealthy } else { Verdict::Same }
    }

    /// Until the next probe.
    pub(super) fn pause(&mut self) -> Duration {
        let every = self.health.every.duration();
        if self.healthy {
            return every;
        }
        let pause = every.min(self.eager);
        self.eager = (self.eager * 2).min(EAGER);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Span;

    fn watch() -> Watch {
        Watch::new(Health {
            http: None,
            tcp: Some(1),
            exec: None,
            every: Span(1000),
            timeout: Span(100),
            start_period: Span(5000),
            failures: 3,
            successes: 2,
        })
    }

    const EARLY: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(6);

    #[test]
    fn failures_of_the_start_period_do_not_count_until_it_was_healthy() {
        let mut watch = watch();
        for _ in 0..10 {
            assert_eq!(watch.take(false, EARLY), Verdict::Same);
        }
        assert_eq!(watch.take(true, EARLY), Verdict::Same);
        let pauses: Vec<_> = (0..7).map(|_| watch.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 200, 200]);
        assert_eq!(watch.take(true, EARLY), Verdict::Healthy);
        assert_eq!(watch.pause(), Duration::from_secs(1));
        assert_eq!(watch.take(false, EARLY), Verdict::Same);
        assert_eq!(watch.take(false, EARLY), Verdict::Same);
        assert_eq!(watch.take(false, EARLY), Verdict::Unhealthy);
    }

    #[test]
    fn successes_and_failures_count_in_a_row() {
        let mut watch = watch();
        assert_eq!(watch.take(true, LATE), Verdict::Same);
        assert_eq!(watch.take(false, LATE), Verdict::Same);
        assert_eq!(watch.take(true, LATE), Verdict::Same);
        assert_eq!(watch.take(false, LATE), Verdict::Same);
        assert_eq!(watch.take(false, LATE), Verdict::Same);
        assert_eq!(watch.take(false, LATE), Verdict::Unhealthy);
    }
}
