use super::classic;
use super::fragment::Usuals;
use super::index::{Index, UNFIT};
use super::node::Node;
use super::prospect::Prospect;
use super::resources::WHOLE;
use super::seed::Seed;
use super::shape::Shape;
use super::strategy::Strategy;
use super::unit::{self, UnitPolicy, UnitScore, Vector};
use super::workload::Workload;

/// What the strategies know beside the nodes.
#[derive(Debug, Clone)]
pub(crate) struct Scorer {
    policy: UnitPolicy,
    /// What an operator said to expect; else what has arrived.
    expected: Option<Workload>,
    arrived: Workload,
    usuals: Usuals,
    prospect: Prospect,
    /// Counts how often the tables above were made anew.
    epoch: u64,
    /// With how many arrivals they are due to be made anew.
    due: u64,
    models: usize,
    /// Where `tiling` goes on.
    cursor: u32,
    seed: Seed,
}

impl Scorer {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            policy: UnitPolicy::default(),
            expected: None,
            arrived: Workload::default(),
            usuals: Usuals::default(),
            prospect: Prospect::default(),
            epoch: 1,
            due: 0,
            models: 0,
            cursor: 0,
            seed: Seed::new(seed),
        }
    }

    pub(crate) fn set_policy(&mut self, policy: UnitPolicy) {
        self.policy = policy;
    }

    pub(crate) fn expect(&mut self, shapes: Vec<Shape>) {
        let mut workload = Workload::default();
        shapes.into_iter().for_each(|shape| workload.observe(shape));
        self.expected = Some(workload);
        self.due = 0;
    }

    /// Learns what arrives, and now and then makes the tables anew: often at first, ever more seldom later.
    pub(crate) fn observe(&mut self, shape: Shape, strategy: Strategy, models: usize) {
        if !matches!(strategy, Strategy::Fgd | Strategy::Spacecloud) {
            return;
        }
        self.arrived.observe(shape);
        if self.arrived.seen() < self.due && models == self.models {
            return;
        }
        (self.due, self.models) = (self.arrived.seen() * 2, models);
        self.epoch += 1;
        let bits = (0..models).map(|at| 1_u64 << at);
        match strategy {
            Strategy::Fgd => {
                if let Some(expected) = &self.expected {
                    self.due = u64::MAX;
                    self.usuals = Usuals::new(expected, bits);
                } else {
                    self.usuals = Usuals::new(&self.arrived, bits);
                }
            }
            _ => self.prospect = Prospect::new(&self.arrived, bits),
        }
    }

    /// Scores of an earlier epoch are worth nothing.
    pub(crate) fn epoch(&self, strategy: Strategy) -> u64 {
        if matches!(strategy, Strategy::Fgd | Strategy::Spacecloud) { self.epoch } else { 1 }
    }

    /// What the index keeps of a node: its score, or that it does not fit.
    pub(crate) fn score(&self, node: &Node, shape: &Shape, strategy: Strategy) -> f64 {
        if !node.fits(shape) {
            return UNFIT;
        }
        match strategy {
            Strategy::Spread => 100.0 - classic::allocated(node, shape),
            Strategy::Binpack => classic::allocated(node, shape),
            Strategy::Tiling | Strategy::Random => 0.0,
            Strategy::Multilevel => self.unit_score(node, shape).map_or(UNFIT, |score| score.total),
            Strategy::Fgd => self.usuals.score(node, shape).0,
            Strategy::Spacecloud => self.prospect.score(node, shape).0,
        }
    }

    /// The unit level's filters that look at one node alone, and its scores.
    pub(crate) fn unit_score(&self, node: &Node, shape: &Shape) -> Result<UnitScore, String> {
        let (capacity, used, asked) = vectors(node, shape);
        if let Some((resource, load)) = unit::overload(&self.policy, &capacity, &used, &asked) {
            return Err(format!("{resource}: load {load:.3} would be above its threshold"));
        }
        let balance = unit::balance(&self.policy, &capacity, &used);
        if self.policy.min_balance.is_some_and(|least| balance < least) {
            return Err(format!("balance {balance:.3} is below the least one"));
        }
        let left = whole_after(node, shape);
        if shape.accelerators > 0 && unit::splinters(&self.policy, left) {
            return Err(format!("would keep {left} free accelerators, too few to be of use"));
        }
        Ok(unit::score(&self.policy, &capacity, &used, &asked))
    }

    /// The node that is chosen, and whether the max-GPU reservation cannot be kept.
    pub(crate) fn choose(
        &mut self,
        index: &Index,
        nodes: &[Node],
        shape: &Shape,
        strategy: Strategy,
    ) -> Option<(u32, bool)> {
        match strategy {
            Strategy::Tiling => index.next(self.cursor).map(|node| (node, false)),
            Strategy::Random => {
                let count = index.fitting();
                if count == 0 {
                    return None;
                }
                let skip = self.seed.below(count);
                index.nth(skip).map(|node| (node, false))
            }
            Strategy::Multilevel => self.choose_unit(index, nodes, shape),
            _ => index.best(None).map(|(node, _)| (node, false)),
        }
    }

    fn choose_unit(&self, index: &Index, nodes: &[Node], shape: &Shape) -> Option<(u32, bool)> {
        let keeper = self.policy.max_gpu.map(|most| sole_keeper(nodes, shape, most));
        let without = match keeper {
            Some(Keepers::One(node)) => Some(node),
            _ => None,
        };
        let best = |without| {
            if self.policy.share < 1.0 {
                self.best_of_share(index, nodes, without)
            } else {
                index.best(without).map(|(node, _)| node)
            }
        };
        if let Some(node) = best(without) {
            return Some((node, matches!(keeper, Some(Keepers::None))));
        }
        // Only the last node with the reserve can take it: it does, and the operator is told.
        without.and_then(|_| best(None)).map(|node| (node, true))
    }

    /// The best among the share of the fitting nodes that have the best balance.
    fn best_of_share(&self, index: &Index, nodes: &[Node], without: Option<u32>) -> Option<u32> {
        let mut fitting: Vec<(f64, u32, f64)> = (0_u32..)
            .zip(nodes)
            .filter(|(number, _)| Some(*number) != without)
            .filter_map(|(number, node)| Some((self.balance(node), number, index.score(number)?)))
            .collect();
        let count = (fitting.len() as f64 * self.policy.share).ceil();
        fitting.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let share = fitting.into_iter().enumerate().take_while(|(rank, _)| (*rank as f64) < count);
        let best = share.max_by(|(_, a), (_, b)| a.2.total_cmp(&b.2).then(b.1.cmp(&a.1)));
        best.map(|(_, (_, number, _))| number)
    }

    pub(crate) fn balance(&self, node: &Node) -> f64 {
        let nothing =
            Shape { amounts: super::Amounts::default(), accelerators: 0, milli: 0, models: u64::MAX };
        let (capacity, used, _) = vectors(node, &nothing);
        unit::balance(&self.policy, &capacity, &used)
    }

    /// The devices of the chosen node.
    pub(crate) fn devices(&mut self, node: &Node, shape: &Shape, strategy: Strategy) -> Vec<u16> {
        if shape.accelerators == 0 {
            return Vec::new();
        }
        let chosen = match strategy {
            Strategy::Fgd => self.usuals.score(node, shape).1,
            Strategy::Spacecloud => self.prospect.score(node, shape).1,
            _ => None,
        };
        match (chosen, strategy) {
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

enum Keepers {
    None,
    One(u32),
    Several,
}

/// Who would still have `most` free accelerators if the request went elsewhere, when it is one node only and the
/// request would take that from it.
fn sole_keeper(nodes: &[Node], shape: &Shape, most: u16) -> Keepers {
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
