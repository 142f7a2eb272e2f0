//! A server that keeps the contract's form: it notes what it is asked, and shows the snapshot it is given.
// Each test program is compiled by itself and uses a part of this.
#![allow(dead_code, unused_imports)]

mod link;
mod slots;

pub(crate) use link::Link;
pub(crate) use slots::{Fate, slotted};

use crate::common;
use api::v1::{
    App, ApplyRequest, BundleId, BundlePart, BundleStored, CordonRequest, DeleteRequest,
    DeleteVolumesRequest, Done, ForgetRequest, GetRequest, Instance, LogChunk, LogsRequest, MaintainRequest,
    Module, PlannerTables, ResizeRequest, ScaleRequest, Snapshot, UpdateRequest,
    cluster_server::{Cluster, ClusterServer},
};
use identity::{Authority, Role};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, iter, wrappers::WatchStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server shows; each watch ends when its generation is over.
#[derive(Clone, Default)]
struct Shown {
    snapshot: Snapshot,
    tables: PlannerTables,
    generation: u32,
}

#[derive(Clone)]
struct Desk {
    asked: Arc<Mutex<Vec<String>>>,
    shown: watch::Sender<Shown>,
    slots: slots::Desk,
}

/// A running server, its cluster's authority, and the home of its operator.
pub(crate) struct Serving {
    desk: Desk,
    address: SocketAddr,
    home: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Serving {
    pub(crate) fn start() -> Self {
        let (authority, _) = Authority::create().unwrap();
        let papers = authority.issue(&Role::Server, &[api::SERVER_NAME.to_owned()]).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(papers.certificate, papers.key))
            .client_ca_root(Certificate::from_pem(authority.certificate()));
        let desk = Desk {
            asked: Arc::default(),
            shown: watch::Sender::new(Shown::default()),
            slots: Default::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = ClusterServer::new(desk.clone());
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            let router = Server::builder().tls_config(tls).unwrap().add_service(service);
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self { desk, address, home: common::home(&authority, &address.to_string()), runtime }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked to change, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.desk.asked.lock().unwrap().clone()
    }

    /// Changes what it shows; watches see it.
    pub(crate) fn show(&self, change: impl FnOnce(&mut Snapshot)) {
        self.desk.shown.send_modify(|shown| change(&mut shown.snapshot));
    }

    /// Changes the planner's tables.
    pub(crate) fn show_tables(&self, change: impl FnOnce(&mut PlannerTables)) {
        self.desk.shown.send_modify(|shown| change(&mut shown.tables));
    }

    /// What becomes of a module that is updated.
    pub(crate) fn destine(&self, module: &str, fate: Fate) {
        self.desk.slots.destine(module, fate);
    }

    /// Ends the watches of this moment, as a restart does.
    pub(crate) fn cut_watches(&self) {
        self.desk.shown.send_modify(|shown| shown.generation += 1);
    }

    /// Closes every connection at once.
    pub(crate) fn stop(self) {
        self.runtime.shutdown_background();
    }
}

impl Desk {
    fn note(&self, line: String) -> Answer<Done> {
        self.asked.lock().unwrap().push(line.clone());
        Ok(Response::new(Done { lines: vec![line] }))
    }
}

#[tonic::async_trait]
impl Cluster for Desk {
    type WatchStream = Flow<Snapshot>;
    type LogsStream = Flow<LogChunk>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<Done> {
        let ApplyRequest { specs_json: specs, volumes_json } = request.into_inner();
        if specs.len() == 2 && specs.first() == specs.last() {
            return Err(Status::invalid_argument("app cam appears twice"));
        }
        self.note(specs.iter().chain(&volumes_json).map(String::as_str).collect::<Vec<_>>().join(" "))?;
        let mut lines = vec![format!("{} apps", specs.len())];
        lines.extend(volumes_json.first().map(|_| format!("{} volumes", volumes_json.len())));
        Ok(Response::new(Done { lines }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<Done> {
        let DeleteRequest { apps, volumes } = request.into_inner();
        let with = if volumes { " with volumes" } else { "" };
        self.note(format!("delete {}{with}", apps.join(",")))
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Answer<Done> {
        let ScaleRequest { app, replicas } = request.into_inner();
        self.note(format!("scale {app} {replicas}"))
    }

    async fn cordon(&self, request: Request<CordonRequest>) -> Answer<Done> {
        let CordonRequest { module, cordoned, draining, before_update } = request.into_inner();
        match module.as_str() {
            "module-9" => Err(Status::not_found("there is no module-9")),
            "module-8" => Err(Status::unavailable("the server is starting")),
            _ => {
                slots::drain(&self.shown, &module, cordoned, draining, before_update);
                self.note(format!("{module} cordoned={cordoned} draining={draining}"))
            }
        }
    }

    async fn get(&self, _: Request<GetRequest>) -> Answer<Snapshot> {
        Ok(Response::new(self.shown.borrow().snapshot.clone()))
    }

    async fn watch(&self, _: Request<GetRequest>) -> Answer<Self::WatchStream> {
        let begun = self.shown.borrow().generation;
        let flow = WatchStream::new(self.shown.subscribe());
        let flow = flow.take_while(move |shown| shown.generation == begun).map(|shown| Ok(shown.snapshot));
        Ok(Response::new(Box::pin(flow)))
    }

    async fn tables(&self, _: Request<GetRequest>) -> Answer<PlannerTables> {
        Ok(Response::new(self.shown.borrow().tables.clone()))
    }

    async fn maintain(&self, request: Request<MaintainRequest>) -> Answer<Done> {
        let MaintainRequest { module, number, maintenance } = request.into_inner();
        self.note(format!("maintain {module} {number} {maintenance}"))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Answer<Done> {
        let ResizeRequest { app, cpu, memory, disk } = request.into_inner();
        self.note(format!("resize {app} cpu={cpu} memory={memory} disk={disk}"))
    }

    async fn forget(&self, request: Request<ForgetRequest>) -> Answer<Done> {
        self.note(format!("forget {}", request.into_inner().module))
    }

    async fn bundle_at(&self, request: Request<BundleId>) -> Answer<BundleStored> {
        Ok(Response::new(self.slots.stored(&request.into_inner())))
    }

    async fn put_bundle(&self, request: Request<Streaming<BundlePart>>) -> Answer<BundleStored> {
        self.slots.take(request.into_inner()).await.map(Response::new)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<Done> {
        let request = request.into_inner();
        let line = format!("{} {}", if request.install { "install" } else { "check" }, request.module);
        slots::carry_out(self.slots.fate(&request.module), &request, &self.shown);
        self.note(line)
    }

    async fn delete_volumes(&self, request: Request<DeleteVolumesRequest>) -> Answer<Done> {
        self.note(format!("delete volumes {}", request.into_inner().volumes.join(",")))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        let LogsRequest { instance, tail, follow } = request.into_inner();
        let chunks = [format!("{instance} tail={tail} follow={follow}\nre"), "st\n".to_owned()];
        Ok(Response::new(Box::pin(iter(chunks.map(|text| Ok(LogChunk { text: text.into_bytes() }))))))
    }
}

pub(crate) fn app(name: &str) -> App {
    App { name: name.into(), replicas: 1, ready: 1, ..App::default() }
}

pub(crate) fn instance(id: &str, module: &str, phase: &str) -> Instance {
    let mut parts = id.split('-');
    let (app, number) = (parts.next().unwrap(), parts.next().unwrap());
    Instance {
        id: id.into(),
        replica: format!("{app}/{number}"),
        app: app.into(),
        module: module.into(),
        phase: phase.into(),
        ..Instance::default()
    }
}

pub(crate) fn module(name: &str) -> Module {
    Module { name: name.into(), state: "ready".into(), ..Module::default() }
}
