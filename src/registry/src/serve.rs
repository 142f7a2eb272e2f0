//! The port: accept, shake hands, hand over to the router, stop in good order.

use crate::{
    audit::Trail,
    auth::{Guard, PasswordError},
    command::Settings,
    http::{self, Origin, Service},
    lanes::Lanes,
    peer::{PeerError, Peers},
    store::{Store, StoreError},
    tls,
    upkeep::{self, Counts},
    wire::Wire,
};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use std::{error::Error, fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

pub use crate::tls::TlsError;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// What a connection reads at a time. More saves no time worth the memory of many pushes at once.
const READ_AT_ONCE: usize = 64 << 10;
const REQUEST_HEAD: Duration = Duration::from_secs(30);
/// How long requests may still run after SIGTERM.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// More connections than these wait for others to end: memory has an end, too.
const MOST_CONNECTIONS: usize = 2048;

/// Why the registry cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The directory of the images.
    #[error("cannot open the images")]
    Store(#[from] StoreError),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password file.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// A registry to follow.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The audit file.
    #[error("audit.file {} cannot be written", file.display())]
    Audit {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port.
    #[error("cannot listen on {address}; choose another with \"listen\"")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// `--port-file`.
    #[error("cannot write the port to {}", file.display())]
    PortFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A second one.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// SIGTERM or SIGINT.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl ServeError {
    /// The exit code: 78 when the configuration must be corrected, else 1.
    pub fn exit_code(&self) -> u8 {
        let configuration =
            matches!(self, Self::Tls(_) | Self::Passwords(_) | Self::Peer(_) | Self::Audit { .. });
        if configuration { 78 } else { 1 }
    }
}

/// An error with the whole chain of its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub async fn run(settings: Settings) -> Result<(), ServeError> {
    let store = Arc::new(Store::open(&settings.root, settings.limits())?);
    let acceptor = match &settings.tls {
        Some(tls) => Some(tls::acceptor(tls).await?),
        None => None,
    };
    let counts = Arc::new(Counts::default());
    let own = settings.tls.as_ref().map(|tls| tls.cert.as_path());
    let peers = Arc::new(Peers::new(store.clone(), &settings.options.replicas, own)?);
    let service = service(&settings, &store, &peers, &counts)?;
    let listener = listen(&settings).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let mut tasks = peers.follow();
    begin_upkeep(&mut tasks, &settings, &store, &peers, &counts);
    let (graceful, lanes) = (GracefulShutdown::new(), Lanes::open().map_err(ServeError::Thread)?);
    accept(&listener, &lanes, acceptor, &http::router(service), &graceful, &mut terminate, &mut interrupt)
        .await;
    drop(listener);
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    tracing::info!(connections = graceful.count(), "stopping");
    if timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    tasks.shutdown().await;
    drop(lanes);
    store.close();
    Ok(())
}

async fn listen(settings: &Settings) -> Result<TcpListener, ServeError> {
    let address = settings.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let local = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
    if let Some(file) = &settings.port_file {
        // Whoever polls for the file never reads half a number.
        let new = file.with_extension("new");
        fs::write(&new, local.port().to_string())
            .and_then(|()| fs::rename(&new, file))
            .map_err(|source| ServeError::PortFile { file: file.clone(), source })?;
    }
    let (tls, replicas) = (settings.tls.is_some(), settings.options.replicas.len());
    tracing::info!(address = %local, tls, replicas, root = %settings.root.display(), "serving");
    Ok(listener)
}

fn service(
    settings: &Settings,
    store: &Arc<Store>,
    peers: &Arc<Peers>,
    counts: &Arc<Counts>,
) -> Result<Service, ServeError> {
    let options = &settings.options;
    let guard = options.auth.as_ref().map(Guard::open).transpose()?;
    if guard.is_none() {
        tracing::warn!(
            "no [auth] in the configuration: WHOEVER REACHES THE PORT MAY PULL, PUSH AND DELETE EVERYTHING"
        );
    }
    let open =
        |audit| Trail::open(audit).map_err(|source| ServeError::Audit { file: audit.file.clone(), source });
    let trail = options.audit.as_ref().map(open).transpose()?;
    let (store, peers, counts) = (store.clone(), peers.clone(), counts.clone());
    Ok(Service::new(store, guard, trail, peers, counts, options.clone(), settings.tls.is_some()))
}

fn begin_upkeep(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    store: &Arc<Store>,
    peers: &Arc<Peers>,
    counts: &Arc<Counts>,
) {
    let (options, found) = (&settings.options, Arc::new(Notify::new()));
    tasks.spawn(upkeep::sweep(store.clone()));
    tasks.spawn(upkeep::collect_often(store.clone(), counts.clone(), options.gc.clone()));
    tasks.spawn(upkeep::scrub(store.clone(), counts.clone(), found.clone(), options.scrub.clone()));
    tasks.spawn(upkeep::heal(store.clone(), peers.clone(), counts.clone(), found));
}

async fn accept(
    listener: &TcpListener,
    lanes: &Lanes,
    acceptor: Option<TlsAcceptor>,
    router: &Router,
    graceful: &GracefulShutdown,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            Ok(place) = places.clone().acquire_owned() => tokio::select! {
                accepted = listener.accept() => accepted.map(|(stream, peer)| (stream, peer, place)),
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
            },
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
                lanes.serve(stream, move |stream| async move {
                    greet(stream, peer, acceptor, router, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly too many open files: others must end first.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        let wire = Wire::new(stream);
        let origin = Origin { address: peer, direct: Some(wire.direct()) };
        return converse(wire, origin, router, watcher).await;
    };
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            converse(stream, Origin { address: peer, direct: None }, router, watcher).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    origin: Origin,
    router: Router,
    watcher: Watcher,
) {
    let peer = origin.address;
    let mut builder = Builder::new(TokioExecutor::new());
    let timer = TokioTimer::new();
    builder.http1().timer(timer).header_read_timeout(REQUEST_HEAD).max_buf_size(READ_AT_ONCE);
    builder.http2().timer(TokioTimer::new()).adaptive_window(true);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(origin.clone());
        // A router is always ready.
        tower::Service::call(&mut router.clone(), request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, error = &*error, "connection failed");
    }
}
