//! The life of one instance on this module: a task that starts it, or takes it over, watches it, starts it anew with
//! growing pauses when it ends, and removes it when it is no longer wanted.

use super::{
    giving::Hold,
    health::{Verdict, Watch},
    instances::{Instances, RETRY},
    limits::{follow_limits, outgrown},
    probe::Target,
    taking,
};
use crate::{chain, wall_clock};
use model::{Desired, InstanceId, Kind, Live, Name, Observed, Phase, VolumeKey};
use runtime::{Found, RuntimeError};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An instance that ran this long starts its pauses anew.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// Who is not healthy after this long says why; nearly all are before.
const PATIENCE: Duration = Duration::from_secs(1);
const UNHEALTHY: &str = "unhealthy: ";
/// Before the reason for which an instance that runs is stopped here.
const STOPPED: &str = "stopped: ";

fn full(full: &BTreeMap<VolumeKey, String>, desired: &Desired) -> Option<String> {
    desired.volumes.iter().find_map(|v| full.get(&v.key).cloned())
}

/// Waits until a volume of the instance holds more than it may; answers which.
async fn overflows(mut all: watch::Receiver<BTreeMap<VolumeKey, String>>, desired: Desired) -> String {
    loop {
        if let Some(words) = full(&all.borrow_and_update(), &desired) {
            return format!("{UNHEALTHY}{words}");
        }
        if all.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// One instance from its start to its removal.
pub(super) struct Life {
    all: Arc<Instances>,
    desired: Desired,
    changes: watch::Receiver<Desired>,
    stopped: watch::Receiver<bool>,
    /// How far it is in being given away.
    held: watch::Sender<Hold>,
    /// Why it could not take over the process that it was to.
    refused: String,
    restarts: u32,
    /// Why the last run ended, or could not begin: told until the next one is ready, or has its own reason not to be.
    last: String,
}

impl Life {
    pub(super) fn new(
        all: Arc<Instances>,
        desired: Desired,
        changes: watch::Receiver<Desired>,
        stopped: watch::Receiver<bool>,
        held: watch::Sender<Hold>,
    ) -> Self {
        let (refused, last) = (String::new(), String::new());
        Self { all, desired, changes, stopped, held, refused, restarts: 0, last }
    }

    pub(super) async fn run(mut self, found: Option<Found>) {
        // What a crash left of an earlier try would be in the way; of an id that is new here there is nothing.
        let mut remains = found.is_some();
        let mut running = found.filter(|f| f.running).map(|f| (f.address, f.started));
        let mut pause = FIRST_PAUSE;
        while !*self.stopped.borrow() {
            let mut course = String::new();
            let outcome = match running.take() {
                Some(running) => Ok(running),
                None => {
                    self.desired.clone_from(&self.changes.borrow_and_update());
                    match self.desired.live.clone() {
                        Some(Live::Takes { from, module, address }) => {
                            match self.take_over(remains, &from, &module, &address).await {
                                Some(taken) => {
                                    course = taken.1;
                                    Ok((taken.0, wall_clock()))
                                }
                                None => continue,
                            }
                        }
                        _ => self.start(remains).await,
                    }
                }
            };
            remains = true;
            let message = match outcome {
                Ok((address, started)) => {
                    let began = tokio::time::Instant::now();
                    let Some(message) = self.watch(&address, started, &course).await else { break };
                    if self.gone_while_held().await {
                        break;
                    }
                    if message.starts_with(UNHEALTHY) || message.starts_with(STOPPED) {
                        self.end_here(&message).await;
                    }
                    if began.elapsed() >= GOOD_RUN {
                        pause = FIRST_PAUSE;
                    }
                    message
                }
                Err(error) => chain(&error),
            };
            tracing::warn!(instance = %self.desired.id, %message, "not running");
            self.restarts += 1;
            self.see(Phase::BackOff, "", &message, 0);
            self.last = message;
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                _ = self.stopped.wait_for(|stop| *stop) => {}
            }
        }
        self.end().await;
    }

    async fn start(&self, remains: bool) -> Result<(String, u64), RuntimeError> {
        self.see(Phase::Starting, "", &self.last, 0);
        let _turn = self.all.gate.enter(self.desired.spec.priority).await;
        if remains {
            self.all.runtime.stop(&self.desired.id, Duration::ZERO).await?;
        }
        self.all.runtime.pull(&self.desired.spec.image).await?;
        if !self.all.lease_holds() || *self.stopped.borrow() {
            return Err(RuntimeError::Fenced);
        }
        self.all.refuse_beyond(&self.desired)?;
        if let Some(words) = full(&self.all.full.borrow(), &self.desired) {
            return Err(RuntimeError::VolumeFull { words });
        }
        let address = self.all.runtime.start(&self.desired).await?;
        tracing::info!(instance = %self.desired.id, %address, "started");
        Ok((address, wall_clock()))
    }

    /// Takes the process over that it is to go on with. If that cannot be, nothing is left of the try; then it is
    /// said, and this waits until the server wants something else.
    async fn take_over(
        &mut self,
        remains: bool,
        from: &InstanceId,
        module: &Name,
        address: &str,
    ) -> Option<(String, String)> {
        self.see(Phase::Starting, "", &format!("taking {from} over from {module}"), 0);
        let source = taking::Source { from, module, address };
        let taken = match (remains, self.all.lease_holds()) {
            (true, _) => Err("the agent was started again in the middle of it".to_owned()),
            (_, false) => Err(chain(&RuntimeError::Fenced)),
            _ => taking::take(&self.all, &self.desired, &source).await,
        };
        let why = match taken {
            Ok(taken) => {
                tracing::info!(instance = %self.desired.id, %from, course = %taken.1, "taken over");
                return Some(taken);
            }
            Err(why) => why,
        };
        tracing::warn!(instance = %self.desired.id, %from, %why, "not taken over");
        while let Err(error) = self.all.runtime.stop(&self.desired.id, Duration::ZERO).await {
            tracing::warn!(instance = %self.desired.id, error = %chain(&error), "cannot clear a move that failed");
            tokio::time::sleep(RETRY).await;
        }
        self.refused = why;
        self.see(Phase::Starting, "", "", 0);
        let mut changes = self.changes.clone();
        tokio::select! {
            _ = changes.wait_for(|d| !matches!(d.live, Some(Live::Takes { .. }))) => {}
            _ = self.stopped.wait_for(|stop| *stop) => {}
        }
        self.refused.clear();
        None
    }

    /// What ended while it was frozen may live on elsewhere: it is not started anew before the server has said so.
    /// Answers whether it is to be stopped instead.
    async fn gone_while_held(&mut self) -> bool {
        let (mut held, mut changes) = (self.held.subscribe(), self.changes.clone());
        let called_off = async {
            let _ = held.wait_for(|hold| matches!(hold, Hold::Free | Hold::Given)).await;
            if *held.borrow() == Hold::Given {
                let _ = changes.wait_for(|d| !matches!(d.live, Some(Live::Gives { .. }))).await;
            }
        };
        let stop = tokio::select! {
            () = called_off => false,
            _ = self.stopped.wait_for(|stop| *stop) => true,
        };
        if !stop {
            self.held.send_replace(Hold::Free);
        }
        stop
    }

    /// Lets a frozen process go on as soon as the server no longer wants it to be given away.
    async fn thaw_when_told(&self) {
        let (mut held, mut changes) = (self.held.subscribe(), self.changes.clone());
        loop {
            let given = *held.borrow_and_update() == Hold::Given;
            let wanted = matches!(changes.borrow_and_update().live, Some(Live::Gives { .. }));
            if given
                && !wanted
                && let Some(live) = self.all.runtime.live()
            {
                match live.thaw(&self.desired.id).await {
                    Ok(()) => {
                        tracing::info!(instance = %self.desired.id, "goes on here");
                        self.held.send_replace(Hold::Free);
                    }
                    Err(error) => {
                        tracing::error!(instance = %self.desired.id, error = %chain(&error), "cannot thaw");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            }
            tokio::select! {
                changed = held.changed() => if changed.is_err() { return std::future::pending().await },
                changed = changes.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }

    /// Watches the running process. Answers why it is no longer running, or nothing when it is to be stopped.
    async fn watch(&mut self, address: &str, started: u64, course: &str) -> Option<String> {
        let health = self.desired.spec.health.clone();
        // A process that was taken over was healthy when it was frozen.
        let proven = health.is_none() || !course.is_empty();
        if proven {
            self.see(Phase::Ready, address, course, started);
        } else {
            self.see(Phase::Running, address, &self.last, started);
        }
        let runtime = self.all.runtime.clone();
        let id = self.desired.id.clone();
        let is_task = self.desired.spec.kind == Kind::Task;
        let ended = async {
            loop {
                match runtime.wait(&id).await {
                    Ok(0) if is_task => return None,
                    Ok(code) => return Some(format!("exited with {code}")),
                    Err(error) => tracing::warn!(instance = %id, error = %chain(&error), "cannot wait"),
                }
                tokio::time::sleep(RETRY).await;
                let alive =
                    runtime.list().await.map(|all| all.iter().any(|f| f.desired.id == id && f.running));
                if matches!(alive, Ok(false)) {
                    return Some("its process is gone".to_owned());
                }
            }
        };
        let changing = follow_limits(self.changes.clone(), runtime.clone(), self.desired.clone());
        let probing = async {
            let Some(health) = health else { return std::future::pending().await };
            let first_port = self.desired.spec.first_tcp_port().unwrap_or(0);
            let target = Target { runtime: &*runtime, id: &id, address, first_port };
            let began = tokio::time::Instant::now();
            let mut watch = Watch::new(health.clone());
            if proven {
                watch.trust();
            }
            let mut told = String::new();
            loop {
                let answer = target.ask(&health).await;
                // What is frozen, or is looked at by criu, cannot answer.
                if *self.held.borrow() != Hold::Free {
                    tokio::time::sleep(watch.pause()).await;
                    continue;
                }
                match watch.take(answer.is_ok(), began.elapsed()) {
                    Verdict::Healthy => self.see(Phase::Ready, address, "", started),
                    Verdict::Unhealthy => return format!("{UNHEALTHY}{}", answer.err().unwrap_or_default()),
                    Verdict::Same => {
                        let late = !watch.is_healthy() && began.elapsed() >= PATIENCE;
                        if let Some(why) = answer.err().filter(|why| late && *why != told) {
                            self.see(Phase::Running, address, &format!("not healthy yet: {why}"), started);
                            told = why;
                        }
                    }
                }
                tokio::time::sleep(watch.pause()).await;
            }
        };
        let growing = outgrown(self.changes.clone(), runtime.clone(), id.clone());
        let mut stopped = self.stopped.clone();
        let overflowing = overflows(self.all.full.subscribe(), self.desired.clone());
        let message = tokio::select! {
            message = ended => message,
            message = overflowing => Some(message),
            message = probing => Some(message),
            why = growing => Some(format!("{STOPPED}{why}")),
            () = changing => return None,
            () = self.thaw_when_told() => return None,
            _ = stopped.wait_for(|stop| *stop) => return None,
        };
        if message.is_some() {
            return message;
        }
        // A task that has done its work waits here to be taken away.
        self.see(Phase::Succeeded, address, "", started);
        let _ = self.stopped.wait_for(|stop| *stop).await;
        None
    }

    /// It leaves its service at once, and its process is ended before it is started anew.
    async fn end_here(&self, why: &str) {
        self.see(Phase::BackOff, "", why, 0);
        tracing::warn!(instance = %self.desired.id, why, "started anew");
        if let Err(error) = self.all.runtime.stop(&self.desired.id, self.desired.spec.grace.duration()).await
        {
            // The next start tries once more.
            tracing::warn!(instance = %self.desired.id, error = %chain(&error), "cannot stop");
        }
    }

    async fn end(&self) {
        self.see(Phase::Stopping, "", "", 0);
        let asked = self.all.lease_holds() && !self.held.borrow().is_frozen();
        let grace = if asked { self.desired.spec.grace.duration() } else { Duration::ZERO };
        while let Err(error) = self.all.runtime.stop(&self.desired.id, grace).await {
            tracing::warn!(instance = %self.desired.id, error = %chain(&error), "cannot stop; trying again");
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!(instance = %self.desired.id, "stopped");
    }

    fn see(&self, phase: Phase, address: &str, message: &str, started: u64) {
        self.all.see(Observed {
            id: self.desired.id.clone(),
            phase,
            restarts: self.restarts,
            address: address.to_owned(),
            message: message.to_owned(),
            started,
            connections: None,
            refused: self.refused.clone(),
        });
    }
}
