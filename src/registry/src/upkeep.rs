//! What the registry does by itself: removes forgotten uploads, collects garbage, reads its blobs again.

use crate::{
    config::{Gc, Scrub},
    peer::Peers,
    store::{Collected, Keep, Scrubbed, Store, StoreError, Verdict},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Where the scrub goes on after a restart.
const CURSOR: &str = "scrubbed";
/// When to ask for damaged blobs again that no peer had.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) collections: AtomicU64,
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) brought_back: AtomicU64,
}

async fn on_disk<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Option<T> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::error!(error = crate::serve::chain(&error), "upkeep failed");
            None
        }
        Err(error) => {
            tracing::error!(%error, "upkeep ended unexpectedly");
            None
        }
    }
}

/// Forgotten uploads must not fill the disk of a registry that runs for months.
pub(crate) async fn sweep(store: Arc<Store>) {
    loop {
        sleep(SWEEP_EVERY).await;
        on_disk(&store, |store| {
            store.sweep_uploads();
            Ok(())
        })
        .await;
    }
}

/// Collects garbage once.
///
/// # Errors
/// As the store says.
pub(crate) fn collect(store: &Store, counts: &Counts, keep: Keep) -> Result<Collected, StoreError> {
    let collected = store.collect(keep)?;
    counts.collections.fetch_add(1, Ordering::Relaxed);
    counts.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
    tracing::info!(
        manifests = collected.manifests,
        links = collected.links,
        blobs = collected.blobs,
        bytes = collected.bytes,
        "garbage collected"
    );
    Ok(collected)
}

/// Collects garbage now and then. Who relied on a blob before this process began is not known: the first
/// collection waits for as long as that could matter.
pub(crate) async fn collect_often(store: Arc<Store>, counts: Arc<Counts>, config: Gc) {
    if config.every.0 == 0 {
        return;
    }
    let keep = Keep { grace: config.grace.duration(), untagged: config.keep_untagged };
    sleep(keep.grace).await;
    loop {
        let counts = counts.clone();
        on_disk(&store, move |store| collect(store, &counts, keep)).await;
        sleep(config.every.duration()).await;
    }
}

/// Reads every blob again, slowly, and goes on after a restart where it was.
/// `found` is told of each that is damaged.
pub(crate) async fn scrub(store: Arc<Store>, counts: Arc<Counts>, found: Arc<Notify>, config: Scrub) {
    if config.every.0 == 0 {
        return;
    }
    // Not while a module boots.
    sleep(config.every.duration().min(Duration::from_secs(60))).await;
    loop {
        let began = Instant::now();
        let cursor = on_disk(&store, |store| store.index().note(CURSOR)).await.flatten();
        let all = on_disk(&store, Store::blobs_on_disk).await.unwrap_or_default();
        let done = cursor.and_then(|text| text.parse().ok());
        for digest in all.into_iter().filter(|digest| done.as_ref().is_none_or(|done| digest > done)) {
            let rate = config.rate.0;
            let read = on_disk(&store, move |store| {
                let scrubbed = store.scrub(&digest, Some(rate))?;
                store.index().set_note(CURSOR, &digest.to_string())?;
                Ok(scrubbed)
            })
            .await;
            if let Some(read) = read {
                report(&counts, &found, &read);
            }
        }
        on_disk(&store, |store| store.index().set_note(CURSOR, "")).await;
        tracing::info!(seconds = began.elapsed().as_secs(), "all blobs read again");
        sleep_until(began + config.every.duration()).await;
        sleep(Duration::from_secs(1)).await;
    }
}

fn report(counts: &Counts, found: &Notify, read: &Scrubbed) {
    counts.scrubbed_bytes.fetch_add(read.bytes, Ordering::Relaxed);
    if let Verdict::Damaged(to) = &read.verdict {
        counts.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            blob = %read.digest, to = %to.display(),
            "a blob is damaged and was put aside; a peer or another push can bring it back"
        );
        found.notify_one();
    }
}

/// Brings damaged blobs back from peers: at once when the scrub has `found` one or a peer is back, and now and then
/// those that no peer had.
pub(crate) async fn heal(store: Arc<Store>, peers: Arc<Peers>, counts: Arc<Counts>, found: Arc<Notify>) {
    if peers.is_empty() {
        return;
    }
    loop {
        for (digest, needs) in on_disk(&store, Store::lacking).await.unwrap_or_default() {
            if let Some(peer) = peers.bring_back(&digest, &needs).await {
                counts.brought_back.fetch_add(1, Ordering::Relaxed);
                tracing::info!(blob = %digest, peer, "a damaged blob is back");
            }
        }
        // Whichever comes first, it is time to look.
        tokio::select! {
            () = found.notified() => {}
            () = peers.returned() => {}
            () = sleep(ASK_AGAIN) => {}
        }
    }
}
