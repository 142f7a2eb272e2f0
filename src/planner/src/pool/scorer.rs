use super::classic;
use super::fragment;
use super::index::{Index, UNFIT};
use super::node::Node;
use super::outlook::Outlook;
use super::prospect;
use super::published::{self, Largest};
use super::resources::WHOLE;
use super::seed::Seed;
use super::shape::Shape;
use super::strategy::{PolicyNumber, Strategy};
use super::unit::{self, UnitPolicy, UnitScore, Vector};
use super::workload::Workload;
use std::collections::BTreeSet;

/// After so many arrivals at most the tables are made anew.
const SELDOM: u64 = 8192;

/// Tables made from a workload, and when to make them anew.
#[derive(Debug, Clone, Default)]
struct Learned {
    outlook: Outlook,
    /// Counts how often they were made.
    epoch: u64,
    /// With how many arrivals they are due.
    due: u64,
    /// How many different nodes were known then.
    kinds: usize,
}

impl Learned {
    /// Makes the tables anew whenever twice as much has arrived: often at first, more and more seldom later.
    fn refresh(&mut self, seen: u64, kinds: usize, make: impl FnOnce() -> Outlook) {
        if seen >= self.due || kinds != self.kinds {
            self.outlook = make();
            self.epoch += 1;
            self.due = seen.saturating_add(seen.clamp(1, SELDOM));
            self.kinds = kinds;
        }
    }
}

/// What the strategies know beside the nodes.
#[derive(Debug, Clone)]
pub(crate) struct Scorer {
    policies: Vec<UnitPolicy>,
    arrived: Workload,
    /// What an operator said to expect, for `fgd`.
    expected: Option<Workload>,
    fragment: Learned,
    prospect: Learned,
    /// Where `tiling` goes on.
    cursor: u32,
    pub(crate) largest: Largest,
    seed: Seed,
}

/// One question to the strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    pub(crate) strategy: Strategy,
    /// Which policy of the unit level counts.
    pub(crate) policy: PolicyNumber,
    pub(crate) shape: Shape,
}

impl Scorer {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            policies: vec![UnitPolicy::default()],
            arrived: Workload::default(),
            expected: None,
            fragment: Learned::default(),
            prospect: Learned::default(),
            cursor: 0,
            largest: Largest::default(),
            seed: Seed::new(seed),
        }
    }

    /// The number of a policy that is known or has room to become known.
    pub(crate) fn policy_number(&mut self, policy: UnitPolicy) -> Option<PolicyNumber> {
        let at = self.policies.iter().position(|known| *known == policy).unwrap_or_else(|| {
            self.policies.push(policy);
            self.policies.len() - 1
        });
        u16::try_from(at).ok().map(PolicyNumber)
    }

    pub(crate) fn policy(&self, number: PolicyNumber) -> UnitPolicy {
        self.policies.get(usize::from(number.0)).copied().unwrap_or_default()
    }

    pub(crate) fn expect(&mut self, shapes: Vec<Shape>) {
        let mut workload = Workload::default();
        shapes.into_iter().for_each(|shape| workload.observe(shape));
        self.expected = Some(workload);
        self.fragment.due = 0;
    }

    /// Learns what arrives.
    pub(crate) fn observe(&mut self, shape: Shape) {
        self.arrived.observe(shape);
    }

    /// Brings the tables of `strategy` up to date.
    pub(crate) fn prepare(&mut self, strategy: Strategy, models: usize, sizes: &BTreeSet<u16>) {
        let bits = (0..models).map(|at| 1_u64 << at);
        let (seen, arrived, expected) = (self.arrived.seen(), &self.arrived, &self.expected);
        match (strategy, expected) {
            (Strategy::Fgd, Some(expected)) => {
                self.fragment.refresh(0, models, || fragment::outlook(expected, bits));
                self.fragment.due = u64::MAX;
            }
            (Strategy::Fgd, None) => {
                self.fragment.refresh(seen, models, || fragment::outlook(arrived, bits));
            }
            (Strategy::Spacecloud, _) => {
                // A size that has not been there before is as new as a model.
                let kinds = models + sizes.len();
                self.prospect.refresh(seen, kinds, || prospect::outlook(arrived, sizes, bits));
            }
            _ => {}
        }
    }

    /// Scores of an earlier epoch are worth nothing.
    pub(crate) fn epoch(&self, strategy: Strategy) -> u64 {
        match strategy {
            Strategy::Fgd => self.fragment.epoch,
            Strategy::Spacecloud => self.prospect.epoch,
            Strategy::BestFit | Strategy::DotProduct | Strategy::GpuClustering => self.largest.epoch,
            _ => 1,
        }
    }

    /// What the index keeps of a node: its score, or that it does not fit.
    pub(crate) fn score(&self, node: &Node, asked: &Question) -> f64 {
        let shape = &asked.shape;
        if !node.fits(shape) {
            return UNFIT;
        }
        match asked.strategy {
            Strategy::Spread => 100.0 - classic::allocated(node, shape),
            Strategy::Binpack => classic::allocated(node, shape),
            Strategy::Tiling | Strategy::Random => 0.0,
            Strategy::Multilevel => self.unit_score(node, asked).map_or(UNFIT, |(_, score)| score.total),
            Strategy::BestFit => published::best_fit(node, shape, &self.largest),
            Strategy::DotProduct => published::dot_product(node, shape, &self.largest),
            Strategy::GpuPacking => published::gpu_packing(node, shape),
            Strategy::GpuClustering => published::gpu_clustering(node, shape, &self.largest),
            Strategy::Fgd => fragment::whole_score(self.fragment.outlook.score(node, shape).0, node.usable),
            Strategy::Spacecloud => self.prospect.outlook.score(node, shape).0,
        }
    }

    /// What `fgd` or `spacecloud` sees in a node before the placement.
    pub(crate) fn worth(&self, node: &Node, strategy: Strategy) -> f64 {
        match strategy {
            Strategy::Fgd => self.fragment.outlook.worth(node),
            _ => self.prospect.outlook.worth(node),
        }
    }

    /// The unit level's filters that look at one node alone, then its balance and its scores.
    pub(crate) fn unit_score(&self, node: &Node, asked: &Question) -> Result<(f64, UnitScore), Left> {
        let (policy, shape) = (&self.policy(asked.policy), &asked.shape);
        let (capacity, used, wants) = vectors(node, shape);
        if let Some((resource, load, limit)) = unit::overload(policy, &capacity, &used, &wants) {
            return Err(Left::Threshold { resource, load, limit });
        }
        let balance = unit::balance(policy, &capacity, &used);
        if let Some(least) = policy.min_balance.filter(|least| balance < *least) {
            return Err(Left::Balance { balance, least });
        }
        let left = whole_after(node, shape);
        if shape.accelerators > 0 && unit::splinters(policy, left) {
            return Err(Left::MinGpu { left, least: policy.min_gpu.unwrap_or_default() });
        }
        Ok((balance, unit::score(policy, &capacity, &used, &wants)))
    }

    /// The node that is chosen, and whether the max-GPU reservation cannot be kept.
    pub(crate) fn choose(&mut self, index: &Index, nodes: &[Node], asked: &Question) -> Option<(u32, bool)> {
        match asked.strategy {
            Strategy::Tiling => index.next(self.cursor).map(|node| (node, false)),
            Strategy::Random => {
                let skip = self.seed.below(index.fitting());
                index.nth(skip).map(|node| (node, false))
            }
            Strategy::Multilevel => {
                let course = self.course(index, nodes, asked);
                let best = course.best(index);
                best.map(|node| (node, course.alarm))
            }
            _ => index.best(None).map(|(node, _)| (node, false)),
        }
    }

    /// What the constraints that look at several nodes leave to choose from.
    pub(crate) fn course(&self, index: &Index, nodes: &[Node], asked: &Question) -> Course {
        let policy = self.policy(asked.policy);
        let (mut spared, mut alarm) = (None, false);
        if let Some(most) = policy.max_gpu {
            match keepers(nodes, &asked.shape, most) {
                Keepers::None => alarm = true,
                // The last node with the reserve takes it when no other can: the operator is told.
                Keepers::One(node) if index.best(Some(node)).is_none() => alarm = true,
                Keepers::One(node) => spared = Some(node),
                Keepers::Several => {}
            }
        }
        let shared = (policy.share < 1.0).then(|| shared(&policy, index, nodes, spared));
        Course { spared, alarm, shared }
    }

    /// The devices of the chosen node.
    pub(crate) fn devices(&mut self, node: &Node, asked: &Question) -> Vec<u16> {
        let shape = &asked.shape;
        if shape.accelerators == 0 {
            return Vec::new();
        }
        let chosen = match asked.strategy {
            Strategy::Fgd => self.fragment.outlook.score(node, shape).1,
            Strategy::Spacecloud => self.prospect.outlook.score(node, shape).1,
            _ => None,
        };
        match (chosen, asked.strategy) {
            (Some(device), _) => vec![device],
            (None, Strategy::Spread) => node.emptiest(shape),
            (None, Strategy::Random) => {
                let mut fitting = node.fitting(shape);
                self.seed.shuffle(&mut fitting);
                fitting.truncate(usize::from(shape.accelerators));
                fitting.sort_unstable();
                fitting
            }
            (None, Strategy::Tiling) => {
                let mut fitting = node.fitting(shape);
                fitting.truncate(usize::from(shape.accelerators));
                fitting
            }
            (None, _) => node.tightest(shape),
        }
    }

    /// Notes where the last one went.
    pub(crate) fn placed(&mut self, node: u32, strategy: Strategy) {
        if strategy == Strategy::Tiling {
            self.cursor = node.saturating_add(1);
        }
    }
}

/// Why the unit level leaves out a node that has room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Left {
    /// This resource's load would be above its threshold.
    Threshold { resource: &'static str, load: f64, limit: f64 },
    /// Its balance is below the least one.
    Balance { balance: f64, least: f64 },
    /// It would keep so few accelerators that nobody could use them.
    MinGpu { left: u16, least: u16 },
}

/// What the unit level chooses from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Course {
    /// The last node that keeps the reserve of accelerators.
    pub(crate) spared: Option<u32>,
    /// The reserve cannot be kept.
    pub(crate) alarm: bool,
    /// The share of the nodes with the best balance, best first; none when all take part.
    pub(crate) shared: Option<Vec<u32>>,
}

impl Course {
    fn best(&self, index: &Index) -> Option<u32> {
        let Some(shared) = &self.shared else { return index.best(self.spared).map(|(node, _)| node) };
        let scored = shared.iter().filter_map(|node| Some((index.score(*node)?, *node)));
        scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, node)| node)
    }
}

/// The share of the fitting nodes that have the best balance.
fn shared(policy: &UnitPolicy, index: &Index, nodes: &[Node], spared: Option<u32>) -> Vec<u32> {
    let mut fitting: Vec<(f64, u32)> = (0_u32..)
        .zip(nodes)
        .filter(|(number, _)| Some(*number) != spared && index.score(*number).is_some())
        .map(|(number, node)| (balance(policy, node), number))
        .collect();
    fitting.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let count = (fitting.len() as f64 * policy.share).ceil();
    let share = fitting.into_iter().enumerate().take_while(|(rank, _)| (*rank as f64) < count);
    share.map(|(_, (_, number))| number).collect()
}

fn balance(policy: &UnitPolicy, node: &Node) -> f64 {
    let (capacity, used, _) = vectors(node, &Shape::NOTHING);
    unit::balance(policy, &capacity, &used)
}

enum Keepers {
    None,
    One(u32),
    Several,
}

/// Who has `most` free accelerators; one node only counts when the request would take them from it.
fn keepers(nodes: &[Node], shape: &Shape, most: u16) -> Keepers {
    let mut keepers = (0_u32..).zip(nodes).filter(|(_, node)| !node.closed && node.whole >= most);
    match (keepers.next(), keepers.next()) {
        (None, _) => Keepers::None,
        (Some((number, node)), None) if whole_after(node, shape) < most => Keepers::One(number),
        _ => Keepers::Several,
    }
}

/// The wholly free accelerators that a node would keep.
fn whole_after(node: &Node, shape: &Shape) -> u16 {
    if shape.milli == WHOLE {
        return node.whole.saturating_sub(shape.accelerators);
    }
    if shape.accelerators == 0 {
        return node.whole;
    }
    let broken = node.tightest(shape);
    let whole = (0_u16..)
        .zip(&node.devices)
        .filter(|(number, device)| device.usable() == WHOLE && !broken.contains(number));
    u16::try_from(whole.count()).unwrap_or(u16::MAX)
}

/// What the node has (without accelerators in maintenance), what of it is used, and what is asked.
pub(crate) fn vectors(node: &Node, shape: &Shape) -> (Vector, Vector, Vector) {
    let working = node.devices.iter().filter(|d| d.state() != super::AcceleratorState::Maintenance).count();
    let gpu = working as u64 * u64::from(WHOLE);
    let (has, free, wants) = (&node.capacity, &node.free, &shape.amounts);
    (
        Vector { cpu: has.cpu, gpu, disk: has.disk, memory: has.memory },
        Vector {
            cpu: has.cpu.saturating_sub(free.cpu),
            gpu: gpu.saturating_sub(node.usable),
            disk: has.disk.saturating_sub(free.disk),
            memory: has.memory.saturating_sub(free.memory),
        },
        Vector { cpu: wants.cpu, gpu: shape.accelerator_milli(), disk: wants.disk, memory: wants.memory },
    )
}
