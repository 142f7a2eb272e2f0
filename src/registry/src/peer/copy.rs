//! Copying an image from a peer: its blobs first, each going on where it stopped, then the manifest.

use super::{Peer, PeerError, Peers, client::ANSWER};
use crate::{
    digest::Digest,
    name::{Reference, Repository, UploadId},
    store::{Commit, Document, Put, Session, Store},
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
    time::timeout,
};

/// A peer that sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// How much is collected before it is written.
const BATCH: usize = 256 << 10;
/// Indexes in indexes in indexes: deeper than this nobody means it.
const DEEPEST: usize = 8;

impl Peer {
    fn store_failed(&self, reason: impl ToString) -> PeerError {
        PeerError::Store { url: self.client.url().to_owned(), reason: reason.to_string() }
    }
}

/// Does file work on a thread that may wait for the disk.
async fn on_disk<T: Send + 'static, E: std::error::Error + Send + 'static>(
    peer: &Peer,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, PeerError> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| peer.store_failed(crate::serve::chain(&error))),
        Err(error) => Err(peer.store_failed(error)),
    }
}

/// Copies what a reference leads to there; false when it leads nowhere, or was deleted here since. A tag is set
/// here too, as of the time that the peer says or else `stamp`.
pub(super) async fn image(
    peers: &Peers,
    peer: &Peer,
    repository: &Repository,
    reference: &Reference,
    stamp: Option<i64>,
) -> Result<bool, PeerError> {
    manifest(peers, peer, repository, reference, stamp, 0).await
}

async fn manifest(
    peers: &Peers,
    peer: &Peer,
    repository: &Repository,
    reference: &Reference,
    stamp: Option<i64>,
    depth: usize,
) -> Result<bool, PeerError> {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let mut headers = HeaderMap::new();
    headers.insert(super::PASSED_ON, HeaderValue::from_static("1"));
    let Some((answer, content)) = peer.client.get(&path, headers, ANSWER).await? else { return Ok(false) };
    let wrong =
        |reason: String| PeerError::Content { url: peer.client.url().to_owned(), path: path.clone(), reason };
    // Never as of now: what is copied is no change, and must not win over one that happens meanwhile.
    let stamp = super::changed(&answer).or(stamp);
    if let (Some(stamp), 0) = (stamp, depth) {
        let (store, to, name) = (peers.store.clone(), repository.clone(), reference.to_string());
        let known = on_disk(peer, move || store.version(&to, &name)).await?;
        if known.is_some_and(|(since, digest)| digest.is_none() && since >= stamp) {
            return Ok(false);
        }
    }
    let media_type = answer.get(header::CONTENT_TYPE).and_then(|text| text.to_str().ok()).map(str::to_owned);
    let needs = Document::parse(&content)
        .and_then(|document| document.needs())
        .map_err(|error| wrong(crate::serve::chain(&error)))?;
    if depth >= DEEPEST {
        return Err(wrong(format!("indexes nest deeper than {DEEPEST}")));
    }
    for child in &needs.manifests {
        child_manifest(peers, peer, repository, child, depth).await?;
    }
    for digest in &needs.either {
        // What kind it is only the peer knows.
        if !child_manifest(peers, peer, repository, digest, depth).await? {
            blob(peers, peer, repository, digest).await?;
        }
    }
    for digest in &needs.blobs {
        blob(peers, peer, repository, digest).await?;
    }
    let (store, to, wanted) = (peers.store.clone(), repository.clone(), reference.clone());
    on_disk(peer, move || {
        let put = Put {
            reference: &wanted,
            tags: &[],
            media_type: media_type.as_deref(),
            content: &content,
            stamp,
        };
        store.put_manifest(&to, &put)
    })
    .await?;
    peers.copied.fetch_add(1, Ordering::Relaxed);
    tracing::info!(peer = peer.url, %repository, %reference, "copied");
    Ok(true)
}

async fn child_manifest(
    peers: &Peers,
    peer: &Peer,
    repository: &Repository,
    digest: &Digest,
    depth: usize,
) -> Result<bool, PeerError> {
    let (store, to, wanted) = (peers.store.clone(), repository.clone(), digest.clone());
    if on_disk(peer, move || store.has_manifest(&to, &wanted)).await? {
        return Ok(true);
    }
    let reference = Reference::Digest(digest.clone());
    Box::pin(manifest(peers, peer, repository, &reference, None, depth + 1)).await
}

/// Fetches a blob unless it is here.
pub(super) async fn blob(
    peers: &Peers,
    peer: &Peer,
    repository: &Repository,
    digest: &Digest,
) -> Result<(), PeerError> {
    let (store, to, wanted) = (peers.store.clone(), repository.clone(), digest.clone());
    let here = on_disk(peer, move || {
        if store.blob_size(&to, &wanted)?.is_some() {
            return Ok(true);
        }
        // Another repository may have it: content is content.
        for from in store.holders(&wanted)? {
            if store.mount_blob(&from, &to, &wanted)? {
                return Ok(true);
            }
        }
        Ok::<_, crate::store::StoreError>(false)
    })
    .await?;
    if here {
        return Ok(());
    }
    let (store, id) = (peers.store.clone(), UploadId::fetching(digest));
    let session = on_disk(peer, move || store.resume_upload(&id)).await?;
    let session = Mutex::lock_owned(session).await;
    if session.is_gone() {
        // Another copy has just brought it.
        return Box::pin(blob(peers, peer, repository, digest)).await;
    }
    let session = download(peers, peer, repository, digest, session).await?;
    let (store, to, wanted) = (peers.store.clone(), repository.clone(), digest.clone());
    match on_disk(peer, move || store.commit_upload(session, &to, &wanted)).await? {
        Commit::Stored => Ok(()),
        Commit::Mismatch(found) => Err(PeerError::Content {
            url: peer.client.url().to_owned(),
            path: format!("/v2/{repository}/blobs/{digest}"),
            reason: format!("the content's digest is {found}"),
        }),
    }
}

type Held = OwnedMutexGuard<Session>;

async fn download(
    peers: &Peers,
    peer: &Peer,
    repository: &Repository,
    digest: &Digest,
    mut session: Held,
) -> Result<Held, PeerError> {
    let path = format!("/v2/{repository}/blobs/{digest}");
    session.expect(digest.algorithm());
    let mut headers = HeaderMap::new();
    headers.insert(super::PASSED_ON, HeaderValue::from_static("1"));
    if let Some(range) = (session.length() > 0)
        .then(|| HeaderValue::try_from(format!("bytes={}-", session.length())).ok())
        .flatten()
    {
        headers.insert(header::RANGE, range);
    }
    let answer = peer.client.send(Method::GET, &path, headers, ANSWER).await?;
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            tracing::info!(peer = peer.url, %digest, from = session.length(), "goes on")
        }
        // All of it had come; only the end was missing.
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(session),
        StatusCode::OK => {
            if session.length() > 0 {
                session = on_disk(peer, move || session.restart().map(|()| session)).await?;
                session.expect(digest.algorithm());
            }
        }
        status => return Err(PeerError::Status { url: peer.client.url().to_owned(), path, status }),
    }
    append(&peers.store, peer, session, answer.into_body()).await
}

async fn append(
    store: &Arc<Store>,
    peer: &Peer,
    mut session: Held,
    mut body: Incoming,
) -> Result<Held, PeerError> {
    let (mut batch, mut size) = (Vec::<Bytes>::new(), 0);
    loop {
        let frame = match timeout(SILENCE, body.frame()).await {
            Err(_) => Some(Err(PeerError::Late { url: peer.client.url().to_owned() })),
            Ok(frame) => frame.map(|frame| {
                frame.map_err(|source| PeerError::Http { url: peer.client.url().to_owned(), source })
            }),
        };
        let (ended, failed) = match frame {
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    size += bytes.len();
                    batch.push(bytes);
                }
                (false, None)
            }
            Some(Err(error)) => (true, Some(error)),
            None => (true, None),
        };
        if size >= BATCH || ended {
            // Also what came before the connection broke: the next attempt goes on behind it.
            let (parts, store) = (std::mem::take(&mut batch), store.clone());
            session = on_disk(peer, move || match session.append(&parts) {
                Err(error) if error.is_full() => store.cancel_upload(session).and(Err(error)),
                Err(error) => Err(error),
                Ok(()) => Ok(session),
            })
            .await?;
            size = 0;
        }
        match (ended, failed) {
            (_, Some(error)) => return Err(error),
            (true, None) => return Ok(session),
            (false, None) => {}
        }
    }
}
