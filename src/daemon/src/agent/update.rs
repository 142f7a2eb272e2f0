//! The other root slot: a bundle is fetched and checked, written, started, and judged after the restart.
//!
//! What is under way is kept on the data partition, for the module is restarted in the middle of it.

use super::{instances::Instances, joining};
use crate::{
    bundle::{Bundle, Shelf},
    chain,
    config::Config,
    files::write_whole,
};
use anyhow::{Context, bail};
use api::v1::{self, agents_client::AgentsClient};
use model::{KeptUpdate, RootSlot, SlotUpdate, UpdatePhase};
use runtime::{Booted, Slots};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Between two looks whether the trial is over.
const LOOK: Duration = Duration::from_secs(1);
/// Between two words about how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Connections that bring nothing before a bundle is given up, and the pause between them.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// The server may hear that the module is restarted before it is; and, if it is the server's own, all modules that the
/// server will be away: that takes each a heartbeat.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_WORDS_BEATS: u32 = 3;

/// The module's root slots and what is done to them.
pub(super) struct Updates {
    slots: Arc<dyn Slots>,
    booted: Option<Booted>,
    config: Config,
    shelf: Shelf,
    state: Mutex<State>,
    /// What [`Updates::now`] says has changed.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    root: Option<RootSlot>,
    progress: (u64, u64),
    /// A task is at it.
    busy: bool,
}

impl Updates {
    /// Finds out what has become of an update that was under way.
    pub(super) async fn start(slots: Arc<dyn Slots>, config: &Config) -> Arc<Self> {
        let booted = slots.booted();
        let shelf = Shelf::new(config.state.join("update"));
        let updates = Arc::new(Self {
            slots,
            booted,
            config: config.clone(),
            shelf,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        if let Some(booted) = &updates.booted {
            let version = updates.slots.version(&booted.slot).await;
            let (slot, compatible) = (booted.slot.clone(), booted.compatible.clone());
            let root = RootSlot { slot, version, proven: false, compatible, update: None };
            updates.lock().root = Some(root);
            updates.judge().await;
            // The agent ended between its last words and the restart.
            if updates.kept().is_some_and(|kept| kept.lacks_restart(&booted.slot, &booted.boot)) {
                tracing::info!("the module is restarted into its other slot, as it was about to be");
                if let Err(error) = updates.slots.reboot().await {
                    tracing::error!(error = %chain(&error), "the module cannot be restarted");
                }
            }
            let watch = updates.clone();
            tokio::spawn(async move { watch.trial().await });
        }
        updates
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the slots are; none on a module that has only one root.
    pub(super) fn root(&self) -> Option<RootSlot> {
        self.lock().root.clone()
    }

    /// The same, and how far the phase is.
    pub(super) fn now(&self) -> Option<(RootSlot, (u64, u64))> {
        let state = self.lock();
        Some((state.root.clone()?, state.progress))
    }

    /// Until the slot that runs has proven good.
    async fn trial(&self) {
        while !self.judge().await {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks what has become of the slot and of the update that is kept. Answers whether the slot has proven good.
    async fn judge(&self) -> bool {
        let Some(booted) = &self.booted else { return true };
        let (proven, kept) = (self.slots.proven(), self.kept());
        let judged = kept.map(|kept| (kept.judge(&booted.slot, &booted.boot, proven), kept));
        let judged = {
            let mut state = self.lock();
            // A task that is at it knows better.
            let judged = judged.filter(|_| !state.busy);
            let Some(root) = state.root.as_mut() else { return true };
            let before = root.clone();
            root.proven = proven;
            if let Some((now, _)) = &judged {
                root.update = Some(now.clone());
            }
            if *root == before {
                return proven;
            }
            judged
        };
        self.changed.notify_one();
        if let Some((now, kept)) = judged.filter(|(now, kept)| *now != kept.update) {
            let unseen = kept.update.phase == UpdatePhase::Installing && now.phase == UpdatePhase::Failed;
            if unseen && !self.abandon(&kept.target).await {
                // The next start tries again.
                return proven;
            }
            if let Err(error) = self.keep(&now, &kept.target).await {
                tracing::warn!(error = %chain(error.as_ref()), "the end of the update is not kept");
            }
            if now.phase == UpdatePhase::Done {
                // It is in the slot now.
                let _ = Bundle::new(&now.bundle, 0).map(|bundle| self.shelf.remove(&bundle));
            }
        }
        proven
    }

    fn file(&self) -> PathBuf {
        self.config.state.join("update/state.json")
    }

    fn kept(&self) -> Option<KeptUpdate> {
        let text = fs::read_to_string(self.file()).ok()?;
        serde_json::from_str(&text).inspect_err(|error| tracing::warn!(%error, "update/state.json")).ok()
    }

    /// What was not written to its end, or may not have been, must not be started.
    async fn abandon(&self, target: &str) -> bool {
        let outcome = self.slots.abandon(target).await;
        if let Err(error) = &outcome {
            tracing::error!(error = %chain(error), slot = target, "the slot that was being written may be started");
        }
        outcome.is_ok()
    }

    /// Beside the threads that heartbeats need: a medium may take its time.
    async fn keep(&self, update: &SlotUpdate, target: &str) -> anyhow::Result<()> {
        let boot = self.booted.as_ref().map(|b| b.boot.clone()).unwrap_or_default();
        let kept = KeptUpdate { update: update.clone(), boot, target: target.to_owned() };
        let file = self.file();
        let write = move || {
            serde_json::to_string(&kept)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(write_whole(&file, 0o600, &text)?))
        };
        let written = tokio::task::spawn_blocking(write).await?;
        written.context("the update's state cannot be kept over a restart")
    }

    /// The slot that does not run.
    fn target(&self) -> &'static str {
        match self.booted.as_ref().map(|b| b.slot.as_str()) {
            Some("a") => "b",
            _ => "a",
        }
    }

    /// A step of an update: kept first, then told to the server.
    async fn set(&self, update: SlotUpdate) -> anyhow::Result<()> {
        self.keep(&update, self.target()).await?;
        self.tell(update);
        Ok(())
    }

    /// The next step of the way.
    async fn reach(&self, update: &mut SlotUpdate, phase: UpdatePhase) -> anyhow::Result<()> {
        self.set(SlotUpdate { phase, ..update.clone() }).await?;
        update.phase = phase;
        Ok(())
    }

    fn tell(&self, update: SlotUpdate) {
        tracing::info!(phase = %update.phase, version = %update.version, message = %update.message, "update");
        let mut state = self.lock();
        state.progress = (0, 0);
        if let Some(root) = state.root.as_mut() {
            root.update = Some(update);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn progress(&self, done: u64, total: u64) {
        self.lock().progress = (done, total);
        self.changed.notify_one();
    }

    /// Does what the server wants. What is already under way, or done, is not begun anew.
    pub(super) fn wanted(self: &Arc<Self>, wanted: v1::UpdateWanted, instances: &Arc<Instances>) {
        let known = self.root().and_then(|root| root.update).filter(|u| u.attempt == wanted.attempt);
        let mut state = self.lock();
        let begun = known.is_some_and(|u| !wanted.install || u.phase != UpdatePhase::Checked);
        if state.busy || begun || state.root.is_none() {
            return;
        }
        state.busy = true;
        drop(state);
        let (updates, instances) = (self.clone(), instances.clone());
        tokio::spawn(async move {
            let mut update = SlotUpdate { attempt: wanted.attempt.clone(), ..SlotUpdate::default() };
            let outcome = updates.carry_out(&wanted, &mut update, &instances).await;
            if let Err(error) = outcome {
                // What cannot be given up is judged anew by the next start.
                let over = !update.phase.is_critical() || updates.abandon(updates.target()).await;
                update.phase = UpdatePhase::Failed;
                update.message = chain(error.as_ref());
                if over && updates.keep(&update, updates.target()).await.is_err() {
                    tracing::warn!("the end of the update is not kept");
                }
                updates.tell(update);
            }
            updates.lock().busy = false;
        });
    }

    async fn carry_out(
        &self,
        wanted: &v1::UpdateWanted,
        update: &mut SlotUpdate,
        instances: &Arc<Instances>,
    ) -> anyhow::Result<()> {
        let id = wanted.bundle.as_ref().context("no bundle is named")?;
        update.bundle.clone_from(&id.sha256);
        let bundle = Bundle::new(&id.sha256, id.size)?;
        if wanted.install {
            update.version = self.root().and_then(|root| root.update).map(|u| u.version).unwrap_or_default();
            return self.install(&bundle, update, instances).await;
        }
        self.set(update.clone()).await?;
        self.fetch(&bundle).await?;
        let facts = self.slots.inspect(&self.shelf.whole(&bundle)).await?;
        let own = self.booted.as_ref().map(|b| b.compatible.as_str()).unwrap_or_default();
        if facts.compatible != own {
            bail!("the bundle is for {}, this module is {own}", facts.compatible);
        }
        update.version = facts.version;
        self.reach(update, UpdatePhase::Checked).await
    }

    async fn install(
        &self,
        bundle: &Bundle,
        update: &mut SlotUpdate,
        instances: &Arc<Instances>,
    ) -> anyhow::Result<()> {
        if !self.shelf.has(bundle) {
            bail!("the bundle is not there any more; fetch it again");
        }
        if !self.slots.proven() {
            bail!("the slot that runs has not proven good, and the other one is what it falls back to");
        }
        let left = instances.observed().len();
        if left > 0 {
            bail!("{left} instances still run here; drain the module first");
        }
        self.reach(update, UpdatePhase::Installing).await?;
        let told = |hundredths: u8| self.progress(hundredths.into(), 100);
        self.slots.install(&self.shelf.whole(bundle), &told).await?;
        self.reach(update, UpdatePhase::Rebooting).await?;
        let beats = self.config.timing.heartbeat.duration() * LAST_WORDS_BEATS;
        tokio::time::sleep(LAST_WORDS.max(beats)).await;
        self.slots.reboot().await?;
        Ok(())
    }

    /// From the server, on a connection of its own, so that no heartbeat waits behind it.
    async fn fetch(&self, bundle: &Bundle) -> anyhow::Result<()> {
        if self.shelf.has(bundle) {
            return Ok(());
        }
        self.shelf.make_room(bundle)?;
        let (mut left, mut have) = (TRIES, self.shelf.have(bundle));
        while have < bundle.size {
            let outcome = self.fetch_more(bundle, have).await;
            let now = self.shelf.have(bundle);
            (left, have) = (if now > have { TRIES } else { left.saturating_sub(1) }, now);
            match outcome {
                Err(error) if left == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %chain(error.as_ref()), have, "the bundle was cut off");
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(()) => {}
            }
        }
        self.shelf.finish(bundle).await?;
        Ok(())
    }

    async fn fetch_more(&self, bundle: &Bundle, have: u64) -> anyhow::Result<()> {
        let module = self.config.module()?;
        let channel = joining::connect(&self.config, &module).await?;
        let id = v1::BundleId { sha256: bundle.digest.clone(), size: bundle.size };
        let asked = v1::BundleFrom { bundle: Some(id), offset: have };
        let answer = AgentsClient::new(channel).bundle(asked).await;
        let mut parts =
            answer.map_err(|s| anyhow::anyhow!("the server refused: {}", s.message()))?.into_inner();
        let mut writer = self.shelf.write(bundle).await?;
        let mut told = Instant::now();
        let limit = self.config.timing.lease.duration().max(Duration::from_secs(20));
        let outcome = async {
            loop {
                let part =
                    tokio::time::timeout(limit, parts.message()).await.context("nothing more comes")?;
                let Some(part) = part.map_err(|s| anyhow::anyhow!("{}", s.message()))? else { return Ok(()) };
                writer.append(part.offset, &part.data).await?;
                if told.elapsed() > TELL_EVERY {
                    told = Instant::now();
                    self.progress(writer.have(), bundle.size);
                }
            }
        }
        .await;
        // What did come is kept, also when the connection broke.
        writer.sync().await?;
        outcome
    }
}
