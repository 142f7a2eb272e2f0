//! The instances of this module: one task for each, which owns its whole life here.

use super::{
    gate::Gate,
    health::{Verdict, Watch},
    limits::{beyond, follow_limits, outgrown},
    probe::Target,
};
use crate::{chain, wall_clock};
use model::{Attachment, Binding, Desired, InstanceId, Kind, Observed, OnDisconnect, Phase, Span, VolumeKey};
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
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<InstanceId, Desired>,
    handles: BTreeMap<InstanceId, Handle>,
}

/// All instances of the module and the lease that they run under.
pub(super) struct Instances {
    pub(super) runtime: Arc<dyn Runtime>,
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
    pub(super) fn new(runtime: Arc<dyn Runtime>, fence: Fence, length: Span) -> Arc<Self> {
        let lease = Mutex::new(Lease::new(length, fence.kept_deadline()));
        Arc::new(Self {
            runtime,
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
            let desired = found.desired.clone();
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
        };
        let keep = desired.spec.migration.on_disconnect == OnDisconnect::Keep;
        let (change, changes) = watch::channel(desired.clone());
        state.handles.insert(desired.id.clone(), Handle { observed, desired: change, keep, stop });
        let all = self.clone();
        tokio::spawn(async move {
            let id = desired.id.clone();
            Life { all: all.clone(), desired, changes, stopped, restarts: 0, last: String::new() }
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
            let outcome = match running.take() {
                Some(running) => Ok(running),
                None => {
                    self.desired.clone_from(&self.changes.borrow_and_update());
                    self.start(remains).await
                }
            };
            remains = true;
            let message = match outcome {
                Ok((address, started)) => {
                    let began = tokio::time::Instant::now();
                    let Some(message) = self.watch(&address, started).await else { break };
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

    /// Watches the running process. Answers why it is no longer running, or nothing when it is to be stopped.
    async fn watch(&mut self, address: &str, started: u64) -> Option<String> {
        let health = self.desired.spec.health.clone();
        self.see(if health.is_some() { Phase::Running } else { Phase::Ready }, address, "", started);
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
            loop {
                let answer = target.ask(&health).await;
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
        let grace = if self.all.lease_holds() { self.desired.spec.grace.duration() } else { Duration::ZERO };
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
        };
        if let Some(handle) = lock(&self.all.state).handles.get_mut(&self.desired.id) {
            // What was counted of this run stays until it is counted again.
            let connections = handle.observed.connections.filter(|_| handle.observed.started == started);
            handle.observed = Observed { connections, ..observed };
        }
        self.all.changed.notify_one();
    }
}
