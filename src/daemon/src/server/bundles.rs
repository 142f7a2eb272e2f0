//! Bundles for root slots on their way from the ground to the modules: kept here, so that each crosses the uplink once.

use crate::{
    bundle::{Bundle, BundleError, PART, Shelf},
    chain,
};
use api::v1;
use std::{
    collections::BTreeMap,
    io::SeekFrom,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::Status;

/// Parts that are read ahead of a slow module.
const AHEAD: usize = 4;

pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<v1::BundlePart, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(super) struct Bundles {
    shelf: Shelf,
    /// The last sender of each bundle: one that was cut off must not write when its successor does.
    senders: Arc<Mutex<BTreeMap<String, u64>>>,
    /// Held while a bundle that has all its bytes is checked.
    checking: Arc<tokio::sync::Mutex<()>>,
}

fn refuse(error: &BundleError) -> Status {
    Status::failed_precondition(chain(error))
}

/// A bundle as a message names it.
pub(super) fn named(id: Option<&v1::BundleId>) -> Result<Bundle, Status> {
    let id = id.ok_or_else(|| Status::invalid_argument("no bundle is named"))?;
    Bundle::new(&id.sha256, id.size).map_err(|e| Status::invalid_argument(e.to_string()))
}

impl Bundles {
    pub(super) fn new(shelf: Shelf) -> Self {
        Self { shelf, senders: Arc::default(), checking: Arc::default() }
    }

    /// How much of it is there. What has all its bytes and was never checked, for the server was stopped before, is
    /// checked now.
    pub(super) async fn at(&self, bundle: &Bundle) -> v1::BundleStored {
        if !self.shelf.has(bundle)
            && self.shelf.have(bundle) == bundle.size
            && let Err(refused) = self.finish(bundle).await
        {
            tracing::warn!(digest = %bundle.digest, reason = refused.message(), "bundle not stored");
        }
        self.stored(bundle)
    }

    fn stored(&self, bundle: &Bundle) -> v1::BundleStored {
        v1::BundleStored { have: self.shelf.have(bundle), whole: self.shelf.has(bundle) }
    }

    /// Goes on when whoever asked for it is gone: who asks next finds it done.
    async fn finish(&self, bundle: &Bundle) -> Result<(), Status> {
        let (shelf, bundle, checking) = (self.shelf.clone(), bundle.clone(), self.checking.clone());
        let work = tokio::spawn(async move {
            let _alone = checking.lock().await;
            if !shelf.has(&bundle) {
                shelf.finish(&bundle).await?;
                tracing::info!(digest = %bundle.digest, size = bundle.size, "bundle stored");
            }
            Ok(())
        });
        let outcome: Result<(), BundleError> = work.await.map_err(|e| Status::internal(e.to_string()))?;
        outcome.map_err(|error| refuse(&error))
    }

    /// Takes parts until the bundle is whole or the sender is gone.
    pub(super) async fn take(
        &self,
        mut parts: impl Stream<Item = Result<v1::BundlePart, Status>> + Send + Unpin,
    ) -> Result<v1::BundleStored, Status> {
        let first = parts.next().await.ok_or_else(|| Status::invalid_argument("no part was sent"))??;
        let bundle = named(first.bundle.as_ref())?;
        if self.shelf.has(&bundle) {
            return Ok(self.stored(&bundle));
        }
        let own = self.next_sender(&bundle);
        self.shelf.make_room(&bundle).map_err(|e| refuse(&e))?;
        let mut writer = self.shelf.write(&bundle).await.map_err(|e| refuse(&e))?;
        let mut next = Some(Ok(first));
        while let Some(part) = next {
            let Ok(part) = part else { break };
            if self.sender(&bundle) != own {
                return Err(Status::failed_precondition("the bundle is being sent by somebody else"));
            }
            writer.append(part.offset, &part.data).await.map_err(|e| refuse(&e))?;
            next = if writer.have() < bundle.size { parts.next().await } else { None };
        }
        let have = writer.have();
        writer.sync().await.map_err(|e| refuse(&e))?;
        if have == bundle.size {
            self.finish(&bundle).await?;
        }
        Ok(self.stored(&bundle))
    }

    fn next_sender(&self, bundle: &Bundle) -> u64 {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = senders.entry(bundle.digest.clone()).or_default();
        *sender += 1;
        *sender
    }

    fn sender(&self, bundle: &Bundle) -> u64 {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.get(&bundle.digest).copied().unwrap_or(0)
    }

    /// Gives a module the parts from `offset` on.
    pub(super) async fn give(&self, bundle: &Bundle, offset: u64) -> Result<Parts, Status> {
        if !self.shelf.has(bundle) {
            return Err(Status::not_found("the server does not have the bundle; send it again"));
        }
        let read = |e: std::io::Error| Status::internal(format!("cannot read the bundle: {e}"));
        let mut file = File::open(self.shelf.whole(bundle)).await.map_err(read)?;
        file.seek(SeekFrom::Start(offset)).await.map_err(read)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let mut offset = offset;
            loop {
                let mut data = Vec::with_capacity(PART);
                let outcome = (&mut file).take(PART as u64).read_to_end(&mut data).await.map_err(read);
                let length = data.len() as u64;
                let part = outcome.map(|_| v1::BundlePart { bundle: None, offset, data });
                if length == 0 || sender.send(part).await.is_err() {
                    return;
                }
                offset += length;
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}
