//! This module's part in the services: keeps the kernel's rules as the server says, and counts the connections of
//! what is draining here.
//!
//! Read the last table → set it → tell which order it was of; a failure is told once and tried again.

use super::instances::Instances;
use crate::chain;
use model::{Endpoint, Name, ServiceTable};
use runtime::RuntimeError;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

const RETRY: Duration = Duration::from_millis(500);
/// Between two counts while something is draining.
const COUNT: Duration = Duration::from_millis(100);

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
        while inbox.changed().await.is_ok() {
            loop {
                let wanted = inbox.borrow_and_update().clone();
                let outcome = if set.as_ref() == Some(&wanted.table) {
                    Ok(())
                } else {
                    instances.runtime.route(&wanted.table).await
                };
                match outcome {
                    Ok(()) => {
                        told.clear();
                        set = Some(wanted.table);
                        self.routed.send_replace((wanted.session, wanted.order));
                        instances.changed.notify_one();
                    }
                    Err(error) => {
                        set = None;
                        tell(&mut told, &error);
                        tokio::select! {
                            () = tokio::time::sleep(RETRY) => {}
                            changed = inbox.changed() => if changed.is_err() { return },
                        }
                        continue;
                    }
                }
                let draining: Vec<Endpoint> =
                    self.table().endpoints().filter(|e| e.draining && e.module == module).cloned().collect();
                if draining.is_empty() {
                    break;
                }
                match instances.runtime.connections(&draining).await {
                    Ok(counts) => instances.count(&counts),
                    Err(error) => tell(&mut told, &error),
                }
                tokio::select! {
                    () = tokio::time::sleep(COUNT) => {}
                    changed = inbox.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

fn tell(told: &mut String, error: &RuntimeError) {
    let error = chain(error);
    if *told != error {
        tracing::warn!(%error, "services");
        *told = error;
    }
}
