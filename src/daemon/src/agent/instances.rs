//! The instances of this module: one task for each, which owns its whole life here.

use super::{
    gate::Gate,
    giving::{self, Hold},
    health::{Verdict, Watch},
    limits::{beyond, follow_limits, outgrown},
    probe::Target,
    taking,
};
use crate::{chain, config::Config, wall_clock};
use model::{
    Attachment, Binding, Desired, InstanceId, Kind, Live, Name, Observed, OnDisconnect, Phase, Span,
    VolumeKey,
};
use planner::Lease;
use runtime::{Fence, Found, Runtime, RuntimeError, boot_clock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An instance that ran this long starts its pauses anew.
const GOOD_RUN: Duration = Duration::from_secs(60);
pub(super) const RETRY: Duration = Duration::from_millis(500);
const UNHEALTHY: &str = "unhealthy: ";
/// Before the reason for which an instance that runs is stopped here.
const STOPPED: &str = "stopped: ";

struct Handle {
    observed: Observed,
    /// What it runs; a change of its limits is applied while it runs.
    desired: watch::Sender<Desired>,
    keep: bool,
    stop: watch::Sender<bool>,
    /// How far it is in being given away.
    hold: watch::Sender<Hold>,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<InstanceId, Desired>,
    handles: BTreeMap<InstanceId, Handle>,
}

/// All instances of the module and the lease that they run under.
pub(super) struct Instances {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) config: Config,
    fence: Fence,
    lease: Mutex<Lease>,
    state: Mutex<State>,
    /// Starts under way: the most important first.
    gate: Gate,
    /// Something that the server wants to know has changed.
    pub(super) changed: Notify,
    /// How often something was stopped because the lease had run out.
    fenced: AtomicU64,
    /// Volumes that hold more than they may, and how much.
    pub(super) full: watch::Sender<BTreeMap<VolumeKey, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instances {
    pub(super) fn new(runtime: Arc<dyn Runtime>, config: &Config) -> Arc<Self> {
        let fence = config.fence();
        let lease = Mutex::new(Lease::new(config.timing.lease, fence.kept_deadline()));
        Arc::new(Self {
            runtime,
            config: config.clone(),
            fence,
            lease,
            state: Mutex::default(),
            gate: Gate::new(),
            changed: Notify::new(),
            fenced: AtomicU64::new(0),
            full: watch::Sender::default(),
        })
    }

    /// The volumes of everything that is here.
    pub(super) fn attached(&self) -> Vec<Attachment> {
        lock(&self.state).handles.values().flat_map(|h| h.desired.borrow().volumes.clone()).collect()
    }

    pub(super) fn lease_holds(&self) -> bool {
        lock(&self.lease).holds(boot_clock())
    }

    /// The server acknowledged what was sent at `sent` on the boot clock; its lease's length counts from now on.
    pub(super) fn acknowledged(&self, sent: u64, length: Span) {
        let mut lease = lock(&self.lease);
        *lease = Lease::new(length, lease.deadline());
        self.renew(lease, sent);
    }

    /// At `sent` nobody served on the server's port: nobody decides, see [`Lease::renew`]. A lease that has run
    /// out stays so.
    pub(super) fn nobody_decides(&self, sent: u64) {
        let lease = lock(&self.lease);
        if lease.holds(boot_clock()) {
            self.renew(lease, sent);
        }
    }

    fn renew(&self, mut lease: MutexGuard<'_, Lease>, sent: u64) {
        lease.renew(sent);
        if let Some(deadline) = lease.deadline()
            && let Err(error) = self.fence.keep_deadline(deadline)
        {
            tracing::error!(error = %chain(&error), "cannot keep the lease");
        }
    }

    /// Kills everything that may not outlive the lease, and wants none of it any more.
    pub(super) fn fence(&self) {
        let mut state = lock(&self.state);
        let doomed: Vec<InstanceId> =
            state.handles.iter().filter(|(_, h)| !h.keep).map(|(id, _)| id.clone()).collect();
        if doomed.is_empty() && !self.fence.populated() {
            return;
        }
        if let Err(error) = self.fence.kill() {
            tracing::error!(error = %chain(&error), "cannot fence");
        }
        self.fenced.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        for id in doomed {
            state.wanted.remove(&id);
            if let Some(handle) = state.handles.get(&id)
                && !handle.stop.send_replace(true)
            {
                tracing::warn!(instance = %id, "the lease ran out: stopped");
            }
        }
    }

    /// Changes whenever something was stopped because the lease had run out. The server may not have noticed: if the
    /// stall was short, it believes that all goes on, and must be told by a new hello.
    pub(super) fn fenced(&self) -> u64 {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Waits until nothing is left of what was fenced.
    pub(super) async fn wait_fenced(&self) {
        while lock(&self.lease).deadline().is_some() && !self.lease_holds() {
            if !lock(&self.state).handles.values().any(|h| !h.keep) && !self.fence.populated() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes over what an earlier process started.
    pub(super) async fn adopt(self: &Arc<Self>) -> Result<(), RuntimeError> {
        for found in self.runtime.list().await? {
            let mut desired = found.desired.clone();
            if found.frozen {
                // Somebody may have its process: nothing thaws it before the server has spoken.
                let (to, successor) = (Name::of_module(0), desired.id.clone());
                desired.live = Some(Live::Gives { to, successor });
            }
            tracing::info!(instance = %desired.id, running = found.running, "adopted");
            let mut state = lock(&self.state);
            state.wanted.insert(desired.id.clone(), desired.clone());
            self.spawn(&mut state, desired, Some(found));
        }
        Ok(())
    }

    /// Runs this and nothing else.
    pub(super) fn order(self: &Arc<Self>, desired: Vec<Desired>) {
        let mut state = lock(&self.state);
        state.wanted = desired.into_iter().map(|d| (d.id.clone(), d)).collect();
        self.reconcile(&mut state);
    }

    fn reconcile(self: &Arc<Self>, state: &mut State) {
        for (id, handle) in &state.handles {
            if !state.wanted.contains_key(id) {
                handle.stop.send_replace(true);
            }
        }
        for (id, handle) in &state.handles {
            if let Some(wanted) = state.wanted.get(id) {
                handle.desired.send_if_modified(|now| {
                    let changed = now != wanted;
                    if changed {
                        now.clone_from(wanted);
                    }
                    changed
                });
            }
        }
        let mut missing: Vec<Desired> =
            state.wanted.values().filter(|d| !state.handles.contains_key(&d.id)).cloned().collect();
        missing.sort_by_key(|d| std::cmp::Reverse(d.spec.priority));
        for desired in missing {
            self.spawn(state, desired, None);
        }
    }

    /// The connections that draining instances were found to have.
    pub(super) fn count(&self, counts: &BTreeMap<InstanceId, u32>) {
        let mut state = lock(&self.state);
        for (id, count) in counts {
            if let Some(handle) = state.handles.get_mut(id) {
                handle.observed.connections = Some(*count);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The server gives nobody what somebody has. Should it ever, the second one does not start.
    fn refuse_beyond(&self, desired: &Desired) -> Result<(), RuntimeError> {
        let state = lock(&self.state);
        let others = state.handles.iter().filter(|(id, _)| **id != desired.id);
        let held: Vec<Binding> = others.map(|(_, handle)| handle.desired.borrow().binding.clone()).collect();
        beyond(&desired.binding, &held)
    }

    pub(super) fn observed(&self) -> Vec<Observed> {
        lock(&self.state).handles.values().map(|h| h.observed.clone()).collect()
    }

    fn spawn(self: &Arc<Self>, state: &mut State, desired: Desired, found: Option<Found>) {
        let (stop, stopped) = watch::channel(false);
        let observed = Observed {
            id: desired.id.clone(),
            phase: Phase::Starting,
            restarts: 0,
            address: String::new(),
            message: String::new(),
            started: 0,
            connections: None,
            refused: String::new(),
        };
        let keep = desired.spec.migration.on_disconnect == OnDisconnect::Keep;
        let (change, changes) = watch::channel(desired.clone());
        let frozen = found.as_ref().is_some_and(|f| f.frozen);
        let hold = watch::Sender::new(if frozen { Hold::Given } else { Hold::Free });
        let held = hold.clone();
        state.handles.insert(desired.id.clone(), Handle { observed, desired: change, keep, stop, hold });
        let all = self.clone();
        tokio::spawn(async move {
            let id = desired.id.clone();
            let refused = String::new();
            Life {
                all: all.clone(),
                desired,
                changes,
                stopped,
                held,
                refused,
                restarts: 0,
                last: String::new(),
            }
            .run(found)
            .await;
            let mut state = lock(&all.state);
            state.handles.remove(&id);
            all.reconcile(&mut state);
            drop(state);
            all.changed.notify_one();
        });
        self.changed.notify_one();
    }
}

/// What the agent that gives an instance away knows and says of it.
impl Instances {
    /// The agent of `asker` wants its process, to go on as `successor`.
    pub(super) fn begin_giving(
        &self,
        id: &InstanceId,
        asker: &Name,
        successor: &InstanceId,
    ) -> Result<(), String> {
        let state = lock(&self.state);
        let handle = state.handles.get(id).ok_or_else(|| format!("{id} is not here"))?;
        if !giving::is_for(handle.desired.borrow().live.as_ref(), asker, successor) {
            return Err(format!("the server does not want {asker} to have {id}"));
        }
        let free = |hold: &mut Hold| {
            let free = *hold == Hold::Free;
            if free {
                *hold = Hold::Copying;
            }
            free
        };
        if handle.hold.send_if_modified(free) { Ok(()) } else { Err(format!("{id} is being given away")) }
    }

    /// The server still wants it to be given away.
    pub(super) fn is_giving(&self, id: &InstanceId) -> bool {
        lock(&self.state).handles.get(id).is_some_and(Handle::gives)
    }

    /// Everything has been sent; answers whether the server still wants that.
    pub(super) fn mark_given(&self, id: &InstanceId) -> bool {
        let state = lock(&self.state);
        let Some(handle) = state.handles.get(id).filter(|h| h.gives()) else { return false };
        handle.hold.send_replace(Hold::Given);
        true
    }

    pub(super) fn hold(&self, id: &InstanceId, hold: Hold) {
        if let Some(handle) = lock(&self.state).handles.get(id) {
            handle.hold.send_replace(hold);
        }
    }

    pub(super) fn hold_of(&self, id: &InstanceId) -> Hold {
        lock(&self.state).handles.get(id).map_or(Hold::Free, |h| *h.hold.borrow())
    }

    pub(super) fn knows(&self, id: &InstanceId) -> bool {
        lock(&self.state).handles.contains_key(id)
    }
}

impl Handle {
    fn gives(&self) -> bool {
        matches!(self.desired.borrow().live, Some(Live::Gives { .. })) && !*self.stop.borrow()
    }
}

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
struct Life {
    all: Arc<Instances>,
    desired: Desired,
    changes: watch::Receiver<Desired>,
    stopped: watch::Receiver<bool>,
    /// How far it is in being given away.
    held: watch::Sender<Hold>,
    /// Why it could not take over the process that it was to.
    refused: String,
    restarts: u32,
    /// Why the last run ended, or could not begin: told until the next one is under way.
    last: String,
}

impl Life {
    async fn run(mut self, found: Option<Found>) {
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
        self.see(if proven { Phase::Ready } else { Phase::Running }, address, course, started);
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
            let first_port = self.desired.spec.ports.first().map_or(0, |p| p.container);
            let target = Target { runtime: &*runtime, id: &id, address, first_port };
            let began = tokio::time::Instant::now();
            let mut watch = Watch::new(health.clone());
            if proven {
                watch.trust();
            }
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
                    Verdict::Same => {}
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
        let observed = Observed {
            id: self.desired.id.clone(),
            phase,
            restarts: self.restarts,
            address: address.to_owned(),
            message: message.to_owned(),
            started,
            connections: None,
            refused: self.refused.clone(),
        };
        if let Some(handle) = lock(&self.all.state).handles.get_mut(&self.desired.id) {
            // What was counted of this run stays until it is counted again.
            let connections = handle.observed.connections.filter(|_| handle.observed.started == started);
            handle.observed = Observed { connections, ..observed };
        }
        self.all.changed.notify_one();
    }
}
