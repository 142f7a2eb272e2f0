//! The source's side of a live move: serves a running instance's process to the one agent that the server has named.
//!
//! ```text
//!  free ──Take──► copying ──freeze──► frozen ──all sent──► given ──order without it──► stopped
//!    ▲               │                   │                   │
//!    └── any error ──┴──── thaw ─────────┘      thaw ◄───────┘ order that calls it off
//! ```
//! What each step is for is drawn at [`model::Live`].

use super::{instances::Instances, joining};
use crate::{chain, config::Config};
use api::v1::{
    self,
    move_part::Part,
    moves_server::{Moves, MovesServer},
};
use identity::{Role, role_of};
use model::{InstanceId, Live, Name};
use runtime::{LiveMoves, Pack};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// Parts under way: what a slow target does not take stays on the disk.
const WINDOW: usize = 8;
/// Rounds while the process runs; each carries what changed during the one before.
const ROUNDS: u32 = 3;
/// A round of no more bytes is the last: less is not to be won.
const ENOUGH: u64 = 1 << 20;
/// A target that is gone without a word is noticed in this time.
const SILENCE: Duration = Duration::from_secs(40);
/// For the server's word that the target has had already.
const HEARSAY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_millis(500);

/// How far an instance is in being given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is not.
    Free,
    /// Its memory is being copied while it runs.
    Copying,
    /// It does nothing; what fails lets it go on.
    Frozen,
    /// It does nothing, and another module may run it: only the server's word counts.
    Given,
}

impl Hold {
    /// The process does nothing.
    pub(super) fn is_frozen(self) -> bool {
        matches!(self, Self::Frozen | Self::Given)
    }
}

/// Where checkpoints lie while they are under way.
pub(super) fn folder(config: &Config) -> PathBuf {
    config.state.join("live")
}

/// Begins to serve; answers where, or nothing when this module moves nothing live.
pub(super) async fn start(config: &Config, instances: &Arc<Instances>) -> Option<String> {
    instances.runtime.live()?;
    // What an earlier process has left; what is still needed is in the target's hands, or is made anew.
    let _ = std::fs::remove_dir_all(folder(config));
    let listener = match TcpListener::bind(&config.agent.live).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(listen = %config.agent.live, %error, "nothing is moved live from here");
            return None;
        }
    };
    let port = listener.local_addr().ok()?.port();
    let slot = config.slot().ok()?.to_string();
    let address = format!("{}:{port}", config.agent.backplane.replace("{slot}", &slot));
    let giver = Giver { instances: instances.clone(), folder: folder(config) };
    tokio::spawn(serve(config.clone(), listener, giver));
    Some(address)
}

/// Serves as soon as this module has its certificate.
async fn serve(config: Config, listener: TcpListener, giver: Giver) {
    let membership = loop {
        if let Some(membership) = joining::kept(&config) {
            break membership;
        }
        tokio::time::sleep(RETRY).await;
    };
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&membership.own.certificate, &membership.own.key))
        .client_ca_root(Certificate::from_pem(&membership.ca));
    let router = match Server::builder().tls_config(tls) {
        Ok(builder) => builder
            .http2_keepalive_interval(Some(SILENCE / 2))
            .http2_keepalive_timeout(Some(SILENCE / 2))
            .add_service(MovesServer::new(giver)),
        Err(error) => {
            tracing::error!(error = %chain(&error), "cannot serve live moves");
            return;
        }
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    if let Err(error) = router.serve_with_incoming(incoming).await {
        tracing::error!(%error, "live moves are no longer served");
    }
}

#[derive(Clone)]
struct Giver {
    instances: Arc<Instances>,
    folder: PathBuf,
}

type Parts = mpsc::Sender<Result<v1::MovePart, Status>>;

#[tonic::async_trait]
impl Moves for Giver {
    type TakeStream = ReceiverStream<Result<v1::MovePart, Status>>;

    async fn take(&self, request: Request<v1::TakeRequest>) -> Result<Response<Self::TakeStream>, Status> {
        let certificates = request.peer_certs().unwrap_or_default();
        let certificate = certificates.first().map(|der| role_of(der));
        let Some(Ok(Role::Agent(asker))) = certificate else {
            return Err(Status::permission_denied("a module's certificate is needed"));
        };
        let v1::TakeRequest { instance, successor } = request.into_inner();
        let parse =
            |text: &str| text.parse::<InstanceId>().map_err(|e| Status::invalid_argument(e.to_string()));
        let (id, successor) = (parse(&instance)?, parse(&successor)?);
        let asked = tokio::time::Instant::now();
        // Two modules get their orders one after the other: the target may have heard of it first.
        while let Err(why) = self.instances.begin_giving(&id, &asker, &successor) {
            if asked.elapsed() >= HEARSAY {
                return Err(Status::failed_precondition(why));
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(instance = %id, to = %asker, "asked for its process");
        let (out, parts) = mpsc::channel(WINDOW);
        let giver = self.clone();
        tokio::spawn(async move { giver.give(&id, &out).await });
        Ok(Response::new(ReceiverStream::new(parts)))
    }
}

impl Giver {
    async fn give(&self, id: &InstanceId, out: &Parts) {
        let place = self.folder.join(id.to_string());
        let Some(live) = self.instances.runtime.live() else { return };
        let outcome = self.send_all(live, id, &place, out).await;
        let _ = std::fs::remove_dir_all(&place);
        let Err(why) = outcome else { return };
        tracing::warn!(instance = %id, %why, "its process stays here");
        if self.instances.hold_of(id).is_frozen() {
            while let Err(error) = live.thaw(id).await {
                tracing::error!(instance = %id, error = %chain(&error), "cannot thaw; trying again");
                tokio::time::sleep(RETRY).await;
                if !self.instances.knows(id) {
                    break;
                }
            }
        }
        self.instances.hold(id, Hold::Free);
        let _ = out.send(Err(Status::failed_precondition(why))).await;
    }

    async fn send_all(
        &self,
        live: &dyn LiveMoves,
        id: &InstanceId,
        place: &Path,
        out: &Parts,
    ) -> Result<(), String> {
        let failed = |error: runtime::RuntimeError| chain(&error);
        let _ = std::fs::remove_dir_all(place);
        let mut last: Option<String> = None;
        for round in 0..ROUNDS {
            let name = round.to_string();
            let to = place.join(&name);
            if let Err(error) = live.copy(id, &to, last.as_deref()).await {
                // A kernel that does not track what changes takes no rounds; all of it then goes at once.
                tracing::info!(instance = %id, error = %chain(&error), "no copy ahead");
                let _ = std::fs::remove_dir_all(&to);
                break;
            }
            let bytes = self.send_folder(&to, Part::Round(name.clone()), out).await?;
            last = Some(name);
            if bytes <= ENOUGH {
                break;
            }
        }
        if !self.instances.is_giving(id) {
            return Err("the server has called it off".to_owned());
        }
        // Before the deed: whoever looks in between must not take the process for one that runs.
        self.instances.hold(id, Hold::Frozen);
        send(out, Part::Frozen(true)).await?;
        live.freeze(id).await.map_err(failed)?;
        let name = "all".to_owned();
        let to = place.join(&name);
        live.checkpoint(id, &to, last.as_deref()).await.map_err(failed)?;
        self.send_folder(&to, Part::Round(name.clone()), out).await?;
        let files = live.files(id).await.map_err(failed)?;
        self.send_folder(&files, Part::Files(true), out).await?;
        if !self.instances.mark_given(id) {
            return Err("the server has called it off".to_owned());
        }
        // A target that did not get this does not have all.
        send(out, Part::All(name)).await.inspect_err(|_| self.instances.hold(id, Hold::Frozen))
    }

    /// Answers how many bytes it was.
    async fn send_folder(&self, folder: &Path, begin: Part, out: &Parts) -> Result<u64, String> {
        let failed = |error: runtime::RuntimeError| chain(&error);
        send(out, begin).await?;
        let mut pack = Pack::open(folder).map_err(failed)?;
        let mut sent = 0;
        while let Some(bytes) = pack.next().await.map_err(failed)? {
            sent += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            send(out, Part::Data(bytes)).await?;
        }
        Ok(sent)
    }
}

async fn send(out: &Parts, part: Part) -> Result<(), String> {
    let message = v1::MovePart { part: Some(part) };
    out.send(Ok(message)).await.map_err(|_| "the other module is gone".to_owned())
}

/// Whether the server wants `successor` on `asker` to have the process of an instance with this part.
pub(super) fn is_for(live: Option<&Live>, asker: &Name, successor: &InstanceId) -> bool {
    matches!(live, Some(Live::Gives { to, successor: of }) if to == asker && of == successor)
}
