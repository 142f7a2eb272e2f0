//! Uploads: begin, append, look, finish, cancel.

use super::{Answer, Asked, CONTENT_DIGEST, Code, Refusal, Shared, bare, blocking, drain::drain};
use crate::{
    audit::Act,
    config::Role,
    digest::{Algorithm, Digest},
    name::{Repository, UploadId},
    range,
    store::{Commit, Session, Store},
};
use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderName, StatusCode, header},
};
use bytes::Bytes;
use futures_util::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// How much is collected before it is written. What comes in meanwhile waits in the kernel's buffer.
const BATCH: usize = 128 << 10;
/// A request whose client is gone ends within this time; one that is alive keeps the upload.
const BUSY: Duration = Duration::from_secs(10);
type Held = OwnedMutexGuard<Session>;

fn location(name: &Repository, session: &Session) -> [(HeaderName, String); 3] {
    let id = session.id().as_str();
    [
        (header::LOCATION, format!("/v2/{name}/blobs/uploads/{id}")),
        (header::RANGE, format!("0-{}", session.length().saturating_sub(1))),
        (UPLOAD_ID, id.into()),
    ]
}

fn created(name: &Repository, digest: &Digest) -> axum::response::Response {
    let location = format!("/v2/{name}/blobs/{digest}");
    bare(StatusCode::CREATED, [(header::LOCATION, location), (CONTENT_DIGEST, digest.to_string())])
}

pub(super) async fn begin(service: &Shared, name: Repository, asked: &Asked, body: Body) -> Answer {
    if let Some(digest) = asked.query.get("mount") {
        let digest: Digest = digest.parse()?;
        if mount(service, &name, &digest, asked).await? {
            service.audit(asked, Act::MountBlob, name.as_str(), digest.to_string(), Some(digest.to_string()));
            return Ok(created(&name, &digest));
        }
    }
    let whole = asked.query.get("digest").map(str::parse::<Digest>).transpose()?;
    let algorithm = asked.query.get("digest-algorithm").map(str::parse::<Algorithm>).transpose()?;
    let (store, to) = (service.store.clone(), name.clone());
    let length = announced(asked).unwrap_or_default();
    let begun = blocking(move || store.admit(length).and_then(|()| store.begin_upload(&to))).await;
    let begun = match begun {
        Ok(begun) => begun,
        Err(refusal) => return Err(refused(refusal, body)),
    };
    let mut session = hold(begun).await?;
    session.expect(whole.as_ref().map(Digest::algorithm).or(algorithm).unwrap_or(Algorithm::Sha256));
    match whole {
        None => Ok(bare(StatusCode::ACCEPTED, location(&name, &session))),
        Some(digest) => {
            let session = match receive(service, session, body).await {
                Ok(session) => session,
                Err(broken) => return Err(broken.abandon(service).await),
            };
            commit(service, name, session, digest, asked).await
        }
    }
}

/// Takes a blob over from another repository: the one that is named, or any that the client may read.
async fn mount(service: &Shared, name: &Repository, digest: &Digest, asked: &Asked) -> Result<bool, Refusal> {
    let may = |from: &Repository| match (&service.guard, &asked.caller) {
        (Some(guard), Some(caller)) => guard.allow(caller, from.as_str(), Role::Pull).is_ok(),
        _ => true,
    };
    let candidates = match asked.query.get("from") {
        Some(from) => vec![from.parse::<Repository>()?],
        None => {
            let (store, wanted) = (service.store.clone(), digest.clone());
            blocking(move || store.holders(&wanted)).await?
        }
    };
    for from in candidates.into_iter().filter(may) {
        let (store, to, wanted) = (service.store.clone(), name.clone(), digest.clone());
        if blocking(move || store.mount_blob(&from, &to, &wanted)).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How long the client says the body is.
fn announced(asked: &Asked) -> Option<u64> {
    asked.header(header::CONTENT_LENGTH)?.parse().ok()
}

pub(super) async fn status(service: &Shared, name: Repository, id: UploadId) -> Answer {
    let session = find(service, &name, id).await?;
    Ok(bare(StatusCode::NO_CONTENT, location(&name, &session)))
}

pub(super) async fn patch(
    service: &Shared,
    name: Repository,
    id: UploadId,
    asked: &Asked,
    body: Body,
) -> Answer {
    let session = match ready(service, &name, id, asked).await {
        Ok(session) => session,
        Err(refusal) => return Err(refused(refusal, body)),
    };
    let session = receive(service, session, body).await.map_err(|broken| broken.refusal)?;
    Ok(bare(StatusCode::ACCEPTED, location(&name, &session)))
}

pub(super) async fn finish(
    service: &Shared,
    name: Repository,
    id: UploadId,
    asked: &Asked,
    body: Body,
) -> Answer {
    let missing = || Refusal::bad(Code::DigestInvalid, "the parameter digest is missing");
    let digest = asked.query.get("digest").ok_or_else(missing)?.parse()?;
    let session = match ready(service, &name, id, asked).await {
        Ok(session) => session,
        Err(refusal) => return Err(refused(refusal, body)),
    };
    let session = receive(service, session, body).await.map_err(|broken| broken.refusal)?;
    commit(service, name, session, digest, asked).await
}

/// Finds the upload that a chunk is for, and checks that the chunk fits to its end and on the disk.
async fn ready(service: &Shared, name: &Repository, id: UploadId, asked: &Asked) -> Result<Held, Refusal> {
    let session = find(service, name, id).await?;
    check_order(name, &session, asked)?;
    let length = announced(asked).unwrap_or_default();
    match service.store.admit(length) {
        Ok(()) => Ok(session),
        Err(error) => {
            // Nothing that does not fit is left behind.
            let store = service.store.clone();
            blocking(move || store.cancel_upload(session)).await?;
            Err(error.into())
        }
    }
}

fn refused(refusal: Refusal, body: Body) -> Refusal {
    drain(body.into_data_stream());
    refusal
}

pub(super) async fn cancel(service: &Shared, name: Repository, id: UploadId) -> Answer {
    let session = find(service, &name, id).await?;
    let store = service.store.clone();
    blocking(move || store.cancel_upload(session)).await?;
    Ok(bare(StatusCode::NO_CONTENT, []))
}

async fn find(service: &Shared, name: &Repository, id: UploadId) -> Result<Held, Refusal> {
    let unknown = || Refusal::not_found(Code::BlobUploadUnknown, "no such upload; it may have ended");
    if !id.belongs_to(name) {
        return Err(unknown());
    }
    let store = service.store.clone();
    let session = hold(blocking(move || store.find_upload(&id)).await?.ok_or_else(unknown)?).await?;
    if session.is_gone() { Err(unknown()) } else { Ok(session) }
}

async fn hold(session: Arc<Mutex<Session>>) -> Result<Held, Refusal> {
    timeout(BUSY, session.lock_owned()).await.map_err(|_| {
        Refusal::new(
            StatusCode::CONFLICT,
            Code::BlobUploadInvalid,
            "another request is writing to this upload",
        )
    })
}

/// A chunk that says where it belongs must belong to the end.
fn check_order(name: &Repository, session: &Session, asked: &Asked) -> Result<(), Refusal> {
    let Some(text) = asked.header(header::CONTENT_RANGE) else { return Ok(()) };
    let refuse = |status, message| {
        Err(Refusal::new(status, Code::BlobUploadInvalid, message).with_headers(location(name, session)))
    };
    let Some((first, last)) = range::chunk(text) else {
        return refuse(StatusCode::BAD_REQUEST, format!("Content-Range {text:?} is not FIRST-LAST"));
    };
    if first != session.length() {
        let message = format!("the next chunk begins at byte {}, not {first}", session.length());
        return refuse(StatusCode::RANGE_NOT_SATISFIABLE, message);
    }
    if announced(asked).is_some_and(|length| Some(length) != (last - first).checked_add(1)) {
        return refuse(StatusCode::BAD_REQUEST, format!("Content-Range {text:?} and Content-Length differ"));
    }
    Ok(())
}

/// A body that did not come whole. What was written before stays, if there is still a session.
struct Broken {
    session: Option<Held>,
    refusal: Refusal,
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        Self { session: None, refusal }
    }
}

impl Broken {
    /// An upload that nobody can go on with, because nobody was told its name, goes.
    async fn abandon(self, service: &Shared) -> Refusal {
        if let Some(session) = self.session {
            let store = service.store.clone();
            if let Err(refusal) = blocking(move || store.cancel_upload(session)).await {
                return refusal;
            }
        }
        self.refusal
    }
}

/// Appends a request's body, batch by batch. What was written before a connection broke stays, and the client asks
/// how much that is.
async fn receive(service: &Shared, session: Held, body: Body) -> Result<Held, Broken> {
    let mut frames = body.into_data_stream();
    let received = append(service, session, &mut frames).await;
    if received.is_err() {
        drain(frames);
    }
    received
}

async fn append(service: &Shared, mut session: Held, frames: &mut BodyDataStream) -> Result<Held, Broken> {
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut broken = None;
    let silence = service.options.storage.silence;
    loop {
        match timeout(silence.duration(), frames.next()).await {
            Ok(Some(Ok(bytes))) => {
                size += bytes.len();
                service.metrics.received(bytes.len());
                batch.push(bytes);
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                broken = Some(format!("the body broke off: {error}"));
                break;
            }
            Err(_) => {
                broken = Some(format!("nothing came for {silence}"));
                break;
            }
        }
        if size >= BATCH {
            session = write(&service.store, session, std::mem::take(&mut batch)).await?;
            size = 0;
        }
    }
    if !batch.is_empty() {
        session = write(&service.store, session, batch).await?;
    }
    match broken {
        None => Ok(session),
        Some(why) => {
            Err(Broken { session: Some(session), refusal: Refusal::bad(Code::BlobUploadInvalid, why) })
        }
    }
}

/// The guard goes along: whatever becomes of the request, nobody else appends before this is written. What
/// does not fit leaves nothing behind.
async fn write(store: &Arc<Store>, mut session: Held, batch: Vec<Bytes>) -> Result<Held, Refusal> {
    let store = store.clone();
    blocking(move || match session.append(&batch) {
        Err(error) if error.is_full() => {
            store.cancel_upload(session)?;
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(session),
    })
    .await
}

async fn commit(service: &Shared, name: Repository, session: Held, digest: Digest, asked: &Asked) -> Answer {
    let (store, to, wanted) = (service.store.clone(), name.clone(), digest.clone());
    match blocking(move || store.commit_upload(session, &to, &wanted)).await? {
        Commit::Stored => {
            service.audit(asked, Act::PushBlob, name.as_str(), digest.to_string(), Some(digest.to_string()));
            Ok(created(&name, &digest))
        }
        Commit::Mismatch(found) => {
            Err(Refusal::bad(Code::DigestInvalid, format!("the content's digest is {found}, not {digest}")))
        }
    }
}
