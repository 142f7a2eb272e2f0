//! A board that is made of the host's namespaces.

use super::cgroups::Cgroups;
use super::init::{Charge, Hello, UP};
use super::{Ground, Software, Switch};
use crate::backplane::{Counters, Weather};
use crate::board::Board;
use crate::control::Output;
use crate::image::Layers;
use crate::module::{Link, Power};
use crate::run_dir::ModulePaths;
use crate::spawner::Spawner;
use crate::{Limit, Provision, SimError, Times, host, wait_until, within};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What timeout(1) exits with when it has ended the command.
const TIMED_OUT: i32 = 124;
const START: Duration = Duration::from_secs(60);

/// A module's namespaces, or the place for them.
#[derive(Debug)]
pub(crate) struct Namespaced {
    slot: u16,
    paths: ModulePaths,
    layers: Layers,
    software: Software,
    spawner: Arc<Spawner>,
    switch: Arc<Switch>,
    cgroups: Arc<Cgroups>,
    ground: Ground,
    identity: Mutex<Provision>,
    power: Mutex<Option<Running>>,
    link: Mutex<Link>,
}

/// What a board is made of; all of it is the chassis'.
pub(crate) struct Parts {
    pub(crate) slot: u16,
    pub(crate) paths: ModulePaths,
    pub(crate) layers: Layers,
    pub(crate) software: Software,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) ground: Ground,
    pub(crate) identity: Provision,
}

#[derive(Debug)]
struct Running {
    /// unshare(1), whose death kills the first process.
    child: Child,
    /// The first process.
    pid: i32,
    since: Instant,
    frozen: bool,
}

impl Namespaced {
    /// A board without power.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { slot, paths, layers, software, spawner, switch, cgroups, ground, identity } = parts;
        let (identity, power, link) = (Mutex::new(identity), Mutex::new(None), Mutex::new(Link::Joined));
        Self { slot, paths, layers, software, spawner, switch, cgroups, ground, identity, power, link }
    }

    fn power(&self) -> MutexGuard<'_, Option<Running>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_link(&self, link: Link) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    fn off(&self) -> SimError {
        SimError::Off { slot: self.slot }
    }

    fn start(&self) -> Result<Running, SimError> {
        let console = &self.paths.console;
        let console = OpenOptions::new()
            .create(true)
            .append(true)
            .open(console)
            .map_err(SimError::io("open", console))?;
        let ours = program()?;
        let mut command = Command::new("unshare");
        host::with_admin_path(&mut command);
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--"]);
        command.arg(&ours).arg("module-init").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(console);
        let child = self.spawner.spawn(command).map_err(|error| host::not_started("unshare", error))?;
        let mut starting = Starting(Some(child));
        let lines = starting.lines();
        let pid = self.first_process(&mut starting, &lines)?;
        self.cgroups.take_in(self.slot, pid)?;
        self.switch.plug(self.slot, pid)?;
        self.ground.lead_to(Some(pid))?;
        self.set_link(Link::Joined);
        let charge = Charge {
            slot: self.slot,
            layers: self.layers.clone(),
            place: self.paths.place.clone(),
            identity: self.paths.identity.clone(),
            hierarchies: self.cgroups.hierarchies().to_vec(),
            services: self.software.services(),
        };
        let text = serde_json::to_vec(&charge)
            .map_err(|error| SimError::io("write the charge of", &self.paths.place)(error.into()))?;
        if let Some(mut stdin) = starting.0.as_mut().and_then(|child| child.stdin.take()) {
            stdin.write_all(&text).map_err(SimError::io("charge", &self.paths.place))?;
        }
        match lines.recv_timeout(START) {
            Ok(line) if line == UP => {}
            _ => return Err(self.not_up(&mut starting)),
        }
        let child = starting.0.take().ok_or_else(|| self.off())?;
        Ok(Running { child, pid, since: Instant::now(), frozen: false })
    }

    fn first_process(&self, starting: &mut Starting, lines: &Receiver<String>) -> Result<i32, SimError> {
        let line = lines.recv_timeout(START).unwrap_or_default();
        match serde_json::from_str::<Hello>(&line) {
            Ok(Hello { pid }) if pid > 0 => Ok(pid),
            _ => Err(self.not_up(starting)),
        }
    }

    fn not_up(&self, starting: &mut Starting) -> SimError {
        let Some(child) = starting.0.as_mut() else { return self.off() };
        let ended = || matches!(child.try_wait(), Ok(Some(_)));
        if wait_until("it ends by itself", within(2.s()), ended).is_err() {
            let _ = child.kill();
        }
        child.wait().map_or_else(SimError::io("wait for", "unshare"), |status| self.last_words(status))
    }

    fn last_words(&self, status: ExitStatus) -> SimError {
        let said = std::fs::read_to_string(&self.paths.console).unwrap_or_default();
        let said = said.lines().next_back().unwrap_or("it said nothing").to_owned();
        let console = self.paths.console.clone();
        SimError::Died {
            slot: self.slot,
            program: "its first process",
            status: status.to_string(),
            said,
            console,
        }
    }

    /// Everything on the module dies with its first process.
    fn end(&self, mut running: Running) {
        let _ = self.ground.lead_to(None);
        let _ = running.child.kill();
        let _ = running.child.wait();
        let gone = || !std::path::Path::new(&format!("/proc/{}", running.pid)).exists();
        if wait_until("the module's processes are gone", within(10.s()), gone).is_err() {
            tracing::warn!(slot = self.slot, pid = running.pid, "its first process does not die");
        }
        self.switch.remove(self.slot);
        self.cgroups.remove(self.slot);
    }

    /// The first process, if the module runs.
    fn pid(&self) -> Result<i32, SimError> {
        let mut power = self.power();
        let running = power.as_mut().ok_or_else(|| self.off())?;
        match running.child.try_wait() {
            Ok(Some(status)) => Err(self.last_words(status)),
            _ => Ok(running.pid),
        }
    }

    fn freeze_or_thaw(&self, frozen: bool) -> Result<(), SimError> {
        self.pid()?;
        self.cgroups.freeze(self.slot, frozen)?;
        if let Some(running) = self.power().as_mut() {
            running.frozen = frozen;
        }
        Ok(())
    }
}

impl Board for Namespaced {
    fn set_identity(&self, identity: Provision) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn power_on(&self) -> Result<(), SimError> {
        let mut power = self.power();
        if let Some(running) = power.as_mut()
            && matches!(running.child.try_wait(), Ok(None))
        {
            return Err(SimError::On { slot: self.slot });
        }
        if let Some(dead) = power.take() {
            self.end(dead);
        }
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).write(&self.paths.identity)?;
        *power = Some(self.start()?);
        Ok(())
    }

    fn power_off(&self) -> Result<(), SimError> {
        let running = self.power().take().ok_or_else(|| self.off())?;
        self.end(running);
        Ok(())
    }

    fn status(&self) -> Power {
        let mut power = self.power();
        let Some(running) = power.as_mut() else { return Power::Off };
        match running.child.try_wait() {
            Ok(Some(status)) => Power::Dead { how: self.last_words(status).one_line() },
            _ => {
                let state = if running.frozen { "paused" } else { "running" };
                Power::On { uptime: running.since.elapsed(), state: state.to_owned() }
            }
        }
    }

    fn isolate(&self) -> Result<(), SimError> {
        self.pid()?;
        self.switch.cut(self.slot)?;
        self.set_link(Link::Isolated);
        Ok(())
    }

    fn unplug(&self) -> Result<(), SimError> {
        self.pid()?;
        self.switch.unplug(self.slot)?;
        self.set_link(Link::Unplugged);
        Ok(())
    }

    fn rejoin(&self) -> Result<(), SimError> {
        self.pid()?;
        self.switch.rejoin(self.slot)?;
        self.set_link(Link::Joined);
        Ok(())
    }

    fn set_weather(&self, weather: Weather) -> Result<(), SimError> {
        self.pid()?;
        self.switch.set_weather(self.slot, weather, self.link() == Link::Joined)
    }

    fn link(&self) -> Link {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> Counters {
        self.switch.counters(self.slot)
    }

    fn freeze(&self) -> Result<(), SimError> {
        self.freeze_or_thaw(true)
    }

    fn thaw(&self) -> Result<(), SimError> {
        self.freeze_or_thaw(false)
    }

    fn exec(&self, command: &str, limit: Limit) -> Result<Output, SimError> {
        let (begun, limit) = (Instant::now(), limit.duration());
        let target = self.pid()?.to_string();
        // To a file, not a pipe: a child that the command leaves behind would hold a pipe open for ever.
        let mut said = tempfile::tempfile().map_err(SimError::io("create", "a temporary file"))?;
        let share = || said.try_clone().map_err(SimError::io("share", "a temporary file"));
        let mut shell = Command::new("nsenter");
        host::with_admin_path(&mut shell);
        shell.args([
            "--target", &target, "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--",
        ]);
        shell.args(["/usr/bin/env", "-i", "HOME=/root"]);
        shell.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        shell.args([
            "timeout",
            "-k",
            "1",
            &format!("{:.3}", limit.as_secs_f64().max(0.001)),
            "sh",
            "-c",
            command,
        ]);
        shell.current_dir("/").stdin(Stdio::null()).stdout(share()?).stderr(share()?);
        let status = shell.status().map_err(|error| host::not_started("nsenter", error))?;
        let mut bytes = Vec::new();
        said.rewind()
            .and_then(|()| said.read_to_end(&mut bytes))
            .map_err(SimError::io("read", "a temporary file"))?;
        let code = status
            .code()
            .unwrap_or(128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0));
        if code == TIMED_OUT && begun.elapsed() >= limit {
            return Err(SimError::NoAnswer { slot: self.slot, command: command.to_owned(), limit });
        }
        // A module that went away under the command is the better news.
        self.pid()?;
        Ok(Output { status: code, stdout: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Until its container engine answers.
    fn wait_ready(&self, limit: Limit) -> Result<Duration, SimError> {
        let socket = PathBuf::from(format!("/proc/{}/root", self.pid()?)).join(self.software.engine_socket());
        let what = format!("{} is there", socket.display());
        wait_until(&what, limit, || socket.exists() || self.pid().is_err())
            .and_then(|took| self.pid().map(|_| took))
    }

    fn cgroup(&self) -> &str {
        self.cgroups.seen_by_modules()
    }

    fn retire(&self) {
        if let Some(running) = self.power().take() {
            self.end(running);
        }
        self.paths.remove_transient();
    }
}

/// This program's own file: of the tool itself, or of the tool that was built with a test.
fn program() -> Result<PathBuf, SimError> {
    let ours = std::env::current_exe().map_err(SimError::io("find", "this program's own file"))?;
    if ours.file_name().is_some_and(|name| name == "spacesim") {
        return Ok(ours);
    }
    let beside = ours.ancestors().map(|folder| folder.join("spacesim")).find(|path| path.is_file());
    beside.ok_or_else(|| SimError::NoProgram { program: "spacesim".to_owned() })
}

/// A child that is killed unless it is taken out: no error on the way leaves it behind.
struct Starting(Option<Child>);

impl Starting {
    /// What it says, line by line.
    fn lines(&mut self) -> Receiver<String> {
        let (sender, lines) = channel();
        if let Some(stdout) = self.0.as_mut().and_then(|child| child.stdout.take()) {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        lines
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = self.0.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
