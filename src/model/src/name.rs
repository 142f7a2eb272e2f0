use crate::SpecError;
use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

/// A DNS label (RFC 1123): 1 to 63 of a–z, 0–9 and `-`, no `-` at either end. Apps and modules have one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes.
    pub const LIMIT: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The zone of the services' names: `APP.space`.
    pub fn of_services() -> Self {
        Self("space".to_owned())
    }

    /// The name that the module in `slot` has.
    pub fn of_module(slot: u16) -> Self {
        Self(format!("module-{slot}"))
    }
}

impl FromStr for Name {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refuse = |reason: &str| Err(SpecError::value("name", text, reason));
        if text.is_empty() {
            return refuse("is empty; use 1 to 63 of a-z, 0-9 and '-'");
        }
        if text.len() > Self::LIMIT {
            return refuse("is longer than 63 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return refuse("is no DNS label; use only a-z, 0-9 and '-'");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return refuse("is no DNS label; it may not start or end with '-'");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_labels_and_refuses_the_rest() {
        for good in ["a", "telemetry", "cam-2", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "Telemetry", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was taken");
        }
    }
}
