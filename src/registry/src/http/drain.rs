//! What is left of a body that was refused.

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;

/// How much of it is read, in bytes, and for how long.
const MOST: usize = 8 << 20;
const LONGEST: Duration = Duration::from_secs(5);

/// A client that is still sending does not read: some of what comes is thrown away, so that it sees the refusal.
pub(super) fn drain(mut frames: BodyDataStream) {
    tokio::spawn(timeout(LONGEST, async move {
        let mut drained = 0;
        while let Some(Ok(frame)) = frames.next().await {
            drained += frame.len();
            if drained > MOST {
                break;
            }
        }
    }));
}
