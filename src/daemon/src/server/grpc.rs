//! The gRPC services: who asks is checked here, what is asked goes to the shell.

use super::{
    bundles::{self, Bundles},
    pki::Pki,
    shell::{Command, Shell},
};
use crate::bundle::Shelf;
use api::{
    from_observed, from_root, from_volumes,
    v1::{self, agents_server::Agents, cluster_server::Cluster, from_agent, to_agent},
};
use identity::{Role, Token, role_of};
use model::{AppSpec, Module, Name, Observed, Span, VolumeSpec};
use planner::{AgentReport, Amounts, Refusal, Reply, Request as Ask};
use std::{
    collections::BTreeMap,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{UnboundedReceiverStream, WatchStream},
};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type LogReaders = Arc<Mutex<BTreeMap<u64, mpsc::UnboundedSender<Result<v1::LogChunk, Status>>>>>;

#[derive(Clone)]
pub(crate) struct Service {
    shell: Shell,
    pki: Arc<Pki>,
    counter: Arc<AtomicU64>,
    logs: LogReaders,
    bundles: Bundles,
}

impl Service {
    pub(crate) fn new(shell: Shell, pki: Pki, state: &Path) -> Self {
        let (counter, logs) = (Arc::new(AtomicU64::new(1)), LogReaders::default());
        let bundles = Bundles::new(Shelf::new(state.join("bundles")));
        Self { shell, pki: Arc::new(pki), counter, logs, bundles }
    }

    async fn ask(&self, ask: Ask) -> Result<Response<v1::Done>, Status> {
        let (sender, receiver) = oneshot::channel();
        if !self.shell.send(Command::Request(ask, sender)) {
            return Err(stopping());
        }
        done(receiver.await)
    }
}

/// What the shell has answered; nothing when it has ended.
fn done<E>(answer: Result<Result<Reply, Refusal>, E>) -> Result<Response<v1::Done>, Status> {
    match answer {
        Ok(Ok(reply)) => Ok(Response::new(v1::Done { lines: reply.lines })),
        Ok(Err(refusal)) => Err(Status::failed_precondition(refusal.to_string())),
        Err(_) => Err(stopping()),
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

fn role<T>(request: &Request<T>) -> Result<Role, Status> {
    let certificates =
        request.peer_certs().ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    let first =
        certificates.first().ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    role_of(first).map_err(|e| Status::permission_denied(e.to_string()))
}

fn admin<T>(request: &Request<T>) -> Result<(), Status> {
    match role(request)? {
        Role::Admin => Ok(()),
        _ => Err(Status::permission_denied("an admin's certificate is needed")),
    }
}

fn name(text: &str) -> Result<Name, Status> {
    text.parse().map_err(|e: model::SpecError| Status::invalid_argument(e.to_string()))
}

/// An amount as app files have it; none for an empty text.
fn amount<T: std::str::FromStr<Err = model::SpecError>>(text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e: model::SpecError| Status::invalid_argument(e.to_string()))
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let parse = |text: &String| {
            serde_json::from_str::<AppSpec>(text)
                .map_err(|e| Status::invalid_argument(format!("bad app: {e}")))
        };
        let specs = request.get_ref().specs_json.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let volume = |text: &String| {
            serde_json::from_str::<VolumeSpec>(text)
                .map_err(|e| Status::invalid_argument(format!("bad volume: {e}")))
        };
        let volumes = request.get_ref().volumes_json.iter().map(volume).collect::<Result<Vec<_>, _>>()?;
        self.ask(Ask::ApplyAll(volumes, specs)).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let names = request.get_ref().apps.iter().map(|n| name(n)).collect::<Result<Vec<_>, _>>()?;
        let all = request.get_ref().volumes;
        self.ask(if all { Ask::DeleteWithVolumes(names) } else { Ask::Delete(names) }).await
    }

    async fn delete_volumes(
        &self,
        request: Request<v1::DeleteVolumesRequest>,
    ) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let names = request.get_ref().volumes.iter().map(|n| name(n)).collect::<Result<Vec<_>, _>>()?;
        self.ask(Ask::DeleteVolumes(names)).await
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let v1::ScaleRequest { app, replicas } = request.into_inner();
        self.ask(Ask::Scale(name(&app)?, replicas)).await
    }

    async fn cordon(&self, request: Request<v1::CordonRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let v1::CordonRequest { module, cordoned, draining, before_update } = request.into_inner();
        let module = name(&module)?;
        let Some(before) = before_update else {
            return self.ask(Ask::Cordon { module, cordoned, draining }).await;
        };
        let before = model::Cordon { cordoned: before.cordoned, draining: before.draining };
        self.ask(Ask::SetAside(module, before)).await
    }

    async fn tables(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::PlannerTables>, Status> {
        admin(&request)?;
        let (sender, receiver) = oneshot::channel();
        if !self.shell.send(Command::Tables(sender)) {
            return Err(stopping());
        }
        receiver.await.map(Response::new).map_err(|_| stopping())
    }

    async fn maintain(&self, request: Request<v1::MaintainRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let v1::MaintainRequest { module, number, maintenance } = request.into_inner();
        self.ask(Ask::Maintenance { module: name(&module)?, number, maintenance }).await
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let v1::ResizeRequest { app, cpu, memory, disk } = request.into_inner();
        let amounts = Amounts { cpu: amount(&cpu)?, memory: amount(&memory)?, disk: amount(&disk)? };
        self.ask(Ask::Resize(name(&app)?, amounts)).await
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        self.ask(Ask::Forget(name(&request.into_inner().module)?)).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Snapshot>, Status> {
        admin(&request)?;
        Ok(Response::new(self.shell.snapshots().borrow().clone()))
    }

    async fn bundle_at(&self, request: Request<v1::BundleId>) -> Result<Response<v1::BundleStored>, Status> {
        admin(&request)?;
        let bundle = bundles::named(Some(request.get_ref()))?;
        Ok(Response::new(self.bundles.at(&bundle).await))
    }

    async fn put_bundle(
        &self,
        request: Request<Streaming<v1::BundlePart>>,
    ) -> Result<Response<v1::BundleStored>, Status> {
        admin(&request)?;
        self.bundles.take(request.into_inner()).await.map(Response::new)
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<v1::Done>, Status> {
        admin(&request)?;
        let v1::UpdateRequest { module, bundle, attempt, install } = request.into_inner();
        bundles::named(bundle.as_ref())?;
        let wanted = v1::UpdateWanted { bundle, attempt, install };
        let (answer, receiver) = oneshot::channel();
        self.shell.send(Command::Update { module: name(&module)?, wanted, answer });
        done(receiver.await)
    }

    type WatchStream = Answers<v1::Snapshot>;

    async fn watch(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::WatchStream>, Status> {
        admin(&request)?;
        Ok(Response::new(Box::pin(WatchStream::new(self.shell.snapshots()).map(Ok))))
    }

    type LogsStream = Answers<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        admin(&request)?;
        let v1::LogsRequest { instance, tail, follow } = request.into_inner();
        let module = {
            let snapshots = self.shell.snapshots();
            let snapshot = snapshots.borrow();
            let found = snapshot.instances.iter().find(|i| i.id == instance || i.replica == instance);
            let found = found.ok_or_else(|| Status::not_found(format!("there is no instance {instance}")))?;
            (found.module.clone(), found.id.clone())
        };
        let (module, instance) = module;
        if module.is_empty() {
            return Err(Status::failed_precondition(format!(
                "{instance} is not placed yet; see spacectl explain"
            )));
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let wanted = v1::LogWanted { request: number, instance, tail, follow };
        let (taken, answer) = oneshot::channel();
        self.shell.send(Command::Log { module: name(&module)?, wanted, taken });
        if !answer.await.unwrap_or(false) {
            self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            return Err(Status::failed_precondition(format!("{module} is not connected")));
        }
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Agents for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let v1::JoinRequest { token, slot, request_pem } = request.into_inner();
        let token: Token =
            token.parse().map_err(|e: identity::TokenError| Status::unauthenticated(e.to_string()))?;
        if !token.matches(&self.pki.token) {
            tracing::warn!(slot, "a wrong join token was refused");
            return Err(Status::unauthenticated(
                "the join token is wrong; copy it from the server's token file",
            ));
        }
        let slot = u16::try_from(slot).map_err(|_| Status::invalid_argument("slot is out of range"))?;
        let certificate_pem = self
            .pki
            .authority
            .sign(&request_pem, &Name::of_module(slot))
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        tracing::info!(slot, "a module joined");
        Ok(Response::new(v1::JoinReply { certificate_pem }))
    }

    async fn registry(
        &self,
        request: Request<v1::RegistryRequest>,
    ) -> Result<Response<v1::RegistryReply>, Status> {
        let Role::Agent(module) = role(&request)? else {
            return Err(Status::permission_denied("a module's certificate is needed"));
        };
        let from = request.remote_addr().map(|address| address.ip());
        let certificate_pem = self
            .pki
            .certify_registry(&request.get_ref().request_pem, &module, from)
            .await
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        tracing::info!(%module, "its registry got a certificate");
        Ok(Response::new(v1::RegistryReply { certificate_pem }))
    }

    type BundleStream = bundles::Parts;

    async fn bundle(&self, request: Request<v1::BundleFrom>) -> Result<Response<Self::BundleStream>, Status> {
        let Role::Agent(_) = role(&request)? else {
            return Err(Status::permission_denied("a module's certificate is needed"));
        };
        let v1::BundleFrom { bundle, offset } = request.into_inner();
        let bundle = bundles::named(bundle.as_ref())?;
        self.bundles.give(&bundle, offset).await.map(Response::new)
    }

    type SessionStream = Answers<v1::ToAgent>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let Role::Agent(own) = role(&request)? else {
            return Err(Status::permission_denied("a module's certificate is needed"));
        };
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::unbounded_channel();
        let timing_json =
            serde_json::to_string(&self.shell.timing()).map_err(|e| Status::internal(e.to_string()))?;
        let welcome = v1::ToAgent { message: Some(to_agent::Message::Welcome(v1::Welcome { timing_json })) };
        let _ = sender.send(welcome);
        let (shell, logs) = (self.shell.clone(), self.logs.clone());
        let session = self.counter.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            // Held by this task only until the hello: then the shell alone decides when the connection ends.
            let mut first = Some(sender);
            while let Ok(Some(v1::FromAgent { message: Some(message) })) = inbound.message().await {
                if let Err(status) = take_in(&shell, &logs, &own, session, &mut first, message) {
                    tracing::warn!(module = %own, reason = status.message(), "bad message of an agent");
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver).map(Ok))))
    }
}

fn take_in(
    shell: &Shell,
    logs: &LogReaders,
    own: &Name,
    session: u64,
    first: &mut Option<mpsc::UnboundedSender<v1::ToAgent>>,
    message: from_agent::Message,
) -> Result<(), Status> {
    match message {
        from_agent::Message::Hello(hello) => {
            let module: Module = serde_json::from_str(&hello.module_json)
                .map_err(|e| Status::invalid_argument(e.to_string()))?;
            if module.name != *own {
                return Err(Status::permission_denied("the certificate is of another module"));
            }
            let sender = first.take().ok_or_else(|| Status::invalid_argument("a second hello"))?;
            let observed = observations(hello.observed)?;
            shell.send(Command::Hello { module: Box::new(module), observed, session, sender });
        }
        from_agent::Message::Heartbeat(beat) => {
            let (taken, routed) = (beat.taken, beat.routed);
            let volumes =
                from_volumes(&beat.volumes_json).map_err(|e| Status::invalid_argument(e.to_string()))?;
            let (observed, lease) = (observations(beat.observed)?, Span(beat.lease));
            let report = AgentReport { taken, observed, routed, volumes, lease };
            shell.send(Command::Heartbeat { module: own.clone(), session, sequence: beat.sequence, report });
        }
        from_agent::Message::Root(state) => {
            let root = from_root(&state).map_err(|e| Status::invalid_argument(e.to_string()))?;
            let progress = (state.done, state.total);
            shell.send(Command::Root { module: own.clone(), session, root, progress });
        }
        from_agent::Message::Log(part) => {
            let mut readers = logs.lock().unwrap_or_else(PoisonError::into_inner);
            let chunk = if part.error.is_empty() {
                Ok(v1::LogChunk { text: part.text })
            } else {
                Err(Status::failed_precondition(part.error))
            };
            let gone = readers.get(&part.request).is_none_or(|reader| reader.send(chunk).is_err());
            if gone || part.end {
                readers.remove(&part.request);
            }
        }
    }
    Ok(())
}

fn observations(list: Vec<v1::Observed>) -> Result<Vec<Observed>, Status> {
    list.into_iter()
        .map(from_observed)
        .collect::<Result<_, _>>()
        .map_err(|e| Status::invalid_argument(e.to_string()))
}
