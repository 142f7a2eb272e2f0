//! The gate: who asks, what the request needs, and the Docker token flow.

use super::{Code, Query, Refusal, Service, Shared, json_response, text_header};
use crate::{
    auth::{Caller, Denial, Guard, Scope},
    config::Role,
    route::Route,
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::Response,
};
use serde_json::json;

/// More than any login form.
const LARGEST_FORM: usize = 16 << 10;

/// What a request needs: in which repository, and which role there. The empty name is the registry as a whole.
fn need<'a>(method: &Method, route: &'a Route) -> Option<(&'a str, Role)> {
    let of = |method: &Method| match *method {
        Method::GET | Method::HEAD => Role::Pull,
        Method::DELETE => Role::Admin,
        _ => Role::Push,
    };
    Some(match route {
        // Being somebody is enough; the catalog shows each what each may see.
        Route::Base | Route::Catalog => return None,
        Route::Tags(name) | Route::Referrers(name, _) => (name.as_str(), Role::Pull),
        Route::Blob(name, _) | Route::Manifest(name, _) => (name.as_str(), of(method)),
        Route::NewUpload(name) | Route::Upload(name, _) => (name.as_str(), Role::Push),
        Route::Changes | Route::Usage => ("", Role::Pull),
        Route::Collect => ("", Role::Admin),
    })
}

/// Lets a request in or not. None: nobody is asked who they are.
pub(super) async fn admit(service: &Service, head: &Parts, route: &Route) -> Result<Option<Caller>, Refusal> {
    let Some(guard) = &service.guard else { return Ok(None) };
    let needed = need(&head.method, route);
    let refuse = |denial| refusal(service, guard, &head.headers, needed, denial);
    let authorization = text_header(&head.headers, header::AUTHORIZATION);
    let caller = guard.identify(authorization).await.map_err(refuse)?;
    match needed {
        // Clients learn here whether they must log in at all, also where anybody may pull.
        None if authorization.is_none() => Err(refuse(Denial::Unauthorized)),
        None => Ok(Some(caller)),
        Some((repository, role)) => match guard.allow(&caller, repository, role) {
            Ok(()) => Ok(Some(caller)),
            Err(denial) => Err(refuse(denial)),
        },
    }
}

fn refusal(
    service: &Service,
    guard: &Guard,
    headers: &HeaderMap,
    needed: Option<(&str, Role)>,
    denial: Denial,
) -> Refusal {
    match denial {
        Denial::Unauthorized => {}
        Denial::Denied => {
            let message = "you may not do this here; ask the operator";
            return Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message);
        }
        Denial::TooMany => return too_many(),
    }
    let host = text_header(headers, header::HOST).unwrap_or("localhost").replace(['"', '\\'], "");
    let scheme = if service.secure { "https" } else { "http" };
    let realm = guard.realm().map_or_else(|| format!("{scheme}://{host}/token"), str::to_owned);
    let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{host}\"");
    if let Some((repository, role)) = needed.filter(|(repository, _)| !repository.is_empty()) {
        challenge.push_str(&format!(",scope=\"{}\"", Scope::needed(repository, role)));
    }
    Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, "log in, or ask for a token for this")
        .with_headers([(header::WWW_AUTHENTICATE, challenge)])
}

/// `GET /token`, with the user's name and password as Basic authorization, or without for anybody.
pub(super) async fn token(State(service): State<Shared>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let Some(guard) = &service.guard else { return no_tokens() };
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let authorization = text_header(&head.headers, header::AUTHORIZATION);
    match guard.identify(authorization).await {
        Ok(caller) => hand_out(guard, &caller, &query),
        Err(Denial::TooMany) => too_many().into_response(),
        Err(_) => wrong_password(),
    }
}

/// `POST /token`: the same as a form (OAuth 2, as containerd asks first).
pub(super) async fn token_form(State(service): State<Shared>, body: Body) -> Response {
    let Some(guard) = &service.guard else { return no_tokens() };
    let content = axum::body::to_bytes(body, LARGEST_FORM).await.unwrap_or_default();
    let form = Query::parse(&String::from_utf8_lossy(&content));
    let (Some(user), Some(password)) = (form.get("username"), form.get("password")) else {
        let message = "grant_type=password with username and password is served here";
        return Refusal::bad(Code::Unsupported, message).into_response();
    };
    match guard.log_in(user.to_owned(), password.to_owned()).await {
        Ok(caller) => hand_out(guard, &caller, &form),
        Err(Denial::TooMany) => too_many().into_response(),
        Err(_) => wrong_password(),
    }
}

fn hand_out(guard: &Guard, caller: &Caller, query: &Query) -> Response {
    let asked: Vec<Scope> = query.all("scope").flat_map(Scope::parse).collect();
    let (token, life) = guard.token(caller, &asked);
    json_response(&json!({"token": token, "access_token": token, "token_type": "Bearer", "expires_in": life}))
}

fn wrong_password() -> Response {
    Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, "user name or password is wrong")
        .into_response()
}

fn too_many() -> Refusal {
    let message = "too many passwords are being checked; try again in a moment";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message)
        .with_headers([(header::RETRY_AFTER, "2".to_owned())])
}

fn no_tokens() -> Response {
    Refusal::not_found(Code::Unsupported, "this registry asks nobody to log in").into_response()
}
