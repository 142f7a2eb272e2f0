//! The server role: identity, store, shell, gRPC and HTTP, put together.

mod bundles;
mod grpc;
mod pki;
mod shell;
mod tables;

use crate::{config::Config, http};
use anyhow::Context;
use api::v1::{agents_server::AgentsServer, cluster_server::ClusterServer};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming};

pub use pki::papers;
pub use shell::Shell;

/// A running server.
#[derive(Debug)]
pub struct Running {
    shell: Shell,
}

impl Running {
    /// Ends all deciding before it returns.
    pub fn stop(&self) {
        self.shell.stop();
    }
}

/// The server's ports, bound and not served yet: whoever connects waits, and is not refused.
#[derive(Debug)]
pub struct Ports {
    grpc: TcpListener,
    web: TcpListener,
}

/// Takes the ports.
///
/// # Errors
/// One is taken.
pub async fn bind(config: &Config) -> anyhow::Result<Ports> {
    let bind = async |address: &str| {
        TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}; is another server running?"))
    };
    Ok(Ports { grpc: bind(&config.server.listen).await?, web: bind(&config.server.http).await? })
}

/// Takes the ports and starts everything.
///
/// # Errors
/// A port is taken, the state cannot be read or written.
pub async fn start(config: &Config) -> anyhow::Result<Running> {
    start_on(bind(config).await?, config)
}

/// Starts everything.
///
/// # Errors
/// The state cannot be read or written.
pub fn start_on(Ports { grpc, web }: Ports, config: &Config) -> anyhow::Result<Running> {
    let pki = pki::Pki::open(config)?;
    let shell = Shell::start(config)?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&pki.server.certificate, &pki.server.key))
        .client_ca_root(Certificate::from_pem(pki.authority.certificate()))
        .client_auth_optional(true);
    let snapshots = shell.snapshots();
    let service = grpc::Service::new(shell.clone(), pki, &config.state);
    let router = Server::builder()
        .tls_config(tls)
        .context("cannot set TLS up")?
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        .add_service(ClusterServer::new(service.clone()))
        .add_service(AgentsServer::new(service));
    tokio::spawn(async move {
        let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
        if let Err(error) = router.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(web, http::routes(snapshots)).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    tracing::info!(listen = %config.server.listen, http = %config.server.http, "server ready");
    Ok(Running { shell })
}
