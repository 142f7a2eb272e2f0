use super::Order;
use crate::failure::Failure;
use planner::pool::{NodeSpec, Pool, Request, Seed, Strategy};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Nodes, and tasks in the order of their arrival.
pub(crate) struct Plan {
    nodes: Vec<NodeSpec>,
    tasks: Vec<Request>,
    seed: Option<u64>,
}

/// What one strategy did. The names are the contract of `-o json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) strategy: Strategy,
    /// Null when the tasks came in the file's order.
    pub(crate) seed: Option<u64>,
    pub(crate) nodes: usize,
    pub(crate) gpu_capacity_milli: u64,
    pub(crate) gpu_allocated_milli: u64,
    pub(crate) gpu_allocated_percent: f64,
    pub(crate) tasks: usize,
    pub(crate) placed: usize,
    pub(crate) failed: usize,
    /// Of a processor, in decisions alone, reading and drawing left out.
    pub(crate) seconds: f64,
    pub(crate) decisions_per_second: f64,
    pub(crate) decision_us_p50: f64,
    pub(crate) decision_us_p99: f64,
    /// Demand so far and allocation so far, both in percent of the capacity.
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, f64)>,
}

/// How many points the curve of one strategy has at most.
const POINTS: usize = 400;

impl Plan {
    /// Puts the tasks in order and draws until they ask for `demand` times the accelerators.
    pub(crate) fn new(
        nodes: Vec<NodeSpec>,
        mut tasks: Vec<Request>,
        order: Order,
        demand: Option<f64>,
    ) -> Result<Self, String> {
        let Order::Seed(number) = order else { return Ok(Self { nodes, tasks, seed: None }) };
        let mut seed = Seed::new(number);
        seed.shuffle(&mut tasks);
        if let Some(times) = demand {
            let capacity: u64 = nodes.iter().map(|node| u64::from(node.accelerators) * 1000).sum();
            draw(&mut tasks, capacity as f64 * times, &mut seed)?;
        }
        Ok(Self { nodes, tasks, seed: Some(number) })
    }

    /// Lets the tasks arrive one by one. None leaves; what does not fit is dropped.
    pub(crate) fn run(&self, strategy: Strategy) -> Result<Run, Failure> {
        let refused = |error: planner::pool::PoolError| Failure::Refused(error.to_string());
        let mut pool = Pool::new(self.seed.unwrap_or_default());
        for node in &self.nodes {
            pool.add(node).map_err(refused)?;
        }
        if strategy == Strategy::Fgd {
            // Its publication takes the usual tasks from the trace; ours has to learn from what arrives.
            pool.expect(self.tasks.iter()).map_err(refused)?;
        }
        let capacity = pool.totals().accelerator_capacity;
        let percent = |milli: u64| if capacity == 0 { 0.0 } else { 100.0 * milli as f64 / capacity as f64 };
        let began = on_cpu();
        let (mut times, mut placed, mut demand) = (Vec::with_capacity(self.tasks.len()), 0, 0);
        let every = self.tasks.len().div_ceil(POINTS);
        let mut curve = vec![(0.0, 0.0)];
        for (number, task) in (1..).zip(&self.tasks) {
            let start = Instant::now();
            let decision = pool.place(task, strategy);
            times.push(start.elapsed());
            placed += usize::from(decision.is_ok());
            demand += task.accelerator_milli();
            if number % every == 0 || number == self.tasks.len() {
                curve.push((percent(demand), percent(pool.totals().accelerator_allocated)));
            }
        }
        let elapsed: f64 = times.iter().map(Duration::as_secs_f64).sum();
        // Other programs' turns are no part of it. What the system counts is too coarse for a short run.
        let spent = on_cpu().zip(began).map(|(end, begin)| end.saturating_sub(begin).as_secs_f64());
        let seconds = spent.filter(|spent| *spent >= 0.01).map_or(elapsed, |spent| spent.min(elapsed));
        times.sort_unstable();
        let gpu_allocated_milli = pool.totals().accelerator_allocated;
        Ok(Run {
            strategy,
            seed: self.seed,
            nodes: pool.len(),
            gpu_capacity_milli: capacity,
            gpu_allocated_milli,
            gpu_allocated_percent: percent(gpu_allocated_milli),
            tasks: self.tasks.len(),
            placed,
            failed: self.tasks.len() - placed,
            seconds,
            decisions_per_second: if seconds > 0.0 { self.tasks.len() as f64 / seconds } else { 0.0 },
            decision_us_p50: quantile(&times, 50),
            decision_us_p99: quantile(&times, 99),
            curve,
        })
    }
}

/// How long this thread has had a processor, where the system tells.
fn on_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Adds tasks drawn from the list, or drops some, until all of them ask for `target`.
fn draw(tasks: &mut Vec<Request>, target: f64, seed: &mut Seed) -> Result<(), String> {
    let mut demand: u64 = tasks.iter().map(Request::accelerator_milli).sum();
    if demand == 0 || target <= 0.0 {
        return Err("--demand: neither the nodes nor the tasks may be without accelerators".to_owned());
    }
    let drawn_from = tasks.len();
    while (demand as f64) < target {
        let Some(task) = tasks.get(seed.below(drawn_from)).cloned() else { break };
        demand += task.accelerator_milli();
        tasks.push(task);
    }
    // The order is random, so the last are as good as any.
    while let Some(last) = tasks.last()
        && demand.saturating_sub(last.accelerator_milli()) as f64 >= target
    {
        demand -= last.accelerator_milli();
        tasks.pop();
    }
    Ok(())
}

/// In microseconds.
fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
