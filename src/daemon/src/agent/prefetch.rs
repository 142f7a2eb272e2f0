//! Images that are to be here before they are needed, pulled one after the other beside everything else.

use crate::chain;
use model::ImageRef;
use runtime::Runtime;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(5);

/// The list, as the session gives it to the task that pulls.
#[derive(Debug)]
pub(super) struct Prefetch {
    wanted: watch::Sender<BTreeSet<ImageRef>>,
}

impl Prefetch {
    /// Starts the task; it lives as long as the process.
    pub(super) fn start(runtime: Arc<dyn Runtime>) -> Self {
        let (wanted, inbox) = watch::channel(BTreeSet::new());
        tokio::spawn(follow(runtime, inbox));
        Self { wanted }
    }

    /// The server's list; what makes no sense is left out.
    pub(super) fn order(&self, images: &[String]) {
        let images: BTreeSet<ImageRef> = images.iter().filter_map(|image| image.parse().ok()).collect();
        self.wanted.send_if_modified(|current| {
            let changed = *current != images;
            *current = images;
            changed
        });
    }
}

async fn follow(runtime: Arc<dyn Runtime>, mut inbox: watch::Receiver<BTreeSet<ImageRef>>) {
    let mut here = BTreeSet::new();
    while inbox.changed().await.is_ok() {
        loop {
            let wanted = inbox.borrow_and_update().clone();
            let mut missing = false;
            for image in wanted.difference(&here.clone()) {
                match runtime.pull(image).await {
                    Ok(()) => drop(here.insert(image.clone())),
                    Err(error) => {
                        // Whoever runs it says so louder.
                        tracing::debug!(%image, error = %chain(&error), "cannot pull ahead");
                        missing = true;
                    }
                }
            }
            here.retain(|image| wanted.contains(image));
            if !missing {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                changed = inbox.changed() => if changed.is_err() { return },
            }
        }
    }
}
