//! Modules with root slots, as far as the contract shows them.

use super::{Shown, module};
use api::v1::{BundleId, BundlePart, BundleStored, Cordon, Module, RootSlot, SlotUpdate, UpdateRequest};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;
use tonic::{Status, Streaming};

/// What becomes of a module that is updated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs the new slot.
    Good,
    /// It refuses the bundle.
    Refuses,
    /// It falls back.
    FallsBack,
    /// It is not heard any more.
    Vanishes,
    /// An operator drains it while it is updated.
    IsDrainedByHand,
    /// All watches end while it restarts, as they do when it is the server's.
    TakesTheServerAlong,
}

#[derive(Clone, Default)]
pub(super) struct Desk {
    bundle: Arc<Mutex<Vec<u8>>>,
    fates: Arc<Mutex<BTreeMap<String, Fate>>>,
}

impl Desk {
    pub(super) fn destine(&self, module: &str, fate: Fate) {
        self.fates.lock().unwrap().insert(module.to_owned(), fate);
    }

    pub(super) fn fate(&self, module: &str) -> Fate {
        self.fates.lock().unwrap().get(module).copied().unwrap_or(Fate::Good)
    }

    pub(super) fn stored(&self, id: &BundleId) -> BundleStored {
        let bundle = self.bundle.lock().unwrap();
        let whole = hex::encode(Sha256::digest(&*bundle)) == id.sha256;
        BundleStored { have: bundle.len() as u64, whole }
    }

    /// The first stream is cut after one part.
    pub(super) async fn take(&self, mut parts: Streaming<BundlePart>) -> Result<BundleStored, Status> {
        let mut id = None;
        while let Some(part) = parts.message().await? {
            id = id.or(part.bundle);
            let mut bundle = self.bundle.lock().unwrap();
            assert_eq!(part.offset, bundle.len() as u64, "it goes on where it stopped");
            let first = bundle.is_empty();
            bundle.extend(part.data);
            if first {
                return Err(Status::unavailable("cut"));
            }
        }
        Ok(self.stored(&id.unwrap()))
    }
}

/// A module that runs 1.0 from slot a.
pub(crate) fn slotted(slot: u32) -> Module {
    let root = RootSlot {
        slot: "a".into(),
        version: "1.0".into(),
        proven: true,
        compatible: "board".into(),
        update: None,
    };
    Module { slot, root: Some(root), ..module(&format!("module-{slot}")) }
}

fn change(shown: &watch::Sender<Shown>, name: &str, change: impl FnOnce(&mut Module)) {
    shown.send_modify(|shown| {
        change(shown.snapshot.modules.iter_mut().find(|m| m.name == name).unwrap());
    });
}

/// What runs on a drained module leaves it at once, unless there is nowhere to go, or nothing was said of the module.
pub(super) fn drain(
    shown: &watch::Sender<Shown>,
    name: &str,
    cordoned: bool,
    draining: bool,
    before: Option<Cordon>,
) {
    shown.send_modify(|shown| {
        let snapshot = &mut shown.snapshot;
        for module in snapshot.modules.iter_mut().filter(|m| m.name == name) {
            (module.cordoned, module.draining, module.before_update) = (cordoned, draining, before);
        }
        let known = snapshot.modules.iter().any(|m| m.name == name);
        let nowhere = snapshot.instances.iter().any(|i| i.module.is_empty());
        if draining && known && !nowhere {
            snapshot.instances.retain(|i| i.module != name);
        }
    });
}

pub(super) fn carry_out(fate: Fate, request: &UpdateRequest, shown: &watch::Sender<Shown>) {
    let UpdateRequest { module, bundle, attempt, install } = request.clone();
    let set = |phase: &str, message: &str| {
        let update = SlotUpdate {
            attempt: attempt.clone(),
            bundle: bundle.clone().unwrap().sha256,
            version: "2.0".into(),
            phase: phase.into(),
            message: message.into(),
            ..SlotUpdate::default()
        };
        change(shown, &module, |m| m.root.as_mut().unwrap().update = Some(update));
    };
    match (install, fate) {
        (false, Fate::Refuses) => set("failed", "cannot use the bundle: signature verification failed"),
        (false, _) => set("checked", ""),
        (true, Fate::FallsBack) => {
            set("failed", "slot b did not prove good; the module fell back to slot a by itself")
        }
        (true, Fate::Vanishes) => {
            set("rebooting", "");
            change(shown, &module, |m| m.state = "lost".into());
        }
        (true, _) => {
            set("rebooting", "");
            if fate == Fate::TakesTheServerAlong {
                shown.send_modify(|shown| shown.generation += 1);
            }
            change(shown, &module, |m| {
                let root = m.root.as_mut().unwrap();
                (root.slot, root.version) = ("b".into(), "2.0".into());
                if fate == Fate::IsDrainedByHand {
                    m.before_update = None;
                }
            });
            set("done", "");
        }
    }
}
