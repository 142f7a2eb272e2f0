//! The bytes of a chunk on their way out, counted as the connection takes them.
use super::{
    error::{ImageError, Result},
    files::Extent,
    graph::{Blob, Place},
    remote::Remote,
    wire::{Body, Pulse},
};
use crate::progress::Progress;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const FRAME: usize = 32 << 10;

/// Who wants to know what went out.
#[derive(Clone)]
pub(super) struct Counting {
    pub(super) pulse: Pulse,
    pub(super) progress: Arc<Progress>,
    pub(super) total: Arc<AtomicU64>,
}

impl Counting {
    fn count(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or_default();
        self.pulse.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advance(bytes);
    }
}

/// The bytes of a blob from `at` up to `end`.
pub(super) async fn part(
    blob: &Blob,
    at: u64,
    end: u64,
    remote: Option<&Remote>,
    counting: Counting,
) -> Result<Box<dyn Fn() -> Result<Body> + Send + Sync>> {
    let length = end.saturating_sub(at);
    match (&blob.place, remote) {
        (Place::File { path, offset }, _) => {
            let extent = Extent { path: path.clone(), offset: offset.saturating_add(at), size: length };
            Ok(Box::new(move || Ok(frames(extent.open(0)?, length, counting.clone()))))
        }
        (Place::Memory(content), _) => {
            let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(content.len());
            let part = content.slice(index(at)..index(end.max(at)));
            Ok(Box::new(move || Ok(frames(io::Cursor::new(part.clone()), length, counting.clone()))))
        }
        (Place::Remote, Some(remote)) if length > 0 => {
            let incoming = remote.part(blob, at, end).await?;
            let body = incoming
                .map_frame(move |frame| {
                    counting.count(frame.data_ref().map_or(0, Bytes::len));
                    frame
                })
                .map_err(io::Error::other)
                .boxed_unsync();
            // What came from elsewhere comes once.
            let once = Mutex::new(Some(body));
            let origin = remote.origin();
            Ok(Box::new(move || {
                let body = once.lock().unwrap_or_else(PoisonError::into_inner).take();
                body.ok_or_else(|| ImageError::source(origin.as_str(), "must be read again; try again"))
            }))
        }
        _ => Ok(Box::new(|| Ok(super::wire::empty()))),
    }
}

fn frames(reader: impl Read + Send + 'static, length: u64, counting: Counting) -> Body {
    let mut left = length;
    let mut reader = reader;
    let frames = std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let mut buffer = vec![0; FRAME.min(usize::try_from(left).unwrap_or(FRAME))];
        if let Err(error) = reader.read_exact(&mut buffer) {
            left = 0;
            return Some(Err(error));
        }
        counting.count(buffer.len());
        left = left.saturating_sub(u64::try_from(buffer.len()).unwrap_or_default());
        Some(Ok(Frame::data(Bytes::from(buffer))))
    });
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}
