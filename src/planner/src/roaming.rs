//! Addresses that move along with a live process.
//!
//! The successor of a live move brings the old instance's address with it ([`model::Instance::keeps`]). It is the record
//! of the one instance that says so: as long as it is there the address is nobody else's, and where its process is, is
//! where every module sends the address's packets. Nothing else is written down, so nothing can be left over.
//!
//! ```text
//!  no address ──live move planned──► keeps it; it is still where the old one is ──runs here──► it is here
//!      ▲                                          │                                               │
//!      └── refused, given up, other address ──────┘            gone, lost: free again ◄───────────┘
//! ```

use crate::core::Core;
use model::{Instance, Name, OnDisconnect, Phase, Roaming, Severity, Subnet};
use std::{collections::BTreeMap, net::Ipv4Addr};

impl Core {
    /// The address that the process of `old` takes along, or why it leaves it behind.
    pub(crate) fn brought_along(&self, old: &Instance) -> Result<Ipv4Addr, String> {
        // While it was cut off nobody could tell whether it still has its address.
        if old.spec.migration.on_disconnect == OnDisconnect::Keep {
            return Err(
                "it goes on where it is cut off, so another module cannot have its address".to_owned()
            );
        }
        old.address.parse().map_err(|_| format!("{:?} is no IPv4 address", old.address))
    }

    /// What an instance reports may not be the address that it was to keep: then that one is free.
    pub(crate) fn follow_address(&mut self, next: &mut Instance) {
        let Ok(seen) = next.address.parse::<Ipv4Addr>() else { return };
        match next.keeps {
            Some(kept) if kept != seen => {
                next.keeps = None;
                let text = format!("{} has {seen} now; {kept} stayed behind", next.id);
                self.event(Severity::Warning, next.id.replica(), "AddressStays", text);
            }
            // A process may arrive just after its old module was lost, when nobody counted on it any more.
            None if self.is_abroad(next.module.as_ref(), seen) => next.keeps = Some(seen),
            _ => {}
        }
    }

    /// The address is of another module's subnet.
    fn is_abroad(&self, module: Option<&Name>, address: Ipv4Addr) -> bool {
        let mut others = self.modules.values().filter(|m| Some(&m.name) != module);
        others.any(|m| m.pods.parse::<Subnet>().is_ok_and(|pods| pods.contains(address)))
    }

    /// Addresses that are not where the modules' subnets say, in their order.
    pub(crate) fn roaming(&self) -> Vec<Roaming> {
        let mut places: BTreeMap<Ipv4Addr, (bool, &Name)> = BTreeMap::new();
        for instance in self.instances.values() {
            let Some(address) = instance.keeps else { continue };
            // Until its process has come it is where that is.
            let old = instance.takes.as_ref().and_then(|old| self.instances.get(old));
            let Some(module) = old.unwrap_or(instance).module.as_ref() else { continue };
            // What stops may have been followed already.
            let stays = !instance.is_stopping();
            let place = places.entry(address).or_insert((stays, module));
            if stays && !place.0 {
                *place = (stays, module);
            }
        }
        let place = |(address, (_, module)): (Ipv4Addr, (bool, &Name))| {
            let module = self.modules.get(module)?;
            let home = module.pods.parse::<Subnet>().is_ok_and(|pods| pods.contains(address));
            let via = module.address.parse().ok().filter(|_| !home)?;
            Some(Roaming { address, via })
        };
        places.into_iter().filter_map(place).collect()
    }
}

/// What is left of a promise when a move is over: the address, if the process came.
pub(crate) fn settled(instance: &Instance) -> Option<Ipv4Addr> {
    let came = instance.takes.is_none() || matches!(instance.phase, Phase::Running | Phase::Ready);
    instance.keeps.filter(|_| came)
}

#[cfg(test)]
mod tests;
