//! A chassis: all its modules, on one backplane, in one run directory.

use crate::backplane::Backplane;
use crate::board::Board;
use crate::chassis_file::ChassisFile;
use crate::emulated::{self, Emulated};
use crate::host::{self, HeldPorts};
use crate::image::{self, Image, Layers};
use crate::module::Module;
use crate::netns::{self, Cgroups, Ground, Namespaced, Software, Switch};
use crate::qemu::{Slots, Start};
use crate::run_dir::{ModulePaths, RunDir};
use crate::spawner::Spawner;
use crate::{Limit, Provision, SimError, tsc};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What modules are made of, and what carries their frames.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum BackplaneKind {
    /// Each module is emulated by QEMU, with a kernel of its own
    #[default]
    Qemu,
    /// Each module is a set of namespaces of this host, at its full speed; needs root
    Netns,
}

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
    /// Modules that boot from root slots of their own, through firmware and boot manager; the others boot directly. QEMU
    /// only.
    pub slots: BTreeMap<u16, Slots>,
    /// Start with the virtual CPUs halted, to look at a boot from its first instruction. QEMU only.
    pub paused: bool,
    /// What modules are made of.
    pub backplane: BackplaneKind,
    /// Which programs they run. Namespaces only: QEMU boots the image as it is.
    pub software: Software,
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
        let (identities, slots, backplane, software) = Default::default();
        Self { chassis, image, dir: dir.into(), identities, slots, paused: false, backplane, software }
    }

    /// The same on another backplane.
    #[must_use]
    pub fn on(mut self, backplane: BackplaneKind) -> Self {
        self.backplane = backplane;
        self
    }
}

/// A chassis with power. Dropping it takes power away and removes what is of no use later; consoles stay.
#[derive(Debug)]
pub struct Chassis {
    // In the order of the drops: modules, then what carries their frames and their lives.
    modules: BTreeMap<u16, Module>,
    backplane: BackplaneKind,
    rest: Rest,
    name: String,
    dir: RunDir,
}

/// What all modules share.
#[derive(Debug)]
struct Rest {
    _switch: Option<Arc<Switch>>,
    _cgroups: Option<Arc<Cgroups>>,
    _backplane: Option<Arc<Backplane>>,
    _spawner: Arc<Spawner>,
    /// The programs that were unpacked for this run.
    programs: Option<PathBuf>,
}

impl Rest {
    fn clean(&self) {
        if let Some(programs) = &self.programs {
            let _ = std::fs::remove_dir_all(programs);
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.clean();
    }
}

impl Chassis {
    /// Puts in all modules, with fresh data disks, and gives them power. Nothing is left behind on failure.
    pub fn power_on(plan: Plan) -> Result<Self, SimError> {
        let image = &plan.image;
        let files = match plan.backplane {
            BackplaneKind::Qemu => {
                host::check()?;
                vec![&image.kernel, &image.initrd, &image.base, &image.programs]
            }
            BackplaneKind::Netns => {
                netns::check()?;
                vec![&image.base, &image.programs]
            }
        };
        for file in files {
            if !file.is_file() {
                return Err(SimError::NoImage { path: file.clone() });
            }
        }
        let dir = RunDir::take(&plan.dir)?;
        let chassis = Self::assemble(plan, dir)?;
        in_parallel(chassis.modules.values(), Module::power_on)?;
        Ok(chassis)
    }

    fn assemble(mut plan: Plan, dir: RunDir) -> Result<Self, SimError> {
        let paths = |slot: u16| ModulePaths::new(dir.path(), slot);
        for slot in &plan.chassis.slots {
            paths(slot.number).remove_transient();
            let _ = std::fs::remove_file(paths(slot.number).console);
        }
        let held = plan.chassis.slots.iter().map(HeldPorts::choose).collect::<Result<Vec<_>, _>>()?;
        let spawner = Arc::new(Spawner::start().map_err(SimError::io("start threads for", dir.path()))?);
        let (modules, rest) = match plan.backplane {
            BackplaneKind::Qemu => emulate(&mut plan, held, &dir, spawner)?,
            BackplaneKind::Netns => make_namespaces(&mut plan, held, &dir, spawner)?,
        };
        let modules = modules.into_iter().map(|module| (module.slot(), module)).collect();
        let (backplane, name) = (plan.backplane, plan.chassis.name);
        Ok(Self { modules, backplane, rest, name, dir })
    }

    /// What its modules are made of.
    pub fn backplane(&self) -> BackplaneKind {
        self.backplane
    }

    /// Takes power away from all modules and removes what is of no use later; consoles stay.
    pub fn shut_down(&self) {
        let _ = in_parallel(self.modules.values(), |module| {
            module.retire();
            Ok(())
        });
        self.rest.clean();
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

fn emulate(
    plan: &mut Plan,
    held: Vec<HeldPorts>,
    dir: &RunDir,
    spawner: Arc<Spawner>,
) -> Result<(Vec<Module>, Rest), SimError> {
    let image = Arc::new(plan.image.clone());
    let start = Start { paused: plan.paused, tsc_khz: tsc::kilohertz() };
    let paths = |slot: u16| ModulePaths::new(dir.path(), slot);
    let ports = plan.chassis.slots.iter().map(|slot| (slot.number, paths(slot.number).backplane)).collect();
    let backplane = Arc::new(Backplane::start(ports)?);
    let mut modules = Vec::new();
    for (slot, held) in plan.chassis.slots.iter().zip(held) {
        let paths = paths(slot.number);
        host::make_data_disk(&paths.data, slot.disk.0)?;
        let (console, ports) = (paths.console.clone(), held.ports);
        let board = Emulated::new(emulated::Parts {
            slot: slot.clone(),
            paths,
            ports,
            image: Arc::clone(&image),
            slots: plan.slots.remove(&slot.number),
            spawner: Arc::clone(&spawner),
            backplane: Arc::clone(&backplane),
            start,
            identity: plan.identities.remove(&slot.number).unwrap_or_default(),
        });
        modules.push(Module::new(slot.clone(), console, ports, Box::new(board)));
    }
    let rest = Rest {
        _switch: None,
        _cgroups: None,
        _backplane: Some(backplane),
        _spawner: spawner,
        programs: None,
    };
    Ok((modules, rest))
}

fn make_namespaces(
    plan: &mut Plan,
    held: Vec<HeldPorts>,
    dir: &RunDir,
    spawner: Arc<Spawner>,
) -> Result<(Vec<Module>, Rest), SimError> {
    let unbuilt = |error| SimError::Image(Box::new(error));
    let cache = image::default_cache().map_err(unbuilt)?;
    let layers = Layers::unpack(&cache, &plan.image, dir.path()).map_err(unbuilt)?;
    let (switch, cgroups) = (Arc::new(Switch::start()?), Arc::new(Cgroups::open()?));
    let mut modules = Vec::new();
    for (slot, held) in plan.chassis.slots.iter().zip(held) {
        let paths = ModulePaths::new(dir.path(), slot.number);
        let ground = Ground::start(held)?;
        let (console, ports) = (paths.console.clone(), ground.ports());
        let board: Box<dyn Board> = Box::new(Namespaced::new(netns::Parts {
            slot: slot.number,
            paths,
            layers: layers.clone(),
            software: plan.software,
            spawner: Arc::clone(&spawner),
            switch: Arc::clone(&switch),
            cgroups: Arc::clone(&cgroups),
            ground,
            identity: plan.identities.remove(&slot.number).unwrap_or_default(),
        }));
        modules.push(Module::new(slot.clone(), console, ports, board));
    }
    let (switch, cgroups, programs) = (Some(switch), Some(cgroups), Some(layers.programs));
    Ok((modules, Rest { _switch: switch, _cgroups: cgroups, _backplane: None, _spawner: spawner, programs }))
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
