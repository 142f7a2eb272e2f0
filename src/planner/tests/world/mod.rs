//! Modelled agents around the real core: they run what they are told, stop what they are not, and fence themselves
//! when their lease runs out. Every step checks what must never happen.

use model::{
    Accelerator, AppFile, AppSpec, Bytes, Capacity, Desired, InstanceId, Milli, Module, Name, Now, Observed,
    Phase, Record, ServiceTable, Timing,
};
use planner::{AgentReport, Core, Event, Lease, Order, Output, Refusal, Request};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn accelerator(number: u32) -> Accelerator {
    let pcie_slot = (number + 5).to_string();
    Accelerator { number, pcie_slot, address: String::new(), fault: String::new() }
}

pub(crate) fn module(slot: u16) -> Module {
    Module {
        name: Name::of_module(slot),
        slot,
        address: format!("10.44.0.{slot}"),
        pods: format!("10.45.{slot}.0/24"),
        live: String::new(),
        capacity: Capacity {
            cpu: Milli(4000),
            memory: Bytes(1 << 30),
            disk: Bytes(1 << 30),
            accelerators: (0..3).map(accelerator).collect(),
        },
        labels: BTreeMap::new(),
        storage: "10.44.0.9:/volumes".to_owned(),
        kernel: String::new(),
        cordoned: false,
        draining: false,
        server: false,
        lease: model::Span(0),
        absence: model::Span(0),
        root: None,
        before_update: None,
    }
}

pub(crate) fn spec(name: &str, more: &str) -> AppSpec {
    let text = format!("name='{name}'\nimage='registry.spacecloud:5000/demo:1'\n{more}\n");
    AppFile::parse("test", &text).unwrap().apps.remove(0)
}

/// Where the wall clock begins, in milliseconds: it may also jump to before that.
pub(crate) const HOUR: u64 = 3_600_000;

/// One module's agent, as simple as one can be.
pub(crate) struct Agent {
    pub(crate) module: Module,
    pub(crate) connected: bool,
    pub(crate) cut: bool,
    pub(crate) lease: Lease,
    pub(crate) taken: u64,
    pub(crate) wanted: Vec<InstanceId>,
    pub(crate) told: BTreeMap<InstanceId, Desired>,
    pub(crate) running: BTreeMap<InstanceId, u64>,
    /// Those that never get ready: their image is bad.
    pub(crate) bad: BTreeSet<InstanceId>,
    /// Where it sends new connections, and the order that it came with. It takes a turn to set a new one.
    pub(crate) table: ServiceTable,
    pub(crate) routed: u64,
    pub(crate) next: Option<(u64, ServiceTable)>,
    /// When it was last cut off or came back.
    pub(crate) cut_at: u64,
    /// Connections that an instance is modelled to have while it drains.
    pub(crate) connections: BTreeMap<InstanceId, u32>,
}

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) stored: BTreeMap<(model::RecordKind, String), Record>,
    pub(crate) agents: BTreeMap<Name, Agent>,
    pub(crate) time: u64,
    /// How far the wall clock is ahead of where it began, in milliseconds: it may jump, `time` does not.
    pub(crate) ahead: i64,
    pub(crate) timing: Timing,
    /// So many steps from now the server dies between what it commits and what it sends.
    pub(crate) dies_in: Option<u32>,
}

impl World {
    pub(crate) const STEP: u64 = 50;
    /// From the order to a healthy instance.
    pub(crate) const START: u64 = 200;

    pub(crate) fn new(slots: u16) -> Self {
        let timing = Timing { settle: model::Span(1000), ..Timing::default() };
        let agents = (1..=slots)
            .map(|slot| {
                let lease = Lease::new(timing.lease, None);
                let module = module(slot);
                let name = module.name.clone();
                let agent = Agent {
                    module,
                    connected: false,
                    cut: false,
                    lease,
                    taken: 0,
                    wanted: vec![],
                    told: BTreeMap::new(),
                    running: BTreeMap::new(),
                    bad: BTreeSet::new(),
                    table: ServiceTable::default(),
                    routed: 0,
                    next: None,
                    cut_at: 0,
                    connections: BTreeMap::new(),
                };
                (name, agent)
            })
            .collect();
        let core = Core::load(vec![], timing, Now::default());
        let mut world =
            Self { core, stored: BTreeMap::new(), agents, time: 1000, ahead: 0, timing, dies_in: None };
        world.run(1000);
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.time, wall: (HOUR + self.time).saturating_add_signed(self.ahead) }
    }

    pub(crate) fn step(&mut self, event: Event) -> Result<(), Refusal> {
        let now = self.now();
        let (_, output) = self.core.step(event, now)?;
        if self.dies_in == Some(0) {
            self.dies_in = None;
            self.commit(output.changes);
            self.crash_server();
            return Ok(());
        }
        self.dies_in = self.dies_in.map(|steps| steps - 1);
        self.deliver(output);
        Ok(())
    }

    pub(crate) fn commit(&mut self, changes: Vec<planner::Change>) {
        for change in changes {
            match change.record {
                Some(record) => drop(self.stored.insert((change.kind, change.key), record)),
                None => drop(self.stored.remove(&(change.kind, change.key))),
            }
        }
    }

    pub(crate) fn deliver(&mut self, output: Output) {
        self.commit(output.changes);
        for (name, Order { number, desired, services, .. }) in output.orders {
            let agent = self.agents.get_mut(&name).unwrap();
            if !agent.cut && agent.connected {
                agent.taken = number;
                let bad = |d: &&model::Desired| d.spec.image.as_str().contains("bad");
                agent.bad = desired.iter().filter(bad).map(|d| d.id.clone()).collect();
                agent.wanted = desired.iter().map(|d| d.id.clone()).collect();
                agent.told.extend(desired.into_iter().map(|d| (d.id.clone(), d)));
                agent.next = Some((number, services));
            }
        }
        if let Some(name) = output.ack {
            let agent = self.agents.get_mut(&name).unwrap();
            agent.lease.renew(self.time);
        }
        for name in output.disconnect {
            self.agents.get_mut(&name).unwrap().connected = false;
        }
    }

    pub(crate) fn crash_server(&mut self) {
        let records = self.stored.values().cloned().collect();
        self.core = Core::load(records, self.timing, self.now());
        for agent in self.agents.values_mut().filter(|a| !a.cut) {
            agent.connected = false;
            // The port refuses: nobody decides.
            agent.lease.renew(self.time);
        }
    }

    pub(crate) fn run(&mut self, span: u64) {
        let end = self.time + span;
        while self.time < end {
            self.time += Self::STEP;
            for name in self.agents.keys().cloned().collect::<Vec<_>>() {
                self.agent_turn(&name);
            }
            self.step(Event::Tick).unwrap();
            self.check();
        }
    }

    pub(crate) fn agent_turn(&mut self, name: &Name) {
        let time = self.time;
        let agent = self.agents.get_mut(name).unwrap();
        if !agent.lease.holds(time) && agent.lease.deadline().is_some() {
            agent.running.clear();
            agent.wanted.clear();
        }
        if let Some((order, table)) = agent.next.take() {
            (agent.routed, agent.table) = (order, table);
        }
        agent.running.retain(|id, _| agent.wanted.contains(id));
        for id in &agent.wanted {
            agent.running.entry(id.clone()).or_insert(time);
        }
        if agent.cut {
            return;
        }
        let observed: Vec<Observed> = agent
            .running
            .iter()
            .map(|(id, since)| Observed {
                id: id.clone(),
                phase: if time - since < Self::START {
                    Phase::Starting
                } else if agent.bad.contains(id) {
                    Phase::Running
                } else {
                    Phase::Ready
                },
                restarts: 0,
                address: format!("10.45.{}.{}", agent.module.slot, since % 250 + 2),
                message: String::new(),
                started: *since,
                refused: String::new(),
                connections: Some(agent.connections.get(id).copied().unwrap_or(0)),
            })
            .collect();
        if agent.connected {
            let volumes = Default::default();
            let report = AgentReport {
                taken: agent.taken,
                observed,
                routed: agent.routed,
                volumes,
                lease: model::Span(0),
            };
            self.step(Event::Heartbeat(name.clone(), report)).unwrap();
        } else {
            agent.connected = true;
            (agent.taken, agent.routed, agent.next) = (0, 0, None);
            let module = agent.module.clone();
            self.step(Event::Hello(Box::new(module), observed)).unwrap();
        }
    }

    /// On no module do two instances have one accelerator or one core, whatever the server believes.
    pub(crate) fn check_numbers(&self) {
        for (name, agent) in &self.agents {
            let (mut shares, mut cores) = (BTreeMap::new(), BTreeSet::new());
            for told in agent.running.keys().map(|id| &agent.told[id]) {
                for bound in &told.binding.accelerators {
                    *shares.entry(bound.number).or_insert(0) += bound.share.0;
                }
                // Without whole cores it is only told which ones to keep off.
                if told.spec.resources.cpu.wholes().is_some() {
                    assert!(told.binding.cores.iter().all(|core| cores.insert(*core)), "{name}: {cores:?}");
                }
            }
            assert!(shares.values().all(|milli| *milli <= Milli::WHOLE), "{name}: {shares:?}");
        }
    }

    /// The invariants.
    pub(crate) fn check(&self) {
        self.check_numbers();
        self.check_volumes();
        let mut seen: BTreeMap<String, Vec<InstanceId>> = BTreeMap::new();
        for agent in self.agents.values() {
            for id in agent.running.keys() {
                seen.entry(id.replica().to_string()).or_default().push(id.clone());
            }
        }
        for (replica, ids) in seen {
            // Two of one replica only in a planned move, which the core knows of.
            let planned = self
                .core
                .instances()
                .any(|i| i.id.replica().to_string() == replica && (i.replaces.is_some() || i.is_leaving()));
            assert!(ids.len() == 1 || planned, "{replica} runs as {ids:?} at {}", self.time);
            assert!(ids.len() <= 2, "{replica} runs as {ids:?}");
        }
        self.check_tables();
        let kept = self.core.instances().map(|i| (i.id.to_string(), Record::Instance(Box::new(i.clone()))));
        for (key, record) in kept {
            assert_eq!(
                self.stored.get(&(model::RecordKind::Instance, key)),
                Some(&record),
                "store and state differ"
            );
        }
    }

    pub(crate) fn counts(&self) -> Vec<usize> {
        self.agents.values().map(|a| a.running.len()).collect()
    }

    pub(crate) fn cut(&mut self, slot: u16, cut: bool) {
        let agent = self.agents.get_mut(&Name::of_module(slot)).unwrap();
        (agent.cut, agent.cut_at) = (cut, self.time);
        agent.connected = false;
    }

    pub(crate) fn request(&mut self, request: Request) -> Result<(), Refusal> {
        self.step(Event::Request(request))
    }

    /// No module sends a new connection to an instance that does not serve, but for what a cut has torn apart and
    /// for apps that are deleted.
    pub(crate) fn check_tables(&self) {
        let whole = |agent: &Agent| agent.connected && !agent.cut && self.time - agent.cut_at > 2000;
        for agent in self.agents.values().filter(|a| whole(a)) {
            for endpoint in agent.table.endpoints().filter(|e| !e.draining) {
                let there = &self.agents[&endpoint.module];
                let known = self.core.apps().any(|app| app.name() == &endpoint.instance.replica().app);
                if !known || !whole(there) {
                    continue;
                }
                let since = there.running.get(&endpoint.instance);
                assert!(
                    since.is_some_and(|since| self.time - since >= Self::START),
                    "{} sends connections to {} on {}, which does not serve at {}",
                    agent.module.name,
                    endpoint.instance,
                    endpoint.module,
                    self.time
                );
            }
        }
    }
}
