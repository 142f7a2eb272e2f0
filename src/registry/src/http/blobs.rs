//! Reading and deleting blobs.

use super::{Answer, Asked, CONTENT_DIGEST, Code, Refusal, Shared, bare, blocking, with_body};
use crate::{
    audit::Act,
    digest::Digest,
    name::Repository,
    range::{self, Selection},
};
use axum::{
    body::Body,
    http::{HeaderName, StatusCode, header},
};
use bytes::Bytes;
use futures_util::stream;
use std::{fs::File, io, os::unix::fs::FileExt};

/// How much is read at a time where the bytes must pass through this process: TLS and HTTP/2.
const CHUNK: u64 = 128 << 10;

fn unknown(name: &Repository, digest: &Digest) -> Refusal {
    Refusal::not_found(Code::BlobUnknown, format!("{name} has no blob {digest}"))
}

fn common(digest: &Digest, length: u64) -> [(HeaderName, String); 5] {
    [
        (header::ACCEPT_RANGES, "bytes".into()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
        (header::ETAG, format!("\"{digest}\"")),
        (CONTENT_DIGEST, digest.to_string()),
    ]
}

/// Only what is here: a client that is told "yes" does not send the blob and names it in a manifest.
pub(super) async fn head(service: &Shared, name: Repository, digest: Digest) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), digest.clone());
    match blocking(move || store.blob_size(&asked, &wanted)).await? {
        Some(size) => Ok(bare(StatusCode::OK, common(&digest, size))),
        None => Err(unknown(&name, &digest)),
    }
}

pub(super) async fn get(service: &Shared, name: Repository, digest: Digest, asked: &Asked) -> Answer {
    let store = service.store.clone();
    let (to, wanted) = (name.clone(), digest.clone());
    let Some((file, size)) = blocking(move || store.open_blob(&to, &wanted)).await? else {
        let found = service.peers.pass_on(&asked.head, None).await;
        return found.ok_or_else(|| unknown(&name, &digest));
    };
    // With If-Range a part is wanted only of the content it names.
    let same = asked.header(header::IF_RANGE).is_none_or(|tag| tag.trim_matches('"') == digest.to_string());
    let range = asked.header(header::RANGE).filter(|_| same);
    let body = |file, start, end| match asked.direct() {
        Some(direct) => {
            service.metrics.sent(end - start);
            direct.body(file, start, end)
        }
        None => stream_file(service.clone(), file, start, end),
    };
    match range::select(range, size) {
        Selection::Whole => Ok(with_body(StatusCode::OK, common(&digest, size), body(file, 0, size))),
        Selection::Part { first, last } => {
            let end = last + 1;
            let part = (header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
            let headers = common(&digest, end - first).into_iter().chain([part]);
            Ok(with_body(StatusCode::PARTIAL_CONTENT, headers, body(file, first, end)))
        }
        Selection::Unsatisfiable => {
            let message = format!("the blob has {size} bytes");
            Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid, message)
                .with_headers([(header::CONTENT_RANGE, format!("bytes */{size}"))]))
        }
    }
}

pub(super) async fn delete(service: &Shared, name: Repository, digest: Digest, asked: &Asked) -> Answer {
    let store = service.store.clone();
    let (from, wanted) = (name.clone(), digest.clone());
    if blocking(move || store.unlink_blob(&from, &wanted)).await? {
        service.audit(asked, Act::DeleteBlob, name.as_str(), digest.to_string(), None);
        return Ok(bare(StatusCode::ACCEPTED, []));
    }
    Err(unknown(&name, &digest))
}

/// The bytes from `start` up to `end`, read as the client takes them. A file that turns out shorter breaks
/// the connection, so that nobody takes half a blob for a whole one.
fn stream_file(service: Shared, file: File, start: u64, end: u64) -> Body {
    Body::from_stream(stream::try_unfold((file, start), move |(file, at)| {
        let service = service.clone();
        async move {
            if at >= end {
                return Ok::<_, io::Error>(None);
            }
            let length = CHUNK.min(end - at);
            let (chunk, file) = tokio::task::spawn_blocking(move || read_chunk(file, at, length)).await??;
            service.metrics.sent(length);
            Ok(Some((chunk, (file, at + length))))
        }
    }))
}

fn read_chunk(file: File, at: u64, length: u64) -> io::Result<(Bytes, File)> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut buffer, at)?;
    Ok((buffer.into(), file))
}
