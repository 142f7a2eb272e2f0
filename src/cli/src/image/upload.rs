//! One blob on its way: begun or found again, sent in chunks, closed with its digest.
use super::{
    body::{self, Counting},
    error::{ImageError, Result},
    graph::Blob,
    ledger::{Entry, Ledger},
    name::Name,
    remote::Remote,
    wire::{Ask, Pulse, Scope, Wire, text},
};
use crate::{progress::Progress, table};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE},
};
use oci_spec::image::Digest;
use std::{
    cell::Cell,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// How often the registry may say that it stands elsewhere than we thought.
const MOST_CORRECTIONS: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was there when we looked again.
    Present,
    /// The registry took it from another repository.
    Mounted,
    /// It went over the link, from this byte on.
    From(u64),
}

/// Goes on after cuts, so often and no more, each time after a longer pause.
pub(super) struct Patience {
    retries: u32,
    left: Cell<u32>,
}

impl Patience {
    pub(super) fn new(retries: u32) -> Self {
        Self { retries, left: Cell::new(retries) }
    }

    /// Something came through.
    fn renew(&self) {
        self.left.set(self.retries);
    }

    /// Pauses after a cut; gives the error back when patience is at its end, or when waiting will not help.
    pub(super) async fn pause(&self, error: ImageError, progress: &Progress) -> Result<()> {
        let left = self.left.get();
        if left == 0 || !error.may_pass() {
            return Err(error);
        }
        let tried = self.retries.saturating_sub(left);
        self.left.set(left - 1);
        let pause = LONGEST_PAUSE.min(Duration::from_secs(1u64.checked_shl(tried).unwrap_or(u64::MAX)));
        progress.note(&format!("{error}; trying again in {} s", pause.as_secs()));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Where blobs go, and how.
pub(super) struct Uploads<'a> {
    pub(super) wire: &'a Wire,
    pub(super) to: &'a Name,
    pub(super) scope: Scope,
    pub(super) chunk: u64,
    pub(super) patience: &'a Patience,
    pub(super) progress: Arc<Progress>,
    /// For blobs that are in another registry.
    pub(super) remote: Option<&'a Remote>,
    /// What went out, also what was lost on its way.
    pub(super) total: Arc<AtomicU64>,
}

impl Uploads<'_> {
    /// Whether a repository has a blob.
    pub(super) async fn has(&self, repository: &str, digest: &Digest, scope: &Scope) -> Result<bool> {
        let target = format!("/v2/{repository}/blobs/{digest}");
        let answer = self.wire.ask(Ask::new(Method::HEAD, &target, scope)).await?;
        let known = [StatusCode::OK, StatusCode::NOT_FOUND];
        let answer = self.wire.expect(answer, &known, format!("look for {digest}")).await?;
        Ok(answer.status() == StatusCode::OK)
    }

    /// Brings a blob over, whatever it takes. `done` is what the bar counted before.
    pub(super) async fn bring(
        &self,
        ledger: &Ledger,
        blob: &Blob,
        owner: Option<&str>,
        done: u64,
    ) -> Result<Sent> {
        let mut entry = ledger.open(self.wire.address(), &self.to.repository, blob.digest.as_ref())?;
        loop {
            match self.attempt(blob, owner, &mut entry, done).await {
                Ok(sent) => {
                    entry.forget();
                    self.progress.set(done.saturating_add(blob.size));
                    return Ok(sent);
                }
                Err(error) if error.may_pass() => self.patience.pause(error, &self.progress).await?,
                Err(error) => {
                    entry.forget();
                    return Err(error);
                }
            }
            // The answer may be all that was lost.
            if matches!(self.has(&self.to.repository, &blob.digest, &self.scope).await, Ok(true)) {
                entry.forget();
                self.progress.set(done.saturating_add(blob.size));
                return Ok(Sent::Present);
            }
        }
    }

    async fn attempt(&self, blob: &Blob, owner: Option<&str>, entry: &mut Entry, done: u64) -> Result<Sent> {
        let (mut location, mut at) = match self.found(entry).await? {
            Some((location, at)) if at <= blob.size => (location, at),
            _ => match self.begin(blob, owner).await? {
                Some(location) => (location, 0),
                None => return Ok(Sent::Mounted),
            },
        };
        entry.remember(&location)?;
        let from = at;
        if from > 0 {
            let (at, size) = (table::bytes(at), table::bytes(blob.size));
            self.progress.note(&format!("{}: going on at {at} of {size}", short(&blob.digest)));
        }
        let mut corrections = 0;
        loop {
            self.progress.set(done.saturating_add(at));
            let end = blob.size.min(at.saturating_add(self.chunk.max(1)));
            let last = end == blob.size;
            let (status, headers) = self.chunk(blob, &location, at, end).await?;
            match status {
                StatusCode::CREATED | StatusCode::NO_CONTENT if last => return Ok(Sent::From(from)),
                StatusCode::RANGE_NOT_SATISFIABLE if corrections < MOST_CORRECTIONS => {
                    corrections += 1;
                    // `0-0` is said of nothing and of one byte; with nothing we would have been right.
                    at = stands_at(&headers).filter(|told| *told != at).unwrap_or(1);
                    if at > blob.size {
                        return Err(self.wire.odd(format!("it holds {at} bytes of a blob of {}", blob.size)));
                    }
                }
                StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                    at = stands_at(&headers).filter(|told| *told <= blob.size).unwrap_or(end);
                    self.patience.renew();
                }
                status => return Err(self.wire.odd(format!("it answered {status} to a chunk"))),
            }
            let next = text(&headers, LOCATION);
            if !next.is_empty() {
                next.clone_into(&mut location);
                entry.remember(&location)?;
            }
        }
    }

    /// An upload of an earlier run, and how far it came.
    async fn found(&self, entry: &Entry) -> Result<Option<(String, u64)>> {
        let Some(location) = entry.location() else { return Ok(None) };
        let answer = self.wire.ask(Ask::new(Method::GET, location, &self.scope)).await?;
        // A refusal says that it has forgotten the upload, or never knew it.
        if answer.status().is_client_error() {
            return Ok(None);
        }
        let known = [StatusCode::NO_CONTENT, StatusCode::OK, StatusCode::ACCEPTED];
        let answer = self.wire.expect(answer, &known, "say how far an upload came").await?;
        let at = stands_at(answer.headers()).unwrap_or(0);
        let next = text(answer.headers(), LOCATION);
        Ok(Some((if next.is_empty() { location } else { next }.to_owned(), at)))
    }

    /// Begins an upload and answers its location; none if the registry had the blob elsewhere.
    async fn begin(&self, blob: &Blob, owner: Option<&str>) -> Result<Option<String>> {
        let mut target = format!("/v2/{}/blobs/uploads/", self.to.repository);
        let mut scope = self.scope.clone();
        if let Some(owner) = owner {
            target.push_str(&format!("?mount={}&from={owner}", blob.digest));
            scope = scope.and_pull(owner);
        }
        let answer =
            self.wire.ask(Ask::new(Method::POST, &target, &scope).header(CONTENT_LENGTH, "0")).await?;
        let wanted = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let answer = self.wire.expect(answer, &wanted, format!("take {}", short(&blob.digest))).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(None);
        }
        match text(answer.headers(), LOCATION) {
            "" => Err(self.wire.odd("it begins an upload without a Location".into())),
            location => Ok(Some(location.to_owned())),
        }
    }

    /// Sends the bytes from `at` up to `end`; the last ones close the upload.
    async fn chunk(&self, blob: &Blob, location: &str, at: u64, end: u64) -> Result<(StatusCode, HeaderMap)> {
        let pulse = Pulse::default();
        let counting =
            Counting { pulse: pulse.clone(), progress: self.progress.clone(), total: self.total.clone() };
        let body = body::part(blob, at, end, self.remote, counting).await?;
        let closing;
        let (method, target) = if end == blob.size {
            let mark = if location.contains('?') { '&' } else { '?' };
            closing = format!("{location}{mark}digest={}", blob.digest);
            (Method::PUT, closing.as_str())
        } else {
            (Method::PATCH, location)
        };
        let mut ask = Ask::new(method, target, &self.scope)
            .header(CONTENT_LENGTH, end.saturating_sub(at).to_string())
            .header(CONTENT_TYPE, "application/octet-stream");
        if end > at {
            ask = ask.header(CONTENT_RANGE, format!("{at}-{}", end - 1));
        }
        ask.body = &*body;
        ask.pulse = Some(pulse);
        let answer = self.wire.ask(ask).await?;
        let wanted = [
            StatusCode::ACCEPTED,
            StatusCode::CREATED,
            StatusCode::NO_CONTENT,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        let answer = self.wire.expect(answer, &wanted, format!("take {}", short(&blob.digest))).await?;
        Ok((answer.status(), answer.headers().clone()))
    }
}

/// How many bytes the registry has, by its `Range: 0-LAST`.
fn stands_at(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, RANGE);
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.split_once('-')?.1.parse().ok()?;
    // `0-0` is what registries say of nothing, though it is one byte by the letter.
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// A digest as people read it.
pub(super) fn short(digest: &Digest) -> String {
    digest.digest().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_how_much_is_there() {
        let at = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            stands_at(&headers)
        };
        assert_eq!((at("0-0"), at("0-9"), at("bytes=0-99")), (Some(0), Some(10), Some(100)));
        assert_eq!((at("x"), stands_at(&HeaderMap::new())), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_is_renewed() {
        let progress = Progress::new("test", 1);
        let cut = || ImageError::Cut { registry: "r".into(), reason: "gone".into() };
        let patience = Patience::new(2);
        patience.pause(cut(), &progress).await.unwrap();
        patience.pause(cut(), &progress).await.unwrap();
        assert!(patience.pause(cut(), &progress).await.is_err());
        patience.renew();
        patience.pause(cut(), &progress).await.unwrap();
        let no = ImageError::Usage("no".into());
        assert!(patience.pause(no, &progress).await.is_err());
    }
}
