use crate::{Binding, InstanceId, Kind, Name, Resources};
use serde::{Deserialize, Serialize};

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs.
    Running,
    /// A task reached its end or exited with 0; an app's instance was ready before it was stopped.
    Succeeded,
    /// It never became ready, or a task ended badly.
    Failed,
    /// A task was moved or deleted before its end.
    Stopped,
    /// Its module was lost.
    Lost,
}

impl Outcome {
    /// For tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }
}

/// A combination of resources on one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// Where.
    pub module: Name,
    /// The numbered ones.
    #[serde(default)]
    pub binding: Binding,
    /// The amounts.
    pub resources: Resources,
}

/// One line of the history queue: a run with its combination and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Counts up for ever.
    pub number: u64,
    /// The task code: what the device-level queue knows it by.
    pub code: String,
    /// App or task.
    pub kind: Kind,
    /// Which.
    pub instance: InstanceId,
    /// What it was given.
    pub combination: Combination,
    /// When it was placed, in Unix milliseconds.
    pub began: u64,
    /// When it was over; 0 while it runs.
    pub ended: u64,
    /// It was ready at least once.
    pub ready: bool,
    /// What became of it.
    pub outcome: Outcome,
}

impl Run {
    /// The key of the run with this number sorts as the number does.
    pub fn key_of(number: u64) -> String {
        crate::record::event_key(number)
    }
}

/// One line of the device-level queue: the combination of a task code's last success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// The task code.
    pub code: String,
    /// App or task.
    pub kind: Kind,
    /// What worked.
    pub combination: Combination,
    /// The run that it was.
    pub run: u64,
    /// When, in Unix milliseconds.
    pub at: u64,
}
