//! What only this registry serves, below /v2/_space/: for followers and for the operator.

use super::{Answer, Asked, Code, Query, Refusal, Shared, blocking, json_response};
use crate::{audit::Act, store::Keep, upkeep};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

const MOST_CHANGES: u64 = 500;
/// Longer than this no follower is kept waiting: connections in between may be cut when nothing moves.
const LONGEST_WAIT: u64 = 60;

/// `GET /v2/_space/changes?after=N&wait=SECONDS`: what changed after change N, at once or when there is something.
pub(super) async fn changes(service: &Shared, query: &Query) -> Answer {
    let number = |name: &str| query.get(name).map_or(Ok(0), str::parse::<i64>);
    let bad = |_| Refusal::bad(Code::Unsupported, "after and wait are numbers");
    let (after, wait) = (number("after").map_err(bad)?, number("wait").map_err(bad)?);
    let mut changed = service.store.changes();
    let read = || {
        let store = service.store.clone();
        blocking(move || store.index().feed(after, MOST_CHANGES))
    };
    let mut feed = read().await?;
    let wait = Duration::from_secs(u64::try_from(wait).unwrap_or_default().min(LONGEST_WAIT));
    // A follower that has read further than there is anything was following another history.
    if feed.changes.is_empty()
        && u64::try_from(after).is_ok_and(|after| after <= *changed.borrow_and_update())
    {
        let _ = timeout(wait, changed.changed()).await;
        feed = read().await?;
    }
    let mut told = serde_json::to_value(&feed).map_err(|error| Refusal::internal(&error))?;
    // A registry that is told to follow itself finds out by this.
    if let Some(told) = told.as_object_mut() {
        told.insert("instance".into(), service.peers.instance().into());
    }
    Ok(json_response(&told))
}

/// `GET /v2/_space/usage`
pub(super) async fn usage(service: &Shared) -> Answer {
    let store = service.store.clone();
    let read = move || Ok((store.usage(), store.blob_count()?, store.quarantined(), store.index().shares()?));
    let (usage, blobs, quarantined, repositories) = blocking(read).await?;
    Ok(json_response(&json!({
        "stored": usage.stored,
        "uploading": usage.uploading,
        "quota": usage.quota,
        "reserve": usage.reserve,
        "free": usage.free,
        "blobs": blobs,
        "quarantined": quarantined,
        "repositories": repositories,
    })))
}

/// `POST /v2/_space/gc`
pub(super) async fn collect(service: &Shared, asked: &Asked) -> Answer {
    let (store, counts) = (service.store.clone(), service.counts.clone());
    let keep_untagged = match asked.query.get("untagged") {
        Some("remove") => false,
        Some(_) => return Err(Refusal::bad(Code::Unsupported, "untagged may be \"remove\"")),
        None => service.options.gc.keep_untagged,
    };
    let keep = Keep { grace: service.options.gc.grace.duration(), untagged: keep_untagged };
    let collected = blocking(move || upkeep::collect(&store, &counts, keep)).await?;
    service.audit(asked, Act::Collect, "", String::new(), None);
    serde_json::to_value(collected)
        .map(|value| json_response(&value))
        .map_err(|error| Refusal::internal(&error))
}
