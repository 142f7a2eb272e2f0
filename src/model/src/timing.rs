use crate::{Span, SpecError};
use serde::{Deserialize, Serialize};

/// The time of a step, given by the shell: pure rooms have no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Milliseconds of a clock that never jumps, since some fixed moment of this process.
    pub mono: u64,
    /// Milliseconds since the Unix epoch, for people.
    pub wall: u64,
}

/// How quickly the cluster notices and acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Between two heartbeats of an agent.
    pub heartbeat: Span,
    /// Silence after which a module is suspected and gets no new work.
    pub suspect: Span,
    /// How long an agent may keep instances running without hearing from the server.
    pub lease: Span,
    /// What the server waits on top of the lease before it starts replacements.
    pub margin: Span,
    /// How long modules may go on without the server while its own module is restarted on purpose.
    pub absence: Span,
    /// How long a module must have been back before it is given moved instances; doubles with each recent loss.
    pub settle: Span,
    /// How long a moved instance may take to become ready before the move is given up.
    pub move_limit: Span,
    /// Planned moves under way at once.
    pub moves: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Span(100),
            suspect: Span(300),
            lease: Span(500),
            margin: Span(150),
            absence: Span(30 * 60_000),
            settle: Span(1_000),
            move_limit: Span(60_000),
            moves: 2,
        }
    }
}

impl Timing {
    /// Checks that the spans make sense together.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn check(&self) -> Result<(), SpecError> {
        let refuse = |key: &str, span: Span, reason: &str| {
            Err(SpecError::value(format!("timing.{key}"), span, reason))
        };
        if self.heartbeat.0 == 0 {
            return refuse("heartbeat", self.heartbeat, "must be longer than nothing");
        }
        if self.suspect.0 < 2 * self.heartbeat.0 {
            return refuse("suspect", self.suspect, "must be at least two heartbeats");
        }
        if self.lease < self.suspect {
            return refuse("lease", self.lease, "must not be shorter than timing.suspect");
        }
        if self.margin.0 == 0 {
            return refuse(
                "margin",
                self.margin,
                "must be longer than nothing: it covers the killing of instances",
            );
        }
        if self.moves == 0 {
            return Err(SpecError::value("timing.moves", 0, "must be at least 1"));
        }
        Ok(())
    }
}
