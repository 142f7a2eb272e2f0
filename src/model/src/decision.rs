use crate::{Binding, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a filter or the scores said of one module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A filter took the module out, and why.
    Filtered(String),
    /// It fits, with this score: more is better.
    Score(f64),
}

/// A filter that took a module out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its name, one of [`Decision::filters`].
    pub filter: String,
    /// What it found.
    pub why: String,
    /// What would have to change for the module to pass.
    pub remedy: String,
}

/// One line of a decision's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The module.
    pub module: Name,
    /// What was found.
    pub verdict: Verdict,
    /// Every filter that took it out; those that are not here let it pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
    /// What the score is made of, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
}

/// Why an instance is where it is, or why it is nowhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Decision {
    /// What made a decision necessary: `new replica`, `module-3 lost`, `rebalance`, `drain of module-2`.
    pub cause: String,
    /// The module that was taken.
    pub chosen: Option<Name>,
    /// The numbered resources that were taken there.
    #[serde(default, skip_serializing_if = "Binding::is_empty")]
    pub binding: Binding,
    /// Which queue decided, and by which branch, in words; empty for the unit level alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub level: String,
    /// The strategy that scored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub strategy: String,
    /// By which numbers the unit level weighed, in words; empty when they are the cluster's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// What the operator should be alarmed about: a reserve that could not be kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alarm: String,
    /// The filters that every module went through, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Every module that was looked at.
    pub candidates: Vec<Candidate>,
    /// Unix milliseconds.
    pub at: u64,
}

impl Decision {
    /// Whether this module would do.
    pub fn fits(&self, module: &Name) -> bool {
        self.candidates.iter().any(|c| c.module == *module && matches!(c.verdict, Verdict::Score(_)))
    }

    /// Why no module fits, on one line; empty when one was chosen.
    pub fn refusal(&self) -> String {
        if self.chosen.is_some() {
            return String::new();
        }
        let reasons: Vec<String> = self
            .candidates
            .iter()
            .filter_map(|c| match &c.verdict {
                Verdict::Filtered(why) => Some(format!("{}: {why}", c.module)),
                Verdict::Score(_) => None,
            })
            .collect();
        if reasons.is_empty() { "no module has joined".to_owned() } else { reasons.join("; ") }
    }

    /// For a refused one: what would have to change, one line for each module, the least change first.
    pub fn remedies(&self) -> Vec<String> {
        if self.chosen.is_some() {
            return Vec::new();
        }
        if self.candidates.is_empty() {
            return vec!["a module has to join".to_owned()];
        }
        let mut modules: Vec<&Candidate> = self.candidates.iter().filter(|c| !c.failed.is_empty()).collect();
        modules.sort_by(|a, b| (a.failed.len(), &a.module).cmp(&(b.failed.len(), &b.module)));
        let line = |c: &Candidate| {
            let changes: Vec<&str> = c.failed.iter().map(|f| f.remedy.as_str()).collect();
            format!("{} takes it when {}", c.module, changes.join(", and "))
        };
        modules.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_change_comes_first() {
        let failed = |filter: &str, remedy: &str| Failed {
            filter: filter.into(),
            why: "no".into(),
            remedy: remedy.into(),
        };
        let candidate = |module: &str, failed: Vec<Failed>| Candidate {
            module: module.parse().unwrap(),
            verdict: Verdict::Filtered("no".into()),
            failed,
            scores: BTreeMap::new(),
        };
        let both = vec![failed("cordon", "it is uncordoned"), failed("cpu", "1 more core is free")];
        let one = vec![failed("cordon", "it is uncordoned")];
        let mut decision = Decision {
            candidates: vec![candidate("module-1", both), candidate("module-2", one)],
            ..Decision::default()
        };
        assert_eq!(
            decision.remedies(),
            [
                "module-2 takes it when it is uncordoned",
                "module-1 takes it when it is uncordoned, and 1 more core is free"
            ]
        );
        decision.chosen = Some("module-2".parse().unwrap());
        assert!(decision.remedies().is_empty() && decision.refusal().is_empty());
    }
}
