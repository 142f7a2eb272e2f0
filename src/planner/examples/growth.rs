//! What a decision costs as the pool grows from 100 to 10,000 nodes, and what the largest pool weighs:
//! `cargo run --release -p planner --example growth [FILE.svg]`.
//!
//! Each pool is filled to ten instances a node; then as many decisions are measured as the table says, each after the
//! release of another instance, so that the pool stays as full as it is. Exit code 1 when a limit is missed.
#![allow(clippy::disallowed_types, reason = "a program that measures has a clock")]

#[path = "../../cli/src/replay/chart.rs"]
mod chart;

use chart::{Chart, Line, Scale};
use planner::pool::{Amounts, NodeSpec, Pool, Request, Seed, Strategy, Ticket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const NODES: [usize; 5] = [100, 316, 1000, 3162, 10_000];
const INSTANCES_PER_NODE: usize = 10;
const DECISIONS: usize = 20_000;
/// Of the program, with the largest pool full.
const MEMORY_LIMIT_MIB: f64 = 100.0;

/// What was measured of one strategy in one pool.
struct Measured {
    mean: f64,
    p50: f64,
    p99: f64,
    instances: usize,
    memory: f64,
}

fn main() -> ExitCode {
    println!("| strategy | nodes | instances | µs mean | µs p50 | µs p99 | decisions/s | MiB |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut lines = Vec::new();
    let mut missed = Vec::new();
    for strategy in Strategy::ALL {
        let mut points = Vec::new();
        for nodes in NODES {
            let Measured { mean, p50, p99, instances, memory } = measure(strategy, nodes);
            let rate = 1e6 / mean;
            println!(
                "| {strategy} | {nodes} | {instances} | {mean:.1} | {p50:.1} | {p99:.1} | {rate:.0} | {memory:.0} |"
            );
            if memory > MEMORY_LIMIT_MIB {
                missed.push(format!("{strategy}: {memory:.0} MiB with {nodes} nodes"));
            }
            points.push((nodes as f64, mean));
        }
        if let (Some((few, cheap)), Some((many, dear))) = (points.first(), points.last())
            && dear / cheap >= many / few
        {
            missed.push(format!(
                "{strategy}: cost grew {:.0} times, nodes {:.0} times",
                dear / cheap,
                many / few
            ));
        }
        lines.push(Line { name: strategy.to_string(), points });
    }
    if let Some(file) = std::env::args().nth(1)
        && let Err(error) = std::fs::write(&file, picture(lines))
    {
        missed.push(format!("{file}: {error}"));
    }
    missed.iter().for_each(|what| eprintln!("missed: {what}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Four kinds of nodes, from cores and no accelerator to eight accelerators.
fn node(number: usize) -> NodeSpec {
    let (cpu, memory, accelerators, model) = match number % 8 {
        0 => (96, 384, 0, ""),
        1 | 2 => (104, 512, 2, "small"),
        3 => (64, 256, 4, "small"),
        _ => (96, 384, 8, "large"),
    };
    NodeSpec {
        name: format!("n-{number}"),
        capacity: Amounts { cpu: cpu * 1000, memory: memory * 1024, disk: 0 },
        accelerators,
        model: model.to_owned(),
    }
}

/// 120 different shapes: plain, shares, whole accelerators, some for one model only.
fn request(seed: &mut Seed) -> Request {
    let size = 1 + seed.below(5) as u64;
    let plain = Request::plain(size * 1000, size * 4096);
    let mut request = match seed.below(12) {
        0..4 => plain,
        4 => plain.with_share(230),
        5 => plain.with_share(320),
        6 => plain.with_share(470),
        7 => plain.with_share(650),
        8 => plain.with_whole(2),
        _ => plain.with_whole(1),
    };
    if seed.below(5) == 0 {
        request.models.insert("large".to_owned());
    }
    request
}

fn measure(strategy: Strategy, nodes: usize) -> Measured {
    let mut seed = Seed::new(nodes as u64);
    let mut pool = Pool::new(1);
    for number in 0..nodes {
        if let Err(error) = pool.add(&node(number)) {
            eprintln!("{error}");
        }
    }
    let mut held: Vec<Ticket> = Vec::new();
    let mut tries = 0;
    while held.len() < nodes * INSTANCES_PER_NODE && tries < nodes * INSTANCES_PER_NODE * 3 {
        tries += 1;
        held.extend(pool.place(&request(&mut seed), strategy).ok().map(|placed| placed.ticket));
    }
    let instances = held.len();
    let mut times: Vec<Duration> = Vec::with_capacity(DECISIONS);
    for _ in 0..DECISIONS {
        if !held.is_empty()
            && let Err(error) = pool.release(held.swap_remove(seed.below(held.len())))
        {
            eprintln!("{error}");
        }
        let asked = request(&mut seed);
        let start = Instant::now();
        let decision = pool.place(&asked, strategy);
        times.push(start.elapsed());
        held.extend(decision.ok().map(|placed| placed.ticket));
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let mean = micros(times.iter().sum::<Duration>()) / times.len() as f64;
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().map_or(0.0, micros);
    Measured { mean, p50: at(50), p99: at(99), instances, memory: resident() }
}

/// Of this whole program, in MiB; 0 where the system does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn picture(lines: Vec<Line>) -> String {
    let chart = Chart {
        across: "nodes; linear growth would rise by one power of ten for each",
        x: Scale::Powers { from: 2, to: 4 },
        up: "µs per decision, mean",
        y: Scale::Powers { from: -1, to: 3 },
        lines,
    };
    chart.svg()
}
