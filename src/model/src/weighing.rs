//! What an app or a task weighs differently from the cluster: the numbers of the unit level.

use crate::{AppSpec, Placement, SpecError, Strategy};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A number with six decimals: exact in every comparison, and the same after it was written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Decimal(i64);

impl Decimal {
    const ONE: f64 = 1e6;
    /// What a weight may be at most; nobody means more.
    const LIMIT: f64 = 1e9;

    /// The nearest one; none for what is not a number, and beyond a thousand million.
    pub fn new(number: f64) -> Option<Self> {
        let sound = number.is_finite() && number.abs() <= Self::LIMIT;
        // In range by the check above; there is no checked conversion from floating point.
        #[allow(clippy::cast_possible_truncation)]
        sound.then(|| Self((number * Self::ONE).round() as i64))
    }

    /// For arithmetic.
    pub fn value(self) -> f64 {
        self.0 as f64 / Self::ONE
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.value().to_string())
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(self.value())
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(input)?;
        Self::new(number).ok_or_else(|| {
            de::Error::custom(format!("{number} is no number to weigh by; write one such as 0.5"))
        })
    }
}

/// A number for each kind of resource; what is not given is the cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ByResource {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Decimal>,
    /// Accelerators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Decimal>,
    /// Disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Decimal>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Decimal>,
}

/// A weight for each score of the unit level; what is not given is the cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ByScore {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Decimal>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Decimal>,
    /// Disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Decimal>,
    /// Accelerators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Decimal>,
    /// How well what is asked and what is free match.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Decimal>,
}

type Named = (&'static str, Option<Decimal>);

impl Placement {
    fn weights(&self) -> [Named; 9] {
        let (balance, score) = (&self.balance, &self.score);
        [
            ("balance.cpu", balance.cpu),
            ("balance.gpu", balance.gpu),
            ("balance.disk", balance.disk),
            ("balance.memory", balance.memory),
            ("score.cpu", score.cpu),
            ("score.memory", score.memory),
            ("score.disk", score.disk),
            ("score.gpu", score.gpu),
            ("score.match", score.matching),
        ]
    }

    fn thresholds(&self) -> [Named; 4] {
        let of = &self.threshold;
        [
            ("threshold.cpu", of.cpu),
            ("threshold.gpu", of.gpu),
            ("threshold.disk", of.disk),
            ("threshold.memory", of.memory),
        ]
    }

    /// What it weighs differently from the cluster, each as `key value`; empty when nothing.
    pub fn weighing(&self) -> Vec<String> {
        let number = |count: Option<u16>| count.and_then(|count| Decimal::new(count.into()));
        let rest = [
            ("share", self.share),
            ("min_balance", self.min_balance),
            ("max_gpu", number(self.max_gpu)),
            ("min_gpu", number(self.min_gpu)),
        ];
        let all = self.weights().into_iter().chain(self.thresholds()).chain(rest);
        all.filter_map(|(key, value)| value.map(|value| format!("{key} {value}"))).collect()
    }
}

impl AppSpec {
    /// The strategy, where `auto` stands for one: `multilevel` for what has weights or constraints of its own,
    /// `spacecloud` for what asks for accelerators, `spread` for the rest.
    pub fn chosen_strategy(&self) -> Strategy {
        match self.strategy {
            Strategy::Auto if !self.placement.weighing().is_empty() => Strategy::Multilevel,
            Strategy::Auto if self.resources.gpu.0 > 0 => Strategy::Spacecloud,
            Strategy::Auto => Strategy::Spread,
            named => named,
        }
    }

    /// Each number by itself; their sums depend on the cluster's numbers too, and the server checks them.
    pub(crate) fn check_weighing(&self) -> Result<(), SpecError> {
        let placement = &self.placement;
        let refuse = |key: &str, value: Decimal, reason: &str| {
            Err(SpecError::value(format!("placement.{key}"), value, reason))
        };
        let given = |list: &[Named], bad: &dyn Fn(f64) -> bool| {
            list.iter().find_map(|(key, value)| Some((*key, (*value).filter(|v| bad(v.value()))?)))
        };
        if let Some((key, value)) = given(&placement.weights(), &|v| v < 0.0) {
            return refuse(key, value, "is no weight; 0 or a positive number is");
        }
        if let Some((key, value)) = given(&placement.thresholds(), &|v| v <= 0.0 || v >= 1.0) {
            return refuse(key, value, "is not above 0 and below 1");
        }
        if let Some(share) = placement.share.filter(|s| s.value() <= 0.0 || s.value() > 1.0) {
            return refuse("share", share, "is not above 0 and at most 1");
        }
        if let Some(least) = placement.min_balance.filter(|b| b.value() > 1.0) {
            return refuse("min_balance", least, "is more than 1, the balance of an empty module");
        }
        match (placement.weighing().first(), self.chosen_strategy()) {
            (Some(first), strategy) if strategy != Strategy::Multilevel => {
                let key = first.split(' ').next().unwrap_or_default();
                let strategy = format!("{strategy:?}").to_lowercase();
                let reason =
                    format!("does not weigh placement.{key}; write multilevel, or leave one of them out");
                Err(SpecError::value("strategy", strategy, reason))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AppFile;
    use proptest::{prop_assert_eq, proptest};

    fn parse(more: &str) -> Result<AppSpec, SpecError> {
        AppFile::parse("f", &format!("name = 'a'\nimage = 'r.s:5000/a'\n{more}\n"))
            .map(|mut f| f.apps.remove(0))
    }

    #[test]
    fn numbers_that_cannot_be_meant_are_refused_with_their_key() {
        for (more, told) in [
            ("placement.threshold.gpu = 1.5", "placement.threshold.gpu: \"1.5\" is not above 0 and below 1"),
            ("placement.threshold.cpu = 1.0", "threshold.cpu"),
            ("placement.threshold.memory = 0.0", "threshold.memory"),
            ("placement.score.match = -1.0", "placement.score.match: \"-1\" is no weight"),
            ("placement.score.gpu = nan", "NaN is no number to weigh by"),
            ("placement.balance = { cpu = inf }", "line 3, placement.balance: inf is no number"),
            ("placement.share = 0.0", "placement.share"),
            ("placement.share = 1.1", "placement.share"),
            ("placement.min_balance = 2.0", "placement.min_balance"),
            ("placement.max_gpu = -1", "line 3, placement.max_gpu"),
            ("placement.threshold.net = 0.5", "unknown field `net`"),
            (
                "strategy = 'binpack'\nplacement.share = 0.5",
                "strategy: \"binpack\" does not weigh placement.share",
            ),
        ] {
            let refusal = parse(more).expect_err(more).to_string();
            assert!(refusal.contains(told), "{more}: {refusal}");
        }
    }

    #[test]
    fn what_weighs_by_itself_is_placed_by_the_unit_level() {
        let spec = parse("resources = { gpu = 1 }").unwrap();
        assert_eq!(spec.chosen_strategy(), Strategy::Spacecloud);
        let own = "resources = { gpu = 1 }\nplacement = { threshold = { gpu = 0.75 }, max_gpu = 4, score = { match = 2 } }";
        let spec = parse(own).unwrap();
        assert_eq!(spec.chosen_strategy(), Strategy::Multilevel);
        assert_eq!(spec.placement.weighing(), ["score.match 2", "threshold.gpu 0.75", "max_gpu 4"]);
        let again = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<AppSpec>(&again).unwrap(), spec);
    }

    proptest! {
        #[test]
        fn a_number_reads_back_as_it_was(number in -1e9..1e9_f64) {
            let number = Decimal::new(number).unwrap();
            let text = serde_json::to_string(&number).unwrap();
            prop_assert_eq!(serde_json::from_str::<Decimal>(&text).unwrap(), number);
        }
    }
}
