//! How long one module takes from power-on until its agent is ready, and how large the twin's base is.

use super::{Options, rounded};
use crate::cluster::Cluster;
use crate::{Chassis, ChassisFile, Plan, SimError, Times, demo, scenario, twin, within};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One module that is server and agent.
const ONE: &str =
    "name = \"one\"\n[[slot]]\nnumber = 1\nkind = \"compute\"\nroles = [\"server\", \"agent\"]\n";
const PATIENCE: Duration = Duration::from_secs(300);
/// What a boot may take without KVM, in seconds, and what the base may be, in bytes.
const BOOT_LIMIT_S: f64 = 25.0;
const BASE_LIMIT: u64 = 250_000_000;

/// A module's start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Boot {
    /// How often it was measured.
    pub runs: u32,
    /// From power-on until the server says that the module is ready, in seconds.
    pub median_s: f64,
    /// The shortest.
    pub min_s: f64,
    /// The longest.
    pub max_s: f64,
    /// The limit.
    pub limit_s: f64,
    /// The twin's base layer, in bytes.
    pub base_bytes: u64,
    /// The limit.
    pub base_limit_bytes: u64,
}

/// Boots one module again and again, each time with an empty data disk.
///
/// # Errors
/// It does not boot, or its agent does not get ready.
pub fn boot(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Boot, SimError> {
    let mut times = Vec::new();
    let mut base_bytes = 0;
    for run in 1..=options.runs {
        let image = twin::ensure(&mut |_| {})?;
        base_bytes = std::fs::metadata(&image.base).map_err(SimError::io("read", &image.base))?.len();
        let chassis = ChassisFile::parse(ONE).map_err(|reason| SimError::Refused { reason })?;
        let mut plan = Plan::new(chassis, image, &options.dir).on(options.backplane);
        let papers = scenario::provision(&mut plan)?;
        let powered = Instant::now();
        let chassis = Chassis::power_on(plan)?;
        let address = format!("127.0.0.1:{}", chassis.module(1)?.ground().grpc);
        let operator = chassis.dir().join("operator");
        papers.write_client(&operator, &address)?;
        let cluster = Cluster::connect(&operator, &address, within(PATIENCE))?;
        let ready = |s: &api::v1::Snapshot| s.modules.iter().any(|m| m.state == "ready");
        cluster.wait_for("the module is ready", within(300.s()), |_| {}, ready)?;
        let took = powered.elapsed().as_secs_f64();
        say(&format!("run {run}: ready {took:.1} s after power-on"));
        times.push(took);
    }
    times.sort_by(f64::total_cmp);
    let at = |index: usize| rounded(times.get(index).copied().unwrap_or_default());
    Ok(Boot {
        runs: options.runs,
        median_s: at(times.len() / 2),
        min_s: at(0),
        max_s: at(times.len().saturating_sub(1)),
        limit_s: BOOT_LIMIT_S,
        base_bytes,
        base_limit_bytes: BASE_LIMIT,
    })
}

/// For people.
pub fn table(boot: &Boot, backplane: crate::BackplaneKind) -> String {
    let share = |value: f64, limit: f64| format!("{:.0} % of its limit", value / limit * 100.0);
    let (base, limit) = (boot.base_bytes as f64 / 1e6, boot.base_limit_bytes as f64 / 1e6);
    format!(
        "one module, {} runs on {}\n  power-on to agent ready, median        {:>7.1} s   ({}, {:.0} s; {:.1} to {:.1})\n  \
         the twin's base                        {base:>7.0} MB  ({}, {limit:.0} MB)",
        boot.runs,
        demo::machine(backplane),
        boot.median_s,
        share(boot.median_s, boot.limit_s),
        boot.limit_s,
        boot.min_s,
        boot.max_s,
        share(base, limit),
    )
}
