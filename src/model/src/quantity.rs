//! Amounts with units in their text: `"500m"`, `"64MiB"`, `"250ms"`.

use crate::SpecError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};

/// Thousandths of a core or of an accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Milli(pub u64);

impl Milli {
    /// One whole core or accelerator.
    pub const WHOLE: u64 = 1000;

    /// How many whole ones this is; none for a part of one, or for nothing.
    pub fn wholes(self) -> Option<u64> {
        (self.0 > 0 && self.0.is_multiple_of(Self::WHOLE)).then_some(self.0 / Self::WHOLE)
    }
}

/// CPU in thousandths of a core: `1` is a whole core, `"500m"` half of one.
pub type Cpu = Milli;

/// An amount of memory or disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

impl Span {
    /// As the standard library's duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// No time at all.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Milli {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad =
            || SpecError::value("cpu", text, "is no amount; write whole units (2) or thousandths (\"500m\")");
        if let Some(milli) = text.strip_suffix('m') {
            return milli.parse().map(Self).map_err(|_| bad());
        }
        text.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1000)).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            f.pad(&(self.0 / 1000).to_string())
        } else {
            f.pad(&format!("{}m", self.0))
        }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || {
            SpecError::value(
                "memory",
                text,
                "is no amount of bytes; write a number and a unit such as \"64MiB\" or \"2GB\"",
            )
        };
        let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(bad)?;
        let number = text.strip_suffix(unit).ok_or_else(bad)?.trim_end();
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact =
            UNITS.iter().take(4).find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => f.pad(&format!("{}{unit}", self.0 / factor)),
            None => f.pad(&format!("{}B", self.0)),
        }
    }
}

impl FromStr for Span {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::value("time", text, "is no span of time; write a number and ms, s, min or h");
        for (unit, factor) in [("ms", 1), ("min", 60_000), ("s", 1000), ("h", 3_600_000)] {
            if let Some(number) = text.strip_suffix(unit) {
                return number
                    .parse::<u64>()
                    .ok()
                    .and_then(|n| n.checked_mul(factor))
                    .map(Self)
                    .ok_or_else(bad);
            }
        }
        Err(bad())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, unit) = match self.0 {
            ms if ms == 0 || ms % 1000 != 0 => (ms, "ms"),
            ms if ms % 3_600_000 == 0 => (ms / 3_600_000, "h"),
            ms if ms % 60_000 == 0 => (ms / 60_000, "min"),
            ms => (ms / 1000, "s"),
        };
        f.pad(&format!("{amount}{unit}"))
    }
}

/// Serde for a quantity: always written as text; read from text or, where a bare number is clear, a number.
macro_rules! serde_as_text {
    ($type:ty, $what:literal, $number:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.to_string())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(|e: SpecError| match e {
                            SpecError::Value { value, reason, .. } => {
                                E::custom(format!("{value:?} {reason}"))
                            }
                            other => E::custom(other),
                        })
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        let number = u64::try_from(number).map_err(|_| E::custom("must not be negative"))?;
                        self.visit_u64(number)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        let convert: fn(u64) -> Option<$type> = $number;
                        convert(number)
                            .ok_or_else(|| E::custom(format!("{number} has no unit; expected {}", $what)))
                    }
                }
                input.deserialize_any(Visitor)
            }
        }
    };
}

serde_as_text!(Milli, "whole units (2) or thousandths (\"500m\")", |n| n.checked_mul(1000).map(Milli));
serde_as_text!(Bytes, "an amount with its unit, such as \"64MiB\"", |n| (n == 0).then_some(Bytes(0)));
serde_as_text!(Span, "a time with its unit, such as \"500ms\"", |n| (n == 0).then_some(Span(0)));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_asked_for() {
        assert_eq!("64MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("2GB".parse(), Ok(Bytes(2_000_000_000)));
        assert_eq!("500m".parse(), Ok(Milli(500)));
        assert_eq!("1min".parse(), Ok(Span(60_000)));
        for bad in ["64", "64Mb", "MiB", "-1MiB", "99999999999TiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        for bad in ["1.5", "m", "18446744073709551615"] {
            assert!(bad.parse::<Milli>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(n in 0u64..=u64::MAX / 1000) {
            prop_assert_eq!(Milli(n).to_string().parse(), Ok(Milli(n)));
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
            prop_assert_eq!(Span(n).to_string().parse(), Ok(Span(n)));
        }
    }
}
