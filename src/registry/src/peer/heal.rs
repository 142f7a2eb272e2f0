//! Bringing back what the scrub has put aside.

use super::{Peer, PeerError, Peers, copy};
use crate::{digest::Digest, name::Reference, store::Need};
use std::sync::Arc;

impl Peers {
    /// Fetches content that the disk has lost and verifies it; the peer that had it, if one did.
    pub(crate) async fn bring_back(&self, digest: &Digest, needs: &[Need]) -> Option<&str> {
        for peer in self.others().filter(|peer| !peer.is_let_alone()) {
            for need in needs {
                match self.bring_from(peer, digest, need).await {
                    Ok(true) => return Some(&peer.url),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(
                            peer = peer.url, %digest, error = crate::serve::chain(&error), "cannot bring it back"
                        );
                    }
                }
            }
        }
        None
    }

    async fn bring_from(&self, peer: &Arc<Peer>, digest: &Digest, need: &Need) -> Result<bool, PeerError> {
        match need {
            Need::Blob(repository) => copy::blob(self, peer, repository, digest).await.map(|()| true),
            Need::Manifest(repository) => {
                copy::image(self, peer, repository, &Reference::Digest(digest.clone()), None).await
            }
        }
    }
}
