//! A chassis: all its modules, on one backplane, in one run directory.

use crate::backplane::Backplane;
use crate::chassis_file::ChassisFile;
use crate::host::{self, HeldPorts};
use crate::image::Image;
use crate::module::{Module, Parts};
use crate::qemu::{Slots, Start};
use crate::run_dir::{ModulePaths, RunDir};
use crate::spawner::Spawner;
use crate::{Limit, Provision, SimError, tsc};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to put into the slots, and how to start it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The chassis file's content.
    pub chassis: ChassisFile,
    /// What the modules boot.
    pub image: Image,
    /// Where sockets, disks and consoles go. Keep it short: unix socket paths have little room.
    pub dir: PathBuf,
    /// What each module finds on its identity disk; a slot that is not listed finds an empty one.
    pub identities: BTreeMap<u16, Provision>,
    /// Modules that boot from root slots of their own, through firmware and boot manager; the others boot directly.
    pub slots: BTreeMap<u16, Slots>,
    /// Start with the virtual CPUs halted, to look at a boot from its first instruction.
    pub paused: bool,
}

impl Plan {
    /// The kernel's arguments on a module that boots from slots: as a direct boot has them, but for the slot's number,
    /// which the firmware knows.
    #[must_use]
    pub fn slot_arguments() -> String {
        let all = Image::kernel_arguments(0);
        let words = all.split_whitespace().filter(|word| !word.starts_with("spacecloud.slot="));
        let clock = tsc::kilohertz().map(|khz| format!("tsc_early_khz={khz}"));
        words.map(str::to_owned).chain(clock).collect::<Vec<_>>().join(" ")
    }

    /// A plan without identities.
    pub fn new(chassis: ChassisFile, image: Image, dir: impl Into<PathBuf>) -> Self {
        Self {
            chassis,
            image,
            dir: dir.into(),
            identities: BTreeMap::new(),
            slots: BTreeMap::new(),
            paused: false,
        }
    }
}

/// A chassis with power. Dropping it takes power away and removes what is of no use later; consoles stay.
#[derive(Debug)]
pub struct Chassis {
    // In the order of the drops: modules, then the switch they talk to, then the thread that their lives hang on.
    modules: BTreeMap<u16, Module>,
    _backplane: Arc<Backplane>,
    _spawner: Arc<Spawner>,
    name: String,
    dir: RunDir,
}

impl Chassis {
    /// Puts in all modules, with fresh data disks, and gives them power. Nothing is left behind on failure.
    pub fn power_on(plan: Plan) -> Result<Self, SimError> {
        host::check()?;
        let image = &plan.image;
        for file in [&image.kernel, &image.initrd, &image.base, &image.programs] {
            if !file.is_file() {
                return Err(SimError::NoImage { path: file.clone() });
            }
        }
        let dir = RunDir::take(&plan.dir)?;
        let chassis = Self::assemble(plan, dir)?;
        in_parallel(chassis.modules.values(), Module::power_on)?;
        Ok(chassis)
    }

    fn assemble(plan: Plan, dir: RunDir) -> Result<Self, SimError> {
        let Plan { chassis, image, mut identities, slots: mut with_slots, paused, .. } = plan;
        let image = Arc::new(image);
        let start = Start { paused, tsc_khz: tsc::kilohertz() };
        let slots = || chassis.slots.iter();
        let paths = |slot: u16| ModulePaths::new(dir.path(), slot);
        for slot in slots() {
            paths(slot.number).remove_transient();
            let _ = std::fs::remove_file(paths(slot.number).console);
        }
        let held = slots().map(HeldPorts::choose).collect::<Result<Vec<_>, _>>()?;
        let spawner = Arc::new(Spawner::start().map_err(SimError::io("start threads for", dir.path()))?);
        let ports = slots().map(|slot| (slot.number, paths(slot.number).backplane)).collect();
        let backplane = Arc::new(Backplane::start(ports)?);
        let parts = chassis.slots.iter().zip(held).map(|(slot, held)| Parts {
            slot: slot.clone(),
            paths: paths(slot.number),
            ports: held.ports,
            image: Arc::clone(&image),
            slots: with_slots.remove(&slot.number),
            spawner: Arc::clone(&spawner),
            backplane: Arc::clone(&backplane),
            start,
            identity: identities.remove(&slot.number).unwrap_or_default(),
        });
        let modules = parts.map(|parts| (parts.slot.number, Module::new(parts))).collect();
        for slot in slots() {
            host::make_data_disk(&paths(slot.number).data, slot.disk.0)?;
        }
        Ok(Self { modules, _backplane: backplane, _spawner: spawner, name: chassis.name.clone(), dir })
    }

    /// Takes power away from all modules and removes what is of no use later; consoles stay.
    pub fn shut_down(&self) {
        let _ = in_parallel(self.modules.values(), |module| {
            module.retire();
            Ok(())
        });
    }

    /// Its name in the chassis file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its run directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The module in a slot.
    pub fn module(&self, slot: u16) -> Result<&Module, SimError> {
        let present = || self.modules.keys().copied().collect();
        self.modules.get(&slot).ok_or_else(|| SimError::NoModule { slot, present: present() })
    }

    /// All modules, by slot.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// Waits until all modules have booted; says of each when it has. Returns how long the last one took.
    pub fn wait_ready(&self, limit: Limit, ready: &(dyn Fn(&Module) + Sync)) -> Result<Duration, SimError> {
        let begun = Instant::now();
        in_parallel(self.modules.values(), |module| {
            module.wait_ready(limit)?;
            ready(module);
            Ok(())
        })?;
        Ok(begun.elapsed())
    }
}

/// Does the same to all modules at once; the first error in slot order is the one that is returned.
pub fn in_parallel<'a>(
    modules: impl Iterator<Item = &'a Module>,
    act: impl Fn(&'a Module) -> Result<(), SimError> + Sync,
) -> Result<(), SimError> {
    let act = &act;
    std::thread::scope(|scope| {
        let tasks: Vec<_> = modules.map(|module| scope.spawn(move || act(module))).collect();
        let results: Vec<_> = tasks.into_iter().map(|task| task.join()).collect();
        results
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
