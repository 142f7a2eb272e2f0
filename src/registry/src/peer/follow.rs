//! Reading a peer's history and doing here what happened there.

use super::{Peer, PeerError, Peers, copy};
use crate::{
    name::{Reference, Repository},
    store::{Change, Feed},
};
use axum::http::HeaderMap;
use serde::Deserialize;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{task::spawn_blocking, time::sleep};

/// How long the peer keeps a request waiting for something new.
const WAIT: u64 = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How far the history was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    epoch: String,
    seq: i64,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (epoch, seq) = text.split_once(' ')?;
        Some(Self { epoch: epoch.into(), seq: seq.parse().ok()? })
    }
}

/// What a peer answers.
#[derive(Debug, Deserialize)]
struct Told {
    /// Which process it is; older ones do not say.
    #[serde(default)]
    instance: String,
    #[serde(flatten)]
    feed: Feed,
}

/// Follows until the task is aborted, or the peer turns out to be this registry.
pub(super) async fn forever(peers: Arc<Peers>, peer: Arc<Peer>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let followed = follow(&peers, &peer).await;
        peer.heard(followed.as_ref().err());
        match followed {
            Ok(()) if peer.itself.load(Ordering::Relaxed) => return,
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(peer = peer.url, error = crate::serve::chain(&error), "following later");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Asks once, and does what the answer says.
async fn follow(peers: &Arc<Peers>, peer: &Peer) -> Result<(), PeerError> {
    let key = format!("followed {}", peer.url);
    let mut place = read(peers, peer, &key).await?;
    let path = |place: &Place, wait| format!("/v2/_space/changes?after={}&wait={wait}", place.seq);
    // The first answer tells who it is, and need not be waited for.
    let wait = if place.epoch.is_empty() { 0 } else { WAIT };
    let Told { instance, mut feed } = ask(peer, &path(&place, wait)).await?;
    if instance == peers.instance {
        tracing::debug!(peer = peer.url, "this is the registry itself");
        peer.itself.store(true, Ordering::Relaxed);
        return Ok(());
    }
    if feed.epoch != place.epoch {
        // Another history: from its beginning.
        place = Place { epoch: feed.epoch.clone(), seq: 0 };
        write(peers, peer, &key, &place).await?;
        feed = ask(peer, &path(&place, 0)).await?.feed;
    }
    for change in &feed.changes {
        apply(peers, peer, change).await?;
        place.seq = change.seq;
        write(peers, peer, &key, &place).await?;
    }
    Ok(())
}

async fn ask(peer: &Peer, path: &str) -> Result<Told, PeerError> {
    let wrong =
        |reason: String| PeerError::Content { url: peer.client.url().into(), path: path.into(), reason };
    let patience = Duration::from_secs(WAIT + 15);
    let (_, content) = peer
        .client
        .get(path, HeaderMap::new(), patience)
        .await?
        .ok_or_else(|| wrong("it is no space-registry, or an old one".into()))?;
    serde_json::from_slice(&content).map_err(|error| wrong(error.to_string()))
}

async fn on_disk<T: Send + 'static>(
    peers: &Arc<Peers>,
    peer: &Peer,
    work: impl FnOnce(&crate::store::Store) -> crate::store::Result<T> + Send + 'static,
) -> Result<T, PeerError> {
    let store = peers.store.clone();
    let failed = |reason: String| PeerError::Store { url: peer.client.url().into(), reason };
    match spawn_blocking(move || work(&store)).await {
        Ok(done) => done.map_err(|error| failed(crate::serve::chain(&error))),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn read(peers: &Arc<Peers>, peer: &Peer, key: &str) -> Result<Place, PeerError> {
    let key = key.to_owned();
    let noted = on_disk(peers, peer, move |store| store.index().note(&key)).await?;
    let beginning = Place { epoch: String::new(), seq: 0 };
    Ok(noted.as_deref().and_then(Place::parse).unwrap_or(beginning))
}

async fn write(peers: &Arc<Peers>, peer: &Peer, key: &str, place: &Place) -> Result<(), PeerError> {
    let (key, text) = (key.to_owned(), format!("{} {}", place.epoch, place.seq));
    on_disk(peers, peer, move |store| store.index().set_note(&key, &text)).await
}

/// Does here what happened there, unless something later has happened here.
async fn apply(peers: &Arc<Peers>, peer: &Peer, change: &Change) -> Result<(), PeerError> {
    let parsed = (change.repository.parse::<Repository>(), change.reference.parse::<Reference>());
    let (Ok(repository), Ok(reference)) = parsed else {
        tracing::warn!(peer = peer.url, ?change, "not understood and left out");
        return Ok(());
    };
    let (from, what, stamp) = (repository.clone(), change.reference.clone(), change.stamp);
    let known = on_disk(peers, peer, move |store| store.version(&from, &what)).await?;
    if known.is_some_and(|known| known >= (stamp, change.digest.clone())) {
        return Ok(());
    }
    if change.digest.is_none() {
        let (from, what, name) = (repository.clone(), reference.clone(), change.reference.clone());
        let remove = move |store: &crate::store::Store| {
            let removed = store.delete_manifest(&from, &what, Some(stamp))?;
            if !removed {
                store.note_deleted(&from, &name, stamp);
            }
            Ok(removed)
        };
        if on_disk(peers, peer, remove).await? {
            tracing::info!(peer = peer.url, %repository, %reference, "deleted, as there");
        }
        return Ok(());
    }
    match copy::image(peers, peer, &repository, &reference, Some(stamp)).await {
        Ok(true) => Ok(()),
        // It has been deleted since; a later change says so.
        Ok(false) => Ok(()),
        // This one cannot be had whole and never will: the rest of the history must not wait for it.
        Err(error @ (PeerError::Content { .. } | PeerError::Status { .. })) => {
            tracing::error!(peer = peer.url, %repository, %reference, error = crate::serve::chain(&error), "not copied");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
