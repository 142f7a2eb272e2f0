//! Successors that cannot run: their image is nowhere, their disk is full, their probe hangs, there is no room. What ran
//! stays or comes back, the reason is named, and what was asked for comes true by itself as soon as it can.

use crate::rig::{PATIENCE, Rig};
use api::v1::{Event, Instance, Snapshot};
use spacesim::{Role, cluster::all_ready, image, wait_until, within};
use std::process::Command;

const HEALTH: &str =
    "http = '/healthz', every = '200ms', timeout = '500ms', start_period = '1s', failures = 10";
/// One that never ends.
const ENDLESS: &str =
    "exec = ['/demo-app', 'call', '127.0.0.1:8080'], every = '200ms', timeout = '500ms', failures = 10";
/// A move that is not through by then is given up, and tried again.
const TIMING: &str = "[timing]\nmove_limit = '10s'\n";

/// An app on module-2 and module-3.
fn app(name: &str, image: &str, more: &str) -> String {
    format!(
        "[[app]]\nname = '{name}'\nimage = 'registry.spacecloud:5000/demo/{image}:1'\ngrace = '1s'\n\
         placement = {{ modules = ['module-2', 'module-3'] }}\n{more}\n"
    )
}

/// It has a service, and is asked how it is.
fn healthy() -> String {
    format!("ports = [{{ container = 8080, service = 80 }}]\nhealth = {{ {HEALTH} }}")
}

fn serving(name: &str, image: &str, health: &str, more: &str) -> String {
    let rest = "replicas = 2\nports = [{ container = 8080, service = 80 }]\nupdate = { within = '10s' }";
    app(name, image, &format!("{rest}\nhealth = {{ {health} }}\nmigration = {{ drain = '1s' }}\n{more}"))
}

fn of<'a>(snapshot: &'a Snapshot, app: &str) -> Vec<&'a Instance> {
    snapshot.instances.iter().filter(|i| i.app == app).collect()
}

fn runs_on(snapshot: &Snapshot, app: &str, module: &str) -> bool {
    matches!(of(snapshot, app)[..], [only] if only.phase == "ready" && only.module == module)
}

fn ids(snapshot: &Snapshot) -> Vec<String> {
    snapshot.instances.iter().map(|i| i.id.clone()).collect()
}

impl Rig {
    fn last_event(&self) -> u64 {
        self.cluster.now().events.iter().map(|e| e.number).max().unwrap_or(0)
    }

    /// Waits until it is told, after event number `since`, with these words.
    fn told(&self, since: u64, subject: &str, reason: &str, words: &str) {
        let is = |e: &Event| {
            e.number > since && e.subject == subject && e.reason == reason && e.message.contains(words)
        };
        self.wait(&format!("{subject} {reason}: {words}"), |s| s.events.iter().any(is));
    }

    /// In no snapshot since `begun` was one of these anything but ready.
    fn were_ready(&self, begun: u64, ids: &[String]) {
        for moment in self.cluster.history().iter().filter(|moment| moment.at >= begun) {
            for id in ids {
                let found = moment.snapshot.instances.iter().find(|i| i.id == *id);
                assert!(found.is_some_and(|i| i.phase == "ready"), "{id} at {} ms: {found:?}", moment.at);
            }
        }
    }

    /// Applies apps that go to module-3, and leaves module-2 free for what comes.
    fn start_on_three(&self, apps: &str, instances: usize) {
        self.drain(2, true);
        self.cluster.apply(apps).unwrap();
        self.wait("they run on module-3", |s| all_ready(s, instances));
    }

    /// Module-3 is emptied, and only module-2 takes what ran there. In this order, or balance would move some first.
    fn move_to_two(&self) {
        self.drain(3, true);
        self.drain(2, false);
    }

    fn delete(&self, apps: &[&str]) {
        self.cluster.delete(apps.iter().map(|app| (*app).to_owned()).collect()).unwrap();
        self.wait("they are gone", |s| s.instances.is_empty());
        self.runs_what_it_says();
    }

    fn skopeo(&self, arguments: &[&str]) {
        let papers = self.operator.join("registry");
        let (verb, rest) = arguments.split_first().unwrap();
        let option = if *verb == "copy" { "--dest-cert-dir" } else { "--cert-dir" };
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", verb, option]).arg(papers).args(rest);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn rare_image(&self) -> String {
        let port = self.chassis.module(1).unwrap().ground().registry;
        format!("docker://127.0.0.1:{port}/demo/rare:1")
    }

    fn push_rare_image(&self) {
        let source = format!("oci:{}:{}", self.demo.display(), image::demo::TAG);
        self.skopeo(&["copy", &source, &self.rare_image()]);
    }

    fn on(&self, slot: u16, command: &str) -> String {
        self.chassis.module(slot).unwrap().run(command, within(PATIENCE)).unwrap()
    }

    /// A module that has pulled an image ahead has it no more, nor any other: they may have layers in common.
    fn lose_image(&self, slot: u16, image: &str) {
        let ahead = || self.on(slot, "ctr -n spacecloud images ls -q").contains(image);
        wait_until("it has pulled the image ahead", within(PATIENCE), ahead).unwrap();
        self.on(slot, "ctr -n spacecloud images rm --sync $(ctr -n spacecloud images ls -q)");
    }

    /// Containerd's folder on a module that runs nothing gets a small disk of its own.
    fn give_small_disk(&self, slot: u16) {
        self.on(slot, "mount -t tmpfs -o size=24m small /var/lib/containerd && kill -9 $(pidof containerd)");
        let answers = || {
            let module = self.chassis.module(slot).unwrap();
            module
                .run("ctr -n spacecloud images ls -q", within(PATIENCE))
                .is_ok_and(|images| images.is_empty())
        };
        wait_until("containerd has begun anew", within(PATIENCE), answers).unwrap();
    }
}

/// Three updates at once, none of which can become ready: all go back, and nothing that ran was touched.
fn updates_go_back(rig: &Rig) {
    let names = ["gone", "mute", "stuck"];
    rig.cluster.apply(&names.map(|name| serving(name, "web", HEALTH, "")).concat()).unwrap();
    rig.wait("six run", |s| all_ready(s, 6));
    let (before, since, begun) = (ids(&rig.cluster.now()), rig.last_event(), rig.cluster.clock());
    let mute = "env = { MUTE = 'module-2 module-3' }";
    let changed = [
        serving("gone", "none", HEALTH, ""),
        serving("mute", "web", HEALTH, mute),
        serving("stuck", "web", ENDLESS, ""),
    ];
    rig.cluster.apply(&changed.concat()).unwrap();
    rig.told(since, "gone", "RolledBack", "not in the registry");
    rig.told(since, "mute", "RolledBack", "no answer in 500ms");
    rig.told(since, "stuck", "RolledBack", "no answer in 500ms");
    rig.wait("six run again", |s| all_ready(s, 6));
    assert_eq!(ids(&rig.cluster.now()), before);
    rig.were_ready(begun, &before);
    for slot in [2, 3] {
        assert_eq!(rig.on(slot, "pgrep -fc '[d]emo-app call' || true").trim(), "0", "a probe is left on it");
    }
    rig.delete(&names);
    rig.say("updates without an image, with a mute and with an endless probe have gone back");
}

/// One whose image is nowhere any more, and one that is mute where it is to go.
fn drains_wait(rig: &Rig) {
    rig.push_rare_image();
    let health = healthy();
    let mute = format!("{health}\nenv = {{ MUTE = 'module-2' }}");
    rig.start_on_three(&[app("rare", "rare", &health), app("moody", "web", &mute)].concat(), 2);
    rig.lose_image(2, "demo/rare:1");
    rig.skopeo(&["delete", &rig.rare_image()]);
    let (before, since, begun) = (ids(&rig.cluster.now()), rig.last_event(), rig.cluster.clock());
    rig.move_to_two();
    rig.told(since, "rare/1", "MoveGivenUp", "not in the registry");
    rig.told(since, "moody/1", "MoveGivenUp", "no answer in 500ms");
    rig.were_ready(begun, &before);
    rig.push_rare_image();
    rig.wait("what has its image again moves", |s| runs_on(s, "rare", "module-2"));
    rig.drain(3, false);
    rig.wait("the mute one stays", |s| all_ready(s, 2) && runs_on(s, "moody", "module-3"));
    let moody = of(&rig.cluster.now(), "moody")[0].id.clone();
    assert!(before.contains(&moody), "{moody} is none of {before:?}");
    rig.were_ready(begun, &[moody]);
    rig.delete(&["rare", "moody"]);
    rig.say("a drain waits for an image that is missing, and for one that is mute where it is to go");
}

/// What may run twice is not taken down before there is room, what may not says why it waits.
fn full_disks_are_named(rig: &Rig) {
    let health = healthy();
    let once = "env = { TICK_MS = '10' }\nmigration = { planned = 'stop-first' }";
    rig.start_on_three(&[app("pair", "web", &health), app("once", "web", once)].concat(), 2);
    rig.lose_image(2, "demo/web:1");
    rig.on(2, "! dd if=/dev/zero of=/var/lib/containerd/fill bs=4k 2>/dev/null");
    let (since, begun) = (rig.last_event(), rig.cluster.clock());
    let pair = of(&rig.cluster.now(), "pair")[0].id.clone();
    rig.move_to_two();
    rig.told(since, "pair/1", "BackOff", "no space left on device");
    rig.told(since, "once/1", "BackOff", "no space left on device");
    rig.told(since, "pair/1", "MoveGivenUp", "no space left on device");
    rig.were_ready(begun, &[pair]);
    rig.on(2, "rm /var/lib/containerd/fill");
    rig.wait("there is room, and both have moved", |s| {
        s.instances.len() == 2 && runs_on(s, "pair", "module-2") && runs_on(s, "once", "module-2")
    });
    rig.runs_what_it_says();
    rig.no_double_runs("once");
    rig.drain(3, false);
    rig.delete(&["pair", "once"]);
    rig.say("a full disk is named, and the moves go on when there is room");
}

/// Two of four have room while a module is away: the most important ones.
fn the_less_important_give_way(rig: &Rig) {
    let of_rank = |name: &str, priority: u32, replicas: u32| {
        let planned = "env = { TICK_MS = '10' }\nmigration = { planned = 'stop-first' }";
        let more =
            format!("priority = {priority}\nreplicas = {replicas}\nresources = {{ memory = '400MiB' }}");
        app(name, "web", &format!("{more}\n{planned}"))
    };
    rig.cluster.apply(&[of_rank("low", 0, 2), of_rank("mid", 1, 1), of_rank("high", 2, 1)].concat()).unwrap();
    rig.wait("four run", |s| all_ready(s, 4));
    let lost = of(&rig.cluster.now(), "high")[0].module.clone();
    let kept = if lost == "module-2" { "module-3" } else { "module-2" };
    let module = rig.chassis.module(lost.rsplit('-').next().unwrap().parse().unwrap()).unwrap();
    let since = rig.last_event();
    module.isolate().unwrap();
    rig.wait("the two most important run", |s| {
        let waits = |i: &&Instance| i.phase == "pending" && i.message.contains("memory: asks 400MiB, free");
        let low = of(s, "low");
        runs_on(s, "high", kept) && runs_on(s, "mid", kept) && low.len() == 2 && low.iter().all(waits)
    });
    let preempted = |s: &Snapshot| {
        s.events
            .iter()
            .filter(|e| e.number > since && e.reason == "Preempted")
            .map(|e| e.subject.clone())
            .collect()
    };
    let victims: Vec<String> = preempted(&rig.cluster.now());
    assert!(!victims.is_empty() && victims.iter().all(|who| who.starts_with("low/")), "{victims:?}");
    module.rejoin().unwrap();
    rig.wait("there is room for all again", |s| all_ready(s, 4));
    rig.runs_what_it_says();
    for app in ["low", "mid", "high"] {
        rig.no_double_runs(app);
    }
    rig.delete(&["low", "mid", "high"]);
    rig.say(&format!("{} gave way while a module was away", victims.join(" and ")));
}

#[test]
fn what_cannot_run_elsewhere_stays_or_waits_and_says_why() {
    // One registry: what is deleted there is nowhere.
    let one = |file: &mut spacesim::ChassisFile| file.slots[1].roles.retain(|role| *role != Role::Registry);
    let rig = Rig::start(one, TIMING);
    rig.give_small_disk(2);
    updates_go_back(&rig);
    drains_wait(&rig);
    full_disks_are_named(&rig);
    the_less_important_give_way(&rig);
}
