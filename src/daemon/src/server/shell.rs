//! The one thread that owns the core: it takes events in, commits what changed, and only then lets anything out.

use crate::{config::Config, wall_clock};
use anyhow::Context;
use api::{
    to_desired, to_erase, to_services, v1, view_app, view_event, view_instance, view_module, view_volume,
};
use model::{Module, Name, Now, Observed, RootSlot, Timing};
use planner::{AgentReport, Core, Event, Output, Refusal, Reply, Request};
use runtime::boot_clock;
use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};
use store::{Sqlite, Store};
use tokio::sync::{mpsc::UnboundedSender, oneshot, watch};

/// What an agent's connection is sent through.
pub(crate) type ToAgent = UnboundedSender<v1::ToAgent>;

pub(crate) enum Command {
    Request(Request, oneshot::Sender<Result<Reply, Refusal>>),
    Hello { module: Box<Module>, observed: Vec<Observed>, session: u64, sender: ToAgent },
    Heartbeat { module: Name, session: u64, sequence: u64, report: AgentReport },
    Root { module: Name, session: u64, root: RootSlot, progress: (u64, u64) },
    Update { module: Name, wanted: v1::UpdateWanted, answer: oneshot::Sender<Result<Reply, Refusal>> },
    Log { module: Name, wanted: v1::LogWanted, taken: oneshot::Sender<bool> },
    Tables(oneshot::Sender<v1::PlannerTables>),
    Stop(oneshot::Sender<()>),
}

/// A handle on the thread.
#[derive(Debug, Clone)]
pub struct Shell {
    commands: Sender<Command>,
    snapshots: watch::Receiver<v1::Snapshot>,
    timing: Timing,
}

/// Events in a snapshot.
const RECENT: usize = 200;

impl Shell {
    /// Loads the records and starts the thread.
    ///
    /// # Errors
    /// The records cannot be loaded.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.state)
            .with_context(|| format!("cannot create {}", config.state.display()))?;
        let mut store = Sqlite::open(&config.state.join("state.db"))?;
        let mut core = Core::load(store.load()?, config.timing, now()).with_services(config.server.services);
        core.set_policy(config.placement);
        let (commands, inbox) = channel();
        let (publish, snapshots) = watch::channel(snapshot(&core, &BTreeMap::new()));
        let owner = Owner {
            core,
            store,
            sessions: BTreeMap::new(),
            progress: BTreeMap::new(),
            publish,
            tick: config.timing.heartbeat.duration() / 2,
        };
        thread::Builder::new()
            .name("core".into())
            .spawn(move || owner.run(&inbox))
            .context("cannot start a thread")?;
        Ok(Self { commands, snapshots, timing: config.timing })
    }

    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// The state for people, anew after each change.
    pub fn snapshots(&self) -> watch::Receiver<v1::Snapshot> {
        self.snapshots.clone()
    }

    /// Ends the thread and waits for its end.
    pub fn stop(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Command::Stop(sender)) {
            // An error means that the thread is already gone.
            let _ = tokio::task::block_in_place(|| receiver.blocking_recv());
        }
    }
}

struct Session {
    number: u64,
    sender: ToAgent,
    sequence: u64,
}

struct Owner {
    core: Core,
    store: Sqlite,
    sessions: BTreeMap<Name, Session>,
    /// How far the phase of each module's update is. Not worth a record.
    progress: BTreeMap<Name, (u64, u64)>,
    publish: watch::Sender<v1::Snapshot>,
    tick: Duration,
}

fn now() -> Now {
    Now { mono: boot_clock(), wall: wall_clock() }
}

impl Owner {
    /// Until the next step without an event: no later than a silent module counts as lost.
    fn pause(&self) -> Duration {
        let loss = self.core.next_loss().map(|at| Duration::from_millis(at.saturating_sub(boot_clock())));
        loss.unwrap_or(self.tick).clamp(Duration::from_millis(1), self.tick)
    }

    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            let command = match inbox.recv_timeout(self.pause()) {
                Ok(Command::Stop(done)) => {
                    let _ = done.send(());
                    return;
                }
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = self.take(command) {
                // State and store may differ now: only a fresh start makes them one again.
                tracing::error!(error = %crate::chain(error.as_ref()), "cannot go on without the store");
                std::process::exit(1);
            }
        }
    }

    fn take(&mut self, command: Option<Command>) -> anyhow::Result<()> {
        match command {
            None => self.step(Event::Tick).map(drop),
            Some(Command::Request(request, answer)) => {
                let outcome = self.step(Event::Request(request))?;
                // The asker may have gone away; what was asked is done all the same.
                let _ = answer.send(outcome);
                Ok(())
            }
            Some(Command::Hello { module, observed, session, sender }) => {
                tracing::info!(module = %module.name, observed = observed.len(), "agent connected");
                self.sessions.insert(module.name.clone(), Session { number: session, sender, sequence: 0 });
                self.step(Event::Hello(module, observed)).map(drop)
            }
            Some(Command::Heartbeat { module, session, sequence, report }) => {
                match self.sessions.get_mut(&module).filter(|s| s.number == session) {
                    Some(current) => current.sequence = sequence,
                    // Of a connection that has been replaced.
                    None => return Ok(()),
                }
                self.step(Event::Heartbeat(module, report)).map(drop)
            }
            Some(Command::Root { module, session, root, progress }) => {
                if self.sessions.get(&module).is_none_or(|s| s.number != session) {
                    return Ok(());
                }
                self.progress.insert(module.clone(), progress);
                self.step(Event::Root(module, root)).map(drop)
            }
            Some(Command::Update { module, wanted, answer }) => {
                let bundle = wanted.bundle.as_ref().map(|b| b.sha256.clone()).unwrap_or_default();
                let (attempt, install) = (wanted.attempt.clone(), wanted.install);
                let ask = Request::Update { module: module.clone(), bundle, attempt, install };
                let outcome = self.step(Event::Request(ask))?;
                if let Some(session) = self.sessions.get(&module).filter(|_| outcome.is_ok()) {
                    let message = v1::ToAgent { message: Some(v1::to_agent::Message::Update(wanted)) };
                    // One that is gone meanwhile is asked again by whoever waits for its answer.
                    let _ = session.sender.send(message);
                }
                let _ = answer.send(outcome);
                Ok(())
            }
            Some(Command::Log { module, wanted, taken }) => {
                let message = v1::ToAgent { message: Some(v1::to_agent::Message::Log(wanted)) };
                let sent = self.sessions.get(&module).is_some_and(|s| s.sender.send(message).is_ok());
                let _ = taken.send(sent);
                Ok(())
            }
            Some(Command::Tables(answer)) => {
                let _ = answer.send(super::tables::of(&self.core));
                Ok(())
            }
            Some(Command::Stop(done)) => {
                let _ = done.send(());
                Ok(())
            }
        }
    }

    fn step(&mut self, event: Event) -> anyhow::Result<Result<Reply, Refusal>> {
        match self.core.step(event, now()) {
            Ok((reply, output)) => {
                self.carry_out(output)?;
                Ok(Ok(reply))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn carry_out(&mut self, output: Output) -> anyhow::Result<()> {
        if !output.changes.is_empty() {
            self.store.commit(&output.changes)?;
        }
        let peers: Vec<v1::Peer> = self
            .core
            .modules()
            .map(|(m, _)| v1::Peer { pods: m.pods.clone(), address: m.address.clone() })
            .collect();
        if let Some(session) = output.ack.as_ref().and_then(|name| self.sessions.get(name)) {
            let ack = v1::Ack { sequence: session.sequence, peers, absence: output.absence.0 };
            let _ = session.sender.send(v1::ToAgent { message: Some(v1::to_agent::Message::Ack(ack)) });
        }
        for (name, order) in output.orders {
            let desired = order.desired.iter().map(to_desired).collect::<Result<_, _>>()?;
            let services_json = to_services(&order.services)?;
            let images = order.images.iter().map(ToString::to_string).collect();
            let erase_json = to_erase(&order.erase)?;
            let order = v1::Order { number: order.number, desired, services_json, images, erase_json };
            if let Some(session) = self.sessions.get(&name) {
                let _ =
                    session.sender.send(v1::ToAgent { message: Some(v1::to_agent::Message::Order(order)) });
            }
        }
        for name in output.disconnect {
            if self.sessions.remove(&name).is_some() {
                tracing::warn!(module = %name, "agent disconnected");
            }
        }
        let next = snapshot(&self.core, &self.progress);
        self.publish.send_if_modified(|current| {
            let same = v1::Snapshot { at: current.at, ..next.clone() } == *current;
            if !same {
                *current = next;
            }
            !same
        });
        Ok(())
    }
}

fn snapshot(core: &Core, progress: &BTreeMap<Name, (u64, u64)>) -> v1::Snapshot {
    let loads = core.module_loads();
    let modules = core.modules().map(|(module, liveness)| {
        let load = loads.get(&module.name).copied().unwrap_or_default();
        let mut view = view_module(module, liveness, load.cpu, load.memory, load.instances);
        if let Some(update) = view.root.as_mut().and_then(|root| root.update.as_mut()) {
            (update.done, update.total) = progress.get(&module.name).copied().unwrap_or_default();
        }
        view
    });
    let ready = |name: &Name| {
        let mut replicas: Vec<_> = core
            .instances()
            .filter(|i| i.spec.name == *name && i.is_ready())
            .map(|i| i.id.replica().number)
            .collect();
        replicas.dedup();
        replicas.len()
    };
    let mut events: Vec<_> = core.events().map(view_event).collect();
    let events = events.split_off(events.len().saturating_sub(RECENT));
    v1::Snapshot {
        modules: modules.collect(),
        apps: core.apps().map(|app| view_app(app, ready(app.name()))).collect(),
        instances: core.instances().map(view_instance).collect(),
        events,
        volumes: core.volumes().map(|v| view_volume(&v)).collect(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        at: wall_clock(),
    }
}
