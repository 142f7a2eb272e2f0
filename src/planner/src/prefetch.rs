//! Images ahead of need: a module that may have to take over has the image already.

use crate::core::Core;
use model::{AppSpec, ImageRef, Module, Name};
use std::collections::{BTreeMap, BTreeSet};

/// How many modules beside those that run an app get its image.
const STANDBYS: usize = 2;

impl Core {
    /// Renews the lists of images; a module gets a new order when its own has changed.
    pub(crate) fn prefetch(&mut self) {
        if !self.has_changes() && self.prefetched.len() == self.modules.len() {
            return;
        }
        let mut lists: BTreeMap<Name, BTreeSet<ImageRef>> = BTreeMap::new();
        for app in self.apps.values() {
            for name in self.standbys(&app.spec) {
                lists.entry(name.clone()).or_default().insert(app.spec.image.clone());
            }
        }
        let names: Vec<Name> = self.modules.keys().cloned().collect();
        for name in names {
            let list: Vec<ImageRef> = lists.remove(&name).unwrap_or_default().into_iter().collect();
            let before = self.prefetched.insert(name.clone(), list.clone()).unwrap_or_default();
            if before != list {
                self.reorder.insert(name);
            }
        }
    }

    /// The modules that come first after those that run it, by an order that is the app's own and does not
    /// change with loads: an image is not to be pulled here and there with every start elsewhere.
    fn standbys(&self, spec: &AppSpec) -> Vec<&Name> {
        let runs: BTreeSet<&Name> = self.instances_of(&spec.name).filter_map(|i| i.module.as_ref()).collect();
        let wanted = &spec.placement;
        let allowed = |m: &&Module| {
            (wanted.modules.is_empty() || wanted.modules.contains(&m.name))
                && wanted.labels.iter().all(|(key, value)| m.labels.get(key) == Some(value))
                && crate::place::too_small(m, spec).is_none()
                && !runs.contains(&m.name)
        };
        let mut modules: Vec<(u64, &Name)> = self
            .modules
            .values()
            .filter(allowed)
            .map(|m| (mix(spec.name.as_str(), m.name.as_str()), &m.name))
            .collect();
        modules.sort();
        modules.into_iter().take(STANDBYS).map(|(_, name)| name).collect()
    }
}

/// FNV-1a over both names: only an order that differs from app to app.
fn mix(app: &str, module: &str) -> u64 {
    app.bytes().chain([0]).chain(module.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
