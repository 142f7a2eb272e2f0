//! Requests to one peer. Each has a connection of its own: there are few, and a cut connection spoils one only.

use crate::config::Replica;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take to begin, unless the request asks to be kept waiting.
pub(super) const ANSWER: Duration = Duration::from_secs(15);
/// Larger ones are not manifests.
const LARGEST: usize = 4 << 20;

/// A peer could not be used.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The configuration.
    #[error("replica {url}: {what} {} cannot be used", file.display())]
    File {
        /// The peer.
        url: String,
        /// What the file should hold.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The URL or the TLS settings.
    #[error("replica {url}: {reason}")]
    Settings {
        /// The peer.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No connection.
    #[error("cannot connect to {url}")]
    Connect {
        /// The peer.
        url: String,
        /// Why not.
        source: io::Error,
    },
    /// The peer does not speak HTTP, or stopped.
    #[error("no answer from {url}")]
    Http {
        /// The peer.
        url: String,
        /// Why not.
        source: hyper::Error,
    },
    /// It took too long.
    #[error("{url} did not answer in time")]
    Late {
        /// The peer.
        url: String,
    },
    /// An answer that does not help.
    #[error("{url} answered {status} to {path}")]
    Status {
        /// The peer.
        url: String,
        /// What was asked for.
        path: String,
        /// The answer.
        status: StatusCode,
    },
    /// An answer that makes no sense.
    #[error("{url} answered {path} with something else: {reason}")]
    Content {
        /// The peer.
        url: String,
        /// What was asked for.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What came could not be stored.
    #[error("cannot store what {url} sent: {reason}")]
    Store {
        /// The peer.
        url: String,
        /// Why.
        reason: String,
    },
}

/// How to reach a peer.
pub(super) struct Client {
    url: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn roots(url: &str, file: &Path) -> Result<RootCertStore, PeerError> {
    let failed = |source| PeerError::File { url: url.into(), what: "certificate", file: file.into(), source };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(io::Error::other(error)))?;
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        return Err(failed(io::Error::other("no certificate there")));
    }
    Ok(roots)
}

impl Client {
    pub(super) fn new(replica: &Replica, own: Option<&Path>) -> Result<Self, PeerError> {
        let settings = |reason: String| PeerError::Settings { url: replica.url.clone(), reason };
        let (secure, host, port) =
            replica.address().ok_or_else(|| settings("write https://HOST:PORT".into()))?;
        let tls = if secure {
            let ca = replica
                .ca
                .as_deref()
                .or(own)
                .ok_or_else(|| settings("name its authority with \"ca\"".into()))?;
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| settings(error.to_string()))?
                .with_root_certificates(roots(&replica.url, ca)?)
                .with_no_client_auth();
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                .map_err(|error| settings(error.to_string()))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let authorization = match (&replica.username, &replica.password_file) {
            (Some(user), Some(file)) => {
                let password = fs::read_to_string(file).map_err(|source| PeerError::File {
                    url: replica.url.clone(),
                    what: "password",
                    file: file.clone(),
                    source,
                })?;
                let text = STANDARD.encode(format!("{user}:{}", password.trim_end_matches(['\r', '\n'])));
                let mut value = HeaderValue::try_from(format!("Basic {text}"))
                    .map_err(|error| settings(error.to_string()))?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        Ok(Self { url: replica.url.clone(), host: host.into(), port, tls, authorization })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, PeerError> {
        let failed = |source| PeerError::Connect { url: self.url.clone(), source };
        let connect = async {
            let stream = TcpStream::connect((self.host.trim_matches(['[', ']']), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok::<Box<dyn Stream>, io::Error>(match &self.tls {
                Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
                None => Box::new(stream),
            })
        };
        match timeout(CONNECT, connect).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Sends a request without a body and waits until the answer begins.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        patience: Duration,
    ) -> Result<Response<Incoming>, PeerError> {
        let stream = self.connect().await?;
        let http = |source| PeerError::Http { url: self.url.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // It ends with the answer's body, or with whoever reads it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a peer failed");
            }
        });
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| PeerError::Content {
            url: self.url.clone(),
            path: path.into(),
            reason: "this is no path".into(),
        })?;
        *request.headers_mut() = headers;
        let host = HeaderValue::try_from(format!("{}:{}", self.host, self.port));
        request.headers_mut().extend(host.ok().map(|host| (header::HOST, host)));
        request.headers_mut().extend(self.authorization.clone().map(|text| (header::AUTHORIZATION, text)));
        match timeout(patience, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(http),
            Err(_) => Err(PeerError::Late { url: self.url.clone() }),
        }
    }

    /// Gets something small, whole; None when it is not there.
    pub(super) async fn get(
        &self,
        path: &str,
        headers: HeaderMap,
        patience: Duration,
    ) -> Result<Option<(HeaderMap, Bytes)>, PeerError> {
        let answer = self.send(Method::GET, path, headers, patience).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => {
                return Err(PeerError::Status { url: self.url.clone(), path: path.into(), status });
            }
        }
        let (parts, body) = answer.into_parts();
        match timeout(ANSWER, Limited::new(body, LARGEST).collect()).await {
            Ok(Ok(content)) => Ok(Some((parts.headers, content.to_bytes()))),
            Ok(Err(error)) => Err(PeerError::Content {
                url: self.url.clone(),
                path: path.into(),
                reason: error.to_string(),
            }),
            Err(_) => Err(PeerError::Late { url: self.url.clone() }),
        }
    }
}
