use async_trait::async_trait;
use runtime::{Booted, BundleFacts, Hundredths, SlotError, Slots};
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Two root slots without a disk. A bundle is a text: `COMPATIBLE VERSION`, and behind that whatever.
#[derive(Debug)]
pub struct FakeSlots {
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    /// The slot that runs, and the versions in a and b.
    slot: usize,
    versions: [String; 2],
    proven: bool,
    boot: u32,
    restarting: bool,
    /// The other slot would be started next.
    written: bool,
    /// Whoever installs is never told of its end.
    endless: bool,
}

const NAMES: [&str; 2] = ["a", "b"];

impl Default for FakeSlots {
    fn default() -> Self {
        let versions = ["1.0".to_owned(), String::new()];
        let (restarting, written, endless) = (false, false, false);
        Self {
            state: Mutex::new(State {
                slot: 0,
                versions,
                proven: true,
                boot: 1,
                restarting,
                written,
                endless,
            }),
        }
    }
}

impl FakeSlots {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has asked for a restart.
    pub fn is_restarting(&self) -> bool {
        self.lock().restarting
    }

    /// Nobody has asked for a restart.
    pub fn forget_restart(&self) {
        self.lock().restarting = false;
    }

    /// The module starts again: in the other slot, on trial, or where it was.
    pub fn boot(&self, other: bool) {
        let mut state = self.lock();
        if other {
            state.slot = 1 - state.slot;
            state.proven = false;
        }
        state.restarting = false;
        state.boot += 1;
    }

    /// Answers whether nobody is told of it.
    fn write(&self, version: String) -> bool {
        let mut state = self.lock();
        let other = 1 - state.slot;
        if let Some(place) = state.versions.get_mut(other) {
            *place = version;
        }
        state.written = true;
        state.endless
    }

    /// The other slot would be started next.
    pub fn is_written(&self) -> bool {
        self.lock().written
    }

    /// From now on an installation comes to its end, and nobody hears of it.
    pub fn end_silently(&self) {
        self.lock().endless = true;
    }

    /// The slot that runs proves good.
    pub fn prove(&self) {
        self.lock().proven = true;
    }
}

fn read(bundle: &Path) -> Result<BundleFacts, SlotError> {
    let refuse = |reason: &str| SlotError::Failed { operation: "use the bundle", reason: reason.to_owned() };
    let text = std::fs::read_to_string(bundle).map_err(|error| refuse(&error.to_string()))?;
    let mut words = text.split_whitespace().map(str::to_owned);
    match (words.next(), words.next()) {
        (Some(signer), _) if signer == "forged" => Err(refuse("signature verification failed")),
        (Some(compatible), Some(version)) => Ok(BundleFacts { compatible, version }),
        _ => Err(refuse("it is empty")),
    }
}

#[async_trait]
impl Slots for FakeSlots {
    fn booted(&self) -> Option<Booted> {
        let state = self.lock();
        let slot = NAMES.get(state.slot).copied().unwrap_or_default().to_owned();
        Some(Booted { slot, compatible: "board".to_owned(), boot: state.boot.to_string() })
    }

    async fn version(&self, slot: &str) -> String {
        let index = usize::from(slot == "b");
        self.lock().versions.get(index).cloned().unwrap_or_default()
    }

    fn proven(&self) -> bool {
        self.lock().proven
    }

    async fn inspect(&self, bundle: &Path) -> Result<BundleFacts, SlotError> {
        read(bundle)
    }

    async fn install(&self, bundle: &Path, told: Hundredths<'_>) -> Result<(), SlotError> {
        told(40);
        let facts = read(bundle)?;
        if self.write(facts.version) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn abandon(&self, slot: &str) -> Result<(), SlotError> {
        let mut state = self.lock();
        let other = NAMES.get(1 - state.slot).copied().unwrap_or_default();
        assert_eq!(slot, other, "only what does not run is given up");
        state.written = false;
        Ok(())
    }

    async fn reboot(&self) -> Result<(), SlotError> {
        self.lock().restarting = true;
        Ok(())
    }
}
