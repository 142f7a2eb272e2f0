//! The distribution interface: a request in, a response out.

mod blobs;
mod listings;
mod manifests;
mod metrics;
mod refusal;
mod uploads;

use crate::{
    route::{self, Route},
    store::{self, Store},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::Metrics;
use refusal::{Code, Refusal};
use std::{collections::HashMap, sync::Arc};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What every request may use.
struct Service {
    store: Arc<Store>,
    metrics: Metrics,
}

type Shared = Arc<Service>;
type Answer = Result<Response, Refusal>;

/// The whole interface.
pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .fallback(distribution)
        .with_state(Arc::new(Service { store, metrics: Metrics::default() }))
}

async fn ready(State(service): State<Shared>) -> Response {
    match blocking(move || Ok(service.store.is_writable())).await {
        Ok(true) => "ready\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the images' directory cannot be written\n").into_response(),
    }
}

async fn show_metrics(State(service): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], service.metrics.to_string()).into_response()
}

async fn distribution(State(service): State<Shared>, request: Request) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = answer(&service, request).await.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    service.metrics.count(&method, response.status());
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}

async fn answer(service: &Shared, request: Request) -> Answer {
    let route = route::parse(request.uri().path())?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    // HEAD is GET; the server leaves the body out.
    match (head.method.clone(), route) {
        (Method::GET | Method::HEAD, Route::Base) => Ok(json_response(&serde_json::json!({}))),
        (Method::GET, Route::Catalog) => listings::catalog(service, &query).await,
        (Method::GET, Route::Tags(name)) => listings::tags(service, name, &query).await,
        (Method::GET, Route::Referrers(name, digest)) => {
            listings::referrers(service, name, digest, &query).await
        }
        (Method::HEAD, Route::Blob(name, digest)) => blobs::head(service, name, digest).await,
        (Method::GET, Route::Blob(name, digest)) => blobs::get(service, name, digest, headers).await,
        (Method::DELETE, Route::Blob(name, digest)) => blobs::delete(service, name, digest).await,
        (Method::POST, Route::NewUpload(name)) => uploads::begin(service, name, &query, body).await,
        (Method::GET, Route::Upload(name, id)) => uploads::status(service, name, id).await,
        (Method::PATCH, Route::Upload(name, id)) => uploads::patch(service, name, id, headers, body).await,
        (Method::PUT, Route::Upload(name, id)) => {
            uploads::finish(service, name, id, &query, headers, body).await
        }
        (Method::DELETE, Route::Upload(_, id)) => uploads::cancel(service, id).await,
        (method @ (Method::GET | Method::HEAD), Route::Manifest(name, reference)) => {
            manifests::get(service, name, reference, method == Method::HEAD).await
        }
        (Method::PUT, Route::Manifest(name, reference)) => {
            manifests::put(service, name, reference, headers, body).await
        }
        (Method::DELETE, Route::Manifest(name, reference)) => {
            manifests::delete(service, name, reference).await
        }
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

/// A query's parameters, decoded; of several with one name the last.
struct Query(HashMap<String, String>);

impl Query {
    fn parse(text: &str) -> Self {
        let uri = format!("/?{text}").parse::<axum::http::Uri>().unwrap_or_default();
        let parsed = axum::extract::Query::<HashMap<String, String>>::try_from_uri(&uri);
        Self(parsed.map(|query| query.0).unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
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
            response.headers_mut().insert(name, value);
        }
    }
    response
}
