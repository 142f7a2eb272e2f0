use crate::{AppSpec, Attachment, Binding, Decision, Live, Name, SpecError};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// One replica of an app: `telemetry/1`. Numbers start at 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The app.
    pub app: Name,
    /// Which of its replicas.
    pub number: u32,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.app, self.number))
    }
}

impl FromStr for ReplicaId {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (app, number) = text.split_once('/').unwrap_or((text, "1"));
        let number = number.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            SpecError::value("instance", text, "is no instance; write APP/NUMBER, as telemetry/1")
        })?;
        Ok(Self { app: app.parse()?, number })
    }
}

/// One placement of a replica, never used again: `telemetry-1-7` is the seventh that the app ever had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    replica: ReplicaId,
    incarnation: u64,
}

impl InstanceId {
    /// Names a new placement of `replica`.
    pub fn new(replica: ReplicaId, incarnation: u64) -> Self {
        Self { replica, incarnation }
    }

    /// The replica that this is a placement of.
    pub fn replica(&self) -> &ReplicaId {
        &self.replica
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}-{}", self.replica.app, self.replica.number, self.incarnation))
    }
}

impl FromStr for InstanceId {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad =
            || SpecError::value("instance", text, "is no instance id; it reads APP-REPLICA-INCARNATION");
        let mut parts = text.rsplitn(3, '-');
        let incarnation = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
        let number = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
        let app = parts.next().ok_or_else(bad)?.parse()?;
        Ok(Self { replica: ReplicaId { app, number }, incarnation })
    }
}

impl TryFrom<String> for InstanceId {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.to_string()
    }
}

/// Where an instance is in its life; the drawing is in the room's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No module fits it now.
    Pending,
    /// Its module gets the image and creates it.
    Starting,
    /// Its process runs; health is not yet known.
    Running,
    /// It runs and is healthy.
    Ready,
    /// It ended or could not start; its agent tries again after a pause.
    BackOff,
    /// A task that exited with 0.
    Succeeded,
    /// Its module has been told to stop it.
    Stopping,
}

impl Phase {
    /// For tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::BackOff => "back-off",
            Self::Succeeded => "succeeded",
            Self::Stopping => "stopping",
        }
    }
}

/// What an agent sees of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Which.
    pub id: InstanceId,
    /// Never `Pending`.
    pub phase: Phase,
    /// How often the agent has started it again.
    pub restarts: u32,
    /// Its address in the module's subnet, when it has one.
    pub address: String,
    /// What a person should know: the pull that failed, the exit code.
    pub message: String,
    /// When its process started, in Unix milliseconds; 0 when it did not.
    pub started: u64,
    /// While it is draining: how many connections it still has, as far as that is known.
    #[serde(default)]
    pub connections: Option<u32>,
    /// Why it could not take over the process that it was to; it does not run then. Empty otherwise.
    #[serde(default)]
    pub refused: String,
}

/// What an agent is told to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Which.
    pub id: InstanceId,
    /// What.
    pub spec: AppSpec,
    /// The numbered resources that it has.
    #[serde(default, skip_serializing_if = "Binding::is_empty")]
    pub binding: Binding,
    /// The volumes that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Attachment>,
    /// Its part in a live move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// The address that it has brought along from another module; none when its module gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Ipv4Addr>,
}

/// An instance as the server records it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// What it runs, as it was when it was placed.
    pub spec: AppSpec,
    /// Revision of the app that `spec` is.
    pub revision: u64,
    /// Where; none while pending.
    pub module: Option<Name>,
    /// The numbered resources that it has there.
    #[serde(default, skip_serializing_if = "Binding::is_empty")]
    pub binding: Binding,
    /// As last reported, or `Pending`, `Starting`, `Stopping`.
    pub phase: Phase,
    /// In a planned move: the instance that this one takes over from.
    pub replaces: Option<InstanceId>,
    /// As last reported.
    pub restarts: u32,
    /// As last reported.
    pub address: String,
    /// As last reported, or why it is pending.
    pub message: String,
    /// As last reported.
    pub started: u64,
    /// It gets no new connections any more; it is stopped when the old ones have ended.
    #[serde(default)]
    pub draining: bool,
    /// In a live move: the instance whose process this one takes over, until it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<InstanceId>,
    /// The address that it brings along, or has brought along, with the process that it takes over. It is nobody else's
    /// as long as the instance is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Ipv4Addr>,
    /// Why its process could not be moved live: its next move is made before break. Empty as long as nobody tried.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unmovable: String,
    /// Why here.
    pub decision: Decision,
}

impl Instance {
    /// It counts as running and healthy.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// It is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.phase == Phase::Stopping
    }

    /// It is on its way out, or will be when its connections have ended.
    pub fn is_leaving(&self) -> bool {
        self.draining || self.is_stopping()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let id: InstanceId = "my-app-2-17".parse().unwrap();
        assert_eq!(id.replica().to_string(), "my-app/2");
        assert_eq!(id.to_string(), "my-app-2-17");
        assert_eq!("telemetry".parse::<ReplicaId>().unwrap().number, 1);
        assert!("telemetry/0".parse::<ReplicaId>().is_err());
        assert!("telemetry-1".parse::<InstanceId>().is_err());
    }
}
