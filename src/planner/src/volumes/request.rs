//! What an operator asks of volumes, and how it is refused.

use super::{
    Access, AppSpec, Class, Core, Name, OnDisconnect, Refusal, Reply, Severity, Volume, VolumeSpec, mounts,
};
use model::SpecError;
use std::collections::BTreeSet;

impl Core {
    /// All or none: what is refused half-way leaves no trace.
    pub(crate) fn apply_all(
        &mut self,
        volumes: Vec<VolumeSpec>,
        apps: Vec<AppSpec>,
    ) -> Result<Reply, Refusal> {
        let mut seen = BTreeSet::new();
        for spec in &volumes {
            spec.check()?;
            if !seen.insert(&spec.name) {
                return Err(Refusal::VolumeTwice(spec.name.clone()));
            }
            self.refuse_change(spec)?;
        }
        let mut trial = self.clone();
        let mut lines = trial.take_volumes(volumes);
        lines.extend(trial.apply(apps)?.lines);
        *self = trial;
        Ok(Reply { lines })
    }

    /// The mounts of apps against the volumes that there are.
    pub(crate) fn refuse_mounts(&self, apps: &[AppSpec]) -> Result<(), Refusal> {
        for app in apps {
            for mount in &app.volumes {
                let Some(volume) = self.volumes.get(&mount.name) else {
                    let (app, volume) = (app.name.clone(), mount.name.clone());
                    return Err(Refusal::UnknownVolume { app, volume });
                };
                if volume.deleting {
                    return Err(Refusal::VolumeGoing(mount.name.clone()));
                }
                self.refuse_mount(app, &volume.spec)?;
            }
        }
        Ok(())
    }

    fn refuse_change(&self, spec: &VolumeSpec) -> Result<(), Refusal> {
        let Some(old) = self.volumes.get(&spec.name) else { return Ok(()) };
        if old.deleting {
            return Err(Refusal::VolumeGoing(spec.name.clone()));
        }
        let fixed = |key: &str, was: &str, is: &str| {
            let reason = format!("cannot become {is:?}; delete the volume, or give the new one another name");
            Err(SpecError::value(format!("volume {}: {key}", spec.name), was, reason).into())
        };
        if old.spec.class != spec.class {
            return fixed("class", old.spec.class.as_str(), spec.class.as_str());
        }
        if old.spec.access != spec.access {
            return fixed("access", old.spec.access.as_str(), spec.access.as_str());
        }
        Ok(())
    }

    fn refuse_mount(&self, app: &AppSpec, volume: &VolumeSpec) -> Result<(), Refusal> {
        let (name, volume_name) = (app.name.clone(), volume.name.clone());
        if volume.access == Access::SingleWriter && app.replicas > 1 {
            return Err(Refusal::OneWriter { app: name, volume: volume_name, replicas: app.replicas });
        }
        if volume.class == Class::Chassis {
            let none = self.modules.values().all(|m| m.storage.is_empty());
            if none && !self.modules.is_empty() {
                return Err(Refusal::NoStorage { app: name, volume: volume_name });
            }
            if app.migration.on_disconnect == OnDisconnect::Keep {
                return Err(Refusal::KeepsWriting { app: name, volume: volume_name });
            }
        }
        Ok(())
    }

    fn take_volumes(&mut self, volumes: Vec<VolumeSpec>) -> Vec<String> {
        let mut lines = Vec::new();
        for spec in volumes {
            let name = spec.name.clone();
            let old = self.volumes.get(&name).cloned();
            let word = match old {
                Some(old) if old.spec == spec => "unchanged",
                Some(old) => {
                    self.put_volume(Volume { spec, ..old });
                    let holders: Vec<Name> = self.attached(&name).map(|(_, at)| at.clone()).collect();
                    self.touched.extend(holders.iter().cloned());
                    self.reorder.extend(holders);
                    "changed"
                }
                None => {
                    let created = self.now.wall;
                    self.put_volume(Volume { spec, created, module: None, used: false, deleting: false });
                    "created"
                }
            };
            if word != "unchanged" {
                self.event(Severity::Normal, &name, "Applied", format!("volume {word}"));
            }
            lines.push(format!("volume {name} {word}"));
        }
        lines
    }

    /// Only what no app mounts; all of them or none.
    pub(crate) fn delete_volumes(&mut self, names: &[Name]) -> Result<Reply, Refusal> {
        for name in names {
            if !self.volumes.contains_key(name) {
                return Err(Refusal::NoVolume(name.clone()));
            }
            let by = self.mounted_by(name).next();
            if let Some(by) = by {
                return Err(Refusal::VolumeInUse { volume: name.clone(), by: by.name().to_string() });
            }
            let held = self.attached(name).next();
            if let Some((instance, _)) = held {
                return Err(Refusal::VolumeInUse { volume: name.clone(), by: instance.to_string() });
            }
        }
        Ok(Reply { lines: names.iter().map(|name| self.doom(name)).collect() })
    }

    /// The volumes of these apps that no other app mounts go with them, as soon as their instances are gone.
    pub(crate) fn delete_with_volumes(&mut self, apps: &[Name]) -> Result<Reply, Refusal> {
        let specs = apps.iter().filter_map(|name| self.apps.get(name)).map(|app| &app.spec);
        let theirs: BTreeSet<Name> = specs.flat_map(|spec| &spec.volumes).map(|m| m.name.clone()).collect();
        let mut reply = self.delete(apps)?;
        for name in theirs.into_iter().filter(|name| self.volumes.contains_key(name)).collect::<Vec<_>>() {
            let kept_by =
                self.apps.values().find(|app| mounts(&app.spec, &name)).map(|app| app.name().clone());
            reply.lines.push(match kept_by {
                Some(app) => format!("volume {name} kept: app {app} mounts it"),
                None => self.doom(&name),
            });
        }
        Ok(reply)
    }

    fn doom(&mut self, name: &Name) -> String {
        if let Some(volume) = self.volumes.get(name).cloned() {
            self.put_volume(Volume { deleting: true, ..volume });
        }
        self.event(Severity::Normal, name, "Deleting", "volume is erased when nobody has it".to_owned());
        format!("volume {name} deleted")
    }
}
