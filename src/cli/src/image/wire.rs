//! Requests to a registry: TLS, who asks, how long to wait, and what an answer means.
use super::{
    auth::{Challenge, Grant, Login, encode},
    error::{ImageError, Result, remedy},
    name::CLUSTER_HOST,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderName},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A module that is switched on accepts TCP at once.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// What the kernel may hold of a body: less would slow a long link, more would make the progress a lie.
const SEND_BUFFER: usize = 1 << 20;
const KEEPALIVE: Duration = Duration::from_secs(5);
const MOST_REDIRECTS: usize = 5;
/// An error's text or a list; a manifest has a limit of its own.
const LARGEST_ANSWER: usize = 8 << 20;
/// For so many limits in a row a body may stand still: the send buffer drains slowly on a narrow link.
const STILL: u32 = 5;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn full(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

/// Counts while a body is taken; a wait that sees no change is a cut.
pub(super) type Pulse = Arc<AtomicU64>;

/// What may be done where: the scope of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope(String);

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    pub(super) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    pub(super) fn delete(repository: &str) -> Self {
        Self(format!("repository:{repository}:delete,pull"))
    }

    pub(super) fn catalog() -> Self {
        Self("registry:catalog:*".into())
    }

    /// To mount from there as well.
    pub(super) fn and_pull(&self, repository: &str) -> Self {
        Self(format!("{} repository:{repository}:pull", self.0))
    }
}

/// One request; its body can be made again, because a 401 may come first.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// A path, or what a `Location` said.
    pub(super) target: &'a str,
    pub(super) scope: &'a Scope,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: &'a dyn Fn() -> Result<Body>,
    pub(super) pulse: Option<Pulse>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, target: &'a str, scope: &'a Scope) -> Self {
        Self { method, target, scope, headers: Vec::new(), body: &|| Ok(empty()), pulse: None }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A registry, seen from here.
pub(super) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: &'static str,
    address: String,
    login: Option<Login>,
    limit: Duration,
    grants: Mutex<HashMap<Scope, Grant>>,
}

impl Wire {
    /// `address` is `HOST:PORT`; without `tls` it is plain HTTP.
    pub(super) fn new(
        address: &str,
        tls: Option<ClientConfig>,
        login: Option<Login>,
        limit: Duration,
    ) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(TCP_LIMIT.min(limit)));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_send_buffer_size(Some(SEND_BUFFER));
        // A link that is cut says nothing: bytes that nobody acknowledges for so long end the connection.
        tcp.set_tcp_user_timeout(Some(limit));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = match tls {
            Some(tls) => tls,
            None => super::tls::for_nobody()?,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, scheme, address: address.into(), login, limit, grants: Mutex::default() })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Asks, with a token or password if the registry wants one, and follows redirects of reads.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Response<Incoming>> {
        let mut uri = self.uri(ask.target)?;
        for _ in 0..MOST_REDIRECTS {
            let own = uri.authority().is_some_and(|a| a.as_str() == self.address);
            let mut answer = self.once(&ask, &uri, own.then(|| self.grant(ask.scope)).flatten()).await?;
            if own && answer.status() == StatusCode::UNAUTHORIZED {
                let grant = self.obtain(ask.scope, answer.headers()).await?;
                answer = self.once(&ask, &uri, Some(grant)).await?;
            }
            let reads = ask.method == Method::GET || ask.method == Method::HEAD;
            if !(reads && answer.status().is_redirection()) {
                return Ok(answer);
            }
            let location = text(answer.headers(), header::LOCATION);
            let next = self.uri(location)?;
            if self.scheme == "https" && next.scheme_str() != Some("https") {
                return Err(self.odd(format!("it redirects to {next}, where nothing protects the content")));
            }
            uri = next;
        }
        Err(self.odd("it redirects in circles".into()))
    }

    async fn once(&self, ask: &Ask<'_>, uri: &Uri, grant: Option<Grant>) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri.clone())
            .header(header::USER_AGENT, concat!("spacectl/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(grant) = grant {
            request = request.header(header::AUTHORIZATION, grant.header);
        }
        let request = request.body((ask.body)()?).map_err(|e| self.odd(e.to_string()))?;
        let sending = self.client.request(request);
        match self.wait(sending, ask.pulse.as_ref()).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(self.failed(&error)),
            None => Err(self.cut("nothing came and nothing went any more")),
        }
    }

    /// Waits for an answer as long as a body moves; None when nothing happened for too long.
    async fn wait<T>(&self, work: impl Future<Output = T>, pulse: Option<&Pulse>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let beat = || pulse.map_or(0, |pulse| pulse.load(Ordering::Relaxed));
        let patience = if pulse.is_some() { STILL } else { 1 };
        let (mut seen, mut still) = (beat(), 0);
        loop {
            match tokio::time::timeout(self.limit, &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if beat() != seen => (seen, still) = (beat(), 0),
                Err(_) => still += 1,
            }
            if still >= patience {
                return None;
            }
        }
    }

    /// Reads a whole answer's body.
    pub(super) async fn read(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER);
        match tokio::time::timeout(self.limit * STILL, body.collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) => Err(self.cut(&crate::failure::chain(error.as_ref()))),
            Err(_) => Err(self.cut("its answer did not end")),
        }
    }

    /// Expects one of these statuses; anything else is told with what the registry said.
    pub(super) async fn expect(
        &self,
        answer: Response<Incoming>,
        wanted: &[StatusCode],
        operation: impl Into<String>,
    ) -> Result<Response<Incoming>> {
        let status = answer.status();
        if wanted.contains(&status) {
            return Ok(answer);
        }
        let content = self.read(answer).await.unwrap_or_default();
        // An answer to HEAD has no words of its own.
        let reason = said(&content).unwrap_or_else(|| match (status, &self.login) {
            (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, Some(login)) => {
                format!("{} may not do this", login.user)
            }
            _ => format!("it answered {status}"),
        });
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.login.is_none() => Err(self.nobody()),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                Err(self.cut(&reason))
            }
            _ => Err(ImageError::Refused {
                registry: self.address.clone(),
                operation: operation.into(),
                reason,
            }),
        }
    }

    fn uri(&self, target: &str) -> Result<Uri> {
        let whole = if target.starts_with('/') {
            format!("{}://{}{target}", self.scheme, self.address)
        } else {
            target.to_owned()
        };
        let uri: Uri = whole.parse().map_err(|_| self.odd(format!("{target:?} is no address")))?;
        let Some(authority) = uri.authority() else {
            return Err(self.odd(format!("{target:?} is no address")));
        };
        // The registry may call itself by a name that only modules can resolve.
        if authority.host() == CLUSTER_HOST && authority.as_str() != self.address {
            let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
            return format!("{}://{}{path}", self.scheme, self.address)
                .parse()
                .map_err(|_| self.odd(format!("{target:?} is no address")));
        }
        Ok(uri)
    }

    fn grant(&self, scope: &Scope) -> Option<Grant> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(scope).filter(|grant| grant.holds(Instant::now())).cloned()
    }

    /// Answers a 401.
    async fn obtain(&self, scope: &Scope, headers: &HeaderMap) -> Result<Grant> {
        let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let challenge = challenges.filter_map(Challenge::parse).next();
        let grant = match (challenge, &self.login) {
            (Some(Challenge::Basic), Some(login)) => Grant::forever(login.basic()),
            (Some(Challenge::Bearer { realm, service, scope: asked }), _) => {
                // Ours says more than what this one request needs.
                let wanted = if scope.0.is_empty() { asked.as_deref().unwrap_or_default() } else { &scope.0 };
                self.token(&realm, service.as_deref(), wanted).await?
            }
            (Some(Challenge::Basic), None) => return Err(self.nobody()),
            (None, _) => return Err(self.odd("it wants a kind of login that is not known here".into())),
        };
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), grant.clone());
        Ok(grant)
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Grant> {
        let uri = self.uri(realm)?;
        // A password goes nowhere in the clear.
        if self.scheme == "https" && uri.scheme_str() != Some("https") {
            return Err(self.odd(format!("it sends passwords to {realm}, in the clear")));
        }
        let mark = if uri.query().is_some() { '&' } else { '?' };
        let service = service.map(|s| format!("service={}&", encode(s))).unwrap_or_default();
        let scopes: Vec<String> = scope.split(' ').map(|scope| format!("scope={}", encode(scope))).collect();
        let target = self.uri(&format!("{uri}{mark}{service}{}", scopes.join("&")))?;
        let nowhere = Scope(String::new());
        let ask = Ask::new(Method::GET, "", &nowhere);
        let answer = self.once(&ask, &target, self.login.as_ref().map(|l| Grant::forever(l.basic()))).await?;
        let answer = self.expect(answer, &[StatusCode::OK], "give a token").await?;
        let content = self.read(answer).await?;
        Grant::from_answer(&content, Instant::now())
            .ok_or_else(|| self.odd(format!("{realm} gives no token")))
    }

    fn nobody(&self) -> ImageError {
        ImageError::Unauthorized {
            registry: self.address.clone(),
            hint: "use --user NAME with a password, or --source-user for the registry that is copied from"
                .into(),
        }
    }

    pub(super) fn odd(&self, reason: String) -> ImageError {
        ImageError::Answer { registry: self.address.clone(), reason }
    }

    pub(super) fn cut(&self, reason: &str) -> ImageError {
        ImageError::Cut { registry: self.address.clone(), reason: reason.into() }
    }

    fn failed(&self, error: &ClientError) -> ImageError {
        if error.is_connect() {
            let reason = remedy(error);
            return ImageError::Unreachable { registry: self.address.clone(), reason };
        }
        self.cut(&crate::failure::chain(error))
    }
}

/// What the registry's error says, on one line.
fn said(content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        code: String,
        message: Option<String>,
    }
    let errors: Errors = serde_json::from_slice(content).ok()?;
    let first = errors.errors.into_iter().next()?;
    let message = first.message.filter(|message| !message.is_empty()).unwrap_or(first.code);
    Some(message.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A header's text, empty if it is not there.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
