//! `spacesim demo`: the scenario, live in a terminal, with its measured times and the picture of the migration.

use crate::{
    BackplaneKind, Chassis, ChassisFile, Plan, SimError,
    cluster::table,
    image,
    scenario::{self, Note, Report, Scenario},
    twin,
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const CHASSIS: &str = include_str!("../chassis/three.toml");

/// How the demo is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Run directory, made anew.
    pub dir: PathBuf,
    /// Where the picture goes.
    pub picture: PathBuf,
    /// Leave the chassis up until somebody presses Ctrl-C.
    pub keep: bool,
    /// What modules are made of.
    pub backplane: BackplaneKind,
    /// The kernel to boot instead of the twin's; see [`twin::with_kernel`].
    pub kernel: Option<PathBuf>,
}

/// The bars of a terminal, or plain lines elsewhere.
struct Screen {
    bars: MultiProgress,
    step: ProgressBar,
    state: ProgressBar,
    shown: String,
    live: bool,
    begun: Instant,
}

impl Screen {
    fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        if !live {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let step = bars.add(ProgressBar::new(1));
        let state = bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            state.set_style(style);
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} {msg} ({elapsed})")
        {
            step.set_style(style.progress_chars("=> "));
        }
        step.enable_steady_tick(Duration::from_millis(120));
        Self { bars, step, state, shown: String::new(), live, begun: Instant::now() }
    }

    fn line(&self, text: &str) {
        let text = format!("[{:6.1} s] {text}", self.begun.elapsed().as_secs_f64());
        if self.live {
            // Nothing is lost if the terminal went away: the report is printed at the end.
            let _ = self.bars.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    fn progress(&self, text: &str, done: u64, of: u64) {
        self.step.set_length(of);
        self.step.set_position(done);
        self.step.set_message(text.to_owned());
    }

    fn note(&mut self, note: &Note<'_>) {
        match note {
            Note::Step(text) => {
                self.line(&format!("… {text}"));
                self.step.reset();
                self.progress(text, 0, 1);
            }
            Note::Checked(text) => self.line(&format!("✔ {text}")),
            Note::Unchecked(text) => self.line(&format!("∅ not checked: {text}")),
            Note::Now(snapshot, done, of) => {
                self.progress(&self.step.message(), *done as u64, *of as u64);
                let table = table(snapshot);
                if table == self.shown {
                    return;
                }
                if self.live {
                    self.state.set_message(table.clone());
                }
                self.shown = table;
            }
        }
    }
}

/// Runs it.
///
/// # Errors
/// The first step that fails; consoles are kept in the run directory.
pub fn run(options: &Options) -> Result<(), SimError> {
    let mut screen = Screen::new();
    let chassis = ChassisFile::parse(CHASSIS).map_err(|reason| SimError::Refused { reason })?;
    let mut cold = false;
    let mut show = |step: image::Step| {
        cold = true;
        screen.line(&format!("image: {} ({}/{})", step.name, step.done, step.total));
        screen.progress(&format!("image: {}", step.name), step.done, step.total);
    };
    let mut image = twin::ensure(&mut show)?;
    if let Some(kernel) = &options.kernel {
        image = twin::with_kernel(image, kernel, &mut show)?;
    }
    let cache = image::default_cache().map_err(|e| SimError::Image(Box::new(e)))?;
    let app = image::demo::demo_app(&cache).map_err(|e| SimError::Image(Box::new(e)))?;
    let mut plan = Plan::new(chassis, image, &options.dir).on(options.backplane);
    let papers = scenario::provision(&mut plan)?;
    let powered = Instant::now();
    let chassis = Chassis::power_on(plan)?;
    let begun = Scenario::begin(&chassis, &papers, &app, powered, |note| screen.note(&note));
    let outcome = begun.and_then(Scenario::run);
    screen.step.finish_and_clear();
    screen.state.finish_and_clear();
    let (report, cluster) = outcome?;
    println!("{}", table(&cluster.now()));
    print(&report, options.backplane);
    print_whole(screen.begun.elapsed(), cold);
    scenario::draw(&report, &cluster, &options.picture)?;
    println!("picture of the migration: {}", options.picture.display());
    if options.keep {
        keep(&chassis, &options.dir)?;
    }
    Ok(())
}

fn print(report: &Report, backplane: BackplaneKind) {
    println!("\nMeasured on {}:", machine(backplane));
    for (what, took) in &report.times {
        println!("  {what:<45} {:>7.1} s", took.as_secs_f64());
    }
    for (program, kib) in &report.memory {
        let mib = *kib as f64 / 1024.0;
        let share = LIMITS.iter().find(|(name, _)| name == program).map_or(String::new(), |(_, limit)| {
            format!("  ({:.0} % of its limit, {limit:.0} MB)", mib * 1.048_576 / limit * 100.0)
        });
        println!("  {:<45} {mib:>7.1} MiB{share}", format!("{program} on module-1, resident"));
    }
}

/// How long a demo may take on two cores without KVM: with the image to be made, and with it at hand.
const COLD_LIMIT: Duration = Duration::from_secs(15 * 60);
const WARM_LIMIT: Duration = Duration::from_secs(5 * 60);

fn print_whole(took: Duration, cold: bool) {
    let (what, limit) = if cold {
        ("the whole demo, its image built", COLD_LIMIT)
    } else {
        ("the whole demo, its image at hand", WARM_LIMIT)
    };
    let (took, limit) = (took.as_secs_f64(), limit.as_secs_f64());
    println!("  {what:<45} {took:>7.1} s  ({:.0} % of its limit, {limit:.0} s)", took / limit * 100.0);
}

/// What the daemons may take when idle, in MB: server and agent are one process on module-1.
const LIMITS: [(&str, f64); 2] = [("spacecloudd", 40.0), ("space-registry", 15.0)];

/// The host, named as figures want it.
pub fn machine(backplane: BackplaneKind) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim().to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let how = match backplane {
        BackplaneKind::Qemu => "QEMU without KVM",
        BackplaneKind::Netns => "modules as namespaces of the host",
    };
    format!("{cores} cores of {}, {how}", model.unwrap_or_else(|| "an unnamed processor".to_owned()))
}

fn keep(chassis: &Chassis, dir: &Path) -> Result<(), SimError> {
    let ports = chassis.module(1)?.ground();
    println!("\nThe chassis stays up until Ctrl-C. From another terminal:");
    println!("  spacectl --config {}/operator/spacectl.toml get instances --watch", dir.display());
    println!("  http://127.0.0.1:{}/metrics", ports.http);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
