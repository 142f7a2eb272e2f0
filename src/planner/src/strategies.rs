//! The pool's strategies on the real cluster: modules and what is taken of them over the window become a pool, which
//! scores and chooses among those that pass the filters.

use crate::{
    core::Core,
    place::{Ask, FILTERS, Load, share},
    pool::{Amounts, NodeSpec, Pool, Request, Strategy as PoolStrategy, WHOLE, unit::UnitPolicy},
    usage::Usage,
};
use model::{
    AcceleratorShare, AppSpec, Binding, Candidate, Failed, Kind, Milli, Module, Name, Outcome, ReplicaId,
    Resources, Run, Strategy, Verdict,
};
use std::collections::BTreeMap;

/// What the pool chose.
pub(crate) struct Chosen {
    pub(crate) module: Name,
    /// The numbers that the strategy would take.
    pub(crate) wanted: Binding,
    /// What the operator should be alarmed about.
    pub(crate) alarm: Option<String>,
}

/// Filters that only the paper's unit level has.
pub(crate) const CONSTRAINTS: [&str; 5] = ["threshold", "min_balance", "min_gpu", "share", "max_gpu"];

/// The pool's name of a strategy; none for those that weigh replicas and instances, which the pool does not know.
pub(crate) fn pooled(strategy: Strategy) -> Option<PoolStrategy> {
    match strategy {
        Strategy::Auto | Strategy::Spread | Strategy::Binpack => None,
        Strategy::Tiling => Some(PoolStrategy::Tiling),
        Strategy::Multilevel => Some(PoolStrategy::Multilevel),
        Strategy::Fgd => Some(PoolStrategy::Fgd),
        Strategy::Spacecloud => Some(PoolStrategy::Spacecloud),
    }
}

fn request(asked: &Resources) -> Request {
    let amounts = Amounts { cpu: asked.cpu.0, memory: asked.memory.0, disk: asked.disk.0 };
    let (accelerators, milli) = match asked.gpu.wholes() {
        Some(count) => (u16::try_from(count).unwrap_or(u16::MAX), WHOLE),
        None if asked.gpu.0 == 0 => (0, 0),
        None => (1, u16::try_from(asked.gpu.0).unwrap_or(WHOLE)),
    };
    Request { amounts, accelerators, milli, ..Request::default() }
}

impl Core {
    /// Lets the pool score and choose; what it says of each candidate goes into the table.
    pub(crate) fn choose_by_pool(
        &self,
        ask: &Ask<'_>,
        strategy: PoolStrategy,
        policy: UnitPolicy,
        usages: &BTreeMap<&Name, Usage>,
        candidates: &mut [Candidate],
    ) -> Option<Chosen> {
        let mut pool = self.pool(usages)?;
        let policy = pool.policy(policy).ok()?;
        let asked = request(&ask.spec.resources);
        self.teach(&mut pool, ask.spec, &asked, strategy);
        let passes: Vec<bool> = candidates.iter().map(|c| c.failed.is_empty()).collect();
        let filter = |number: usize| {
            let passed = passes.get(number).copied().unwrap_or(false);
            (!passed).then(|| ("filters", String::new()))
        };
        let explanation = pool.explain(&asked, strategy, policy, &filter).ok()?;
        for (candidate, row) in candidates.iter_mut().zip(&explanation.rows) {
            if !candidate.failed.is_empty() {
                continue;
            }
            match &row.verdict {
                crate::pool::Verdict::Filtered { filter, reason } => {
                    let why = format!("{filter}: {reason}");
                    candidate.verdict = Verdict::Filtered(why.clone());
                    let remedy = format!("its own or the cluster's [placement] lets it pass {filter}");
                    candidate.failed.push(Failed { filter: filter.clone(), why, remedy });
                }
                crate::pool::Verdict::Scored { score, parts } => {
                    candidate.verdict = Verdict::Score(*score);
                    candidate.scores = parts.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect();
                }
            }
        }
        let placement = pool.place_where(&asked, strategy, policy, &filter).ok()?;
        let module = self.modules.values().nth(placement.node)?;
        let share = Milli(asked.milli.into());
        let numbers: Vec<u32> = sorted_numbers(&module.capacity.accelerators);
        let bound = placement.accelerators.iter().filter_map(|at| numbers.get(usize::from(*at)));
        let accelerators = bound.map(|number| AcceleratorShare { number: *number, share }).collect();
        let wanted = Binding { accelerators, ..Binding::default() };
        Some(Chosen { module: module.name.clone(), wanted, alarm: explanation.alarm })
    }

    /// The modules in the order of their names, with what is taken of them.
    fn pool(&self, usages: &BTreeMap<&Name, Usage>) -> Option<Pool> {
        let mut pool = Pool::new(0);
        for (at, module) in (0_u32..).zip(self.modules.values()) {
            let numbers = sorted_numbers(&module.capacity.accelerators);
            let has = &module.capacity;
            let capacity = Amounts { cpu: has.cpu.0, memory: has.memory.0, disk: has.disk.0 };
            let accelerators = u16::try_from(numbers.len()).ok()?;
            let (name, model) = (module.name.to_string(), String::new());
            pool.add(&NodeSpec { name: name.clone(), capacity, accelerators, model }).ok()?;
            for (index, number) in (0_u16..).zip(&numbers) {
                if self.unusable(module, *number).is_some() {
                    pool.maintain(&name, index, true).ok()?;
                }
            }
            let Some(usage) = usages.get(&module.name) else { continue };
            let (cpu, memory, disk) = (usage.load.cpu, usage.load.memory, usage.load.disk);
            let used = Request { amounts: Amounts { cpu, memory, disk }, ..Request::default() };
            let shape = pool.shape(&used).ok()?;
            pool.hold(at, shape, Vec::new());
            for (index, number) in (0_u16..).zip(&numbers) {
                let milli = usage.accelerators.get(number).copied().unwrap_or(0);
                if milli > 0 {
                    let part =
                        Request::default().with_share(u16::try_from(milli).unwrap_or(WHOLE).min(WHOLE));
                    let shape = pool.shape(&part).ok()?;
                    pool.hold(at, shape, vec![index]);
                }
            }
        }
        Some(pool)
    }

    /// What the strategies weigh beside the nodes: what usually arrives is what has run; `tiling` goes on after the
    /// module that it took last.
    fn teach(&self, pool: &mut Pool, spec: &AppSpec, asked: &Request, strategy: PoolStrategy) {
        if matches!(strategy, PoolStrategy::Fgd | PoolStrategy::Spacecloud) {
            let arrived = self.arrivals();
            let known = arrived.iter().any(|run| {
                run.instance.replica().app == spec.name && request(&run.combination.resources) == *asked
            });
            let first = (!known).then(|| asked.clone());
            for arrival in arrived.iter().map(|run| request(&run.combination.resources)).chain(first) {
                if let Ok(shape) = pool.shape(&arrival) {
                    pool.scorer.observe(shape);
                }
            }
        }
        if strategy == PoolStrategy::Tiling {
            let tiled =
                |name: &Name| self.apps.get(name).is_some_and(|a| a.spec.strategy == Strategy::Tiling);
            let last = self.runs.values().rev().find(|run| tiled(&run.instance.replica().app));
            let at =
                last.and_then(|run| self.modules.keys().position(|name| *name == run.combination.module));
            if let Some(at) = at.and_then(|at| u32::try_from(at).ok()) {
                pool.scorer.placed(at, PoolStrategy::Tiling);
            }
        }
    }

    /// The runs that were arrivals: a replica that is started anew has not arrived again, a task that succeeded and
    /// comes once more has.
    fn arrivals(&self) -> Vec<&Run> {
        let mut last: BTreeMap<&ReplicaId, &Run> = BTreeMap::new();
        let mut arrived = Vec::new();
        for run in self.runs.values() {
            let before = last.insert(run.instance.replica(), run);
            if !before.is_some_and(|before| goes_on(before, run)) {
                arrived.push(run);
            }
        }
        arrived
    }
}

/// Whether `next` only goes on with what `before` was: elsewhere, after a loss, a move or an update.
fn goes_on(before: &Run, next: &Run) -> bool {
    let same = before.combination.resources == next.combination.resources;
    same && (next.kind == Kind::App || before.outcome != Outcome::Succeeded)
}

/// The filters of a decision, in the order in which they are told.
pub(crate) fn filters(strategy: Strategy) -> Vec<String> {
    let own = FILTERS.iter().map(|name| (*name).to_owned());
    let more: &[&str] = if strategy == Strategy::Multilevel { &CONSTRAINTS } else { &[] };
    own.chain(more.iter().map(|name| (*name).to_owned())).collect()
}

/// 0 to 100, and what it is made of. Spread and binpack are Kubernetes' LeastAllocated and MostAllocated over CPU,
/// memory and, where they are asked for, accelerators; an app that asks for nothing is still seen through the
/// number of instances.
pub(crate) fn score(
    strategy: Strategy,
    module: &Module,
    load: &Load,
    spec: &AppSpec,
) -> (f64, BTreeMap<String, f64>) {
    let (asked, has) = (&spec.resources, &module.capacity);
    let mut shares = vec![
        ("cpu", share(load.cpu.saturating_add(asked.cpu.0), has.cpu.0)),
        ("memory", share(load.memory.saturating_add(asked.memory.0), has.memory.0)),
    ];
    if asked.gpu.0 > 0 {
        shares.push(("gpu", share(load.gpu.saturating_add(asked.gpu.0), has.gpu().0)));
    }
    let points = |taken: f64| {
        let score = if strategy == Strategy::Binpack { 100.0 * taken } else { 100.0 - 100.0 * taken };
        (score * 100.0).round() / 100.0
    };
    let mean = shares.iter().map(|(_, taken)| taken).sum::<f64>() / shares.len() as f64;
    let scores = shares.into_iter().map(|(name, taken)| (name.to_owned(), points(taken))).collect();
    (points(mean), scores)
}

fn sorted_numbers(accelerators: &[model::Accelerator]) -> Vec<u32> {
    let mut numbers: Vec<u32> = accelerators.iter().map(|a| a.number).collect();
    numbers.sort_unstable();
    numbers
}

/// Whether the device-level queue is asked before the unit level: for tasks, and where the strategy is the paper's.
pub(crate) fn has_device_level(spec: &AppSpec) -> bool {
    spec.kind == Kind::Task || spec.chosen_strategy() == Strategy::Multilevel
}

#[cfg(test)]
mod tests {
    use crate::{
        Request,
        pool::unit::UnitPolicy,
        testing::{Bench, name, spec},
    };
    use model::Phase;

    /// The pool paper's example: GPU and CPU of five tasks, on modules with 8 accelerators and (here) 64 cores.
    const PAPER: [(u32, u32); 5] = [(2, 4), (2, 4), (2, 4), (4, 8), (8, 10)];

    /// How many of the five wait on three modules, and how many when a fourth has joined.
    fn waiting(strategy: &str) -> (usize, usize) {
        let mut bench = Bench::new(&[8, 8, 8]);
        let wide = |m: &mut model::Module| m.capacity.cpu = model::Milli(64_000);
        (1..=3).for_each(|slot| bench.refit(slot, wide));
        for (number, (gpu, cpu)) in PAPER.iter().enumerate() {
            let more = format!("strategy = '{strategy}'\nresources = {{ gpu = {gpu}, cpu = {cpu} }}");
            bench.apply(vec![spec(&format!("task-{number}"), &more)]).unwrap();
            bench.run(300);
        }
        let wait = |bench: &Bench| bench.core.instances().filter(|i| i.phase == Phase::Pending).count();
        let three = wait(&bench);
        bench.join(4, 8);
        bench.refit(4, wide);
        (three, wait(&bench))
    }

    #[test]
    fn the_paper_s_example_needs_three_modules_and_tiling_four() {
        assert_eq!(waiting("multilevel"), (0, 0));
        assert_eq!(waiting("tiling"), (1, 0));
        assert_eq!(waiting("fgd"), (0, 0));
        assert_eq!(waiting("spacecloud"), (0, 0));
        assert_eq!(waiting("auto"), (0, 0));
    }

    #[test]
    fn every_strategy_places_apps_and_tasks_with_and_without_accelerators() {
        for (strategy, together) in [
            ("spread", Some(false)),
            ("tiling", Some(false)),
            ("binpack", Some(true)),
            ("multilevel", None),
            ("fgd", None),
            ("spacecloud", None),
        ] {
            let mut bench = Bench::new(&[8, 8]);
            for (number, asked) in ["cpu = 1", "cpu = 1, gpu = 1", "gpu = '400m'"].iter().enumerate() {
                for kind in ["app", "task"] {
                    let window = if kind == "task" { "duration = '1h'\n" } else { "" };
                    let more = format!(
                        "kind = '{kind}'\n{window}strategy = '{strategy}'\nresources = {{ {asked} }}"
                    );
                    let pair = ["a", "b"].map(|which| format!("{kind}-{number}-{which}"));
                    for name in &pair {
                        bench.apply(vec![spec(name, &more)]).unwrap();
                        bench.run(300);
                        let placed = bench.of(name);
                        assert_eq!(placed.phase, Phase::Ready, "{strategy} {name}");
                        assert_eq!(placed.decision.strategy, strategy);
                        assert!(placed.decision.candidates.iter().all(|c| c.failed.is_empty()), "{placed:?}");
                    }
                    let module = |name: &String| bench.of(name).module.clone();
                    let same = module(&pair[0]) == module(&pair[1]);
                    assert!(together.is_none_or(|expected| same == expected), "{strategy} {pair:?}");
                }
            }
        }
    }

    #[test]
    fn a_replica_that_is_started_anew_has_not_arrived_again() {
        let mut bench = Bench::new(&[4, 4]);
        bench.apply(vec![spec("a", "resources = { gpu = 2 }")]).unwrap();
        let task = "kind = 'task'\nduration = '1h'\nresources = { gpu = 1 }";
        bench.apply(vec![spec("t", task)]).unwrap();
        bench.run(300);
        let codes = |bench: &Bench| -> Vec<String> {
            bench.core.arrivals().iter().map(|run| run.code.clone()).collect()
        };
        assert_eq!(codes(&bench), ["a/1", "t"]);
        // Both have to leave the lost module.
        bench.silent.insert(name("module-1"));
        bench.run(3_000);
        assert_eq!((bench.place("a"), bench.place("t")), ("module-2 0 1".into(), "module-2 2".into()));
        assert_eq!(bench.core.history().count(), 4);
        assert_eq!(codes(&bench), ["a/1", "t"]);
        // It succeeds and is asked for once more.
        let id = bench.of("t").id.clone();
        bench.done.insert(id);
        bench.run(500);
        bench.apply(vec![spec("t", task)]).unwrap();
        bench.run(500);
        assert_eq!(codes(&bench), ["a/1", "t", "t"]);
    }

    #[test]
    fn scores_and_constraints_of_the_unit_level_are_in_the_table() {
        let mut bench = Bench::new(&[4, 4]);
        let policy = UnitPolicy { min_gpu: Some(2), ..UnitPolicy::default() };
        bench.core.set_policy(policy);
        let more = "strategy = 'multilevel'\nresources = { gpu = 1 }\n";
        bench.apply(vec![spec("a", "strategy = 'multilevel'\nresources = { gpu = 2 }")]).unwrap();
        bench.run(300);
        let decision = &bench.of("a").decision;
        assert_eq!(decision.strategy, "multilevel");
        let scores = &decision.candidates[0].scores;
        assert!(scores.contains_key("match") && scores.contains_key("balance"), "{scores:?}");
        assert!(decision.filters.iter().any(|f| f == "min_gpu"));
        assert!(decision.level.starts_with("device-level queue ①"), "{}", decision.level);
        // One of two would leave a splinter there; the empty one keeps three.
        bench.apply(vec![spec("b", more)]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("b"), "module-2 0");
        let first = &bench.of("b").decision.candidates[0];
        assert_eq!(first.failed[0].filter, "min_gpu", "{first:?}");
    }

    #[test]
    fn what_a_decision_takes_does_not_grow_with_the_cluster() {
        let bytes = |modules: usize| {
            let mut bench = Bench::new(&vec![2; modules]);
            bench
                .apply(vec![spec("a", "strategy = 'multilevel'\nresources = { gpu = 1, cpu = 1 }")])
                .unwrap();
            toml::to_string(&bench.of("a").decision).unwrap().len()
        };
        assert!(bytes(32) > 2 * bytes(64), "{} {}", bytes(32), bytes(64));
        assert!(bytes(96) < bytes(64) + 100, "{} {}", bytes(64), bytes(96));
    }

    #[test]
    fn the_operator_is_alarmed_when_the_reserve_of_accelerators_cannot_be_kept() {
        let mut bench = Bench::new(&[2, 2]);
        bench.core.set_policy(UnitPolicy { max_gpu: Some(2), ..UnitPolicy::default() });
        let more = |n: u32| spec(&format!("a{n}"), "strategy = 'multilevel'\nresources = { gpu = 1 }");
        bench.apply(vec![more(1)]).unwrap();
        bench.run(300);
        let alarms = |bench: &Bench| bench.core.events().filter(|e| e.reason == "Reserve").count();
        assert_eq!(alarms(&bench), 0);
        bench.apply(vec![more(2), more(3)]).unwrap();
        bench.run(300);
        assert!(alarms(&bench) >= 1);
        bench.ask(Request::Delete(vec![name("a1")])).unwrap();
    }
}
