//! The unit level of the pool paper: which modules may take a task, and how well each would do.
//!
//! Pure functions over what a module has, what of it is used, and what is asked. The paper's equations are images
//! that did not survive in its text; each function says how equation (1) to (9) is read here.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One value for each kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerResource<T> {
    /// CPU.
    pub cpu: T,
    /// Accelerators.
    pub gpu: T,
    /// Disk.
    pub disk: T,
    /// Memory.
    pub memory: T,
}

/// Amounts of the four resources, each in a unit of its own.
pub type Vector = PerResource<u64>;

impl<T: Copy> PerResource<T> {
    /// In the order of the paper's equation (1): CPU, GPU, disk, memory.
    pub fn each(&self) -> [T; 4] {
        [self.cpu, self.gpu, self.disk, self.memory]
    }

    fn zip<U: Copy, V>(&self, other: &PerResource<U>, join: impl Fn(T, U) -> V) -> PerResource<V> {
        PerResource {
            cpu: join(self.cpu, other.cpu),
            gpu: join(self.gpu, other.gpu),
            disk: join(self.disk, other.disk),
            memory: join(self.memory, other.memory),
        }
    }
}

/// The names that go with [`PerResource::each`].
pub const RESOURCES: [&str; 4] = ["cpu", "gpu", "disk", "memory"];

/// The weights of equation (9).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreWeights {
    /// Of equation (2).
    pub cpu: f64,
    /// Of equation (3).
    pub memory: f64,
    /// Of equation (4).
    pub disk: f64,
    /// Of equation (5).
    pub gpu: f64,
    /// Of equation (8).
    #[serde(rename = "match")]
    pub matching: f64,
}

impl Default for ScoreWeights {
    fn default() -> Self {
        Self { cpu: 1.0, memory: 1.0, disk: 1.0, gpu: 4.0, matching: 4.0 }
    }
}

impl ScoreWeights {
    fn sum(&self) -> f64 {
        self.cpu + self.memory + self.disk + self.gpu + self.matching
    }
}

/// Everything about the unit level that an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnitPolicy {
    /// w of equation (1); they sum to 1.
    pub balance: PerResource<f64>,
    /// T of equation (1): the load that a module must not pass, above 0 and below 1. A resource without one may be
    /// used up; it counts as 1 in equation (1).
    pub threshold: PerResource<Option<f64>>,
    /// The share of the modules that pass all other filters, best balance first, that goes on to scoring: above 0,
    /// at most 1. Rounded up, so that one always goes on.
    pub share: f64,
    /// The least balance with which a module still takes part.
    pub min_balance: Option<f64>,
    /// At least one module must keep this many free accelerators; the operator is alarmed when none can.
    pub max_gpu: Option<u16>,
    /// A module that would keep some but fewer free accelerators than this takes no part.
    pub min_gpu: Option<u16>,
    /// w of equation (9).
    pub score: ScoreWeights,
}

impl Default for UnitPolicy {
    fn default() -> Self {
        Self {
            balance: PerResource { cpu: 0.25, gpu: 0.25, disk: 0.25, memory: 0.25 },
            threshold: PerResource::default(),
            share: 1.0,
            min_balance: None,
            max_gpu: None,
            min_gpu: None,
            score: ScoreWeights::default(),
        }
    }
}

/// A policy that means nothing.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{key}: {reason}")]
pub struct PolicyError {
    /// The key in the configuration.
    pub key: String,
    /// Why, and what would be right.
    pub reason: String,
}

fn refuse(key: impl Into<String>, reason: impl Into<String>) -> Result<(), PolicyError> {
    Err(PolicyError { key: key.into(), reason: reason.into() })
}

impl UnitPolicy {
    /// Whether every number can be meant.
    ///
    /// # Errors
    /// The first key that cannot, and what would be right.
    pub fn check(&self) -> Result<(), PolicyError> {
        for (name, weight) in RESOURCES.iter().zip(self.balance.each()) {
            weight_is_sound(&format!("balance.{name}"), weight)?;
        }
        let sum: f64 = self.balance.each().iter().sum();
        if (sum - 1.0).abs() > 1e-6 {
            return refuse("balance", format!("the weights sum to {sum}; they must sum to 1"));
        }
        for (name, threshold) in RESOURCES.iter().zip(self.threshold.each()) {
            if threshold.is_some_and(|t| !(t > 0.0 && t < 1.0)) {
                let told = threshold.unwrap_or_default();
                return refuse(format!("threshold.{name}"), format!("{told} is not above 0 and below 1"));
            }
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return refuse("share", format!("{} is not above 0 and at most 1", self.share));
        }
        if self.min_balance.is_some_and(|least| !least.is_finite() || least > 1.0) {
            return refuse("min_balance", "must be a number of at most 1, the balance of an empty module");
        }
        let score = &self.score;
        let named = [("cpu", score.cpu), ("memory", score.memory), ("disk", score.disk), ("gpu", score.gpu)];
        for (name, weight) in named.into_iter().chain([("match", score.matching)]) {
            weight_is_sound(&format!("score.{name}"), weight)?;
        }
        if score.sum() <= 0.0 {
            return refuse("score", "the weights sum to nothing; give at least one above 0");
        }
        Ok(())
    }
}

fn weight_is_sound(key: &str, weight: f64) -> Result<(), PolicyError> {
    if weight.is_finite() && weight >= 0.0 {
        return Ok(());
    }
    refuse(key, format!("{weight} is no weight; 0 or a positive number is"))
}

/// L, the load: used / capacity; 0 where there is nothing to load.
pub fn load(used: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { used as f64 / capacity as f64 }
}

/// Equation (1): Σ w · (1 − L / T) over CPU, GPU, disk and memory. An empty module has 1; one at its thresholds 0.
pub fn balance(policy: &UnitPolicy, capacity: &Vector, used: &Vector) -> f64 {
    let loads = used.zip(capacity, load).each();
    let thresholds = policy.threshold.each();
    let terms = policy.balance.each().into_iter().zip(loads).zip(thresholds);
    terms.map(|((weight, load), threshold)| weight * (1.0 - load / threshold.unwrap_or(1.0))).sum()
}

/// The first resource whose load the request would push above its threshold, that load, and the threshold.
pub fn overload(
    policy: &UnitPolicy,
    capacity: &Vector,
    used: &Vector,
    asked: &Vector,
) -> Option<(&'static str, f64, f64)> {
    let after = used.zip(asked, u64::saturating_add).zip(capacity, load).each();
    let limits = policy.threshold.each().into_iter().zip(asked.each());
    RESOURCES.into_iter().zip(after).zip(limits).find_map(|((name, load), (limit, asked))| {
        // What is not asked for is not pushed.
        limit.filter(|limit| asked > 0 && load > *limit).map(|limit| (name, load, limit))
    })
}

/// Whether a module that keeps `left` free accelerators would be left with a splinter (the minimum GPU constraint).
pub fn splinters(policy: &UnitPolicy, left: u16) -> bool {
    policy.min_gpu.is_some_and(|least| left > 0 && left < least)
}

/// The scores of one module, each from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct UnitScore {
    /// Equation (2).
    pub cpu: f64,
    /// Equation (3).
    pub memory: f64,
    /// Equation (4).
    pub disk: f64,
    /// Equation (5).
    pub gpu: f64,
    /// Equation (8).
    #[serde(rename = "match")]
    pub matching: f64,
    /// Equation (9).
    pub total: f64,
}

/// Equations (2) to (9).
///
/// (2)–(5): 100 · (used + asked) / capacity. (6)–(8): 100 · the cosine of what is asked and what is free, each as a
/// share of capacity. (9): the mean of all five by weight.
pub fn score(policy: &UnitPolicy, capacity: &Vector, used: &Vector, asked: &Vector) -> UnitScore {
    let after = used.zip(asked, u64::saturating_add).zip(capacity, |a, c| 100.0 * load(a, c).min(1.0));
    let wanted = asked.zip(capacity, load).each();
    let free = capacity.zip(used, u64::saturating_sub).zip(capacity, load).each();
    let matching = 100.0 * cosine(&wanted, &free);
    let weights = &policy.score;
    let sum = weights.cpu * after.cpu
        + weights.memory * after.memory
        + weights.disk * after.disk
        + weights.gpu * after.gpu
        + weights.matching * matching;
    let PerResource { cpu, gpu, disk, memory } = after;
    UnitScore { cpu, memory, disk, gpu, matching, total: sum / weights.sum() }
}

/// 0 when one of them is nothing.
fn cosine(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let dot = |x: &[f64; 4], y: &[f64; 4]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
