//! Least connections: how the next connections to a service are shared out, from those that are open.
//!
//! The kernel's rules cannot count. So they are given an order of turns, which they go through again and again until the
//! next look: that in which as many connections as lately came between two looks would go, one by one, to the endpoint
//! that has the fewest. With few coming that is only those that have the fewest; with many and short ones it is nearly
//! everybody's turn, and no look sends all of them to the same endpoint.

use crate::conntrack::{Flow, Place};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

/// An order has so many turns for each endpoint, as long as it has no more than [`TURNS`] altogether.
const TURNS_EACH: usize = 8;
const TURNS: usize = 256;

/// What this module has of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Connections that are open.
    pub(super) open: u32,
    /// So many may come until the next look.
    pub(super) coming: u32,
}

/// By where the endpoint is.
pub(super) type Loads = BTreeMap<Place, Load>;

/// What the last look at the connections of services by least connections has seen, and what was made of it.
#[derive(Debug, Default)]
pub struct Balance {
    /// The kernel's numbers of the connections that it knew; nothing before the first look.
    seen: Option<HashSet<u32>>,
    pub(super) loads: Loads,
    /// The commands that were carried out last.
    pub(super) written: Option<Value>,
}

impl Balance {
    /// The rules have been written by somebody else: the next look writes them in any case.
    pub fn forget_written(&mut self) {
        self.written = None;
    }

    /// Takes the connections of all endpoints that matter.
    pub(super) fn look(&mut self, flows: &[&Flow]) {
        let mut loads = Loads::new();
        for flow in flows {
            let load = loads.entry(flow.endpoint).or_default();
            load.open += u32::from(flow.alive);
            // Those of before the first look came at any time.
            load.coming += u32::from(self.seen.as_ref().is_some_and(|seen| !seen.contains(&flow.id)));
        }
        for (endpoint, before) in &self.loads {
            // What comes in bursts is expected for some looks more.
            if before.coming > 1 {
                let load = loads.entry(*endpoint).or_default();
                load.coming = load.coming.max(before.coming / 2);
            }
        }
        self.seen = Some(flows.iter().map(|flow| flow.id).collect());
        self.loads = loads;
    }
}

/// Whose turns come in which order, by number; everybody who is in it has one at least.
pub(super) fn turns(loads: &[Load]) -> Vec<usize> {
    let open: Vec<u32> = loads.iter().map(|l| l.open).collect();
    let coming = loads.iter().map(|l| u64::from(l.coming)).sum();
    interleave(&share(&open, coming))
}

/// How many of the next connections each endpoint gets, in the smallest numbers: as if so many as are `coming` were given
/// one by one to the one that has the fewest. All that have the fewest get the same.
fn share(open: &[u32], coming: u64) -> Vec<usize> {
    let level = level(open, coming);
    let shares: Vec<u64> = open.iter().map(|open| level.saturating_sub(u64::from(*open))).collect();
    let most = (TURNS_EACH * open.len()).min(TURNS.max(open.len()));
    let (total, most) = (shares.iter().sum::<u64>().max(1), u64::try_from(most).unwrap_or(u64::MAX));
    let fitted = |share: u64| if total <= most { share } else { (2 * share * most + total) / (2 * total) };
    let shares: Vec<usize> = shares.iter().map(|s| usize::try_from(fitted(*s)).unwrap_or(0)).collect();
    let divisor = shares.iter().copied().fold(0, common_divisor).max(1);
    shares.iter().map(|share| share / divisor).collect()
}

/// How many everybody has at least when so many have come; more than the fewest now.
fn level(open: &[u32], coming: u64) -> u64 {
    let mut open: Vec<u64> = open.iter().map(|open| u64::from(*open)).collect();
    open.sort_unstable();
    let (mut filled, mut sum, mut level) = (0, coming, 0);
    let fewest = open.first().copied().unwrap_or(0);
    for own in open {
        if filled > 0 && level <= own {
            break;
        }
        filled += 1;
        sum += own;
        level = sum.div_ceil(filled).max(fewest + 1);
    }
    level
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Everybody's turns as evenly apart as may be, whoever has most first.
fn interleave(shares: &[usize]) -> Vec<usize> {
    let total: usize = shares.iter().sum();
    let mut order = Vec::with_capacity(total);
    // How much of a turn each has saved, in parts of the whole; whoever has most is next.
    let mut saved = vec![0_i64; shares.len()];
    let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    for _ in 0..total {
        for (saved, share) in saved.iter_mut().zip(shares) {
            *saved += whole(*share);
        }
        let next = (0..saved.len()).rev().max_by_key(|at| saved.get(*at)).unwrap_or(0);
        if let Some(saved) = saved.get_mut(next) {
            *saved -= whole(total);
        }
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests;
