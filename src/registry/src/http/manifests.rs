//! Manifests.

use super::{Answer, Asked, CONTENT_DIGEST, Code, Refusal, Shared, bare, blocking, drain::drain, with_body};
use crate::{
    audit::Act,
    name::{Reference, Repository, Tag},
    peer::{CHANGED, PASSED_ON},
    store::Put,
};
use axum::{
    body::Body,
    http::{HeaderName, Method, StatusCode, header},
};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;

/// The spec's advice: at least 4 MB.
const LARGEST: usize = 4 << 20;
/// A manifest that takes longer to come is not coming.
const PATIENCE: Duration = Duration::from_secs(60);
/// The spec's advice: at least 10.
const MOST_TAGS: usize = 100;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

fn unknown(name: &Repository, reference: &Reference) -> Refusal {
    Refusal::not_found(Code::ManifestUnknown, format!("{name} has no manifest {reference}"))
}

pub(super) async fn get(service: &Shared, name: Repository, reference: Reference, asked: &Asked) -> Answer {
    let store = service.store.clone();
    let (from, wanted) = (name.clone(), reference.clone());
    let asks_peer = asked.head.headers.contains_key(&PASSED_ON);
    let read = move || {
        // Before the content: what changes in between is then told again, and later.
        let before = if asks_peer { store.version(&from, &wanted.to_string())? } else { None };
        let manifest = store.manifest(&from, &wanted)?;
        let version = if manifest.is_none() { store.version(&from, &wanted.to_string())? } else { before };
        Ok((manifest, version))
    };
    let (manifest, version) = blocking(read).await?;
    let Some(manifest) = manifest else {
        let deleted = version.and_then(|(at, digest)| digest.is_none().then_some(at));
        let found = service.peers.pass_on(&asked.head, deleted).await;
        if found.is_some() {
            service.peers.fetch(name, reference);
            return found.ok_or_else(|| Refusal::not_found(Code::ManifestUnknown, "gone"));
        }
        return Err(unknown(&name, &reference));
    };
    let changed = version.map(|(at, _)| (CHANGED, at.to_string()));
    let headers = [
        (header::CONTENT_TYPE, manifest.media_type),
        (header::CONTENT_LENGTH, manifest.content.len().to_string()),
        (header::ETAG, format!("\"{}\"", manifest.digest)),
        (CONTENT_DIGEST, manifest.digest.to_string()),
    ];
    let only_head = asked.head.method == Method::HEAD;
    let body = if only_head { Body::empty() } else { Body::from(manifest.content) };
    Ok(with_body(StatusCode::OK, headers.into_iter().chain(changed), body))
}

async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut frames = body.into_data_stream();
    let whole = async {
        let mut content = Vec::new();
        while let Some(frame) = frames.next().await {
            let broke_off = |e| Refusal::bad(Code::ManifestInvalid, format!("the manifest broke off: {e}"));
            content.extend_from_slice(&frame.map_err(broke_off)?);
            if content.len() > LARGEST {
                let message = format!("the manifest is larger than {LARGEST} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message));
            }
        }
        Ok(content)
    };
    let late = |_| Err(Refusal::bad(Code::ManifestInvalid, "the manifest did not come in time"));
    let read = timeout(PATIENCE, whole).await.unwrap_or_else(late);
    if read.is_err() {
        drain(frames);
    }
    read
}

pub(super) async fn put(
    service: &Shared,
    name: Repository,
    reference: Reference,
    asked: &Asked,
    body: Body,
) -> Answer {
    let tags: Vec<Tag> = asked.query.all("tag").map(str::parse).collect::<Result<_, _>>()?;
    if tags.len() > MOST_TAGS || (!tags.is_empty() && matches!(reference, Reference::Tag(_))) {
        let message = format!("the parameter tag goes with a digest, up to {MOST_TAGS} times");
        return Err(Refusal::bad(Code::ManifestInvalid, message));
    }
    let content = read(body).await?;
    let media_type = asked.header(header::CONTENT_TYPE).map(str::to_owned);
    let (store, to, wanted, also) = (service.store.clone(), name.clone(), reference.clone(), tags.clone());
    let work = move || {
        let put = Put {
            reference: &wanted,
            tags: &also,
            media_type: media_type.as_deref(),
            content: &content,
            stamp: None,
        };
        Ok(store.put_manifest(&to, &put))
    };
    let stored = blocking(work).await??;
    let digest = stored.digest.to_string();
    service.audit(asked, Act::PushManifest, name.as_str(), reference.to_string(), Some(digest.clone()));
    let headers = [(header::LOCATION, format!("/v2/{name}/manifests/{digest}")), (CONTENT_DIGEST, digest)];
    let subject = stored.subject.map(|subject| (SUBJECT, subject.to_string()));
    let accepted = tags.iter().map(|tag| (TAG, tag.as_str().to_owned()));
    Ok(bare(StatusCode::CREATED, headers.into_iter().chain(subject).chain(accepted)))
}

pub(super) async fn delete(
    service: &Shared,
    name: Repository,
    reference: Reference,
    asked: &Asked,
) -> Answer {
    let store = service.store.clone();
    let (from, wanted) = (name.clone(), reference.clone());
    if blocking(move || store.delete_manifest(&from, &wanted, None)).await? {
        service.audit(asked, Act::DeleteManifest, name.as_str(), reference.to_string(), None);
        return Ok(bare(StatusCode::ACCEPTED, []));
    }
    Err(unknown(&name, &reference))
}
