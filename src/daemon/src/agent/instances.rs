//! The instances of this module, and the lease that they run under. Each has a task of its own, its [`Life`].

use super::{
    gate::Gate,
    giving::{self, Hold},
    life::Life,
    limits::beyond,
};
use crate::{chain, config::Config};
use model::{
    Attachment, Binding, Desired, InstanceId, Live, Name, Observed, OnDisconnect, Phase, Span, VolumeKey,
};
use planner::Lease;
use runtime::{Fence, Found, Runtime, RuntimeError, boot_clock};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

pub(super) const RETRY: Duration = Duration::from_millis(500);

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
pub(super) struct State {
    pub(super) wanted: BTreeMap<InstanceId, Desired>,
    handles: BTreeMap<InstanceId, Handle>,
    /// What an earlier process had begun to make, until it is removed: nothing of that name is started before.
    pub(super) strays: BTreeSet<InstanceId>,
}

/// All instances of the module and the lease that they run under.
pub(super) struct Instances {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) config: Config,
    fence: Fence,
    lease: Mutex<Lease>,
    pub(super) state: Mutex<State>,
    /// Starts under way: the most important first.
    pub(super) gate: Gate,
    /// Something that the server wants to know has changed.
    pub(super) changed: Notify,
    /// How often something was stopped because the lease had run out.
    fenced: AtomicU64,
    /// Volumes that hold more than they may, and how much.
    pub(super) full: watch::Sender<BTreeMap<VolumeKey, String>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instances {
    pub(super) fn new(runtime: Arc<dyn Runtime>, config: &Config) -> Arc<Self> {
        let fence = config.fence();
        let lease = Mutex::new(Lease::new(config.timing.lease, fence.kept()));
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
        lease.grant(sent, length);
        self.keep_lease(&lease);
    }

    /// The length of the last lease that the server gave to this process.
    pub(super) fn lease_given(&self) -> Span {
        lock(&self.lease).given()
    }

    /// At `sent` nobody served on the server's port: nobody decides, see [`Lease::renew`]. A lease that has run
    /// out stays so.
    pub(super) fn nobody_decides(&self, sent: u64) {
        let mut lease = lock(&self.lease);
        if lease.holds(boot_clock()) {
            lease.renew(sent);
            self.keep_lease(&lease);
        }
    }

    fn keep_lease(&self, lease: &Lease) {
        if let Some(deadline) = lease.deadline()
            && let Err(error) = self.fence.keep(deadline, lease.length())
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

    /// Runs this and nothing else.
    pub(super) fn order(self: &Arc<Self>, desired: Vec<Desired>) {
        let mut state = lock(&self.state);
        state.wanted = desired.into_iter().map(|d| (d.id.clone(), d)).collect();
        self.reconcile(&mut state);
    }

    pub(super) fn reconcile(self: &Arc<Self>, state: &mut State) {
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
        let there = |id: &InstanceId| state.handles.contains_key(id) || state.strays.contains(id);
        let mut missing: Vec<Desired> = state.wanted.values().filter(|d| !there(&d.id)).cloned().collect();
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
    pub(super) fn refuse_beyond(&self, desired: &Desired) -> Result<(), RuntimeError> {
        let state = lock(&self.state);
        let others = state.handles.iter().filter(|(id, _)| **id != desired.id);
        let held: Vec<Binding> = others.map(|(_, handle)| handle.desired.borrow().binding.clone()).collect();
        beyond(&desired.binding, &held)
    }

    /// What the server is told of an instance from now on.
    pub(super) fn see(&self, observed: Observed) {
        if let Some(handle) = lock(&self.state).handles.get_mut(&observed.id) {
            // What was counted of this run stays until it is counted again. The clock that says when it started may jump.
            let run = |seen: &Observed| (seen.restarts, seen.started);
            let same_run = run(&handle.observed) == run(&observed);
            let connections = handle.observed.connections.filter(|_| same_run);
            handle.observed = Observed { connections, ..observed };
        }
        self.changed.notify_one();
    }

    pub(super) fn observed(&self) -> Vec<Observed> {
        lock(&self.state).handles.values().map(|h| h.observed.clone()).collect()
    }

    pub(super) fn spawn(self: &Arc<Self>, state: &mut State, desired: Desired, found: Option<Found>) {
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
            Life::new(all.clone(), desired, changes, stopped, held).run(found).await;
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
