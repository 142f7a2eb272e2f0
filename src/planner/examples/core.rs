//! What the server's core weighs with many modules and instances, and what a step of it costs with few:
//! `cargo run --release -p planner --example core [MODULES [INSTANCES]]`, 10,000 and 100,000 if not told.
//!
//! Every instance is of an app of its own and carries a decision that a core has made, among more modules than a decision
//! keeps whole; every module has its lines of the resource-state table. All are loaded as the server loads them from
//! its store.

use model::{
    Accelerator, App, AppFile, Bytes, Capacity, Instance, InstanceId, Milli, Module, Name, Now, Phase,
    Record, ReplicaId, ResourceState, Span, Timing, VolumeReport,
};
use planner::{AgentReport, Core, Event, Request};
use std::{collections::BTreeMap, error::Error, time::Duration};

type Failed = Box<dyn Error>;

/// More than a decision keeps whole: it does not grow beyond them.
const DECIDING: u16 = 64;

/// How many modules in the pools whose steps are measured, each with ten instances a module.
const STEPPING: [u16; 4] = [8, 16, 32, 64];
const STEPS: u32 = 20;

fn main() -> Result<(), Failed> {
    let mut told = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let modules = u16::try_from(told.next().transpose()?.unwrap_or(10_000))?;
    let instances = told.next().transpose()?.unwrap_or(100_000);
    let made = decided()?;
    let before = resident();
    let core = Core::load(records(&made, modules, instances)?, Timing::default(), Now { mono: 1, wall: 1 });
    let (has, lines) = (core.instances().count(), core.resources().count());
    let weight = resident() - before;
    println!("{modules} modules, {lines} lines of resources, {has} instances: {weight:.0} MiB");
    println!("of which {:.1} KiB an instance with its app", weight_of(&made, instances)?);
    for modules in STEPPING {
        let all = records(&made, modules, u32::from(modules) * 10)?;
        let mut core = Core::load(all, Timing::default(), Now { mono: 1, wall: 1 });
        core.step(Event::Tick, Now { mono: 2, wall: 2 })?;
        let began = on_cpu();
        for step in 0..u64::from(STEPS) {
            core.step(Event::Tick, Now { mono: 3 + step, wall: 3 + step })?;
        }
        let step = (on_cpu().saturating_sub(began) / STEPS).as_secs_f64() * 1e3;
        println!(
            "{modules} modules, {} instances: {step:.2} ms of processor time a step",
            core.instances().count()
        );
    }
    Ok(())
}

/// What a placed instance and its app take, in KiB: of as many as there are, without anything else.
fn weight_of(made: &Made, instances: u32) -> Result<f64, Failed> {
    let before = resident();
    let module = Name::of_module(1);
    let all = (0..instances).map(|number| placed(made, number, &module)).collect::<Result<Vec<_>, _>>()?;
    Ok((resident() - before) * 1024.0 / all.len().max(1) as f64)
}

fn records(made: &Made, modules: u16, instances: u32) -> Result<Vec<Record>, Failed> {
    let mut records: Vec<Record> = Vec::new();
    for slot in 1..=modules {
        let name = Name::of_module(slot);
        let line = |line: &ResourceState| ResourceState { module: name.clone(), ..line.clone() };
        records.extend(made.lines.iter().map(|of_one| Record::Resource(line(of_one))));
        records.push(Record::Module(module(slot)));
    }
    for number in 0..instances {
        let slot = 1 + u16::try_from(number % u32::from(modules))?;
        records.extend(placed(made, number, &Name::of_module(slot))?);
    }
    Ok(records)
}

fn module(slot: u16) -> Module {
    let accelerator = |number: u32| Accelerator {
        number,
        pcie_slot: (number + 5).to_string(),
        address: format!("0000:{:02x}:00.0", number + 5),
        fault: String::new(),
    };
    Module {
        name: Name::of_module(slot),
        slot,
        address: "10.44.0.1".to_owned(),
        pods: "10.45.1.0/24".to_owned(),
        live: String::new(),
        capacity: Capacity {
            cpu: Milli(96_000),
            memory: Bytes(384 << 30),
            disk: Bytes(1 << 40),
            accelerators: (0..8).map(accelerator).collect(),
        },
        labels: BTreeMap::new(),
        storage: String::new(),
        kernel: "6.12.0-rt".to_owned(),
        cordoned: false,
        draining: false,
        server: false,
        lease: Span(0),
        absence: Span(0),
        root: None,
        before_update: None,
    }
}

/// What a core has made.
struct Made {
    app: App,
    instance: Instance,
    /// The resources of the instance's module.
    lines: Vec<ResourceState>,
}

/// An app and its instance as a core has placed it.
fn decided() -> Result<Made, Failed> {
    let mut core = Core::load(vec![], Timing::default(), Now { mono: 1, wall: 1 });
    for slot in 1..=DECIDING {
        core.step(Event::Hello(Box::new(module(slot)), vec![]), Now { mono: 1, wall: 1 })?;
    }
    for time in (100..=400).step_by(100) {
        for slot in 1..=DECIDING {
            let (observed, volumes) = (vec![], VolumeReport::default());
            let report = AgentReport { taken: 1, observed, routed: 1, volumes, lease: Span(0) };
            core.step(Event::Heartbeat(Name::of_module(slot), report), Now { mono: time, wall: time })?;
        }
    }
    let text = "name = 'app-0'\nimage = 'registry.spacecloud:5000/app:1.2'\nstrategy = 'spacecloud'\n\
        resources = { cpu = '500m', memory = '64MiB', gpu = '500m' }\n";
    let file = AppFile::parse("app", text)?;
    core.step(Event::Request(Request::Apply(file.apps)), Now { mono: 401, wall: 401 })?;
    let app = core.apps().next().ok_or("no app")?.clone();
    let instance = core.instances().find(|i| i.module.is_some()).ok_or("it was not placed")?.clone();
    let lines =
        core.resources().filter(|line| Some(&line.module) == instance.module.as_ref()).cloned().collect();
    Ok(Made { app, instance, lines })
}

/// The same on another module, under another name.
fn placed(made: &Made, number: u32, module: &Name) -> Result<[Record; 2], Failed> {
    let (mut app, mut instance) = (made.app.clone(), made.instance.clone());
    app.spec.name = format!("app-{number}").parse()?;
    instance.spec = app.spec.clone();
    instance.id = InstanceId::new(ReplicaId { app: app.spec.name.clone(), number: 1 }, 1);
    instance.phase = Phase::Ready;
    instance.module = Some(module.clone());
    instance.decision.chosen = Some(module.clone());
    Ok([Record::App(app), Record::Instance(Box::new(instance))])
}

/// How long this thread has had a processor; nothing where the system does not tell.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// Of this whole program, in MiB; 0 where the system does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
