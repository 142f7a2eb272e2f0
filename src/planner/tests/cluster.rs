//! The core against agents that are modelled here: they run what they are told, stop what they are not, and
//! fence themselves when their lease runs out. Random sequences of partitions, crashes and requests must never
//! make a replica run twice, nor lose one for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use model::{
    Accelerator, AppFile, AppSpec, Bytes, Capacity, Desired, InstanceId, Liveness, Milli, Module, Name, Now,
    Observed, Phase, Record, ServiceTable, Timing,
};
use planner::{AgentReport, Core, Event, Lease, Order, Output, Refusal, Request};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

mod clock;
mod moves;
mod volumes;

fn accelerator(number: u32) -> Accelerator {
    let pcie_slot = (number + 5).to_string();
    Accelerator { number, pcie_slot, address: String::new(), fault: String::new() }
}

fn module(slot: u16) -> Module {
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
        absence: model::Span(0),
        root: None,
    }
}

fn spec(name: &str, more: &str) -> AppSpec {
    let text = format!("name='{name}'\nimage='registry.spacecloud:5000/demo:1'\n{more}\n");
    AppFile::parse("test", &text).unwrap().apps.remove(0)
}

/// Where the wall clock begins, in milliseconds: it may also jump to before that.
const HOUR: u64 = 3_600_000;

/// One module's agent, as simple as one can be.
struct Agent {
    module: Module,
    connected: bool,
    cut: bool,
    lease: Lease,
    taken: u64,
    wanted: Vec<InstanceId>,
    told: BTreeMap<InstanceId, Desired>,
    running: BTreeMap<InstanceId, u64>,
    /// Those that never get ready: their image is bad.
    bad: BTreeSet<InstanceId>,
    /// Where it sends new connections, and the order that it came with. It takes a turn to set a new one.
    table: ServiceTable,
    routed: u64,
    next: Option<(u64, ServiceTable)>,
    /// When it was last cut off or came back.
    cut_at: u64,
    /// Connections that an instance is modelled to have while it drains.
    connections: BTreeMap<InstanceId, u32>,
}

struct World {
    core: Core,
    stored: BTreeMap<(model::RecordKind, String), Record>,
    agents: BTreeMap<Name, Agent>,
    time: u64,
    /// How far the wall clock is ahead of where it began, in milliseconds: it may jump, `time` does not.
    ahead: i64,
    timing: Timing,
    /// So many steps from now the server dies between what it commits and what it sends.
    dies_in: Option<u32>,
}

impl World {
    const STEP: u64 = 50;
    /// From the order to a healthy instance.
    const START: u64 = 200;

    fn new(slots: u16) -> Self {
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

    fn now(&self) -> Now {
        Now { mono: self.time, wall: (HOUR + self.time).saturating_add_signed(self.ahead) }
    }

    fn step(&mut self, event: Event) -> Result<(), Refusal> {
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

    fn commit(&mut self, changes: Vec<planner::Change>) {
        for change in changes {
            match change.record {
                Some(record) => drop(self.stored.insert((change.kind, change.key), record)),
                None => drop(self.stored.remove(&(change.kind, change.key))),
            }
        }
    }

    fn deliver(&mut self, output: Output) {
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

    fn crash_server(&mut self) {
        let records = self.stored.values().cloned().collect();
        self.core = Core::load(records, self.timing, self.now());
        for agent in self.agents.values_mut().filter(|a| !a.cut) {
            agent.connected = false;
            // The port refuses: nobody decides.
            agent.lease.renew(self.time);
        }
    }

    fn run(&mut self, span: u64) {
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

    fn agent_turn(&mut self, name: &Name) {
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
    fn check_numbers(&self) {
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
    fn check(&self) {
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

    fn counts(&self) -> Vec<usize> {
        self.agents.values().map(|a| a.running.len()).collect()
    }

    fn cut(&mut self, slot: u16, cut: bool) {
        let agent = self.agents.get_mut(&Name::of_module(slot)).unwrap();
        (agent.cut, agent.cut_at) = (cut, self.time);
        agent.connected = false;
    }

    fn request(&mut self, request: Request) -> Result<(), Refusal> {
        self.step(Event::Request(request))
    }
}

fn ten(world: &mut World) {
    let apps = (0..10)
        .map(|n| spec(&format!("app-{n}"), "resources = { cpu = '100m', memory = '16MiB' }"))
        .collect();
    world.request(Request::Apply(apps)).unwrap();
    world.run(1000);
}

/// The main job: 4/3/3, cut one, 5/5, back, delete four, 2/2/2.
#[test]
fn ten_apps_survive_a_module_and_move_back() {
    let mut world = World::new(3);
    ten(&mut world);
    let mut counts = world.counts();
    counts.sort_unstable();
    assert_eq!(counts, [3, 3, 4]);
    world.cut(3, true);
    world.run(1500);
    assert_eq!(world.counts(), [5, 5, 0]);
    world.cut(3, false);
    world.run(300);
    assert_eq!(world.counts()[2], 0, "nothing moves before the module has settled");
    let on = |world: &World, slot: u16| -> Vec<Name> {
        let module = Some(Name::of_module(slot));
        world.core.instances().filter(|i| i.module == module).map(|i| i.spec.name.clone()).collect()
    };
    let doomed: Vec<Name> =
        on(&world, 1).into_iter().take(2).chain(on(&world, 2).into_iter().take(2)).collect();
    world.request(Request::Delete(doomed)).unwrap();
    world.run(5000);
    assert_eq!(world.counts(), [2, 2, 2]);
    world.run(20_000);
    assert_eq!(world.counts(), [2, 2, 2], "a balanced cluster stays as it is");
}

#[test]
fn failover_takes_lease_margin_and_start() {
    let mut world = World::new(3);
    ten(&mut world);
    world.cut(2, true);
    let limit = world.timing.lease.0 + world.timing.margin.0 + World::START + 4 * World::STEP;
    world.run(limit);
    assert_eq!(world.counts().iter().sum::<usize>(), 10);
    assert!(world.core.instances().all(|i| i.is_ready()));
}

#[test]
fn a_drain_empties_a_module_and_uncordon_fills_it() {
    let mut world = World::new(3);
    ten(&mut world);
    let module = Name::of_module(1);
    world.request(Request::Cordon { module: module.clone(), cordoned: true, draining: true }).unwrap();
    world.run(4000);
    assert_eq!(world.counts(), [0, 5, 5]);
    world.request(Request::Cordon { module, cordoned: false, draining: false }).unwrap();
    world.run(4000);
    assert_eq!(world.counts().iter().max(), Some(&4));
}

#[test]
fn a_server_crash_moves_nothing() {
    let mut world = World::new(3);
    ten(&mut world);
    let before: Vec<_> = world.agents.values().map(|a| a.running.clone()).collect();
    world.crash_server();
    world.run(5000);
    let after: Vec<_> = world.agents.values().map(|a| a.running.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn requests_are_refused_whole() {
    let mut world = World::new(2);
    let twice = vec![spec("a", ""), spec("a", "")];
    assert!(matches!(world.request(Request::Apply(twice)), Err(Refusal::Spec(_))));
    let big = vec![spec("b", ""), spec("c", "resources = { memory = '64GiB' }")];
    let error = world.request(Request::Apply(big)).unwrap_err().to_string();
    assert!(error.contains("no module is large enough") && error.contains("memory"), "{error}");
    assert!(matches!(world.request(Request::Delete(vec!["x".parse().unwrap()])), Err(Refusal::NoApp(_))));
    assert_eq!(world.core.apps().count(), 0);
}

#[test]
fn what_does_not_fit_waits_and_says_why() {
    let mut world = World::new(2);
    world.request(Request::Apply(vec![spec("a", "replicas = 3\nplacement = { apart = ['a'] }")])).unwrap();
    world.run(1000);
    let pending: Vec<_> = world.core.instances().filter(|i| i.phase == Phase::Pending).collect();
    assert_eq!(pending.len(), 1);
    assert!(pending[0].message.contains("keeps apart"), "{}", pending[0].message);
}

#[test]
fn an_update_replaces_instances_one_after_the_other() {
    let mut world = World::new(3);
    world.request(Request::Apply(vec![spec("a", "replicas = 3")])).unwrap();
    world.run(1000);
    world.request(Request::Apply(vec![spec("a", "replicas = 3\nenv = { x = '1' }")])).unwrap();
    world.run(4000);
    assert!(world.core.instances().all(|i| i.is_ready() && i.spec.env.contains_key("x")));
    assert_eq!(world.core.instances().count(), 3);
}

impl World {
    /// No module sends a new connection to an instance that does not serve, but for what a cut has torn apart and
    /// for apps that are deleted.
    fn check_tables(&self) {
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

#[derive(Debug, Clone)]
enum Act {
    Run(u64),
    Cut(u16),
    Rejoin(u16),
    CrashServer,
    Apply(u8, u32),
    Update(u8, u8, bool),
    Scale(u8, u32),
    Delete(u8),
    Drain(u16),
    Uncordon(u16),
    Numbered(u8, u32, bool),
    Maintain(u16, u32, bool),
    Clock(i64),
}

/// Even numbers have a service; each third moves stop-first.
fn serving(number: u8, more: &str) -> AppSpec {
    let ports = if number.is_multiple_of(2) { "ports = [{ container = 8080, service = 80 }]" } else { "" };
    let planned = if number % 3 == 2 { "planned = 'stop-first', " } else { "" };
    let rest =
        format!("migration = {{ {planned}drain = '1s' }}\nupdate = {{ within = '3s' }}\n{ports}\n{more}");
    spec(&format!("app-{number}"), &rest)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (50u64..2000).prop_map(Act::Run),
        2 => (1u16..=3).prop_map(Act::Cut),
        2 => (1u16..=3).prop_map(Act::Rejoin),
        1 => Just(Act::CrashServer),
        3 => (0u8..6, 1u32..4).prop_map(|(n, r)| Act::Apply(n, r)),
        2 => (0u8..6, 0u8..3, any::<bool>()).prop_map(|(n, v, bad)| Act::Update(n, v, bad)),
        1 => (0u8..6, 0u32..4).prop_map(|(n, r)| Act::Scale(n, r)),
        1 => (0u8..6).prop_map(Act::Delete),
        1 => (1u16..=3).prop_map(Act::Drain),
        1 => (1u16..=3).prop_map(Act::Uncordon),
        2 => (0u8..3, 1u32..3, any::<bool>()).prop_map(|(n, r, whole)| Act::Numbered(n, r, whole)),
        1 => (1u16..=3, 0u32..3, any::<bool>()).prop_map(|(m, n, on)| Act::Maintain(m, n, on)),
        1 => (-3_600_000i64..3_600_000).prop_map(Act::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_twice_and_nothing_is_lost(acts in prop::collection::vec(act(), 1..40)) {
        let mut world = World::new(3);
        for act in acts {
            // A refused request changes nothing; the invariants are checked at each step of time.
            match act {
                Act::Run(span) => world.run(span),
                Act::Cut(slot) => world.cut(slot, true),
                Act::Rejoin(slot) => world.cut(slot, false),
                Act::CrashServer => world.crash_server(),
                Act::Clock(by) => world.ahead += by,
                Act::Apply(n, r) => drop(world.request(Request::Apply(vec![serving(n, &format!("replicas = {r}"))]))),
                Act::Update(n, version, bad) => moves::update(&mut world, n, version, bad),
                Act::Scale(n, r) => drop(world.request(Request::Scale(format!("app-{n}").parse().unwrap(), r))),
                Act::Delete(n) => drop(world.request(Request::Delete(vec![format!("app-{n}").parse().unwrap()]))),
                Act::Drain(slot) => drop(world.request(Request::Cordon { module: Name::of_module(slot), cordoned: true, draining: true })),
                Act::Numbered(n, r, whole) => {
                    let gpu = if whole { "1" } else { "'600m'" };
                    let more = format!("replicas = {r}\nresources = {{ cpu = '1', gpu = {gpu} }}");
                    drop(world.request(Request::Apply(vec![spec(&format!("gpu-{n}"), &more)])));
                }
                Act::Maintain(slot, number, maintenance) => {
                    let module = Name::of_module(slot);
                    drop(world.request(Request::Maintenance { module, number, maintenance }));
                }
                Act::Uncordon(slot) => drop(world.request(Request::Cordon { module: Name::of_module(slot), cordoned: false, draining: false })),
            }
        }
        for slot in 1..=3 {
            world.cut(slot, false);
            world.request(Request::Cordon { module: Name::of_module(slot), cordoned: false, draining: false }).unwrap();
            for number in 0..3 {
                let module = Name::of_module(slot);
                world.request(Request::Maintenance { module, number, maintenance: false }).unwrap();
            }
        }
        world.run(60_000);
        prop_assert!(world.core.apps().all(|app| app.rollout.is_none() || app.spec.replicas == 0));
        let wanted: u32 = world.core.apps().map(|a| a.spec.replicas).sum();
        prop_assert!(world.core.modules().all(|(_, l)| l == Liveness::Ready));
        prop_assert!(world.core.instances().all(|i| i.is_ready() && i.replaces.is_none()));
        prop_assert_eq!(world.core.instances().count(), wanted as usize);
        prop_assert_eq!(world.counts().iter().sum::<usize>(), wanted as usize);
    }
}
