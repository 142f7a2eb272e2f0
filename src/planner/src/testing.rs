//! A core whose modules are heard at each step, for the tests of its parts.

use crate::{AgentReport, Core, Event, Output, Refusal, Reply, Request};
use model::{
    Accelerator, AppFile, AppSpec, Bytes, Capacity, Instance, InstanceId, Milli, Module, Name, Now, Observed,
    Phase, Record, RecordKind, Span, Timing, VolumeKey, VolumeReport,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn module(slot: u16, accelerators: u32) -> Module {
    let accelerator = |number: u32| Accelerator {
        number,
        pcie_slot: (number + 5).to_string(),
        address: format!("0000:{:02x}:00.0", number + 5),
        fault: String::new(),
    };
    Module {
        name: Name::of_module(slot),
        slot,
        address: String::new(),
        pods: String::new(),
        live: String::new(),
        capacity: Capacity {
            cpu: Milli(8000),
            memory: Bytes(1 << 30),
            disk: Bytes(1 << 30),
            accelerators: (0..accelerators).map(accelerator).collect(),
        },
        labels: BTreeMap::new(),
        storage: if slot == 3 { String::new() } else { "10.44.0.9:/volumes".to_owned() },
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

pub(crate) fn specs(text: &str) -> Vec<AppSpec> {
    AppFile::parse("test", text).unwrap().apps
}

/// `name='NAME'` with an image and whatever else.
pub(crate) fn spec(name: &str, more: &str) -> AppSpec {
    specs(&format!("name='{name}'\nimage='r.s:5000/demo:1'\n{more}\n")).remove(0)
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Agents that do at once what they are told.
pub(crate) struct Bench {
    pub(crate) core: Core,
    pub(crate) stored: BTreeMap<(RecordKind, String), Record>,
    modules: BTreeMap<Name, Module>,
    wanted: BTreeMap<Name, (u64, Vec<InstanceId>)>,
    /// Instances that have exited with 0.
    pub(crate) done: BTreeSet<InstanceId>,
    pub(crate) silent: BTreeSet<Name>,
    /// What each module says of volumes.
    pub(crate) reports: BTreeMap<Name, VolumeReport>,
    /// What each module is told to erase.
    pub(crate) erase: BTreeMap<Name, Vec<VolumeKey>>,
    /// The lease that each module was given last.
    pub(crate) leases: BTreeMap<Name, Span>,
    pub(crate) time: u64,
    /// How far the wall clock is ahead of `time`, in milliseconds: it may jump, `time` does not.
    pub(crate) ahead: i64,
}

impl Bench {
    pub(crate) fn new(accelerators: &[u32]) -> Self {
        let modules = (1..).zip(accelerators).map(|(slot, count)| module(slot, *count));
        let mut bench = Self {
            core: Core::load(vec![], Timing::default(), Now::default()),
            stored: BTreeMap::new(),
            modules: modules.map(|m| (m.name.clone(), m)).collect(),
            wanted: BTreeMap::new(),
            done: BTreeSet::new(),
            silent: BTreeSet::new(),
            reports: BTreeMap::new(),
            erase: BTreeMap::new(),
            leases: BTreeMap::new(),
            time: 1_000_000,
            ahead: 0,
        };
        let all: Vec<Name> = bench.modules.keys().cloned().collect();
        all.iter().for_each(|name| bench.hello(name));
        bench.run(200);
        bench
    }

    pub(crate) fn hello(&mut self, name: &Name) {
        self.wanted.insert(name.clone(), (0, vec![]));
        let module = self.modules[name].clone();
        self.step(Event::Hello(Box::new(module), vec![])).unwrap();
    }

    /// Another module joins.
    pub(crate) fn join(&mut self, slot: u16, accelerators: u32) {
        self.modules.insert(Name::of_module(slot), module(slot, accelerators));
        self.hello(&Name::of_module(slot));
        self.run(200);
    }

    /// Changes what a module has; it says hello again.
    pub(crate) fn refit(&mut self, slot: u16, change: impl FnOnce(&mut Module)) {
        let name = Name::of_module(slot);
        change(self.modules.get_mut(&name).unwrap());
        self.hello(&name);
        self.run(200);
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.time, wall: self.time.saturating_add_signed(self.ahead) }
    }

    pub(crate) fn step(&mut self, event: Event) -> Result<Reply, Refusal> {
        let (reply, output) = self.core.step(event, self.now())?;
        let Output { changes, orders, ack, absence, .. } = output;
        if let Some(name) = ack {
            self.leases.insert(name, Span(Timing::default().lease.0 + absence.0));
        }
        for change in changes {
            match change.record {
                Some(record) => drop(self.stored.insert((change.kind, change.key), record)),
                None => drop(self.stored.remove(&(change.kind, change.key))),
            }
        }
        for (name, order) in orders {
            self.erase.insert(name.clone(), order.erase);
            self.wanted.insert(name, (order.number, order.desired.into_iter().map(|d| d.id).collect()));
        }
        Ok(reply)
    }

    /// The server's process is another one from now on.
    pub(crate) fn restart(&mut self) {
        let records = self.stored.values().cloned().collect();
        self.core = Core::load(records, Timing::default(), self.now());
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, Refusal> {
        self.step(Event::Request(request))
    }

    pub(crate) fn apply(&mut self, specs: Vec<AppSpec>) -> Result<Reply, Refusal> {
        self.ask(Request::Apply(specs))
    }

    /// In steps of 100 ms.
    pub(crate) fn run(&mut self, span: u64) {
        let end = self.time + span;
        while self.time < end {
            self.time += 100;
            for (name, (taken, wanted)) in self.wanted.clone() {
                if self.silent.contains(&name) {
                    continue;
                }
                let observed = |id: &InstanceId| Observed {
                    id: id.clone(),
                    phase: if self.done.contains(id) { Phase::Succeeded } else { Phase::Ready },
                    restarts: 0,
                    address: String::new(),
                    message: String::new(),
                    started: 1,
                    connections: None,
                    refused: String::new(),
                };
                let observed = wanted.iter().map(observed).collect();
                let volumes = self.reports.get(&name).cloned().unwrap_or_default();
                let lease = self.leases.get(&name).copied().unwrap_or_default();
                let report = AgentReport { taken, observed, routed: taken, volumes, lease };
                self.step(Event::Heartbeat(name, report)).unwrap();
            }
            self.step(Event::Tick).unwrap();
        }
    }

    /// The one instance of an app that is not on its way out.
    pub(crate) fn of(&self, app: &str) -> &Instance {
        let mut found = self.core.instances().filter(|i| i.spec.name.as_str() == app && !i.is_stopping());
        let one = found.next().unwrap_or_else(|| panic!("no instance of {app}"));
        assert!(found.next().is_none(), "more than one instance of {app}");
        one
    }

    /// Where it is and with which accelerators: `module-1 0 1`.
    pub(crate) fn place(&self, app: &str) -> String {
        let instance = self.of(app);
        let module = instance.module.as_ref().map_or("nowhere", Name::as_str);
        let numbers: Vec<String> = instance.binding.numbers().map(|n| format!(" {n}")).collect();
        format!("{module}{}", numbers.concat())
    }

    pub(crate) fn plan(&self, task: &str) -> &model::Plan {
        self.core.plans().find(|p| p.task.as_str() == task).unwrap_or_else(|| panic!("no plan of {task}"))
    }
}
