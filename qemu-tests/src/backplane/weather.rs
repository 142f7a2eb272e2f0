//! What a bad cable does to frames: it loses, delays, doubles and reorders them. No I/O, no clock; the same seed has
//! the same weather.

use crate::SimError;
use model::Span;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A frame that is later than this is of use to nobody.
const LATEST: Span = Span(10_000);

/// How bad a module's cable is, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Weather {
    /// Of a hundred frames, so many are lost.
    pub loss: u8,
    /// Of a hundred frames, so many arrive twice.
    pub duplicate: u8,
    /// How long each frame takes.
    pub delay: Span,
    /// Up to so much longer, each frame by itself: those that were sent later may come first.
    pub jitter: Span,
}

impl Weather {
    /// Nothing happens to frames.
    pub const FAIR: Self = Self { loss: 0, duplicate: 0, delay: Span(0), jitter: Span(0) };

    /// Refuses what no cable does.
    ///
    /// # Errors
    /// A share above 100 %, or a delay above ten seconds.
    pub fn check(self) -> Result<Self, SimError> {
        let refuse = |reason: String| Err(SimError::Refused { reason });
        for (what, share) in [("loss", self.loss), ("duplicate", self.duplicate)] {
            if share > 100 {
                return refuse(format!("--{what} {share}: at most 100 frames of a hundred"));
            }
        }
        for (what, span) in [("delay", self.delay), ("jitter", self.jitter)] {
            if span > LATEST {
                return refuse(format!("--{what} {span}: at most {LATEST}"));
            }
        }
        Ok(self)
    }
}

/// Weather as it happens.
#[derive(Debug)]
pub(crate) struct Sky {
    weather: Weather,
    dice: StdRng,
}

impl Sky {
    pub(crate) fn new(weather: Weather, seed: u64) -> Self {
        Self { weather, dice: StdRng::seed_from_u64(seed) }
    }

    /// When each copy of the next frame arrives, from now; none if it is lost.
    pub(crate) fn next(&mut self) -> Vec<Duration> {
        let mut happens = |share: u8| share > 0 && self.dice.random_range(0..100) < share;
        if happens(self.weather.loss) {
            return Vec::new();
        }
        let copies = if happens(self.weather.duplicate) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let more = self.dice.random_range(0..=self.weather.jitter.0);
                Duration::from_millis(self.weather.delay.0 + more)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(weather: Weather) -> Vec<Vec<Duration>> {
        let mut sky = Sky::new(weather, 7);
        (0..10_000).map(|_| sky.next()).collect()
    }

    #[test]
    fn fair_weather_touches_nothing() {
        assert!(arrivals(Weather::FAIR).iter().all(|copies| *copies == [Duration::ZERO]));
    }

    #[test]
    fn shares_are_kept_and_the_same_seed_has_the_same_weather() {
        let weather = Weather { loss: 20, duplicate: 5, delay: Span(200), jitter: Span(50) };
        let frames = arrivals(weather);
        let lost = frames.iter().filter(|copies| copies.is_empty()).count();
        let twice = frames.iter().filter(|copies| copies.len() == 2).count();
        assert!((1800..2200).contains(&lost) && (300..500).contains(&twice), "{lost} lost, {twice} twice");
        let within = |at: &Duration| (200..=250).contains(&at.as_millis());
        assert!(frames.iter().flatten().all(within));
        assert!(!frames.iter().flatten().is_sorted(), "some overtake others");
        assert_eq!(frames, arrivals(weather));
        assert!(arrivals(Weather { loss: 100, ..weather }).iter().all(Vec::is_empty));
    }

    #[test]
    fn what_no_cable_does_is_refused() {
        let said = |weather: Weather| weather.check().unwrap_err().one_line();
        assert!(said(Weather { loss: 101, ..Weather::FAIR }).contains("--loss 101"));
        assert!(said(Weather { jitter: Span(10_001), ..Weather::FAIR }).contains("--jitter"));
        assert!(Weather { loss: 100, delay: LATEST, ..Weather::FAIR }.check().is_ok());
    }
}
