//! `spacesim up`: the image, then a supervisor of its own session, until the chassis is up.

use super::Place;
use crate::image::{Image, Step};
use crate::progress::Progress as Bar;
use crate::supervisor::{self, Charge, Progress};
use crate::{BackplaneKind, SimError, run_dir, twin};
use clap::Args;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// Emulated modules boot in half a minute on a quiet host.
const READY_WITHIN_S: u64 = 600;

#[derive(Debug, Args)]
pub(super) struct Up {
    /// Boot the image in this folder (vmlinux, initrd, base.erofs, programs.erofs) instead of the twin
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// Boot this kernel instead of the image's: a file, or `built` for the slim one from kernel-config/
    #[arg(long, value_name = "FILE|built")]
    kernel: Option<PathBuf>,
    /// Start with halted processors
    #[arg(long)]
    paused: bool,
    /// Return when the modules have power, without waiting until they have booted
    #[arg(long)]
    no_wait: bool,
}

impl Up {
    pub(super) fn run(&self, place: &Place) -> Result<ExitCode, SimError> {
        let (chassis, content) = place.chassis()?;
        let dir = place.dir_of(&content.name)?;
        run_dir::check_length(&dir)?;
        if run_dir::is_taken(&dir) {
            return Err(SimError::AlreadyUp { dir });
        }
        match place.backplane {
            BackplaneKind::Qemu => crate::host::check()?,
            BackplaneKind::Netns => crate::netns::check()?,
        }
        let image = match &self.image {
            Some(folder) => image_in(folder)?,
            None => build_image()?,
        };
        let image = match &self.kernel {
            Some(kernel) => stepwise("kernel", |step| twin::with_kernel(image, kernel, step))?,
            None => image,
        };
        let ready_within_s = (!self.no_wait && !self.paused).then_some(READY_WITHIN_S);
        let (dir, paused, backplane) = (dir.clone(), self.paused, place.backplane);
        let charge = Charge { chassis, dir: dir.clone(), image, paused, backplane, ready_within_s };
        let bar = Bar::begin(&format!("chassis {}", content.name), content.slots.len() as u64);
        let outcome = start(&charge).and_then(|child| follow(child, &dir, &bar));
        bar.end();
        outcome?;
        println!(
            "chassis {} is up in {}; `spacesim status` shows it, `spacesim down` ends it",
            content.name,
            dir.display()
        );
        println!("spacectl --config {}/operator/spacectl.toml speaks to its server", dir.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// The twin, with its steps shown.
pub(super) fn build_image() -> Result<Image, SimError> {
    stepwise("image", twin::ensure)
}

/// Does what reports its steps, and shows them.
pub(super) fn stepwise<T>(
    what: &str,
    act: impl FnOnce(&mut dyn FnMut(Step)) -> Result<T, SimError>,
) -> Result<T, SimError> {
    let mut bar = None;
    let outcome = act(&mut |step| {
        let bar = bar.get_or_insert_with(|| Bar::begin(what, step.total));
        bar.at(step.done, step.total, &step.name);
    });
    if let Some(bar) = bar {
        bar.end();
    }
    outcome
}

/// The hidden verb: this process becomes a supervisor.
pub(super) fn supervise() -> Result<ExitCode, SimError> {
    let charge: Charge = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| SimError::Refused { reason: format!("no charge on standard input: {error}") })?;
    supervisor::supervise(charge, std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

/// An image that somebody else has built.
fn image_in(folder: &Path) -> Result<Image, SimError> {
    let folder = std::path::absolute(folder).map_err(SimError::io("make absolute", folder))?;
    let release = std::fs::read_to_string(folder.join("kernel-release")).unwrap_or_default();
    let image = Image {
        kernel: folder.join("vmlinux"),
        initrd: folder.join("initrd"),
        base: folder.join("base.erofs"),
        programs: folder.join("programs.erofs"),
        kernel_release: release.trim().to_owned(),
        kernel_config: folder.join("kernel-config"),
        firmware: None,
    };
    for path in [&image.kernel, &image.initrd, &image.base, &image.programs] {
        if !path.is_file() {
            return Err(SimError::NoImage { path: path.clone() });
        }
    }
    Ok(image)
}

/// Starts a supervisor that has a session of its own, so that closing a terminal does not end the chassis.
fn start(charge: &Charge) -> Result<Child, SimError> {
    let (dir, log) = (&charge.dir, run_dir::supervisor_log(&charge.dir));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(SimError::io("create", dir))?;
    let log: File =
        OpenOptions::new().create(true).append(true).open(&log).map_err(SimError::io("open", &log))?;
    let ours = std::env::current_exe().map_err(SimError::io("find", "this program's own file"))?;
    let mut command = Command::new(&ours);
    command.arg("supervise").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: between fork and exec this only makes the system call setsid, which is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let mut child = command.spawn().map_err(SimError::io("start", &ours))?;
    let text =
        serde_json::to_vec(charge).map_err(|error| SimError::io("write a charge for", dir)(error.into()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).map_err(SimError::io("charge the supervisor of", dir))?;
    }
    Ok(child)
}

/// Shows what the supervisor says until the chassis is up. The supervisor lives on.
fn follow(mut child: Child, dir: &Path, bar: &Bar) -> Result<(), SimError> {
    let log = run_dir::supervisor_log(dir);
    let Some(said) = child.stdout.take() else { return Err(silent(&log)) };
    let (mut total, mut ready) = (0, 0);
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Progress::Powered { modules }) => {
                total = modules as u64;
                bar.at(0, total, "power is on");
            }
            Ok(Progress::Ready { module, seconds }) => {
                ready += 1;
                bar.at(ready, total, &format!("{module} ready after {seconds:.1} s"));
            }
            Ok(Progress::Up) => return Ok(()),
            Ok(Progress::Failed { reason, exit }) => {
                let _ = child.wait();
                return Err(SimError::Supervised { reason, exit });
            }
            Err(_) => {}
        }
    }
    let _ = child.wait();
    Err(silent(&log))
}

fn silent(log: &Path) -> SimError {
    SimError::Refused { reason: format!("the supervisor ended without a word; {} says more", log.display()) }
}
