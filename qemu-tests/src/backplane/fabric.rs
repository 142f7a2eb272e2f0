//! The switch's decisions: where a frame goes. No I/O.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

type Mac = [u8; 6];

/// More addresses than a chassis ever has: beyond this the table is emptied, as a switch's ages out.
const TABLE_LIMIT: usize = 4096;

/// What a port has carried, counted in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Came from the module.
    pub received: u64,
    /// Went to the module.
    pub sent: u64,
    /// Were dropped because the port is cut, or the module did not take them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Port {
    cut: bool,
    counters: Counters,
}

/// Ports, known addresses and counters of one switch.
#[derive(Debug, Default)]
pub(super) struct Fabric {
    ports: BTreeMap<u16, Port>,
    learned: BTreeMap<Mac, u16>,
}

impl Fabric {
    pub(super) fn new(ports: &[u16]) -> Self {
        Self { ports: ports.iter().map(|port| (*port, Port::default())).collect(), learned: BTreeMap::new() }
    }

    /// Takes a frame that came in at `from` and says at which ports it leaves.
    pub(super) fn forward(&mut self, from: u16, frame: &[u8]) -> Vec<u16> {
        let Some(port) = self.ports.get_mut(&from) else { return Vec::new() };
        port.counters.received += 1;
        let addresses = (frame.first_chunk::<6>(), frame.get(6..).and_then(<[u8]>::first_chunk::<6>));
        let (false, (Some(to), Some(source))) = (port.cut, addresses) else {
            port.counters.dropped += 1;
            return Vec::new();
        };
        if is_unicast(*source) {
            if self.learned.len() >= TABLE_LIMIT {
                self.learned.clear();
            }
            self.learned.insert(*source, from);
        }
        let known = self.learned.get(to).copied().filter(|_| is_unicast(*to));
        let leaves = |port: u16| port != from && known.is_none_or(|only| only == port);
        let mut exits = Vec::new();
        for (number, port) in self.ports.iter_mut().filter(|(number, _)| leaves(**number)) {
            if port.cut {
                port.counters.dropped += 1;
            } else {
                exits.push(*number);
            }
        }
        exits
    }

    /// Counts what became of a frame that was to leave at `port`.
    pub(super) fn left(&mut self, port: u16, taken: bool) {
        if let Some(port) = self.ports.get_mut(&port) {
            if taken {
                port.counters.sent += 1;
            } else {
                port.counters.dropped += 1;
            }
        }
    }

    /// Cuts a port, or rejoins it. False if there is no such port.
    pub(super) fn set_cut(&mut self, port: u16, cut: bool) -> bool {
        // Addresses behind a cut port may turn up elsewhere meanwhile.
        self.learned.retain(|_, at| *at != port);
        self.ports.get_mut(&port).map(|port| port.cut = cut).is_some()
    }

    pub(super) fn is_cut(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|port| port.cut)
    }

    pub(super) fn counters(&self, port: u16) -> Counters {
        self.ports.get(&port).map(|port| port.counters).unwrap_or_default()
    }
}

fn is_unicast(mac: Mac) -> bool {
    let [first, ..] = mac;
    first & 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [0x52, 0x54, 0, 0x44, 0, 1];
    const B: Mac = [0x52, 0x54, 0, 0x44, 0, 2];
    const ALL: Mac = [0xff; 6];
    const NOWHERE: [u16; 0] = [];

    fn frame(to: Mac, from: Mac) -> Vec<u8> {
        [to.as_slice(), from.as_slice(), b"\x08\x00payload"].concat()
    }

    #[test]
    fn unknown_and_broadcast_go_everywhere_else_and_a_known_address_to_its_port() {
        let mut fabric = Fabric::new(&[1, 2, 3]);
        assert_eq!(fabric.forward(1, &frame(B, A)), [2, 3]);
        assert_eq!(fabric.forward(2, &frame(A, B)), [1]);
        assert_eq!(fabric.forward(1, &frame(B, A)), [2]);
        assert_eq!(fabric.forward(1, &frame(ALL, A)), [2, 3]);
    }

    #[test]
    fn an_address_that_moves_is_followed() {
        let mut fabric = Fabric::new(&[1, 2, 3]);
        fabric.forward(2, &frame(ALL, B));
        assert_eq!(fabric.forward(1, &frame(B, A)), [2]);
        fabric.forward(3, &frame(ALL, B));
        assert_eq!(fabric.forward(1, &frame(B, A)), [3]);
    }

    #[test]
    fn a_cut_port_passes_nothing_in_or_out_until_it_rejoins() {
        let mut fabric = Fabric::new(&[1, 2, 3]);
        fabric.forward(3, &frame(ALL, B));
        assert!(fabric.set_cut(3, true));
        assert!(fabric.is_cut(3));
        assert_eq!(fabric.forward(3, &frame(ALL, B)), NOWHERE);
        assert_eq!(fabric.forward(1, &frame(ALL, A)), [2]);
        assert_eq!(fabric.counters(3), Counters { received: 2, sent: 0, dropped: 2 });
        assert!(fabric.set_cut(3, false));
        assert_eq!(fabric.forward(3, &frame(A, B)), [1]);
        assert!(!fabric.set_cut(9, true));
    }

    #[test]
    fn a_runt_and_a_multicast_source_teach_nothing() {
        let mut fabric = Fabric::new(&[1, 2]);
        assert_eq!(fabric.forward(1, &[0; 11]), NOWHERE);
        assert_eq!(fabric.counters(1).dropped, 1);
        fabric.forward(1, &frame(B, ALL));
        assert!(fabric.learned.is_empty());
    }
}
