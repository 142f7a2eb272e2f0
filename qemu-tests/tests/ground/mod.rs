//! What most tests on a chassis begin with: it has power, its operator has papers, and the demo app's image is at hand.
#![allow(dead_code)]

use spacesim::{
    BackplaneKind, Chassis, ChassisFile, Plan, Times,
    cluster::Cluster,
    image,
    papers::Papers,
    scenario::{self, Note, Scenario, boot_limit},
    twin, within,
};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A host that stalls for seconds is no module that is lost, and no process that had to be killed.
const PATIENT: &str = "[timing]\nsuspect = '2s'\nlease = '4s'\nmargin = '1s'\n";
/// The same for modules that are emulated.
const PATIENT_EMULATION: &str = "[timing]\nsuspect = '6s'\nlease = '16s'\nmargin = '3s'\n";

pub(crate) struct Ground {
    pub(crate) chassis: Chassis,
    pub(crate) powered: Instant,
    /// The demo image's layout.
    pub(crate) demo: PathBuf,
    /// The operator's papers.
    pub(crate) operator: PathBuf,
    papers: Papers,
    dir: tempfile::TempDir,
}

/// One of those in `qemu-tests/chassis`.
pub(crate) fn file(name: &str) -> ChassisFile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chassis");
    ChassisFile::load(&folder.join(format!("{name}.toml"))).unwrap()
}

pub(crate) fn three() -> ChassisFile {
    file("three")
}

impl Ground {
    pub(crate) fn new(file: ChassisFile, backplane: BackplaneKind) -> Self {
        Self::planned(file, backplane, |_| {})
    }

    /// The same with a plan that is changed before anything has power.
    pub(crate) fn planned(
        file: ChassisFile,
        backplane: BackplaneKind,
        change: impl FnOnce(&mut Plan),
    ) -> Self {
        let image =
            twin::ensure(&mut |step| eprintln!("image: {} ({}/{})", step.name, step.done, step.total));
        let demo = image::demo::demo_app(&image::default_cache().unwrap()).unwrap();
        let dir = tempfile::Builder::new().prefix("space-").tempdir().unwrap();
        let mut plan = Plan::new(file, image.unwrap(), dir.path()).on(backplane);
        let papers = scenario::provision(&mut plan).unwrap();
        let timing = if backplane == BackplaneKind::Qemu { PATIENT_EMULATION } else { PATIENT };
        for identity in plan.identities.values_mut() {
            let file = "/etc/spacecloud/spacecloud.toml.d/35-patient.toml";
            *identity = std::mem::take(identity).file(file, 0o644, timing);
        }
        change(&mut plan);
        let powered = Instant::now();
        let chassis = Chassis::power_on(plan).unwrap();
        let operator = dir.path().join("operator");
        Self { chassis, powered, demo, operator, papers, dir }
    }

    /// The server, from the ground.
    pub(crate) fn connect(&self) -> Cluster {
        let address = format!("127.0.0.1:{}", self.chassis.module(1).unwrap().ground().grpc);
        self.papers.write_client(&self.operator, &address).unwrap();
        Cluster::connect(&self.operator, &address, boot_limit()).unwrap()
    }

    /// The same as soon as all modules are ready; what else is told goes to `note`.
    pub(crate) fn begin<'a>(&'a self, mut note: impl FnMut(Note<'_>) + 'a) -> Scenario<'a> {
        let told = move |told: Note<'_>| {
            self.told(&told);
            note(told);
        };
        Scenario::begin(&self.chassis, &self.papers, &self.demo, self.powered, told)
            .unwrap_or_else(|error| panic!("{}", error.one_line()))
    }

    fn told(&self, note: &Note<'_>) {
        match note {
            Note::Step(text) => self.say(text),
            Note::Checked(text) => self.say(&format!("  {text}")),
            Note::Unchecked(text) => self.say(&format!("  not checked: {text}")),
            Note::Now(..) => {}
        }
    }

    pub(crate) fn say(&self, text: &str) {
        eprintln!("[{:6.1} s] {text}", self.powered.elapsed().as_secs_f64());
    }

    /// On namespaces: the server with module-1's agent, or another module's agent; the module's first process starts it
    /// again.
    pub(crate) fn kill_daemon(&self, slot: u16) {
        let kill = "kill -9 $(pgrep -f '^/usr/bin/spacecloudd --config [^ ]*$')";
        self.chassis.module(slot).unwrap().run(kill, within(180.s())).unwrap();
    }

    /// Pushes the demo image to the registry of a module.
    pub(crate) fn push(&self, slot: u16) {
        let registry = self.chassis.module(slot).unwrap().ground().registry;
        scenario::push(registry, &self.operator, &self.demo).unwrap();
    }

    /// The picture of what the scenario did, which shows the cut.
    pub(crate) fn draw(&self, report: &scenario::Report, cluster: &Cluster) {
        let picture = self.dir.path().join("migration.svg");
        scenario::draw(report, cluster, &picture).unwrap();
        assert!(std::fs::read_to_string(&picture).unwrap().contains("module-3 isolated"));
    }
}

/// When a test has failed, what its modules have said is kept, and the end of it shown.
impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Ok(kept) = tempfile::Builder::new().prefix("consoles-").tempdir().map(tempfile::TempDir::keep)
        else {
            return;
        };
        for module in self.chassis.modules() {
            let name = module.name();
            let console = std::fs::read_to_string(module.console_path()).unwrap_or_default();
            let _ = std::fs::write(kept.join(format!("{name}.console")), &console);
            let journal = |more: &str| {
                let command = format!("journalctl -b -o short-monotonic --no-pager {more}");
                module.run(&command, within(60.s())).unwrap_or_default()
            };
            let _ = std::fs::write(kept.join(format!("{name}.journal")), journal("| tail -n 2000"));
            let ours = journal("-u spacecloudd -u spacecloud-guard -u containerd");
            // A namespace has no journal: its console has all that its daemons have said.
            let said = if ours.contains("spacecloudd") { ours } else { console };
            let lines: Vec<&str> = said.lines().collect();
            eprintln!("--- the end of what {name} has said");
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
        eprintln!("--- consoles and journals are in {}", kept.display());
    }
}
