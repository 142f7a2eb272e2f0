//! Reading and deleting blobs.

use super::{Answer, CONTENT_DIGEST, Code, Refusal, Shared, bare, blocking, text_header, with_body};
use crate::{
    digest::Digest,
    name::Repository,
    range::{self, Selection},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use bytes::Bytes;
use futures_util::stream;
use std::{fs::File, io, os::unix::fs::FileExt};

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

pub(super) async fn head(service: &Shared, name: Repository, digest: Digest) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), digest.clone());
    match blocking(move || store.blob_size(&asked, &wanted)).await? {
        Some(size) => Ok(bare(StatusCode::OK, common(&digest, size))),
        None => Err(unknown(&name, &digest)),
    }
}

pub(super) async fn get(service: &Shared, name: Repository, digest: Digest, headers: &HeaderMap) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), digest.clone());
    let opened = blocking(move || store.open_blob(&asked, &wanted)).await?;
    let (file, size) = opened.ok_or_else(|| unknown(&name, &digest))?;
    // With If-Range a part is wanted only of the content it names.
    let same =
        text_header(headers, header::IF_RANGE).is_none_or(|tag| tag.trim_matches('"') == digest.to_string());
    let asked = text_header(headers, header::RANGE).filter(|_| same);
    match range::select(asked, size) {
        Selection::Whole => {
            let body = stream_file(service.clone(), file, 0, size);
            Ok(with_body(StatusCode::OK, common(&digest, size), body))
        }
        Selection::Part { first, last } => {
            let end = last + 1;
            let part = (header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
            let headers = common(&digest, end - first).into_iter().chain([part]);
            Ok(with_body(
                StatusCode::PARTIAL_CONTENT,
                headers,
                stream_file(service.clone(), file, first, end),
            ))
        }
        Selection::Unsatisfiable => {
            let message = format!("the blob has {size} bytes");
            Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid, message)
                .with_headers([(header::CONTENT_RANGE, format!("bytes */{size}"))]))
        }
    }
}

pub(super) async fn delete(service: &Shared, name: Repository, digest: Digest) -> Answer {
    let store = service.store.clone();
    let (asked, wanted) = (name.clone(), digest.clone());
    if blocking(move || store.unlink_blob(&asked, &wanted)).await? {
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
            let (chunk, file) =
                tokio::task::spawn_blocking(move || read_chunk(file, at, CHUNK.min(end - at))).await??;
            service.metrics.sent(chunk.len());
            let next = at + u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            Ok(Some((chunk, (file, next))))
        }
    }))
}

fn read_chunk(file: File, at: u64, length: u64) -> io::Result<(Bytes, File)> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut buffer, at)?;
    Ok((buffer.into(), file))
}
