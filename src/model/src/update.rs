use crate::{Span, SpecError};
use serde::{Deserialize, Serialize};

/// How an app's instances are replaced when it is changed: `[update]` of an app file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// How many instances there may be above `replicas`: new ones that become ready before an old one ends.
    pub surge: u32,
    /// How many replicas may be without a ready instance.
    pub max_unavailable: u32,
    /// How long a new instance may take to become ready.
    pub within: Span,
    /// Go back to what ran before when one does not.
    pub roll_back: bool,
}

impl Default for Update {
    fn default() -> Self {
        Self { surge: 1, max_unavailable: 0, within: Span(60_000), roll_back: true }
    }
}

impl Update {
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        if self.surge == 0 && self.max_unavailable == 0 {
            return Err(SpecError::value(
                "update.surge",
                0,
                "leaves no way to update while update.max_unavailable is 0 too; raise one of them",
            ));
        }
        if self.within.0 == 0 {
            return Err(SpecError::value("update.within", self.within, "must be longer than nothing"));
        }
        Ok(())
    }
}
