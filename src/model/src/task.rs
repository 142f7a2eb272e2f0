use crate::{Binding, Decision, Name, Span, SpecError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A moment of a plan: `2026-11-23T15:00:00Z`, or `+10min` from when the server takes the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// Unix milliseconds.
    At(u64),
    /// This long after the plan is taken.
    In(Span),
}

impl Moment {
    /// In Unix milliseconds, for a plan that is taken at `now`.
    pub fn resolve(self, now: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::In(span) => now.saturating_add(span.0),
        }
    }
}

impl FromStr for Moment {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad =
            || SpecError::value("time", text, "is no moment; write 2026-11-23T15:00:00Z, or +10min from now");
        if let Some(span) = text.strip_prefix('+') {
            return span.parse().map(Self::In).map_err(|_| bad());
        }
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).map(Self::At).map_err(|_| bad())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.pad(&utc(*at)),
            Self::In(span) => f.pad(&format!("+{span}")),
        }
    }
}

/// Unix milliseconds as `2026-11-23T15:00:00Z`, for people and for files.
pub fn utc(at: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{at}ms"))
}

/// Unix milliseconds to the minute, as `2026-11-23 15:00`, for conflicts.
pub fn minute(at: u64) -> String {
    let text = utc(at);
    text.get(..16).map_or_else(|| text.clone(), |short| short.replace('T', " "))
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        fn read<E: de::Error>(text: &str) -> Result<Moment, E> {
            text.parse().map_err(|e: SpecError| match e {
                SpecError::Value { value, reason, .. } => E::custom(format!("{value:?} {reason}")),
                other => E::custom(other),
            })
        }
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Moment;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment such as 2026-11-23T15:00:00Z or \"+10min\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Moment, E> {
                read(text)
            }
            // TOML's own date and time.
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Moment, A::Error> {
                let native = toml::value::Datetime::deserialize(de::value::MapAccessDeserializer::new(map))?;
                read(&native.to_string())
            }
        }
        input.deserialize_any(Visitor)
    }
}

/// Where a task is in its life.
///
/// ```text
///            start            end reached while it runs, or exit 0
///  Planned ────────► Running ──────────────────────────────────────► Succeeded
///     │                 └────────── end reached, but it does not run ──► Failed
///     └── its end passed before it could start ──► Missed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanState {
    /// Its start is still to come.
    Planned,
    /// It is in its window.
    Running,
    /// It did what it should.
    Succeeded,
    /// Its window is over and it did not run at its end.
    Failed,
    /// Nobody could start it in its window.
    Missed,
}

impl PlanState {
    /// For tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Missed => "missed",
        }
    }

    /// Nothing is to be done about it any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Missed)
    }
}

/// What is kept free for a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Where.
    pub module: Name,
    /// The numbered resources.
    #[serde(default)]
    pub binding: Binding,
}

/// A task's window as the server has planned it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which task.
    pub task: Name,
    /// Unix milliseconds.
    pub start: u64,
    /// Unix milliseconds.
    pub end: u64,
    /// Where it is in its life.
    pub state: PlanState,
    /// What is kept for it until it is placed.
    pub reservation: Option<Reservation>,
    /// Why there, or why nothing could be reserved.
    pub decision: Decision,
    /// When it was first placed, in Unix milliseconds; 0 when it was not.
    pub started: u64,
    /// When it was over; 0 when it is not.
    pub ended: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_back() {
        let at: Moment = "2026-11-23T15:00:00Z".parse().unwrap();
        assert_eq!(at, Moment::At(1_795_446_000_000));
        assert_eq!(at.to_string(), "2026-11-23T15:00:00Z");
        assert_eq!("2026-11-23T16:00:00+01:00".parse(), Ok(at));
        assert_eq!("+10min".parse(), Ok(Moment::In(Span(600_000))));
        assert_eq!(Moment::In(Span(600_000)).resolve(1000), 601_000);
        assert_eq!(minute(1_795_446_059_999), "2026-11-23 15:00");
        for bad in ["15:00", "2026-11-23", "+10", "tomorrow", "1960-01-01T00:00:00Z"] {
            assert!(bad.parse::<Moment>().unwrap_err().to_string().contains("write 2026"), "{bad}");
        }
    }

    #[test]
    fn toml_s_own_date_and_time_is_taken() {
        #[derive(Deserialize)]
        struct File {
            start: Moment,
        }
        let native: File = toml::from_str("start = 2026-11-23T15:00:00Z").unwrap();
        let text: File = toml::from_str("start = '2026-11-23T15:00:00Z'").unwrap();
        assert_eq!(native.start, text.start);
        assert!(toml::from_str::<File>("start = 2026-11-23").is_err());
        assert!(toml::from_str::<File>("start = 15").is_err());
        let json = serde_json::to_string(&native.start).unwrap();
        assert_eq!(serde_json::from_str::<Moment>(&json).unwrap(), native.start);
    }
}
