//! Manifests.

use super::{Answer, CONTENT_DIGEST, Code, Refusal, Shared, bare, blocking, text_header, with_body};
use crate::name::{Reference, Repository};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, StatusCode, header},
};

const LARGEST: usize = 4 << 20;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

fn unknown(name: &Repository, reference: &Reference) -> Refusal {
    Refusal::not_found(Code::ManifestUnknown, format!("{name} has no manifest {reference}"))
}

pub(super) async fn get(service: &Shared, name: Repository, reference: Reference, only_head: bool) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), reference.clone());
    let found = blocking(move || store.manifest(&asked, &wanted)).await?;
    let manifest = found.ok_or_else(|| unknown(&name, &reference))?;
    let headers = [
        (header::CONTENT_TYPE, manifest.media_type),
        (header::CONTENT_LENGTH, manifest.content.len().to_string()),
        (header::ETAG, format!("\"{}\"", manifest.digest)),
        (CONTENT_DIGEST, manifest.digest.to_string()),
    ];
    let body = if only_head { Body::empty() } else { Body::from(manifest.content) };
    Ok(with_body(StatusCode::OK, headers, body))
}

pub(super) async fn put(
    service: &Shared,
    name: Repository,
    reference: Reference,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let content = axum::body::to_bytes(body, LARGEST).await.map_err(|_| {
        let message = format!("the manifest is larger than {LARGEST} bytes, or broke off");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
    })?;
    let media_type = text_header(headers, header::CONTENT_TYPE).map(str::to_owned);
    let (store, to, wanted) = (service.store.clone(), name.clone(), reference.clone());
    let work = move || Ok(store.put_manifest(&to, &wanted, media_type.as_deref(), &content));
    let stored = blocking(work).await??;
    tracing::info!(repository = %name, %reference, digest = %stored.digest, "manifest stored");
    let subject = stored.subject.map(|subject| (SUBJECT, subject.to_string()));
    let headers = [
        (header::LOCATION, format!("/v2/{name}/manifests/{}", stored.digest)),
        (CONTENT_DIGEST, stored.digest.to_string()),
    ];
    Ok(bare(StatusCode::CREATED, headers.into_iter().chain(subject)))
}

pub(super) async fn delete(service: &Shared, name: Repository, reference: Reference) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), reference.clone());
    if blocking(move || store.delete_manifest(&asked, &wanted)).await? {
        tracing::info!(repository = %name, %reference, "manifest deleted");
        return Ok(bare(StatusCode::ACCEPTED, []));
    }
    Err(unknown(&name, &reference))
}
