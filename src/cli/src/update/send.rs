//! A bundle's way to the server: in parts, from where the last try ended.

use super::{UpdateError, bundle::Bundle};
use crate::{Failure, client::Server, progress::Progress};
use api::v1::{BundleId, BundlePart, BundleStored};
use futures_util::{Stream, stream};
use std::{io::SeekFrom, sync::Arc, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

const PART: u64 = 256 << 10;
/// Tries that bring nothing before the link is given up.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn id(bundle: &Bundle) -> BundleId {
    BundleId { sha256: bundle.digest.clone(), size: bundle.size }
}

/// Ends when the server has the whole bundle and has found it right.
pub(super) async fn send(server: &Server, bundle: &Bundle) -> Result<(), Failure> {
    let mut stored = look(server, bundle).await?;
    if stored.whole {
        return Ok(());
    }
    let progress = Arc::new(Progress::new(&format!("sending {}", bundle.name()), bundle.size));
    let mut left = TRIES;
    loop {
        progress.set(stored.have);
        let outcome = send_from(server, bundle, stored.have, &progress).await;
        let failure = match outcome {
            Ok(BundleStored { whole: true, .. }) => return Ok(()),
            Ok(_) => None,
            Err(failure @ Failure::Unreachable { .. }) => Some(failure),
            Err(failure) => return Err(failure),
        };
        tokio::time::sleep(PAUSE * (TRIES - left + 1)).await;
        let now = match (server.bundle_at(id(bundle)).await, failure) {
            (Ok(now), _) => now,
            (Err(Failure::Unreachable { .. }), Some(failure)) if left <= 1 => return Err(failure),
            (Err(failure @ Failure::Unreachable { .. }), _) if left <= 1 => return Err(failure),
            (Err(Failure::Unreachable { .. }), _) => stored,
            (Err(failure), _) => return Err(failure),
        };
        left = if now.have > stored.have { TRIES } else { left.saturating_sub(1) };
        if left == 0 {
            return Err(Failure::Refused("the server does not take the bundle; try again".to_owned()));
        }
        stored = now;
    }
}

/// How much the server has. One that has it all and has not checked it yet does so now, which may take longer than an
/// answer may; it is done when it is asked again.
async fn look(server: &Server, bundle: &Bundle) -> Result<BundleStored, Failure> {
    for left in (1..TRIES).rev() {
        match server.bundle_at(id(bundle)).await {
            Err(Failure::Unreachable { .. }) => tokio::time::sleep(PAUSE * (TRIES - left)).await,
            outcome => return outcome,
        }
    }
    server.bundle_at(id(bundle)).await
}

async fn send_from(
    server: &Server,
    bundle: &Bundle,
    offset: u64,
    progress: &Arc<Progress>,
) -> Result<BundleStored, Failure> {
    let failed = |source| UpdateError::Read { file: bundle.file.clone(), source };
    let mut file = File::open(&bundle.file).await.map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
    server.put_bundle(parts(file, id(bundle), offset, progress.clone())).await
}

/// The rest of a file. One that cannot be read on ends early, which the next look at the server finds.
fn parts(
    file: File,
    id: BundleId,
    offset: u64,
    progress: Arc<Progress>,
) -> impl Stream<Item = BundlePart> + Send + 'static {
    stream::unfold((file, Some(id), offset), move |(mut file, id, offset)| {
        let progress = progress.clone();
        async move {
            let mut data = Vec::new();
            let read = (&mut file).take(PART).read_to_end(&mut data).await;
            let length = read.ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)?;
            progress.advance(length);
            Some((BundlePart { bundle: id, offset, data }, (file, None, offset + length)))
        }
    })
}
