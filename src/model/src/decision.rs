use crate::{Binding, Name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The modules that were looked at: all of them, or of very many those that matter, see [`Decision::shortened`].
    pub candidates: Vec<Candidate>,
    /// Of the modules that are not among the candidates: how many would have done, or by which filter first they were
    /// ruled out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, u64>,
    /// Unix milliseconds.
    pub at: u64,
}

/// The word among [`Decision::others`] for modules that would have done.
const FIT: &str = "fit";

impl Decision {
    /// A decision over at most so many modules is kept whole.
    pub const WHOLE: usize = 32;
    /// Of more modules, so many of the best and so many of the nearest misses are kept.
    const KEPT: usize = 5;

    /// What is worth keeping of it: in a cluster of very many modules the one that was chosen, the best of those that fit,
    /// those that miss least, and of the rest only how many each filter ruled out.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        if self.candidates.len() <= Self::WHOLE {
            return self;
        }
        let mut ranked: Vec<&Candidate> = self.candidates.iter().collect();
        let score = |c: &Candidate| match c.verdict {
            Verdict::Score(score) => score,
            Verdict::Filtered(_) => f64::NEG_INFINITY,
        };
        ranked.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.failed.len().cmp(&b.failed.len())));
        let fits = |c: &&&Candidate| matches!(c.verdict, Verdict::Score(_));
        let best = ranked.iter().filter(fits).take(Self::KEPT);
        let nearest = ranked.iter().filter(|c| !fits(c)).take(Self::KEPT);
        let mut kept: BTreeSet<Name> = best.chain(nearest).map(|c| c.module.clone()).collect();
        kept.extend(self.chosen.clone());
        let (kept, rest): (Vec<_>, Vec<_>) =
            self.candidates.into_iter().partition(|c| kept.contains(&c.module));
        self.candidates = kept;
        for candidate in rest {
            let filter = candidate.failed.first().map_or(FIT, |failed| failed.filter.as_str());
            *self.others.entry(filter.to_owned()).or_default() += 1;
        }
        self
    }

    /// What became of the modules that are not in the table, on one line; empty when all are.
    pub fn others_words(&self) -> String {
        let words = self.others.iter().map(|(filter, count)| match filter.as_str() {
            FIT => format!("{count} would have done"),
            filter => format!("{count} ruled out by {filter}"),
        });
        let words: Vec<String> = words.collect();
        let all: u64 = self.others.values().sum();
        if words.is_empty() { String::new() } else { format!("of {all} other modules {}", words.join(", ")) }
    }

    /// Whether this module would do.
    pub fn fits(&self, module: &Name) -> bool {
        self.candidates.iter().any(|c| c.module == *module && matches!(c.verdict, Verdict::Score(_)))
    }

    /// Why no module fits, on one line; empty when one was chosen.
    pub fn refusal(&self) -> String {
        if self.chosen.is_some() {
            return String::new();
        }
        let mut reasons: Vec<String> = self
            .candidates
            .iter()
            .filter_map(|c| match &c.verdict {
                Verdict::Filtered(why) => Some(format!("{}: {why}", c.module)),
                Verdict::Score(_) => None,
            })
            .collect();
        reasons.extend(Some(self.others_words()).filter(|words| !words.is_empty()));
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

    #[test]
    fn of_very_many_modules_those_that_matter_are_kept_and_the_rest_is_counted() {
        let module = |number: usize| format!("module-{number}").parse::<Name>().unwrap();
        let candidate = |number: usize| {
            let short = number.is_multiple_of(3);
            let failed =
                |filter: &str| Failed { filter: filter.into(), why: "no".into(), remedy: "yes".into() };
            let mut failures = if short { vec![failed("cpu")] } else { vec![] };
            failures.extend(number.is_multiple_of(6).then(|| failed("memory")));
            let verdict =
                if short { Verdict::Filtered("cpu: no".into()) } else { Verdict::Score(number as f64) };
            Candidate { module: module(number), verdict, failed: failures, scores: BTreeMap::new() }
        };
        let of = |count: usize| Decision {
            candidates: (0..count).map(candidate).collect(),
            chosen: Some(module(1)),
            ..Decision::default()
        };
        assert_eq!(of(Decision::WHOLE).shortened(), of(Decision::WHOLE));
        let short = of(9000).shortened();
        let kept: Vec<&str> = short.candidates.iter().map(|c| c.module.as_str()).collect();
        let misses = ["module-3", "module-9", "module-15", "module-21", "module-27"];
        let best = ["module-8993", "module-8995", "module-8996", "module-8998", "module-8999"];
        assert_eq!(kept, [&["module-1"], &misses[..], &best[..]].concat());
        assert_eq!(short.others.get("cpu"), Some(&2995));
        assert_eq!(short.others_words(), "of 8989 other modules 2995 ruled out by cpu, 5994 would have done");
        let waiting = Decision { chosen: None, ..short.clone() };
        assert!(
            waiting
                .refusal()
                .ends_with("; of 8989 other modules 2995 ruled out by cpu, 5994 would have done")
        );
        assert_eq!(waiting.remedies().len(), 5);
        assert_eq!(short.clone().shortened(), short, "once is enough");
    }
}
