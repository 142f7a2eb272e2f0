//! `spacectl update`: a signed bundle rolls over the chassis, one module at a time, and stops at the first that fails.
//!
//! ```text
//!  bundle ─check─► plan ─► send (resumed) ─► each module fetches and checks it
//!                            then, for each module, the server's last:
//!                            whole? ─► drain ─► install, restart, trial ─► uncordon
//! ```
//!
//! The module itself does the work and knows what has become of it; what is here asks, watches, and may be begun anew.

mod bundle;
mod error;
mod plan;
mod roll;
mod say;
mod send;

pub use error::UpdateError;

use crate::{Failure, args::Output, client::Server, print};
use bundle::Bundle;
use clap::Args;
use model::{Name, Span};
use plan::Which;
use roll::{Outcome, Roll};
use say::Say;
use std::path::PathBuf;

/// A slot that never gets into the cluster uses up all its tries, each for as long as a trial may last.
const LIMIT: &str = "30min";

/// What to update, and with what.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Update {
    /// The module
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    module: Option<Name>,
    /// A RAUC bundle for modules of this kind, signed by the mission
    bundle: PathBuf,
    /// All modules, one after the other, the server's last
    #[arg(long)]
    all: bool,
    /// How long one module may take for each step: to fetch, to be emptied, and from installing to proven good, or back
    #[arg(long, value_name = "SPAN", default_value = LIMIT)]
    limit: Span,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn update(server: &Server, asked: Update) -> Result<(), Failure> {
    let file = asked.bundle.clone();
    // Hashing takes its time, and blocks nobody else here.
    let bundle = Bundle::open(&file)?;
    let which = asked.module.as_ref().map_or(Which::All, Which::One);
    let plan = plan::plan(&server.snapshot().await?, which, &bundle)?;
    let mut outcomes: Vec<Outcome> = plan.unchanged.iter().map(Outcome::unchanged).collect();
    let mut failure = None;
    if !plan.targets.is_empty() || !plan.left_drained.is_empty() {
        failure = roll_all(server, &bundle, &plan, asked.limit, &mut outcomes).await.err();
    }
    match asked.output {
        Output::Json => print(&format!("{:#}\n", report(&bundle, &outcomes)))?,
        _ => outcomes.iter().try_for_each(|outcome| print(&format!("{}\n", outcome.line(&bundle))))?,
    }
    failure.map_or(Ok(()), Err)
}

async fn roll_all(
    server: &Server,
    bundle: &Bundle,
    plan: &plan::Plan,
    limit: Span,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Failure> {
    let tasks = server.tables().await?.tasks.into_iter().map(|task| task.name).collect();
    let mut roll = Roll::new(server, bundle, limit, tasks, Say::new());
    for target in &plan.left_drained {
        roll.give_back(target, target.before).await?;
    }
    if plan.targets.is_empty() {
        return Ok(());
    }
    if let Err(failure) = send_and_check(server, bundle, plan, &mut roll).await {
        // Nothing was moved now; what an earlier one has moved must not stay so for that.
        for target in plan.targets.iter().filter(|target| target.left_drained) {
            roll.give_back(target, target.before).await?;
        }
        return Err(failure);
    }
    for target in &plan.targets {
        let outcome = roll.install(target).await;
        outcomes.push(match &outcome {
            Ok(took) => Outcome::updated(target, *took),
            Err(failure) => Outcome::failed(target, failure),
        });
        outcome?;
    }
    Ok(())
}

/// Whatever can be found wrong with the bundle is found before anything is moved.
async fn send_and_check(
    server: &Server,
    bundle: &Bundle,
    plan: &plan::Plan,
    roll: &mut Roll<'_>,
) -> Result<(), Failure> {
    send::send(server, bundle).await?;
    for target in &plan.targets {
        roll.check(target).await?;
    }
    Ok(())
}

fn report(bundle: &Bundle, outcomes: &[Outcome]) -> serde_json::Value {
    serde_json::json!({
        "bundle": {
            "sha256": bundle.digest,
            "size": bundle.size,
            "compatible": bundle.compatible,
            "version": bundle.version,
        },
        "modules": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The scripts' own numbers: whoever waits as long as he does by default learns that a module fell back.
    #[test]
    fn a_slot_that_never_joins_has_fallen_back_before_the_limit() {
        let number = |text: &str, key: &str| -> u32 {
            text.lines().find_map(|line| line.strip_prefix(key)?.parse().ok()).unwrap()
        };
        let files =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../meta-spacecloud/recipes-core/spacecloud-conf/files");
        let read = |name: &str| std::fs::read_to_string(format!("{files}/{name}")).unwrap();
        let (tries, within) =
            (number(&read("bootslot"), "tries="), number(&read("spacecloud-trial"), "within="));
        // For firmware, boot manager and kernel, once more into the old slot, and to write the slot before that.
        let (boot, write) = (Duration::from_secs(60), Duration::from_secs(180));
        let longest = tries * (Duration::from_secs(within.into()) + boot) + boot + write;
        assert!(longest < LIMIT.parse::<Span>().unwrap().duration(), "{longest:?}");
    }
}
