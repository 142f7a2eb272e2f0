//! How a module gets its certificate: the token names the CA, the CA names the server, the server signs.

use crate::{config::Config, files::write_whole, registry_tls::RegistryTls};
use anyhow::{Context, anyhow};
use api::v1::{JoinRequest, RegistryRequest, agents_client::AgentsClient};
use identity::{Credentials, Token, fingerprint, new_request};
use model::Name;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a module shows and what it trusts.
pub(super) struct Membership {
    pub(super) ca: String,
    pub(super) own: Credentials,
}

/// Connects to the server, joining first if this module has no certificate yet.
pub(super) async fn connect(config: &Config, module: &Name) -> anyhow::Result<Channel> {
    let membership = match kept(config) {
        Some(membership) => membership,
        None => join(config, module).await?,
    };
    let own = Identity::from_pem(&membership.own.certificate, &membership.own.key);
    let channel = channel(config, &membership.ca, Some(own)).await?;
    if let Err(error) = certify_registry(config, module, &membership.ca, channel.clone()).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "no certificate for the registry here; asked again later"
        );
    }
    Ok(channel)
}

/// Where this module runs a registry that has no certificate, the server is asked for one.
async fn certify_registry(config: &Config, module: &Name, ca: &str, channel: Channel) -> anyhow::Result<()> {
    let place = RegistryTls::of(config);
    if !place.is_enabled() || !place.is_missing() {
        return Ok(());
    }
    let (key, request_pem) = new_request(module)?;
    let mut server = AgentsClient::new(channel);
    let answer = tokio::time::timeout(CONNECT_LIMIT, server.registry(RegistryRequest { request_pem }));
    let reply = answer.await.context("no answer")?;
    let reply = reply.map_err(|s| anyhow!("the server refused: {}", s.message()))?.into_inner();
    place.write(&Credentials { certificate: reply.certificate_pem, key }, ca).context("cannot write it")?;
    tracing::info!(%module, "the registry here has its certificate");
    Ok(())
}

/// Between two agents: a link that is gone without a word is noticed.
const SILENCE: Duration = Duration::from_secs(20);

/// Connects to the agent of another module, as this one.
pub(super) async fn peer(config: &Config, module: &Name, address: &str) -> anyhow::Result<Channel> {
    let membership = kept(config).context("this module has not joined")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&membership.ca))
        .identity(Identity::from_pem(&membership.own.certificate, &membership.own.key))
        .domain_name(identity::agent_name(module));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .tcp_nodelay(true)
        .tls_config(tls)?;
    endpoint.connect().await.with_context(|| format!("cannot reach {address}"))
}

/// What this module got when it joined; nothing before that.
pub(super) fn kept(config: &Config) -> Option<Membership> {
    let read = |name: &str| fs::read_to_string(config.state.join("tls").join(name)).ok();
    let membership = Membership {
        ca: read("ca.pem")?,
        own: Credentials { certificate: read("module.pem")?, key: read("module.key")? },
    };
    // A module that was moved to another cluster has a new token: its old certificate is of no use.
    let token = read_token(config).ok();
    let same = token.is_none_or(|t| fingerprint(&membership.ca).is_ok_and(|f| f == t.fingerprint()));
    same.then_some(membership)
}

fn read_token(config: &Config) -> anyhow::Result<Token> {
    let own = config.state.join("token");
    let path = if config.agent.token_file.exists() { &config.agent.token_file } else { &own };
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the join token {}", path.display()))?;
    text.parse().with_context(|| path.display().to_string())
}

async fn join(config: &Config, module: &Name) -> anyhow::Result<Membership> {
    let early = read_token(config);
    // A server of this very process may be about to write the token: it has done so when it answers.
    let is_late = early.is_err() && config.roles().0;
    let token = if is_late { None } else { Some(early?) };
    let chain = server_chain(config).await?;
    let token = token.map_or_else(|| read_token(config), Ok)?;
    let ca = find_ca(config, &chain, &token)?;
    let (key, request_pem) = new_request(module)?;
    let mut client = AgentsClient::new(channel(config, &ca, None).await?);
    let request = JoinRequest { token: token.reveal(), slot: config.slot()?.into(), request_pem };
    let reply = client.join(request).await.map_err(|s| anyhow!("the server refused: {}", s.message()))?;
    let own = Credentials { certificate: reply.into_inner().certificate_pem, key };
    let place = |name: &str| config.state.join("tls").join(name);
    let write = |name: &str, mode: u32, text: &str| {
        write_whole(&place(name), mode, text)
            .with_context(|| format!("cannot write {}", place(name).display()))
    };
    write("ca.pem", 0o644, &ca)?;
    write("module.key", 0o600, &own.key)?;
    write("module.pem", 0o644, &own.certificate)?;
    tracing::info!(%module, "joined the cluster");
    Ok(Membership { ca, own })
}

async fn channel(config: &Config, ca: &str, own: Option<Identity>) -> anyhow::Result<Channel> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(api::SERVER_NAME);
    if let Some(own) = own {
        tls = tls.identity(own);
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", config.server.address))?
        .connect_timeout(CONNECT_LIMIT)
        // A server that loses its power after it has taken a request, and before it answers, says nothing any more.
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .tcp_nodelay(true)
        .tls_config(tls)?;
    endpoint.connect().await.with_context(|| format!("cannot reach the server at {}", config.server.address))
}

/// The server's certificates. Nothing secret is said here, and nothing else of this connection is believed.
async fn server_chain(config: &Config) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let seen = Arc::new(Collect::default());
    let mut tls = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let address = &config.server.address;
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let stream = stream.with_context(|| format!("no answer from {address}"))?;
    let stream = stream.with_context(|| format!("cannot reach the server at {address}"))?;
    let name = ServerName::try_from(api::SERVER_NAME)?;
    let handshake = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream);
    tokio::time::timeout(CONNECT_LIMIT * 4, handshake).await.context("the TLS handshake took too long")??;
    let chain = seen.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(chain)
}

/// The one of the server's certificates that the token names.
fn find_ca(config: &Config, chain: &[CertificateDer<'_>], token: &Token) -> anyhow::Result<String> {
    let certificates = chain.iter().map(|der| identity::to_pem(der));
    let mut named = certificates.filter(|pem| fingerprint(pem).is_ok_and(|f| f == token.fingerprint()));
    named.next().with_context(|| {
        format!(
            "the server at {} is not of the cluster that the join token names; check agent.token_file",
            config.server.address
        )
    })
}

#[derive(Debug, Default)]
struct Collect {
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Collect {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end).chain(others).map(|c| c.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
