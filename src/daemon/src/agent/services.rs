//! This module's part in the services: keeps the kernel's rules as the server says, and counts the connections of
//! what is draining here and of what goes by their number.
//!
//! Read the last table (cut off: what is left of it here) → set it → tell which order it was of; a failure is told once and tried again.

use super::instances::Instances;
use crate::chain;
use model::{InstanceId, Name, Phase, ServicePort, ServiceTable};
use runtime::{Balance, RuntimeError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

const RETRY: Duration = Duration::from_millis(500);
/// Between two looks at the lease.
const LOOK: Duration = Duration::from_millis(200);
/// Between two counts while something is draining.
const COUNT: Duration = Duration::from_millis(100);
/// Between two looks at the connections of services by least connections, and at least so many times what one takes.
const BALANCE: Duration = Duration::from_millis(250);
const BALANCE_SHARE: u32 = 10;

/// A table and the order that it came with.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// Counts the sessions: order numbers start anew in each.
    session: u64,
    order: u64,
    table: Arc<ServiceTable>,
}

/// What the session and the resolver share with the task that sets the rules.
#[derive(Debug)]
pub(super) struct Services {
    wanted: watch::Sender<Wanted>,
    session: AtomicU64,
    /// The order whose table is set, of the session in the other half.
    routed: watch::Sender<(u64, u64)>,
}

impl Services {
    /// Starts the task; it lives as long as the process.
    pub(super) fn start(module: Name, instances: &Arc<Instances>) -> Arc<Self> {
        let (wanted, inbox) = watch::channel(Wanted::default());
        let (routed, _) = watch::channel((0, 0));
        let services = Arc::new(Self { wanted, session: AtomicU64::new(0), routed });
        tokio::spawn(services.clone().follow(inbox, module, instances.clone()));
        services
    }

    /// With this table, and nobody who sets it.
    #[cfg(test)]
    pub(super) fn with_table(table: ServiceTable) -> Arc<Self> {
        let wanted = Wanted { session: 0, order: 1, table: Arc::new(table) };
        let (wanted, routed) = (watch::Sender::new(wanted), watch::Sender::new((0, 0)));
        Arc::new(Self { wanted, session: AtomicU64::new(0), routed })
    }

    /// A new connection to the server: its order numbers start anew.
    pub(super) fn new_session(&self) {
        self.session.fetch_add(1, Ordering::Relaxed);
    }

    /// The server's word; it is carried out by the task.
    pub(super) fn order(&self, order: u64, table: ServiceTable) {
        let session = self.session.load(Ordering::Relaxed);
        self.wanted.send_replace(Wanted { session, order, table: Arc::new(table) });
    }

    /// The last order of this session whose table is set.
    pub(super) fn routed(&self) -> u64 {
        let (session, order) = *self.routed.borrow();
        if session == self.session.load(Ordering::Relaxed) { order } else { 0 }
    }

    /// The table as the server wants it.
    pub(super) fn table(&self) -> Arc<ServiceTable> {
        self.wanted.borrow().table.clone()
    }

    async fn follow(
        self: Arc<Self>,
        mut inbox: watch::Receiver<Wanted>,
        module: Name,
        instances: Arc<Instances>,
    ) {
        let mut told = String::new();
        let mut set: Option<Arc<ServiceTable>> = None;
        let mut balancing = Balancing::default();
        // What an earlier process has set goes on until the server says something.
        if inbox.changed().await.is_err() {
            return;
        }
        loop {
            let wanted = inbox.borrow_and_update().clone();
            let cut_off = !instances.lease_holds();
            let table = if cut_off {
                Arc::new(alone(&wanted.table, &module, &instances))
            } else {
                wanted.table.clone()
            };
            let known = set.as_ref() == Some(&table);
            let outcome = if known { Ok(()) } else { instances.runtime.route(&table).await };
            let pause = match outcome {
                Ok(()) => {
                    set = Some(table.clone());
                    if !known {
                        told.clear();
                        balancing.restart();
                    }
                    let routed = (wanted.session, wanted.order);
                    if !cut_off && self.routed.send_replace(routed) != routed {
                        instances.changed.notify_one();
                    }
                    let count = self.count(&table, &module, &instances, &mut told).await;
                    match balancing.turn(&table, &instances).await {
                        Ok(pause) => count.min(pause),
                        Err(error) => {
                            // Perhaps somebody has taken the rules away.
                            set = None;
                            tell(&mut told, &error);
                            RETRY
                        }
                    }
                }
                Err(error) => {
                    set = None;
                    tell(&mut told, &error);
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = inbox.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Counts the connections of what is draining here; answers when to look again.
    async fn count(
        &self,
        table: &ServiceTable,
        module: &Name,
        instances: &Instances,
        told: &mut String,
    ) -> Duration {
        let mut draining: Vec<ServicePort> = table.ports().cloned().collect();
        for port in &mut draining {
            port.endpoints.retain(|e| e.draining && e.module == *module);
        }
        draining.retain(|port| !port.endpoints.is_empty());
        if draining.is_empty() {
            return LOOK;
        }
        match instances.runtime.connections(&draining).await {
            Ok(counts) => instances.count(&counts),
            Err(error) => tell(told, &error),
        }
        COUNT
    }
}

/// Looks at the connections of services by least connections, now and then.
#[derive(Default)]
struct Balancing {
    last: Balance,
    /// When it is time for the next look; at once when there was none.
    due: Option<Instant>,
}

impl Balancing {
    /// There is another table.
    fn restart(&mut self) {
        self.last.forget_written();
        self.due = None;
    }

    /// Looks if it is time and some service needs it; answers how long nothing need be done.
    async fn turn(&mut self, table: &ServiceTable, instances: &Instances) -> Result<Duration, RuntimeError> {
        if !table.is_counted() {
            return Ok(LOOK);
        }
        let begun = Instant::now();
        if let Some(due) = self.due.filter(|due| *due > begun) {
            return Ok(due - begun);
        }
        instances.runtime.balance(table, &mut self.last).await?;
        let pause = BALANCE.max(begun.elapsed() * BALANCE_SHARE);
        self.due = Some(Instant::now() + pause);
        Ok(pause)
    }
}

/// What a module that is cut off can still reach: its own instances that may go on. The others would only make
/// its clients wait.
fn alone(table: &ServiceTable, module: &Name, instances: &Instances) -> ServiceTable {
    let ready: Vec<InstanceId> =
        instances.observed().into_iter().filter(|o| o.phase == Phase::Ready).map(|o| o.id).collect();
    let mut own = table.clone();
    for port in own.services.iter_mut().flat_map(|s| &mut s.ports) {
        port.endpoints.retain(|e| e.module == *module && ready.contains(&e.instance));
    }
    own
}

fn tell(told: &mut String, error: &RuntimeError) {
    let error = chain(error);
    if *told != error {
        tracing::warn!(%error, "services");
        *told = error;
    }
}
