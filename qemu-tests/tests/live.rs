//! A running process goes on on another module, with its memory and its files; one that cannot is made before break and
//! says why; an agent that dies in the middle leaves neither two nor none.
//!
//! On namespaces, with a process that has no sockets: criu 4.1 cannot take those along on every host's kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ground;

use api::v1::{Event, Instance, Snapshot};
use ground::Ground;
use spacesim::{BackplaneKind, Chassis, Times, cluster::Cluster, wait_until, within};

const APPS: &str = r#"
[[app]]
name = "counter"
image = "registry.spacecloud:5000/demo/web:1"
env = { PORT = "none", TELL_COUNT = "1" }
migration = { planned = "live" }

[[app]]
name = "ring"
image = "registry.spacecloud:5000/demo/web:1"
env = { PORT = "none", IO_URING = "1" }
migration = { planned = "live" }
"#;

struct Rig<'a> {
    ground: &'a Ground,
    chassis: &'a Chassis,
    cluster: &'a Cluster,
}

/// What an instance last said of itself: when, and what it has counted in memory.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: u64,
    count: u64,
}

impl Rig<'_> {
    fn say(&self, text: &str) {
        self.ground.say(text);
    }

    /// The first and the last line of an instance's output on a module.
    fn output(&self, instance: &Instance) -> (Said, Said) {
        let slot: u16 = instance.module.rsplit('-').next().unwrap().parse().unwrap();
        let log = format!("/var/lib/spacecloud/logs/{}*", instance.id);
        let command = format!("cat {log} | sed -n '1p;$p'");
        let mut lines = Vec::new();
        wait_until("it says something", within(60.s()), || {
            let said = self.chassis.module(slot).unwrap().run(&command, within(30.s())).unwrap_or_default();
            lines = said.lines().filter_map(line).collect();
            lines.len() == 2
        })
        .unwrap();
        (lines[0], lines[1])
    }

    fn wait(&self, what: &str, test: impl Fn(&Snapshot) -> bool) -> Snapshot {
        self.cluster.wait_for(what, within(180.s()), |_| {}, test).unwrap().0
    }

    /// Everything that is on `from` has to move, and `to` takes it. In this order, or balance would move some first.
    fn drain(&self, from: &str, to: &str) {
        self.cluster.drain(from, true).unwrap();
        self.cluster.drain(to, false).unwrap();
    }

    /// Each module sends the packets of an address where its instance is: one abroad by a route of its own.
    fn routes_lead(&self, to: &str, address: &str) {
        let home = address.split('.').nth(2) == to.rsplit('-').next();
        let abroad = |module: &spacesim::Module| {
            let routes = module.run("ip route show proto 92", within(30.s())).unwrap_or_default();
            let here = if module.name() == to { "dev sc0" } else { "via 10.44.0." };
            if home { routes.trim().is_empty() } else { routes.contains(&format!("{address} {here}")) }
        };
        let all = || self.chassis.modules().all(abroad);
        wait_until(&format!("packets to {address} are sent to {to}"), within(60.s()), all).unwrap();
        // Nobody else gets it on its own module, until it is there again.
        let slot: u16 = address.split('.').nth(2).unwrap().parse().unwrap();
        let kept = format!("cat $(find /run -name {address} 2>/dev/null)");
        wait_until("its own module keeps it", within(60.s()), || {
            let said = self.chassis.module(slot).unwrap().run(&kept, within(30.s())).unwrap_or_default();
            said.starts_with("away") != home && !said.is_empty()
        })
        .unwrap();
    }

    /// Moves everything while the agent of a module is killed: the process goes on there, or it is said why not, and
    /// nobody takes a new one for the one that was.
    fn moves_or_says_why(&self, before: &Snapshot, from: &str, to: &str, killed: u16) {
        let since = before.events.iter().map(|e| e.number).max().unwrap_or(0);
        let old = of(before, "counter").clone();
        self.drain(from, to);
        self.wait("a move is under way", |s| s.instances.iter().any(|i| i.message.starts_with("taking ")));
        self.ground.kill_daemon(killed);
        let after = self.wait("everything has moved in spite of it", |s| all_on(s, to));
        // A host that stalls for longer than a lease lets the source count as lost.
        let why = ["NotLive", "Replaced"].map(|reason| event(&after, "counter/1", reason));
        if let Some(why) = why.into_iter().flatten().find(|e| e.number > since) {
            return self.say(&format!("after kill -9 on module-{killed}: {}", why.message));
        }
        let (first, _) = self.output(of(&after, "counter"));
        let (_, last) = self.output(&old);
        assert_eq!(first.count, last.count + 1, "it began anew, and nobody said so: {:#?}", after.events);
        self.say(&format!("after kill -9 on module-{killed}: live all the same"));
    }

    /// Neither an instance nor what a move needs.
    fn nothing_is_left(&self, slot: u16) {
        let look = "ctr -n spacecloud tasks ls -q; ls /var/lib/spacecloud/live 2>/dev/null || true";
        let module = self.chassis.module(slot).unwrap();
        let nothing = || module.run(look, within(30.s())).is_ok_and(|said| said.trim().is_empty());
        wait_until(&format!("nothing of it is left on module-{slot}"), within(60.s()), nothing).unwrap();
    }

    /// Moves everything, and checks that the counter went on counting where it had been.
    fn moves(&self, from: &str, to: &str) -> Snapshot {
        let before = self.wait("both are ready", |s| all_on(s, from));
        let old = of(&before, "counter").clone();
        self.drain(from, to);
        let after = self.wait("everything has moved", |s| all_on(s, to));
        let (first, _) = self.output(of(&after, "counter"));
        let (_, last) = self.output(&old);
        let moved = event(&after, "counter/1", "Moved").unwrap();
        self.say(&format!("{}: {} counted after {}", moved.message, first.count, last.count));
        assert!(moved.message.contains(&format!("live from {from} to {to}: drain of {from}")));
        assert_eq!(first.count, last.count + 1, "no count is lost and none is there twice");
        assert!(first.at > last.at, "{first:?}, {last:?}");
        assert_eq!(of(&after, "counter").restarts, 0);
        let address = &of(&after, "counter").address;
        assert_eq!(*address, of(&before, "counter").address, "its address goes along");
        self.routes_lead(to, address);
        after
    }
}

fn line(text: &str) -> Option<Said> {
    let mut words = text.split(' ');
    let at = words.next()?.parse().ok()?;
    Some(Said { at, count: words.nth(2)?.parse().ok()? })
}

fn all_on(snapshot: &Snapshot, module: &str) -> bool {
    let there = |i: &Instance| i.phase == "ready" && i.module == module;
    snapshot.instances.len() == 2 && snapshot.instances.iter().all(there)
}

fn of<'a>(snapshot: &'a Snapshot, app: &str) -> &'a Instance {
    snapshot.instances.iter().find(|i| i.app == app).unwrap()
}

fn event<'a>(snapshot: &'a Snapshot, subject: &str, reason: &str) -> Option<&'a Event> {
    snapshot.events.iter().rfind(|e| e.subject == subject && e.reason == reason)
}

#[test]
fn a_process_goes_on_on_another_module_and_one_that_cannot_says_why() {
    let mut file = ground::three();
    file.slots.truncate(2);
    let ground = Ground::new(file, BackplaneKind::Netns);
    let cluster = ground.connect();
    let chassis = &ground.chassis;
    let rig = Rig { ground: &ground, chassis, cluster: &cluster };
    rig.wait("both modules are ready", |s| s.modules.iter().filter(|m| m.state == "ready").count() == 2);
    ground.push(1);
    cluster.drain("module-1", true).unwrap();
    cluster.apply(APPS).unwrap();
    rig.wait("both run on module-2", |s| all_on(s, "module-2"));

    let snapshot = rig.moves("module-2", "module-1");
    let refused = event(&snapshot, "ring/1", "NotLive").unwrap();
    rig.say(&refused.message);
    assert!(refused.message.contains("is made before break: module-2: "), "{}", refused.message);
    assert!(refused.message.contains("cannot be checkpointed: "), "{}", refused.message);
    let cause = of(&snapshot, "ring").decision.clone().unwrap().cause;
    assert!(cause.contains("drain of module-2; not live: "), "{cause}");
    // And back: what was restored can be moved once more.
    let snapshot = rig.moves("module-1", "module-2");

    // The target's agent, and with it the server, dies in the middle; later the source's.
    rig.moves_or_says_why(&snapshot, "module-2", "module-1", 1);
    rig.nothing_is_left(2);
    let snapshot = rig.moves("module-1", "module-2");
    rig.moves_or_says_why(&snapshot, "module-2", "module-1", 2);
    rig.nothing_is_left(2);
    let said: String = chassis.modules().map(|module| module.console().unwrap()).collect();
    assert!(said.contains("adopted"), "the agents' words are elsewhere");
    assert!(!said.contains("cannot let it go on"), "{said}");

    // The target is cut off in the middle.
    rig.drain("module-1", "module-2");
    rig.wait("a move is under way", |s| s.instances.iter().any(|i| i.message.starts_with("taking ")));
    chassis.module(2).unwrap().isolate().unwrap();
    let waits = |i: &Instance| i.phase == "pending" && i.message.contains("module-2: lost");
    let there = |i: &Instance| i.phase == "ready" && i.module == "module-1";
    let alone = rig.wait("the counter goes on where it was", |s| {
        let mut all = s.instances.iter().filter(|i| i.app == "counter");
        all.clone().any(there) && all.all(|i| there(i) || waits(i))
    });
    let counter = alone.instances.iter().find(|i| i.app == "counter" && there(i)).unwrap();
    let (first, last) = rig.output(counter);
    assert!(last.count > first.count && counter.restarts == 0, "{first:?} {last:?}");
    chassis.module(2).unwrap().rejoin().unwrap();
    let snapshot = rig.wait("everything has moved after all", |s| all_on(s, "module-2"));
    rig.say(&event(&snapshot, "counter/1", "Moved").unwrap().message);
    rig.nothing_is_left(1);

    // The target's disk has no room for what the process has in memory.
    let disk = |command: &str| chassis.module(1).unwrap().run(command, within(30.s())).unwrap();
    disk("mkdir -p /var/lib/spacecloud/live && mount -t tmpfs -o size=16k small /var/lib/spacecloud/live");
    let since = snapshot.events.iter().map(|e| e.number).max().unwrap();
    rig.drain("module-2", "module-1");
    let snapshot = rig.wait("everything has moved without room for a live move", |s| all_on(s, "module-1"));
    let full = event(&snapshot, "counter/1", "NotLive").filter(|e| e.number > since).unwrap();
    rig.say(&full.message);
    assert!(full.message.contains("No space left on device"), "{}", full.message);
    rig.nothing_is_left(2);
    disk("umount /var/lib/spacecloud/live");
}
