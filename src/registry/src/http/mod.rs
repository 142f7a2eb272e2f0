//! The distribution interface: a request in, a response out.

mod access;
mod blobs;
mod drain;
mod listings;
mod manifests;
mod metrics;
mod own;
mod refusal;
mod uploads;

use crate::{
    audit::{Act, Line, Trail},
    auth::{Caller, Guard},
    config::Options,
    peer::Peers,
    route::{self, Route},
    store::{self, Store},
    upkeep::Counts,
    wire::Direct,
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::Metrics;
use refusal::{Code, Refusal};
use std::{net::SocketAddr, sync::Arc, time::Instant};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What every request may use.
pub(crate) struct Service {
    pub(crate) store: Arc<Store>,
    /// None: everybody may do everything.
    pub(crate) guard: Option<Guard>,
    pub(crate) trail: Option<Trail>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) options: Options,
    /// Whether clients come over TLS.
    pub(crate) secure: bool,
    metrics: Metrics,
}

type Shared = Arc<Service>;
type Answer = Result<Response, Refusal>;

/// Where a request comes from; an extension of it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// A way around the copying of files, where the connection has one.
    pub(crate) direct: Option<Direct>,
}

/// A request's head with what is known of it.
struct Asked {
    head: Parts,
    query: Query,
    caller: Option<Caller>,
}

impl Service {
    pub(crate) fn new(
        store: Arc<Store>,
        guard: Option<Guard>,
        trail: Option<Trail>,
        peers: Arc<Peers>,
        counts: Arc<Counts>,
        options: Options,
        secure: bool,
    ) -> Self {
        Self { store, guard, trail, peers, counts, options, secure, metrics: Metrics::default() }
    }

    /// Writes down what was done.
    fn audit(&self, asked: &Asked, act: Act, repository: &str, reference: String, digest: Option<String>) {
        let peer = asked.head.extensions.get::<Origin>().map(|origin| origin.address.ip().to_string());
        let line = Line {
            act,
            user: asked.caller.as_ref().map_or("anybody", Caller::name),
            peer: peer.unwrap_or_default(),
            repository,
            reference,
            digest,
        };
        tracing::info!(target: "audit", act = ?line.act, user = line.user, peer = line.peer, repository,
            reference = line.reference, digest = line.digest, "done");
        if let Some(trail) = &self.trail {
            trail.write(&line);
        }
    }
}

impl Asked {
    fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        text_header(&self.head.headers, name)
    }

    /// The way around copying files, if this request can go it.
    fn direct(&self) -> Option<Direct> {
        // With HTTP/2 the bytes of several answers share a connection.
        let simple = self.head.version <= Version::HTTP_11;
        self.head.extensions.get::<Origin>().filter(|_| simple)?.direct.clone()
    }
}

/// The whole interface.
pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .route("/token", get(access::token).post(access::token_form))
        .fallback(distribution)
        .with_state(Arc::new(service))
}

async fn ready(State(service): State<Shared>) -> Response {
    match blocking(move || Ok(service.store.is_writable())).await {
        Ok(true) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the images' directory cannot be written\n").into_response(),
    }
}

async fn show_metrics(State(service): State<Shared>) -> Response {
    let text = format!("{}{}", service.metrics, metrics::state(&service));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn distribution(State(service): State<Shared>, request: Request) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let peer = request.extensions().get::<Origin>().map(|origin| origin.address);
    let mut response = answer(&service, request).await.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    let status = response.status();
    service.metrics.count(&method, status);
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let peer = peer.map(tracing::field::display);
    tracing::info!(target: "access", peer, %method, path, status = status.as_u16(), ms, "answered");
    response
}

async fn answer(service: &Shared, request: Request) -> Answer {
    let route = route::parse(request.uri().path())?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (head, body) = request.into_parts();
    let caller = access::admit(service, &head, &route).await?;
    let asked = Asked { head, query, caller };
    dispatch(service, route, asked, body).await
}

async fn dispatch(service: &Shared, route: Route, asked: Asked, body: Body) -> Answer {
    // HEAD is GET; the server leaves the body out.
    match (asked.head.method.clone(), route) {
        (Method::GET | Method::HEAD, Route::Base) => Ok(json_response(&serde_json::json!({}))),
        (Method::GET, Route::Catalog) => listings::catalog(service, &asked).await,
        (Method::GET, Route::Tags(name)) => listings::tags(service, name, &asked.query).await,
        (Method::GET, Route::Referrers(name, digest)) => {
            listings::referrers(service, name, digest, &asked.query).await
        }
        (Method::HEAD, Route::Blob(name, digest)) => blobs::head(service, name, digest).await,
        (Method::GET, Route::Blob(name, digest)) => blobs::get(service, name, digest, &asked).await,
        (Method::DELETE, Route::Blob(name, digest)) => blobs::delete(service, name, digest, &asked).await,
        (Method::POST, Route::NewUpload(name)) => uploads::begin(service, name, &asked, body).await,
        (Method::GET, Route::Upload(name, id)) => uploads::status(service, name, id).await,
        (Method::PATCH, Route::Upload(name, id)) => uploads::patch(service, name, id, &asked, body).await,
        (Method::PUT, Route::Upload(name, id)) => uploads::finish(service, name, id, &asked, body).await,
        (Method::DELETE, Route::Upload(name, id)) => uploads::cancel(service, name, id).await,
        (Method::GET | Method::HEAD, Route::Manifest(name, reference)) => {
            manifests::get(service, name, reference, &asked).await
        }
        (Method::PUT, Route::Manifest(name, reference)) => {
            manifests::put(service, name, reference, &asked, body).await
        }
        (Method::DELETE, Route::Manifest(name, reference)) => {
            manifests::delete(service, name, reference, &asked).await
        }
        (Method::GET, Route::Changes) => own::changes(service, &asked.query).await,
        (Method::GET, Route::Usage) => own::usage(service).await,
        (Method::POST, Route::Collect) => own::collect(service, &asked).await,
        (method, _) => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Unsupported,
            format!("{method} is not for this path"),
        )),
    }
}

/// Does file work on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> store::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Refusal::internal(&error)),
    }
}

/// A query's parameters, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let uri = format!("/?{text}").parse::<axum::http::Uri>().unwrap_or_default();
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
        Self(parsed.map(|query| query.0).unwrap_or_default())
    }

    /// Of several with one name the last.
    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn text_header(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn json_response(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// A response of headers whose values are made of validated names and numbers.
fn bare(status: StatusCode, headers: impl IntoIterator<Item = (HeaderName, String)>) -> Response {
    with_body(status, headers, Body::empty())
}

fn with_body(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, String)>,
    body: Body,
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
