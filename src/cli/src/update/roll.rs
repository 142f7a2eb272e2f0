//! One module after the other: what is asked of the server, and what is waited for.

use super::{
    UpdateError,
    bundle::Bundle,
    plan::{self, Target},
    say::Say,
    send,
};
use crate::{Failure, client::Server};
use api::v1::{Cordon, CordonRequest, Module, Snapshot, UpdateRequest};
use model::Span;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;
use tonic::Streaming;

/// Between two tries to reach a server that is away.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks when nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// An order that shows no effect after this long is given again: its way to the module may have been cut.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// A successor that finds no place for this long will not find one by itself.
const NO_ROOM: Duration = Duration::from_secs(10);
/// Apps that are not whole may be about to be.
const BECOME_WHOLE: Duration = Duration::from_secs(60);

/// What has become of a module.
pub(super) struct Outcome {
    module: String,
    from: (String, String),
    word: &'static str,
    error: String,
    took: Duration,
}

impl Outcome {
    fn of(target: &Target, word: &'static str) -> Self {
        let from = (target.version.clone(), target.slot.clone());
        Self { module: target.module.clone(), from, word, error: String::new(), took: Duration::ZERO }
    }

    pub(super) fn unchanged(target: &Target) -> Self {
        Self::of(target, "unchanged")
    }

    pub(super) fn updated(target: &Target, took: Duration) -> Self {
        Self { took, ..Self::of(target, "updated") }
    }

    pub(super) fn failed(target: &Target, failure: &Failure) -> Self {
        Self { error: failure.to_string(), ..Self::of(target, "failed") }
    }

    pub(super) fn line(&self, bundle: &Bundle) -> String {
        let (module, (version, slot), new) = (&self.module, &self.from, bundle.name());
        match self.word {
            "updated" => {
                let took = self.took.as_secs();
                format!("{module} updated from {version} to {new} in {took} s")
            }
            "unchanged" => format!("{module} runs {new} already, from slot {slot}"),
            _ => format!("{module} not updated to {new}"),
        }
    }

    pub(super) fn json(&self) -> Value {
        let (version, slot) = &self.from;
        json!({
            "module": self.module,
            "outcome": self.word,
            "from": { "version": version, "slot": slot },
            "seconds": self.took.as_secs_f64(),
            "error": self.error,
        })
    }
}

/// The cluster as it is, also while the server is away for a while.
struct Eye<'a> {
    server: &'a Server,
    stream: Option<Streaming<Snapshot>>,
    last: Option<Snapshot>,
}

impl Eye<'_> {
    /// The newest state, within [`LOOK`]; none while the server is away.
    async fn look(&mut self) -> Result<Option<&Snapshot>, Failure> {
        if self.stream.is_none() {
            self.last = None;
            match self.server.watch().await {
                Ok(stream) => self.stream = Some(stream),
                Err(Failure::Unreachable { .. }) => {
                    tokio::time::sleep(AGAIN).await;
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            }
        }
        let Some(stream) = self.stream.as_mut() else { return Ok(None) };
        match tokio::time::timeout(LOOK, self.server.next(stream)).await {
            Ok(Ok(Some(snapshot))) => self.last = Some(snapshot),
            Ok(Ok(None) | Err(Failure::Unreachable { .. })) => {
                (self.stream, self.last) = (None, None);
                tokio::time::sleep(AGAIN).await;
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => {}
        }
        Ok(self.last.as_ref())
    }
}

/// A roll of one bundle over modules.
pub(super) struct Roll<'a> {
    server: &'a Server,
    bundle: &'a Bundle,
    limit: Span,
    tasks: BTreeSet<String>,
    say: Say,
    eye: Eye<'a>,
    /// Tells this roll's orders from those before it.
    attempt: String,
    /// The module in hand takes no work.
    drained: bool,
    /// The server was seen to keep how the operator had it.
    kept: bool,
}

impl<'a> Roll<'a> {
    pub(super) fn new(
        server: &'a Server,
        bundle: &'a Bundle,
        limit: Span,
        tasks: BTreeSet<String>,
        say: Say,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let attempt = format!("{}-{}", now.as_nanos(), std::process::id());
        let eye = Eye { server, stream: None, last: None };
        Self { server, bundle, limit, tasks, say, eye, attempt, drained: false, kept: false }
    }

    /// The module fetches the bundle and checks it. Nothing is moved for that.
    pub(super) async fn check(&mut self, target: &Target) -> Result<(), Failure> {
        self.follow(target, false).await
    }

    /// Empties the module, has the bundle installed, and waits until the module is in the cluster again.
    pub(super) async fn install(&mut self, target: &Target) -> Result<Duration, Failure> {
        let begun = Instant::now();
        if let Err(failure) = self.whole(target, BECOME_WHOLE).await {
            // That it is drained may be why.
            if target.left_drained {
                self.give_back(target, target.before).await?;
            }
            return Err(failure);
        }
        let before = self.before(target);
        self.set_aside(target, before).await?;
        (self.drained, self.kept) = (true, false);
        let outcome = self.empty_and_install(target).await;
        match &outcome {
            // Nobody knows how it is: it gets no work before somebody has looked.
            Err(Failure::Update(UpdateError::TooLate { .. })) => {}
            _ => {
                // Somebody has said since how the module is to be, and is right.
                let last = self.eye.last.as_ref();
                let now = last.and_then(|s| plan::before_update(s, &target.module));
                let overruled = self.kept && last.is_some() && now.is_none();
                if !overruled {
                    self.give_back(target, before).await?;
                }
                self.drained = false;
            }
        }
        outcome.map(|()| begun.elapsed())
    }

    /// How the operator has it now: since the plan was made others have been updated, which takes its time.
    fn before(&self, target: &Target) -> Cordon {
        self.eye.last.as_ref().and_then(|s| plan::wanted(s, &target.module)).unwrap_or(target.before)
    }

    /// The module is again as the operator had it.
    pub(super) async fn give_back(&self, target: &Target, before: Cordon) -> Result<(), Failure> {
        let Cordon { cordoned, draining } = before;
        let module = target.module.clone();
        self.cordon(CordonRequest { module, cordoned, draining, before_update: None }).await
    }

    /// Drained, and the server keeps how the operator had it, for whoever has to go on with this.
    async fn set_aside(&self, target: &Target, before: Cordon) -> Result<(), Failure> {
        let (module, before_update) = (target.module.clone(), Some(before));
        self.cordon(CordonRequest { module, cordoned: true, draining: true, before_update }).await
    }

    async fn empty_and_install(&mut self, target: &Target) -> Result<(), Failure> {
        self.emptied(target).await?;
        self.whole(target, BECOME_WHOLE).await?;
        self.follow(target, true).await
    }

    /// No app lacks a replica.
    async fn whole(&mut self, target: &Target, limit: Duration) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        loop {
            let tasks = self.tasks.clone();
            if let Some(snapshot) = self.eye.look().await? {
                let Some((app, ready, replicas)) = plan::lacking(snapshot, &tasks) else { return Ok(()) };
                if Instant::now() > end {
                    let module = target.module.clone();
                    return Err(UpdateError::NotWhole { module, app, ready, replicas }.into());
                }
            } else if Instant::now() > end {
                return Err(self.too_late(target, "while the server was away"));
            }
        }
    }

    async fn emptied(&mut self, target: &Target) -> Result<(), Failure> {
        let (module, end) = (target.module.as_str(), Instant::now() + self.limit.duration());
        let mut since: Option<Instant> = None;
        loop {
            let mut state = "while the server was away".to_owned();
            if let Some(snapshot) = self.eye.look().await? {
                self.kept |= plan::before_update(snapshot, module).is_some();
                let count = plan::left(snapshot, module).count();
                if count == 0 {
                    return Ok(());
                }
                state = format!("with {count} instances");
                match plan::stuck(snapshot, module) {
                    None => since = None,
                    Some((replica, reason)) => {
                        if since.get_or_insert_with(Instant::now).elapsed() > NO_ROOM {
                            let module = module.to_owned();
                            return Err(UpdateError::NoRoom { module, replica, reason }.into());
                        }
                    }
                }
                self.say.step(&format!("{module}: {count} instances leave"), 0, 0);
            }
            if Instant::now() > end {
                return Err(self.too_late(target, &state));
            }
        }
    }

    /// Gives the order and waits for its end.
    async fn follow(&mut self, target: &Target, install: bool) -> Result<(), Failure> {
        let (module, end) = (target.module.as_str(), Instant::now() + self.limit.duration());
        self.ask(module, install).await?;
        let mut asked = Instant::now();
        let mut state = "nowhere".to_owned();
        while Instant::now() < end {
            let attempt = self.attempt.clone();
            let seen = self.eye.look().await?.and_then(|s| s.modules.iter().find(|m| m.name == module));
            let Some(seen) = seen.cloned() else {
                self.say.step(&format!("{module}: the server is away"), 0, 0);
                continue;
            };
            self.kept |= seen.before_update.is_some();
            let root = seen.root.clone().unwrap_or_default();
            let update = root.update.clone().filter(|u| u.attempt == attempt).unwrap_or_default();
            state = words(&seen, &update.phase);
            match (update.phase.as_str(), install) {
                ("checked", false) => return Ok(()),
                ("done", _) if seen.state == "ready" => return Ok(()),
                ("failed", _) => {
                    let runs = format!("{} from slot {}", root.version, root.slot);
                    let (module, reason) = (module.to_owned(), update.message);
                    return Err(UpdateError::Failed { module, reason, runs }.into());
                }
                ("" | "checked", _) if seen.state == "ready" && asked.elapsed() > ASK_AGAIN => {
                    self.ask(module, install).await?;
                    asked = Instant::now();
                }
                _ => {}
            }
            self.say.step(&format!("{module}: {state}"), update.done, update.total);
        }
        Err(self.too_late(target, &state))
    }

    fn too_late(&self, target: &Target, state: &str) -> Failure {
        let (module, state) = (target.module.clone(), state.to_owned());
        UpdateError::TooLate { module, limit: self.limit, state, drained: self.drained }.into()
    }

    async fn ask(&self, module: &str, install: bool) -> Result<(), Failure> {
        self.insist(async || {
            let (bundle, attempt) = (Some(send::id(self.bundle)), self.attempt.clone());
            let request = UpdateRequest { module: module.to_owned(), bundle, attempt, install };
            self.server.update(request).await
        })
        .await
    }

    async fn cordon(&self, request: CordonRequest) -> Result<(), Failure> {
        self.insist(async || self.server.cordon(request.clone()).await).await
    }

    /// A server that is away for a moment is asked again.
    async fn insist(&self, ask: impl AsyncFn() -> Result<Vec<String>, Failure>) -> Result<(), Failure> {
        let end = Instant::now() + self.limit.duration();
        loop {
            match ask().await {
                Err(Failure::Unreachable { .. }) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
                outcome => return outcome.map(drop),
            }
        }
    }
}

/// Where a module is, for people.
fn words(module: &Module, phase: &str) -> String {
    let away = module.state != "ready";
    match phase {
        "fetching" => "fetches the bundle".to_owned(),
        "checked" => "has checked the bundle".to_owned(),
        "installing" if away => "not heard while it installs".to_owned(),
        "installing" => "installs".to_owned(),
        "rebooting" => "restarts".to_owned(),
        "trial" => "is on trial".to_owned(),
        "done" => "has proven good".to_owned(),
        _ => module.state.clone(),
    }
}
