use crate::{Span, SpecError};
use serde::{Deserialize, Serialize};

/// How the agent finds out whether an instance is healthy. One of `http`, `tcp`, `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A path that answers with a status below 400 on the first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// A port that accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// A command in the container that exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Between two probes.
    #[serde(default = "Health::every_default")]
    pub every: Span,
    /// A probe that has no answer after this long has failed.
    #[serde(default = "Health::timeout_default")]
    pub timeout: Span,
    /// After a start: how long failures do not count, unless it has been healthy before.
    #[serde(default = "Health::start_period_default")]
    pub start_period: Span,
    /// Failures in a row after which it is unhealthy: it leaves its service and is started anew.
    #[serde(default = "Health::failures_default")]
    pub failures: u32,
    /// Successes in a row after which it is healthy.
    #[serde(default = "Health::successes_default")]
    pub successes: u32,
}

impl Health {
    fn every_default() -> Span {
        Span(1000)
    }
    fn timeout_default() -> Span {
        Span(3000)
    }
    fn start_period_default() -> Span {
        Span(30_000)
    }
    fn failures_default() -> u32 {
        3
    }
    fn successes_default() -> u32 {
        1
    }

    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let kinds = [self.http.is_some(), self.tcp.is_some(), self.exec.is_some()];
        if kinds.iter().filter(|set| **set).count() != 1 {
            return Err(SpecError::value("health", "", "needs exactly one of http, tcp and exec"));
        }
        if self.exec.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
            return Err(SpecError::value("health.exec", "", "names no command; write [\"/bin/check\"]"));
        }
        if let Some(path) =
            self.http.as_ref().filter(|p| !p.starts_with('/') || p.contains(char::is_whitespace))
        {
            return Err(SpecError::value("health.http", path, "is no path; it starts with '/'"));
        }
        for (key, span) in [("every", self.every), ("timeout", self.timeout)] {
            if span.0 < 10 {
                return Err(SpecError::value(format!("health.{key}"), span, "is shorter than 10ms"));
            }
        }
        for (key, count) in [("failures", self.failures), ("successes", self.successes)] {
            if count == 0 {
                return Err(SpecError::value(format!("health.{key}"), count, "must be at least 1"));
            }
        }
        Ok(())
    }
}
