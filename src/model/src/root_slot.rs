use serde::{Deserialize, Serialize};
use std::fmt;

/// The root slot that a module runs from, and how its last update went. A module that was not started from one has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootSlot {
    /// `a` or `b`.
    pub slot: String,
    /// Of the image in it.
    pub version: String,
    /// It has come into the cluster once; until then it is on trial.
    pub proven: bool,
    /// Which bundles the module takes.
    pub compatible: String,
    /// The update that is under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<SlotUpdate>,
}

/// An update of a module's other root slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotUpdate {
    /// Which try this is: chosen by who asks, so that two tries with one bundle can be told apart.
    #[serde(default)]
    pub attempt: String,
    /// The bundle's SHA-256, in hexadecimal digits.
    pub bundle: String,
    /// The bundle's version; empty while the bundle is not there.
    #[serde(default)]
    pub version: String,
    /// How far it is.
    pub phase: UpdatePhase,
    /// What it failed for, in one line; else empty.
    #[serde(default)]
    pub message: String,
}

/// How far an update of a root slot is.
///
/// ```text
///  Fetching ──► Checked ──► Installing ──► Rebooting ──► Trial ──► Done
///      └───────────┴─────────────┴─────────────┴──────────► Failed (the slot that ran before runs)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdatePhase {
    /// The bundle is on its way to the module.
    #[default]
    Fetching,
    /// The bundle is there whole, is signed by the mission, and is for this kind of module.
    Checked,
    /// The other slot is being written.
    Installing,
    /// The other slot is written and will be started.
    Rebooting,
    /// The other slot runs, and has not yet proven good.
    Trial,
    /// The other slot runs and has proven good.
    Done,
    /// It did not come about.
    Failed,
}

impl RootSlot {
    /// The other slot is being written, or has not proven good yet.
    pub fn is_in_update(&self) -> bool {
        self.update.as_ref().is_some_and(|update| update.phase.is_critical())
    }
}

impl UpdatePhase {
    /// Between the first byte that is written to a slot and the proof that the slot is good.
    pub fn is_critical(self) -> bool {
        matches!(self, Self::Installing | Self::Rebooting | Self::Trial)
    }

    /// Nothing more will happen by itself.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Checked | Self::Done | Self::Failed)
    }

    /// As people and messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Checked => "checked",
            Self::Installing => "installing",
            Self::Rebooting => "rebooting",
            Self::Trial => "trial",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for UpdatePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An update as a module keeps it over a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUpdate {
    /// How far it was.
    pub update: SlotUpdate,
    /// The kernel's boot id when that was written.
    pub boot: String,
    /// The slot that is written, or was.
    pub target: String,
}

impl KeptUpdate {
    /// The slot is written, and the restart that was to follow has not come about.
    #[must_use]
    pub fn lacks_restart(&self, slot: &str, boot: &str) -> bool {
        self.update.phase == UpdatePhase::Rebooting && self.boot == boot && self.target != slot
    }

    /// What has become of it, now that the module runs from `slot` in the boot with id `boot`.
    #[must_use]
    pub fn judge(&self, slot: &str, boot: &str, proven: bool) -> SlotUpdate {
        use UpdatePhase::{Done, Fetching, Installing, Rebooting, Trial};
        let fail =
            |message: String| SlotUpdate { phase: UpdatePhase::Failed, message, ..self.update.clone() };
        let phase = |phase| SlotUpdate { phase, ..self.update.clone() };
        let (same_boot, in_target) = (self.boot == boot, self.target == slot);
        match self.update.phase {
            // Power may also be cut when the slot is whole already, and that was not yet noted down.
            Installing | Rebooting | Trial if in_target => phase(if proven { Done } else { Trial }),
            Rebooting | Trial if !same_boot => fail(format!(
                "slot {} did not prove good; the module fell back to slot {slot} by itself",
                self.target
            )),
            Installing if same_boot => {
                fail(format!("the agent was restarted while slot {} was written", self.target))
            }
            Installing => fail(format!("the module was restarted while slot {} was written", self.target)),
            Fetching => fail("the agent was restarted while the bundle was fetched".to_owned()),
            _ => self.update.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(phase: UpdatePhase) -> KeptUpdate {
        let update =
            SlotUpdate { bundle: "1f".into(), version: "2.0".into(), phase, ..SlotUpdate::default() };
        KeptUpdate { update, boot: "before".into(), target: "b".into() }
    }

    #[test]
    fn a_reboot_leads_to_a_trial_to_a_proof_or_back() {
        use UpdatePhase::{Done, Failed, Installing, Rebooting, Trial};
        let judged = |slot, boot, proven| kept(Rebooting).judge(slot, boot, proven).phase;
        assert_eq!(judged("a", "before", true), Rebooting);
        let lacks = |phase, slot, boot| kept(phase).lacks_restart(slot, boot);
        assert!(lacks(Rebooting, "a", "before") && !lacks(Installing, "a", "before"));
        assert!(!lacks(Rebooting, "b", "after") && !lacks(Rebooting, "a", "after"));
        assert_eq!(judged("b", "after", false), Trial);
        assert_eq!(judged("b", "after", true), Done);
        // The slot was whole, only the note was not.
        assert_eq!(kept(Installing).judge("b", "after", false).phase, Trial);
        assert_eq!(kept(Installing).judge("b", "after", true).phase, Done);
        let back = kept(Trial).judge("a", "third", true);
        assert_eq!(back.phase, Failed);
        assert!(
            back.message.contains("slot b did not prove good")
                && back.message.contains("fell back to slot a")
        );
    }

    #[test]
    fn what_was_cut_short_has_failed_and_what_is_over_stays() {
        for phase in [UpdatePhase::Fetching, UpdatePhase::Installing] {
            for boot in ["before", "after"] {
                let judged = kept(phase).judge("a", boot, true);
                assert!(
                    judged.phase == UpdatePhase::Failed && judged.message.contains("restarted"),
                    "{judged:?}"
                );
            }
        }
        for phase in [UpdatePhase::Checked, UpdatePhase::Done, UpdatePhase::Failed] {
            assert_eq!(kept(phase).judge("a", "after", true).phase, phase);
        }
    }
}
