use crate::absence::Leave;
use model::{Liveness, Now, Timing};

/// What the core knows of one module's connection. Never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) liveness: Liveness,
    /// When it was last acknowledged: its lease cannot last longer than one lease from here.
    pub(crate) heard: u64,
    /// Since when it has been ready without a break.
    pub(crate) ready_since: u64,
    /// How often it was lost lately.
    pub(crate) losses: u32,
    /// The last order's number, and the last that the agent has taken.
    pub(crate) ordered: u64,
    pub(crate) taken: u64,
    /// The last order whose service table the agent has set.
    pub(crate) routed: u64,
    /// It may believe that its lease is longer than usual.
    pub(crate) leave: Option<Leave>,
}

/// After this long without a loss a module's losses are forgotten.
const FORGIVE_MS: u64 = 600_000;
/// A module that was lost this often lately gets no new work until it has settled.
const FLAPPING: u32 = 3;

impl Link {
    /// A module known from the store: it may be running instances, so it has a whole lease to show up.
    pub(crate) fn unheard(now: Now) -> Self {
        Self {
            liveness: Liveness::Suspect,
            heard: now.mono,
            ready_since: 0,
            losses: 0,
            ordered: 0,
            taken: 0,
            routed: 0,
            leave: None,
        }
    }

    /// The module says hello on a new connection.
    pub(crate) fn hello(&mut self, now: Now) {
        self.heard = now.mono;
        self.liveness = Liveness::Returning;
        (self.ordered, self.taken, self.routed) = (0, 0, 0);
    }

    /// A heartbeat. Answers whether it is to be acknowledged: a lost module must say hello first.
    pub(crate) fn heartbeat(&mut self, now: Now, taken: u64, strays: bool) -> bool {
        if self.liveness == Liveness::Lost {
            return false;
        }
        self.heard = now.mono;
        self.taken = taken;
        match self.liveness {
            Liveness::Returning if !strays && taken > 0 && taken == self.ordered => {
                self.liveness = Liveness::Ready;
                self.ready_since = now.mono;
            }
            Liveness::Suspect => self.liveness = Liveness::Ready,
            _ => {}
        }
        true
    }

    /// Time passes. Answers the new liveness if it changed.
    pub(crate) fn tick(&mut self, now: Now, timing: &Timing) -> Option<Liveness> {
        let silence = now.mono.saturating_sub(self.heard);
        let next = if self.liveness == Liveness::Lost || now.mono >= self.lost_from(timing) {
            Liveness::Lost
        } else if silence > timing.suspect.0 && self.liveness == Liveness::Ready {
            Liveness::Suspect
        } else {
            self.liveness
        };
        if self.liveness == Liveness::Ready && now.mono.saturating_sub(self.ready_since) > FORGIVE_MS {
            self.losses = 0;
        }
        if next == self.liveness {
            return None;
        }
        if next == Liveness::Lost {
            self.losses = self.losses.saturating_add(1);
        }
        self.liveness = next;
        Some(next)
    }

    /// From when on it counts as lost if nothing is heard.
    fn lost_from(&self, timing: &Timing) -> u64 {
        let lease = self.heard.saturating_add(timing.lease.0);
        let lease = self.leave.as_ref().map_or(lease, |leave| lease.max(leave.until));
        lease.saturating_add(timing.margin.0).saturating_add(1)
    }

    /// Milliseconds until it may take moved instances: longer with each recent loss.
    pub(crate) fn settling(&self, now: Now, timing: &Timing) -> u64 {
        if self.losses == 0 {
            return 0;
        }
        let wait = timing.settle.0.saturating_mul(1 << (self.losses - 1).min(6));
        self.ready_since.saturating_add(wait).saturating_sub(now.mono)
    }

    /// Why it takes no new work, if it does not.
    pub(crate) fn refusal(&self, now: Now, timing: &Timing) -> Option<String> {
        match self.liveness {
            Liveness::Lost => Some("lost".to_owned()),
            Liveness::Suspect => Some("not heard lately".to_owned()),
            Liveness::Returning => Some("removing what is no longer its own".to_owned()),
            Liveness::Ready if self.losses >= FLAPPING && self.settling(now, timing) > 0 => {
                Some(format!("lost {} times lately, settling", self.losses))
            }
            Liveness::Ready => None,
        }
    }
}

impl crate::Core {
    /// The next moment, on the clock of [`Now::mono`], at which a module that stays silent counts as lost: the shell
    /// need not step before that if nothing happens, and should not step much later.
    pub fn next_loss(&self) -> Option<u64> {
        let links = self.links.values().filter(|link| link.liveness != Liveness::Lost);
        links.map(|link| link.lost_from(&self.timing)).min()
    }
}
