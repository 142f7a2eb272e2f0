//! The pool paper's device-level queue: a task that has succeeded before gets the same combination again.
//!
//! ```text
//!  ① a past success? ──no──────────────────────────────────────────────► unit level
//!        │ yes
//!  ② its whole combination free? ──yes──► taken
//!        │ no
//!  ③ CPU, memory, disk (or the module itself) short there? ──yes───────► unit level
//!        │ no: only numbered accelerators are taken
//!  ④ enough others on the same module? ──yes──► those are taken ──no───► unit level
//! ```

use crate::{core::Core, place::Ask, strategies::has_device_level, usage::Usage};
use model::{Binding, Candidate, Milli, Name};
use std::collections::BTreeMap;

/// What the queue says: the words for the explanation, and what is taken, if something is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DeviceLevel {
    pub(crate) words: String,
    pub(crate) taken: Option<(Name, Binding)>,
}

/// The filters of numbered resources: what ④ can do something about.
const NUMBERED: &str = "accelerators";

impl Core {
    /// Asks the queue; apps go through it when their strategy is the paper's.
    pub(crate) fn device_level(
        &self,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        usages: &BTreeMap<&Name, Usage>,
    ) -> Option<DeviceLevel> {
        let spec = ask.spec;
        if !has_device_level(spec) {
            return None;
        }
        let unit = |words: String| {
            Some(DeviceLevel { words: format!("device-level queue {words}; unit level"), taken: None })
        };
        let code = &ask.code;
        let Some(success) = self.successes.get(code) else {
            return unit(format!("①: {code} has no past success"));
        };
        let past = &success.combination;
        if past.resources != spec.resources {
            return unit(format!("①: {code} succeeded with other resources only"));
        }
        let place = &past.module;
        let candidate = candidates.iter().find(|c| c.module == *place);
        let (Some(candidate), Some(module)) = (candidate, self.modules.get(place)) else {
            return unit(format!("③: {place}, where {code} succeeded last, is gone"));
        };
        if let Some(failed) = candidate.failed.iter().find(|f| f.filter != NUMBERED) {
            return unit(format!("③: {place}, where {code} succeeded last: {}", failed.why));
        }
        let nothing = Usage::default();
        let usage = usages.get(place).unwrap_or(&nothing);
        let left = self.left(module, usage);
        let free = |number: u32, share: Milli| left.iter().any(|l| l.number == number && l.free >= share.0);
        let taken: Vec<String> = past
            .binding
            .accelerators
            .iter()
            .filter(|a| !free(a.number, a.share))
            .map(|a| a.number.to_string())
            .collect();
        let Some(binding) = self.bind(module, usage, spec, &past.binding) else {
            return unit(format!(
                "④: accelerators {} of {place} are taken, and it has too few others",
                taken.join(" ")
            ));
        };
        let words = binding.words();
        let with = if words.is_empty() { String::new() } else { format!(" ({words})") };
        let words = if taken.is_empty() {
            format!("device-level queue ②: the combination of {code}'s last success on {place}{with} is free")
        } else {
            format!(
                "device-level queue ④: accelerators {} of {place} are taken, others there are not{with}",
                taken.join(" ")
            )
        };
        Some(DeviceLevel { words, taken: Some((place.clone(), binding)) })
    }
}

#[cfg(test)]
mod tests;
