//! Other registries of the chassis: what is new there is copied, and what is missing here is asked for there.
//!
//! ```text
//!   follower                                   followed
//!     │ GET /v2/_space/changes?after=N&wait=30    │
//!     ├──────────────────────────────────────────►│  waits until there is a change N+1
//!     │◄──────────────────────────────────────────┤
//!     │ manifests, then their blobs, with Range   │
//!     ├──────────────────────────────────────────►│
//!     │ blobs stored, manifest stored, tag set    │
//!     │ N+1 noted, asked again ───────────────────►
//! ```
//!
//! Registries may follow each other, two or many: a change bears the time at which the first of them saw it, the
//! later one of two wins, and what is already here is not a change, so each change goes around once. A deletion is
//! a change like others and is noted also where nothing was to be deleted: whoever hears later of an earlier push
//! leaves it alone. There are no majorities: whoever can be reached serves.

mod client;
mod copy;
mod follow;
mod heal;

pub(crate) use client::PeerError;

use crate::{
    config::Replica,
    name::{Reference, Repository},
    store::Store,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use client::Client;
use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};

/// A request that a registry passes on bears this: it is not passed on again.
pub(crate) const PASSED_ON: HeaderName = HeaderName::from_static("space-registry-passed-on");
/// In answers with a manifest to such a request: when the reference last changed, in milliseconds since 1970.
pub(crate) const CHANGED: HeaderName = HeaderName::from_static("space-registry-changed");
/// A peer that did not answer is not asked again for this long, so that a pull does not wait for it twice.
const LET_ALONE: Duration = Duration::from_secs(5);

fn changed(headers: &HeaderMap) -> Option<i64> {
    headers.get(&CHANGED)?.to_str().ok()?.parse().ok()
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Peer {
    client: Client,
    url: String,
    /// Whether it does not answer.
    lost: AtomicBool,
    /// Whether it has turned out to be this registry: one list can name all of a chassis, and be on each module.
    itself: AtomicBool,
    /// When it could last not be reached at all.
    unreached: Mutex<Option<Instant>>,
    /// Told when it answers again.
    returned: Arc<Notify>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Peers {
    all: Vec<Arc<Peer>>,
    /// Another one at each start.
    instance: String,
    store: Arc<Store>,
    copied: AtomicU64,
    /// What is being fetched because somebody asked for it.
    fetching: Mutex<HashSet<(Repository, String)>>,
    /// Told when one of them answers again.
    returned: Arc<Notify>,
}

impl Peer {
    fn is_let_alone(&self) -> bool {
        let unreached = self.unreached.lock().unwrap_or_else(PoisonError::into_inner);
        unreached.is_some_and(|since| since.elapsed() < LET_ALONE)
    }

    /// Notes whether it answers; the first failure and the first success after it are logged.
    fn heard(&self, error: Option<&PeerError>) {
        let unreached = matches!(error, Some(PeerError::Connect { .. } | PeerError::Late { .. }));
        *self.unreached.lock().unwrap_or_else(PoisonError::into_inner) = unreached.then(Instant::now);
        let was_lost = self.lost.swap(error.is_some(), Ordering::Relaxed);
        match error {
            None if was_lost => {
                tracing::info!(peer = self.url, "peer answers again");
                self.returned.notify_one();
            }
            Some(error) if !was_lost => {
                tracing::warn!(peer = self.url, error = crate::serve::chain(error), "peer does not answer");
            }
            _ => {}
        }
    }
}

impl Peers {
    /// Reads what is needed to reach them.
    ///
    /// # Errors
    /// A certificate or password file cannot be used.
    pub(crate) fn new(
        store: Arc<Store>,
        replicas: &[Replica],
        own: Option<&Path>,
    ) -> Result<Self, PeerError> {
        let (mut all, returned) = (Vec::new(), Arc::new(Notify::new()));
        for replica in replicas {
            let client = Client::new(replica, own)?;
            let (lost, itself, unreached) =
                (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
            let (url, returned) = (replica.url.clone(), returned.clone());
            all.push(Arc::new(Peer { client, url, lost, itself, unreached, returned }));
        }
        let (instance, copied) = (format!("{:032x}", rand::random::<u128>()), AtomicU64::new(0));
        Ok(Self { all, instance, store, copied, fetching: Mutex::default(), returned })
    }

    /// What this process is told apart by from others.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Without this one.
    fn others(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.all.iter().filter(|peer| !peer.itself.load(Ordering::Relaxed))
    }

    /// Follows each of them for as long as the answer lives.
    pub(crate) fn follow(self: &Arc<Self>) -> JoinSet<()> {
        let mut followers = JoinSet::new();
        for peer in &self.all {
            followers.spawn(follow::forever(self.clone(), peer.clone()));
        }
        followers
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.others().next().is_none()
    }

    /// Waits until one that did not answer does so again.
    pub(crate) async fn returned(&self) {
        self.returned.notified().await;
    }

    /// How many are reached and how many are not.
    pub(crate) fn state(&self) -> (u64, u64) {
        let (lost, reached): (Vec<_>, Vec<_>) =
            self.others().partition(|peer| peer.lost.load(Ordering::Relaxed));
        let count = |peers: Vec<_>| u64::try_from(peers.len()).unwrap_or_default();
        (count(reached), count(lost))
    }

    /// How many manifests were copied since the start.
    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Asks the others for what is not here; None when nobody has it. What was deleted here, at `deleted`, counts
    /// only if it was put anew there since.
    pub(crate) async fn pass_on(&self, head: &Parts, deleted: Option<i64>) -> Option<Response> {
        if head.headers.contains_key(PASSED_ON) {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert(PASSED_ON, HeaderValue::from_static("1"));
        for name in [header::RANGE, header::IF_RANGE, header::ACCEPT] {
            for value in head.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let path = head.uri.path_and_query()?.as_str();
        for peer in self.others().filter(|peer| !peer.is_let_alone()) {
            let asked = peer.client.send(head.method.clone(), path, headers.clone(), client::ANSWER).await;
            peer.heard(asked.as_ref().err());
            if let Ok(answer) = asked
                && matches!(answer.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT)
                && deleted.is_none_or(|at| changed(answer.headers()).is_some_and(|put| put > at))
            {
                tracing::info!(peer = peer.url, path, "passed on");
                let (mut parts, body) = answer.into_parts();
                parts.headers.remove(header::CONNECTION);
                parts.headers.remove(header::TRANSFER_ENCODING);
                parts.headers.remove(&CHANGED);
                return Some(Response::from_parts(parts, Body::new(body)));
            }
        }
        None
    }

    /// Begins to copy an image that somebody asked for.
    pub(crate) fn fetch(self: &Arc<Self>, repository: Repository, reference: Reference) {
        let key = (repository.clone(), reference.to_string());
        if !self.fetching.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let peers = self.clone();
        tokio::spawn(async move {
            for peer in peers.others() {
                match copy::image(&peers, peer, &repository, &reference, None).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(
                        peer = peer.url, %repository, %reference, error = crate::serve::chain(&error), "cannot fetch"
                    ),
                }
            }
            peers.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }
}
