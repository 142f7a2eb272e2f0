//! Uploads: begin, append, look, finish, cancel.

use super::{Answer, CONTENT_DIGEST, Code, Query, Refusal, Shared, bare, blocking, text_header};
use crate::{
    digest::Digest,
    name::{Repository, UploadId},
    range,
    store::{Commit, Session, StoreError},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use futures_util::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// How much is collected before it is written.
const BATCH: usize = 256 << 10;
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

pub(super) async fn begin(service: &Shared, name: Repository, query: &Query, body: Body) -> Answer {
    if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
        let (digest, from): (Digest, Repository) = (digest.parse()?, from.parse()?);
        let (store, to, wanted) = (service.store.clone(), name.clone(), digest.clone());
        if blocking(move || store.mount_blob(&from, &to, &wanted)).await? {
            return Ok(created(&name, &digest));
        }
    }
    let whole = query.get("digest").map(str::parse::<Digest>).transpose()?;
    let store = service.store.clone();
    let session = hold(blocking(move || store.begin_upload()).await?).await?;
    match whole {
        None => Ok(bare(StatusCode::ACCEPTED, location(&name, &session))),
        Some(digest) => {
            let session = receive(service, session, body).await?;
            commit(service, name, session, digest).await
        }
    }
}

pub(super) async fn status(service: &Shared, name: Repository, id: UploadId) -> Answer {
    let session = find(service, id).await?;
    Ok(bare(StatusCode::NO_CONTENT, location(&name, &session)))
}

pub(super) async fn patch(
    service: &Shared,
    name: Repository,
    id: UploadId,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let session = find(service, id).await?;
    check_order(&name, &session, headers)?;
    let session = receive(service, session, body).await?;
    Ok(bare(StatusCode::ACCEPTED, location(&name, &session)))
}

pub(super) async fn finish(
    service: &Shared,
    name: Repository,
    id: UploadId,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let missing = || Refusal::bad(Code::DigestInvalid, "the parameter digest is missing");
    let digest = query.get("digest").ok_or_else(missing)?.parse()?;
    let session = find(service, id).await?;
    check_order(&name, &session, headers)?;
    let session = receive(service, session, body).await?;
    commit(service, name, session, digest).await
}

pub(super) async fn cancel(service: &Shared, id: UploadId) -> Answer {
    let session = find(service, id).await?;
    let store = service.store.clone();
    blocking(move || store.cancel_upload(session)).await?;
    Ok(bare(StatusCode::NO_CONTENT, []))
}

async fn find(service: &Shared, id: UploadId) -> Result<Held, Refusal> {
    let unknown = || Refusal::not_found(Code::BlobUploadUnknown, "no such upload; it may have ended");
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
fn check_order(name: &Repository, session: &Session, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(text) = text_header(headers, header::CONTENT_RANGE) else { return Ok(()) };
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
    let length = text_header(headers, header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if length.is_some_and(|length| Some(length) != (last - first).checked_add(1)) {
        return refuse(StatusCode::BAD_REQUEST, format!("Content-Range {text:?} and Content-Length differ"));
    }
    Ok(())
}

/// Appends a request's body: one batch is written while the next one comes in. What was written before a
/// connection broke stays, and the client asks how much that is.
async fn receive(service: &Shared, session: Held, body: Body) -> Result<Held, Refusal> {
    let mut frames = body.into_data_stream();
    let mut writing = write(session, Vec::new());
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut broken = None;
    while let Some(frame) = frames.next().await {
        match frame {
            Ok(bytes) => {
                size += bytes.len();
                service.metrics.received(bytes.len());
                batch.push(bytes);
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
        if size >= BATCH {
            writing = write(written(writing).await?, std::mem::take(&mut batch));
            size = 0;
        }
    }
    let session = written(write(written(writing).await?, batch)).await?;
    match broken {
        None => Ok(session),
        Some(error) => Err(Refusal::bad(Code::BlobUploadInvalid, format!("the body broke off: {error}"))),
    }
}

/// The guard goes along: whatever becomes of the request, nobody else appends before this is written.
fn write(mut session: Held, batch: Vec<bytes::Bytes>) -> JoinHandle<Result<Held, StoreError>> {
    spawn_blocking(move || {
        if !batch.is_empty() {
            session.append(&batch)?;
        }
        Ok(session)
    })
}

async fn written(writing: JoinHandle<Result<Held, StoreError>>) -> Result<Held, Refusal> {
    match writing.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Refusal::internal(&error)),
    }
}

async fn commit(service: &Shared, name: Repository, session: Held, digest: Digest) -> Answer {
    let (store, to, wanted) = (service.store.clone(), name.clone(), digest.clone());
    match blocking(move || store.commit_upload(session, &to, &wanted)).await? {
        Commit::Stored => Ok(created(&name, &digest)),
        Commit::Mismatch(found) => {
            Err(Refusal::bad(Code::DigestInvalid, format!("the content's digest is {found}, not {digest}")))
        }
    }
}
