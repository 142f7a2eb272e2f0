//! What the server's core weighs with many modules and instances:
//! `cargo run --release -p planner --example core [MODULES [INSTANCES]]`, 10,000 and 100,000 if not told.
//!
//! Every instance is of an app of its own and carries a decision that a core has made, among more modules than a decision
//! keeps whole. All are loaded as the server loads them from its store; then one step fills the resource-state table.

use model::{
    Accelerator, App, AppFile, Bytes, Capacity, Instance, InstanceId, Milli, Module, Name, Now, Phase,
    Record, ReplicaId, Span, Timing, VolumeReport,
};
use planner::{AgentReport, Core, Event, Request};
use std::{collections::BTreeMap, error::Error, time::Duration};

type Failed = Box<dyn Error>;

/// More than a decision keeps whole: it does not grow beyond them.
const DECIDING: u16 = 64;

fn main() -> Result<(), Failed> {
    let mut told = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let modules = told.next().transpose()?.unwrap_or(10_000);
    let instances = told.next().transpose()?.unwrap_or(100_000);
    let modules = u16::try_from(modules)?;
    let (app, instance) = decided()?;
    let before = resident();
    let mut records: Vec<Record> = (1..=modules).map(|slot| Record::Module(module(slot))).collect();
    for number in 0..instances {
        let slot = 1 + u16::try_from(number % u32::from(modules))?;
        records.extend(placed(&app, &instance, number, &Name::of_module(slot))?);
    }
    let mut core = Core::load(records, Timing::default(), Now { mono: 1, wall: 1 });
    let loaded = resident() - before;
    let began = on_cpu();
    let (_, output) = core.step(Event::Tick, Now { mono: 2, wall: 2 })?;
    let step = on_cpu().saturating_sub(began);
    println!("{} modules, {} instances: {loaded:.0} MiB", core.modules().count(), core.instances().count());
    println!(
        "a step of {:.1} s of processor time changes {} records",
        step.as_secs_f64(),
        output.changes.len()
    );
    drop(output);
    println!("with {} lines of resources: {:.0} MiB", core.resources().count(), resident() - before);
    Ok(())
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
        absence: Span(0),
        root: None,
    }
}

/// An app and its instance as a core has placed it.
fn decided() -> Result<(App, Instance), Failed> {
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
    Ok((app, instance))
}

/// The same on another module, under another name.
fn placed(app: &App, instance: &Instance, number: u32, module: &Name) -> Result<[Record; 2], Failed> {
    let (mut app, mut instance) = (app.clone(), instance.clone());
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
