//! A counter goes on counting on another module: a live move, seen from the counter's own output.

use super::{
    IMAGE, Note, PATIENCE, Scenario,
    clients::{self, Calls},
    failed, ready, two_on_each,
};
use crate::{BackplaneKind, SimError, Times, wait_until, within};
use api::v1::{Instance, Snapshot};
use model::InstanceId;

const APP: &str = "counter";
const CALLER: &str = "caller";
const STAYER: &str = "stayer";
/// On which module the clients are, and what they have counted.
type Counted = (String, (Calls, Calls));

/// How far it has counted in memory, from its line `TIME INSTANCE MODULE COUNT …`.
fn count(line: &str) -> Option<u64> {
    line.split_whitespace().nth(3)?.parse().ok()
}

fn counter(snapshot: &Snapshot) -> Option<&Instance> {
    snapshot.instances.iter().find(|i| i.app == APP && i.phase == "ready")
}

fn of(snapshot: &Snapshot) -> Result<Instance, SimError> {
    counter(snapshot).cloned().ok_or_else(|| failed("the counter is not there"))
}

impl Scenario<'_> {
    /// Drains the counter's module: the counter itself moves, not a copy that begins at zero.
    pub(super) fn live(&mut self) -> Result<(), SimError> {
        (self.note)(Note::Step("a counter moves to another module while it counts"));
        // CRIU takes sockets along on the twin's kernel, but not on every host's.
        let (port, service) = match self.chassis.backplane() {
            BackplaneKind::Qemu => ("8080", "ports = [{ container = 8080, service = 80 }]\n"),
            BackplaneKind::Netns => ("none", ""),
        };
        let others = self.cluster.now().instances.len();
        self.cluster.apply(&format!(
            "name = '{APP}'\nimage = '{IMAGE}'\nenv = {{ PORT = '{port}', TELL_COUNT = '1' }}\n\
             migration = {{ planned = 'live' }}\n{service}"
        ))?;
        let mut all = others + 1;
        let (before, _) = self.wait("the counter is ready", all, |s| ready(s, all, |_| true))?;
        let old = of(&before)?;
        wait_until("the counter has counted a while", within(120.s()), || {
            self.said(&old, "tail").is_ok_and(|count| count >= 10)
        })?;
        let born = self.born(&old)?;
        let clients = if service.is_empty() {
            self.unchecked("a client that stays connected: criu refuses sockets on this host's kernel");
            None
        } else {
            all += 2;
            Some(self.start_clients(&before, &old, all)?)
        };
        self.mark("drained");
        self.cluster.drain(&old.module, true)?;
        self.set_clocks(&[(1, 15), (2, -5), (3, 8)])?;
        let from = old.module.clone();
        let moved = |s: &Snapshot| ready(s, all, |i| i.module != from);
        let (after, took) = self.wait("everything has left the module", all, moved)?;
        self.mark("moved live");
        let new = of(&after)?;
        let mut events = after.events.iter().rev().filter(|e| e.subject == format!("{APP}/1"));
        let told = events.find(|e| ["Moved", "NotLive"].contains(&e.reason.as_str()));
        let told = told.map(|e| e.message.clone()).unwrap_or_default();
        if !told.starts_with("live from ") {
            return Err(failed(format!("the counter was not moved live: {told:?}")));
        }
        let (last, first) = (self.said(&old, "tail")?, self.said(&new, "head")?);
        if first != last + 1 {
            return Err(failed(format!("{} counted {first} after {last}", new.id)));
        }
        if self.born(&new)? != born {
            return Err(failed(format!("{} lost the file that {} wrote at its birth", new.id, old.id)));
        }
        let procs = format!("/spacecloud/stop/{}/cgroup.procs", new.id);
        let here = self.home(&new)?;
        if here.run(&format!("cat {}{procs}", here.cgroup()), within(120.s()))?.trim().is_empty() {
            return Err(failed(format!("{} does not run in its own cgroup: no limit holds", new.id)));
        }
        self.report.times.push(("a drain with a live move", took));
        self.checked(format!("{told}; it counted {last} there and {first} here"));
        if new.address != old.address {
            return Err(failed(format!(
                "{} has {}, and {} had {}",
                new.id, new.address, old.id, old.address
            )));
        }
        self.checked(format!("its address is {} all the time", new.address));
        self.clocks_were_set("the live move");
        self.cluster.drain(&from, false)?;
        let mut apps = vec![APP.to_owned()];
        if let Some((place, before)) = clients {
            self.ask_clients(&place, before)?;
            apps.extend([CALLER.to_owned(), STAYER.to_owned()]);
        }
        self.cluster.delete(apps)?;
        self.wait("the module is in use again", others, two_on_each)?;
        Ok(())
    }

    /// One that calls the counter's service without pause, and one that stays connected to its address; both on a module
    /// that the counter is not on. Answers its name and what they have counted.
    fn start_clients(&mut self, now: &Snapshot, old: &Instance, all: usize) -> Result<Counted, SimError> {
        let service = now.apps.iter().find(|a| a.name == APP).map(|a| a.service.clone()).unwrap_or_default();
        let place = self.chassis.modules().map(|m| m.name()).find(|name| *name != old.module);
        let place = place.ok_or_else(|| failed("the chassis has one module only"))?;
        let caller = clients::app(CALLER, "call", &service, &place, IMAGE);
        let stayer = clients::app(STAYER, "stay", &format!("{}:8080", old.address), &place, IMAGE);
        self.cluster.apply(&format!("{caller}{stayer}"))?;
        self.wait("the counter's clients are ready", all, |s| ready(s, all, |_| true))?;
        let mut counted = (Calls::default(), Calls::default());
        wait_until("the counter answers its clients", within(PATIENCE.s()), || {
            counted = self.counted(&place).unwrap_or_default();
            counted.0.requests > 0 && counted.1.requests > 0
        })?;
        Ok((place, counted))
    }

    /// Nothing may have failed, and the one connection must be the same.
    fn ask_clients(&mut self, place: &str, before: (Calls, Calls)) -> Result<(), SimError> {
        let at = self.counted(place)?;
        let mut now = at;
        wait_until("the counter answers its clients again", within(PATIENCE.s()), || {
            now = self.counted(place).unwrap_or(at);
            now.0.requests > at.0.requests + 1 && now.1.requests > at.1.requests + 1
        })?;
        let (calls, echoes) = now;
        let of = |now: Calls, before: Calls| {
            (now.requests.saturating_sub(before.requests), now.failed, now.longest_gap_ms)
        };
        let (made, failed_calls, gap) = of(calls, before.0);
        let (said, broken, echo_gap) = of(echoes, before.1);
        if failed_calls + broken > 0 {
            let why: Vec<String> = [CALLER, STAYER]
                .iter()
                .filter_map(|app| clients::last_failure(self.module(place).ok()?, app))
                .collect();
            return Err(failed(format!(
                "{failed_calls} of {made} calls failed, and the open connection broke {broken} times: {}",
                why.join(", ")
            )));
        }
        self.checked(format!("{made} calls meanwhile, none failed; longest gap {gap} ms"));
        self.checked(format!(
            "one connection stayed open: {said} lines came back whole; longest gap {echo_gap} ms"
        ));
        Ok(())
    }

    fn module(&self, place: &str) -> Result<&crate::Module, SimError> {
        let module = self.chassis.modules().find(|m| m.name() == place);
        module.ok_or_else(|| failed(format!("there is no {place}")))
    }

    fn counted(&self, place: &str) -> Result<(Calls, Calls), SimError> {
        let module = self.module(place)?;
        Ok((clients::read(module, CALLER)?, clients::read(module, STAYER)?))
    }

    fn home(&self, instance: &Instance) -> Result<&crate::Module, SimError> {
        let home = self.chassis.modules().find(|m| m.name() == instance.module);
        home.ok_or_else(|| failed(format!("{} is on no module", instance.id)))
    }

    /// What it has written into a file at its birth, as it answers on its port; nothing where it has no port.
    fn born(&self, instance: &Instance) -> Result<Option<String>, SimError> {
        if self.chassis.backplane() == BackplaneKind::Netns {
            return Ok(None);
        }
        let asker = self.chassis.module(3)?;
        let ask = format!("busybox wget -q -T 60 -O - http://{}:8080/count 2>&1; true", instance.address);
        let (mut born, mut said) = (None, String::new());
        wait_until(&format!("{} answers on its port", instance.id), within(PATIENCE.s()), || {
            said = asker.run(&ask, within(120.s())).unwrap_or_else(|error| error.one_line());
            born = said
                .trim()
                .split_once("born=")
                .map(|(_, born)| born.lines().next().unwrap_or_default().to_owned());
            born.is_some()
        })
        .map_err(|error| {
            failed(format!(
                "{}; {} says of http://{}: {said}",
                error.one_line(),
                asker.name(),
                instance.address
            ))
        })?;
        Ok(born)
    }

    /// The first (`head`) or last (`tail`) line of an instance's output.
    fn said(&self, instance: &Instance, end: &str) -> Result<u64, SimError> {
        let id: InstanceId = instance.id.parse().map_err(|e| failed(format!("{}: {e}", instance.id)))?;
        let module = self.home(instance)?;
        let read = format!("{end} -n 1 /var/lib/spacecloud/logs/{id}.log");
        let mut said = None;
        wait_until(&format!("{id} says how far it has counted"), within(120.s()), || {
            said = module.run(&read, within(120.s())).ok().and_then(|line| count(&line));
            said.is_some()
        })?;
        said.ok_or_else(|| failed(format!("{id} says nothing")))
    }
}
