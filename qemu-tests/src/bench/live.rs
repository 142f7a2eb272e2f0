//! `bench live`: what clients notice while a running process moves from module to module.

use super::{
    Options,
    rig::{PATIENCE, Rig, refused},
};
use crate::{
    BackplaneKind, SimError,
    cluster::all_ready,
    demo,
    scenario::clients::{self, Calls},
    wait_until, within,
};
use api::v1::{Instance, Snapshot};
use serde::Serialize;
use std::time::Instant;

const IMAGE: &str = "registry.spacecloud:5000/demo/web:1";
/// One instance: every call has to wait for the one that moves.
const APP: &str = r#"
name = "mover"
image = "registry.spacecloud:5000/demo/web:1"
resources = { memory = "32MiB" }
ports = [{ container = 8080, service = 80 }]
health = { http = "/healthz", every = "2s", timeout = "20s" }
migration = { planned = "live" }
placement = { modules = [MODULES] }
grace = "2s"
"#;
/// The app and its two clients.
const ALL: usize = 3;

/// What clients notice of live moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Live {
    /// How often the instance's module was drained and used again.
    pub runs: u32,
    /// Calls to its service meanwhile, each on a connection of its own.
    pub requests: u64,
    /// Those without a whole answer.
    pub failed_requests: u64,
    /// The longest time between two answers, in milliseconds.
    pub longest_gap_ms: u64,
    /// Moves that were made.
    pub moves: usize,
    /// Those in which the process itself moved.
    pub live_moves: usize,
    /// Those after which the instance had the address that it had before.
    pub same_address: usize,
    /// Calls on one connection to the instance's own address that stays open all the time.
    pub echoes: u64,
    /// How often that connection broke, or brought back anything else than what was sent.
    pub broken: u64,
    /// The longest time between two of its answers, in milliseconds.
    pub longest_echo_gap_ms: u64,
    /// Why a process did not move; programs see the numbers.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// Calls a second.
    #[serde(skip)]
    pub rate: u64,
}

/// Measures live moves, all of them on one chassis. `say` hears of each run.
///
/// # Errors
/// The chassis does not come up, or a module is not drained in time.
pub fn live(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Live, SimError> {
    let rig = Rig::power_on(options)?;
    let server = rig.chassis.module(rig.server)?;
    // The clients are on the server's module, the instance on the others.
    let others = rig.chassis.modules().filter(|module| module.name() != server.name());
    let names: Vec<String> = others.map(|module| format!("{:?}", module.name())).collect();
    rig.cluster.apply(&APP.replace("MODULES", &names.join(", ")))?;
    let (snapshot, _) =
        rig.cluster.wait_for("the app is ready", within(PATIENCE), |_| {}, |s| all_ready(s, 1))?;
    let first = mover(&snapshot)?;
    let service = snapshot.apps.first().map(|app| app.service.clone()).unwrap_or_default();
    let caller = clients::app("caller", "call", &service, &server.name(), IMAGE);
    let stayer = clients::app("stayer", "stay", &format!("{}:8080", first.address), &server.name(), IMAGE);
    rig.cluster.apply(&format!("{caller}{stayer}"))?;
    let both = || -> Result<(Calls, Calls), SimError> {
        Ok((clients::read(server, "caller")?, clients::read(server, "stayer")?))
    };
    let heard = || both().is_ok_and(|(caller, stayer)| caller.requests > 0 && stayer.requests > 0);
    wait_until("the calls are answered", within(PATIENCE), heard)?;
    let (begun, before) = (Instant::now(), both()?);
    let mut seen = Live {
        runs: options.runs,
        requests: 0,
        failed_requests: 0,
        longest_gap_ms: 0,
        moves: 0,
        live_moves: 0,
        same_address: 0,
        echoes: 0,
        broken: 0,
        longest_echo_gap_ms: 0,
        reasons: Vec::new(),
        rate: 0,
    };
    for run in 1..=options.runs {
        let course = one_move(&rig, &mut seen)?;
        // Until both are answered again: what waits is no success yet.
        let now = both()?;
        let on =
            || both().is_ok_and(|(c, s)| c.requests > now.0.requests + 1 && s.requests > now.1.requests + 1);
        wait_until("the calls are answered again", within(PATIENCE), on)?;
        let (calls, echoes) = both()?;
        seen.requests = calls.requests.saturating_sub(before.0.requests);
        seen.failed_requests = calls.failed.saturating_sub(before.0.failed);
        seen.longest_gap_ms = calls.longest_gap_ms;
        seen.echoes = echoes.requests.saturating_sub(before.1.requests);
        seen.broken = echoes.failed.saturating_sub(before.1.failed);
        seen.longest_echo_gap_ms = echoes.longest_gap_ms;
        say(&format!(
            "run {run}: {course}; up to now {} calls, {} failed, longest gap {} ms; {} echoes on one connection, broken \
             {} times, longest gap {} ms",
            seen.requests,
            seen.failed_requests,
            seen.longest_gap_ms,
            seen.echoes,
            seen.broken,
            seen.longest_echo_gap_ms
        ));
    }
    seen.rate = seen.requests / begun.elapsed().as_secs().max(1);
    Ok(seen)
}

fn mover(snapshot: &Snapshot) -> Result<Instance, SimError> {
    let found = snapshot.instances.iter().find(|i| i.app == "mover" && i.phase == "ready");
    found.cloned().ok_or_else(|| refused("the app is not there"))
}

/// Drains the module that the instance is on, and lets it be used again; answers what the cluster says of the move.
fn one_move(rig: &Rig, seen: &mut Live) -> Result<String, SimError> {
    let before = rig.cluster.now();
    let last = before.events.iter().map(|event| event.number).max().unwrap_or(0);
    let old = mover(&before)?;
    rig.cluster.drain(&old.module, true)?;
    let moved = |s: &Snapshot| all_ready(s, ALL) && s.instances.iter().all(|i| i.module != old.module);
    let (after, _) = rig.cluster.wait_for("the instance has moved", within(PATIENCE), |_| {}, moved)?;
    rig.cluster.drain(&old.module, false)?;
    let new = mover(&after)?;
    let told = |reason: &str| {
        let event = after.events.iter().rfind(|e| e.number > last && e.reason == reason);
        event.map(|event| event.message.clone())
    };
    let course = told("Moved").unwrap_or_default();
    seen.moves += 1;
    seen.live_moves += usize::from(course.starts_with("live from "));
    seen.same_address += usize::from(new.address == old.address);
    seen.reasons.extend(told("NotLive"));
    Ok(format!("{course}; {} is {} now", old.address, new.address))
}

/// The figures of live moves, for people.
pub fn table(figures: &Live, backplane: BackplaneKind) -> String {
    let Live { runs, requests, failed_requests, longest_gap_ms, rate, .. } = figures;
    let Live { moves, live_moves, same_address, echoes, broken, longest_echo_gap_ms, reasons, .. } = figures;
    let mut lines = vec![
        format!("live moves, {runs} runs, one instance, {}:", demo::machine(backplane)),
        format!("  moves, live, same address     {moves} {live_moves} {same_address}"),
        format!("  calls, calls a second         {requests} {rate}"),
        format!("  calls that failed             {failed_requests}"),
        format!("  longest time without answer   {longest_gap_ms} ms"),
        format!("  echoes on one connection      {echoes}"),
        format!("  times that it broke           {broken}"),
        format!("  longest time without echo     {longest_echo_gap_ms} ms"),
    ];
    lines.extend(reasons.iter().map(|why| format!("  not live: {why}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_app_is_what_the_figures_say() {
        let apps = model::AppFile::parse("live", &super::APP.replace("MODULES", "'module-2'")).unwrap().apps;
        assert_eq!((apps.len(), apps[0].replicas), (1, 1));
        assert_eq!(apps[0].migration.planned, model::PlannedMove::Live);
    }
}
