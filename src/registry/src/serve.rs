//! The port: accept, shake hands, hand over to the router, stop in good order.

use crate::{
    command::Settings,
    http,
    store::{Store, StoreError},
    tls,
};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

pub use crate::tls::TlsError;

const HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST_HEAD: Duration = Duration::from_secs(30);
/// How long requests may still run after SIGTERM.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Why the registry cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The directory of the images.
    #[error("cannot open the images")]
    Store(#[from] StoreError),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// SIGTERM or SIGINT.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

impl ServeError {
    /// The exit code: 78 when the configuration must be corrected, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Tls(_)) { 78 } else { 1 }
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub async fn run(settings: Settings) -> Result<(), ServeError> {
    let store = Arc::new(Store::open(&settings.root)?);
    let acceptor = match &settings.tls {
        Some(tls) => Some(tls::acceptor(tls).await?),
        None => None,
    };
    let address = settings.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let local = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
    if let Some(file) = settings.port_file {
        // Whoever polls for the file never reads half a number.
        let new = file.with_extension("new");
        fs::write(&new, local.port().to_string())
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|source| ServeError::PortFile { file, source })?;
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    tracing::info!(address = %local, tls = acceptor.is_some(), root = %settings.root.display(), "serving");
    let sweeper = tokio::spawn(sweep(store.clone()));
    let graceful = GracefulShutdown::new();
    accept(&listener, acceptor, &http::router(store), &graceful, &mut terminate, &mut interrupt).await;
    drop(listener);
    sweeper.abort();
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    tracing::info!(connections = graceful.count(), "stopping");
    if timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: &Router,
    graceful: &GracefulShutdown,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::spawn(greet(stream, peer, acceptor.clone(), router.clone(), graceful.watcher()));
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
        return converse(stream, peer, router, watcher).await;
    };
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, peer, router, watcher).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    router: Router,
    watcher: Watcher,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD);
    builder.http2().timer(TokioTimer::new()).adaptive_window(true);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, error = &*error, "connection failed");
    }
}

/// Forgotten uploads must not fill the disk of a registry that runs for months.
async fn sweep(store: Arc<Store>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let store = store.clone();
        let _ = tokio::task::spawn_blocking(move || store.sweep_uploads()).await;
    }
}
