//! Snapshots to render.
use api::v1::{App, Event, Instance, Module, Snapshot};

/// The server's clock in these snapshots.
pub(crate) const NOW: u64 = 1_800_000_000_000;

pub(crate) fn snapshot() -> Snapshot {
    Snapshot { server_version: "0.1.0".into(), at: NOW, ..Snapshot::default() }
}

pub(crate) fn app(name: &str, ready: u32, replicas: u32) -> App {
    App {
        name: name.into(),
        image: format!("registry.spacecloud:5000/{name}:1"),
        replicas,
        ready,
        revision: 1,
        created: NOW - 12_000,
        strategy: "spread".into(),
        ..App::default()
    }
}

pub(crate) fn instance(id: &str, module: &str) -> Instance {
    let mut parts = id.rsplitn(3, '-');
    let _incarnation = parts.next().unwrap();
    let number = parts.next().unwrap();
    let app = parts.next().unwrap();
    Instance {
        id: id.into(),
        replica: format!("{app}/{number}"),
        app: app.into(),
        module: module.into(),
        phase: "ready".into(),
        address: "10.42.1.7".into(),
        started: NOW - 200_000,
        image: format!("registry.spacecloud:5000/{app}:1"),
        ..Instance::default()
    }
}

pub(crate) fn module(name: &str, state: &str) -> Module {
    Module {
        name: name.into(),
        slot: 1,
        state: state.into(),
        address: "10.0.0.1".into(),
        pods: "10.42.1.0/24".into(),
        kernel: "6.12-rt".into(),
        cpu_milli: 2000,
        memory: 1 << 30,
        disk: 4 << 30,
        cpu_milli_asked: 500,
        memory_asked: 256 << 20,
        instances: 3,
        ..Module::default()
    }
}

pub(crate) fn event(number: u64, severity: &str, message: &str) -> Event {
    Event {
        number,
        at: NOW - 3_000,
        severity: severity.into(),
        subject: "module-3".into(),
        reason: "Lost".into(),
        message: message.into(),
    }
}
