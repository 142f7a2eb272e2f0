//! Volumes: where they pin instances to, who may have them, and how they end.
//!
//! ```text
//!  place an instance ─► filter "volumes": does the module hold or reach each? has another the single-writer ones?
//!                    ─► placed: a local volume that was nowhere is there from now on (in the same batch)
//!  move it           ─► with a single-writer volume always stop-first: the old one is gone before the new is placed
//!  its module lost   ─► its instances are forgotten after lease and margin, when they are fenced: only then is it free
//!  `volume rm`       ─► nobody has it ─► a module that holds or reaches it erases ─► it says so ─► the record goes
//! ```
//!
//! Nothing is attached but through a placed instance, and one leaves the state only when its agent has confirmed that
//! it is gone or its lease is over. That is why two writers cannot be.

use crate::{
    Refusal,
    core::Core,
    place::Ask,
    step::Reply,
    usage::{Hold, Usage, Window},
};
use model::{
    Access, App, AppSpec, Attachment, Class, Failed, Instance, InstanceId, Liveness, Module, Name,
    OnDisconnect, PlannedMove, Record, RecordKind, Severity, Volume, VolumeKey, VolumeReport, VolumeSeen,
    VolumeSpec, VolumeState,
};
use std::collections::BTreeMap;

/// What is known of volumes beside their records. Never stored: modules tell it anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// The last report on each volume.
    seen: BTreeMap<Name, VolumeSeen>,
    /// Why each module cannot use the storage module; those that can are not here.
    faults: BTreeMap<Name, String>,
    /// Which module is told to erase which volume.
    erasers: BTreeMap<Name, Name>,
}

fn fail(why: String, remedy: String) -> Failed {
    Failed { filter: "volumes".to_owned(), why, remedy }
}

fn mounts(spec: &AppSpec, volume: &Name) -> bool {
    spec.volumes.iter().any(|m| m.name == *volume)
}

impl Core {
    /// Every reason of its volumes for which an app cannot run on `module`.
    pub(crate) fn short_of_volumes(&self, module: &Module, usage: &Usage, ask: &Ask<'_>) -> Vec<Failed> {
        let later = ask.window.from > self.now.wall;
        let mut failed = self.unmountable(module, ask.spec, ask.own, later);
        let new = ask.spec.volumes.iter().filter_map(|m| self.volumes.get(&m.name));
        let new = new.filter(|v| v.spec.class == Class::Local && v.module.is_none());
        let need = new.fold(0_u64, |sum, v| sum.saturating_add(v.spec.size.0));
        let used = usage.load.disk.saturating_add(ask.spec.resources.disk.0);
        let free = module.capacity.disk.0.saturating_sub(used);
        if need > free {
            let why =
                format!("volumes: ask {}MiB of its disk, free {}MiB", need.div_ceil(1 << 20), free >> 20);
            let short = (need - free).div_ceil(1 << 20);
            failed.push(fail(why, format!("{short}MiB more of its disk are free")));
        }
        failed
    }

    /// Which volumes cannot be given to `spec` on `module`, whatever room it has. What `own` has it may have; for a
    /// window that is yet to come it does not matter who has a volume now.
    pub(crate) fn unmountable(
        &self,
        module: &Module,
        spec: &AppSpec,
        own: Option<&InstanceId>,
        later: bool,
    ) -> Vec<Failed> {
        let mut failed = Vec::new();
        for mount in &spec.volumes {
            let name = &mount.name;
            let Some(volume) = self.volumes.get(name).filter(|v| !v.deleting) else {
                let why = format!("there is no volume {name}");
                failed.push(fail(why, format!("volume {name} is applied")));
                continue;
            };
            failed.extend(self.out_of_reach(module, volume));
            if volume.spec.access == Access::SingleWriter
                && !later
                && let Some((other, at)) = self.attached(name).find(|(id, _)| Some(*id) != own)
            {
                let why = format!("volume {name} is attached to {other} on {at}");
                failed.push(fail(why, format!("{other} is gone")));
            }
        }
        failed
    }

    fn out_of_reach(&self, module: &Module, volume: &Volume) -> Option<Failed> {
        let name = volume.name();
        match (volume.spec.class, &volume.module) {
            (Class::Local, Some(at)) if *at != module.name => Some(fail(
                format!("volume {name} is on {at}"),
                format!("volume {name} is of class chassis, or new"),
            )),
            (Class::Local, _) => None,
            (Class::Chassis, _) if module.storage.is_empty() => Some(fail(
                format!("volume {name}: the module has no [storage]"),
                "its spacecloud.toml has [storage]".to_owned(),
            )),
            (Class::Chassis, _) => {
                let fault = self.volume_watch.faults.get(&module.name)?;
                Some(fail(format!("volume {name}: {fault}"), "it reaches the storage module".to_owned()))
            }
        }
    }

    /// Who has a volume, and where.
    pub(crate) fn attached<'a>(
        &'a self,
        volume: &'a Name,
    ) -> impl Iterator<Item = (&'a InstanceId, &'a Name)> + 'a {
        let has = self.instances.values().filter(|i| mounts(&i.spec, volume));
        has.filter_map(|i| Some((&i.id, i.module.as_ref()?)))
    }

    /// How an app is moved by plan: with a volume that only one may have the old instance ends first, and with a local
    /// one too, for there is no other place that a successor could be ready at.
    pub(crate) fn planned_move(&self, spec: &AppSpec) -> PlannedMove {
        let alone = |name: &Name| {
            let volume = self.volumes.get(name).map(|v| (v.spec.access, v.spec.class));
            volume.is_some_and(|v| v != (Access::Shared, Class::Chassis))
        };
        if spec.volumes.iter().any(|m| alone(&m.name)) {
            PlannedMove::StopFirst
        } else {
            spec.migration.planned
        }
    }

    /// What is taken on a module, the sizes of its volumes with it.
    pub(crate) fn usage_on(&self, module: &Name, holds: &[&Hold<'_>], window: Window) -> Usage {
        let mut usage = Usage::of(holds, window);
        let there = self.volumes.values().filter(|v| v.module.as_ref() == Some(module));
        let sizes = there.fold(0_u64, |sum, v| sum.saturating_add(v.spec.size.0));
        usage.load.disk = usage.load.disk.saturating_add(sizes);
        usage
    }

    /// An instance has got its place, and its volumes theirs.
    pub(crate) fn attach_volumes(&mut self, instance: &Instance) {
        let Some(module) = &instance.module else { return };
        for mount in &instance.spec.volumes {
            let Some(volume) = self.volumes.get(&mount.name).filter(|v| !v.used).cloned() else { continue };
            let local = volume.spec.class == Class::Local;
            if local {
                let text = format!("its data is on {module} from now on");
                self.event(Severity::Normal, volume.name(), "VolumePlaced", text);
            }
            self.touched.insert(module.clone());
            self.put_volume(Volume { module: local.then(|| module.clone()), used: true, ..volume });
        }
    }

    /// What an agent is told of an instance's volumes.
    pub(crate) fn attachments(&self, spec: &AppSpec) -> Vec<Attachment> {
        let known = spec.volumes.iter().filter_map(|m| Some((m, self.volumes.get(&m.name)?)));
        let attachment = |(mount, volume): (&model::Mount, &Volume)| Attachment {
            key: volume.key(),
            size: volume.spec.size,
            path: mount.path.clone(),
            read_only: mount.read_only,
        };
        known.map(attachment).collect()
    }

    /// What an agent is to erase.
    pub(crate) fn erasures(&self, module: &Name) -> Vec<VolumeKey> {
        let told = self.volume_watch.erasers.iter().filter(|(_, eraser)| *eraser == module);
        told.filter_map(|(name, _)| self.volumes.get(name).map(Volume::key)).collect()
    }

    /// What an agent sees of volumes.
    pub(crate) fn observe_volumes(&mut self, module: &Name, report: &VolumeReport) {
        if report.storage.is_empty() {
            self.volume_watch.faults.remove(module);
        } else if self.volume_watch.faults.insert(module.clone(), report.storage.clone()).is_none() {
            self.event(Severity::Warning, module, "NoStorage", report.storage.clone());
        }
        for seen in &report.volumes {
            let Some(volume) = self.volumes.get(&seen.key.name).filter(|v| v.key() == seen.key) else {
                continue;
            };
            if seen.erased && volume.deleting {
                self.drop_volume(&seen.key.name, format!("its data was erased by {module}"));
                continue;
            }
            let old = self.volume_watch.seen.insert(seen.key.name.clone(), seen.clone());
            if !seen.message.is_empty() && old.is_none_or(|o| o.message != seen.message) {
                self.event(Severity::Warning, &seen.key.name, "Volume", seen.message.clone());
            }
        }
    }

    /// Volumes that are to go, and that nobody has any more.
    pub(crate) fn erase_volumes(&mut self) {
        let doomed: Vec<Volume> = self.volumes.values().filter(|v| v.deleting).cloned().collect();
        for volume in doomed {
            let name = volume.name();
            if self.attached(name).next().is_some() {
                continue;
            }
            if !volume.used {
                self.drop_volume(name, "it was never used".to_owned());
                continue;
            }
            if volume.module.as_ref().is_some_and(|at| !self.modules.contains_key(at)) {
                self.drop_volume(name, "the module that had its data was forgotten".to_owned());
                continue;
            }
            let current = self.volume_watch.erasers.get(name);
            if current.is_some_and(|m| self.can_erase(m, &volume)) {
                continue;
            }
            let eraser = self.modules.keys().find(|m| self.can_erase(m, &volume)).cloned();
            if let Some(eraser) = eraser {
                self.reorder.insert(eraser.clone());
                self.volume_watch.erasers.insert(name.clone(), eraser);
            }
        }
    }

    fn can_erase(&self, name: &Name, volume: &Volume) -> bool {
        let ready = self.links.get(name).is_some_and(|l| l.liveness == Liveness::Ready);
        let Some(module) = self.modules.get(name) else { return false };
        ready && self.out_of_reach(module, volume).is_none()
    }

    fn put_volume(&mut self, volume: Volume) {
        self.note(Record::Volume(volume.clone()));
        self.volumes.insert(volume.name().clone(), volume);
    }

    fn drop_volume(&mut self, name: &Name, why: String) {
        self.touched.extend(self.volumes.remove(name).and_then(|v| v.module));
        self.volume_watch.seen.remove(name);
        self.reorder.extend(self.volume_watch.erasers.remove(name));
        self.forget(RecordKind::Volume, name.to_string());
        self.event(Severity::Normal, name, "VolumeDeleted", why);
    }

    /// All volumes with what is known of them, by name.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeState<'_>> {
        self.volumes.values().map(|volume| VolumeState {
            volume,
            apps: self.mounted_by(volume.name()).map(App::name).collect(),
            attached: self.attached(volume.name()).collect(),
            seen: self.volume_watch.seen.get(volume.name()),
        })
    }

    fn mounted_by<'a>(&'a self, volume: &'a Name) -> impl Iterator<Item = &'a App> + 'a {
        self.apps.values().filter(|app| mounts(&app.spec, volume))
    }
}

mod request;

#[cfg(test)]
mod tests;
