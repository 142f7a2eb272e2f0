//! `spacectl update` of modules: firmware, boot manager, RAUC and the trial of a slot, all real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cases;

use api::v1::Snapshot;
use spacesim::cluster::Cluster;
use spacesim::image::slots::{self, SlotImage};
use spacesim::image::{self, Image};
use spacesim::{Chassis, ChassisFile, Module, Plan, Power, Slots, Times, scenario, twin, wait_until, within};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const THREE: &str = r#"
name = "update"
[[slot]]
number = 1
kind = "compute"
roles = ["server", "agent", "registry"]
[[slot]]
number = 2
kind = "compute"
[[slot]]
number = 3
kind = "compute"
"#;

/// One replica for each module, which must all be there at every moment.
const WEB: &str = r#"
name = "web"
image = "registry.spacecloud:5000/demo/web:1"
replicas = 3
resources = { cpu = "50m", memory = "32MiB" }
ports = [{ container = 8080, service = 80 }]
health = { http = "/healthz", every = "5s", timeout = "30s" }
grace = "2s"
"#;

/// One try, so that a slot that fails costs one boot.
const TRIAL: &str = "tries=1\nwithin=300\n";

/// Long enough for a slot whose agent never comes.
const SHORT_TRIAL: &str = "tries=1\nwithin=15\n";

/// Nothing is lost here, whatever the host is busy with: a replica that is missing was taken away. But a restart takes longer than
/// a lease.
const PATIENT: &str = "[timing]\nheartbeat = '1s'\nsuspect = '10s'\nlease = '20s'\nmargin = '3s'\nsettle = '5s'\nmove_limit = '5min'\n";

/// What the test installs.
const BUNDLES: [&str; 6] = ["good", "cut", "damaged", "foreign", "forged", "short"];

/// The slot that runs, copied into the other slot: on trial, and its agent never gets into the cluster.
const AGENTLESS: &str = r#"
dd if=/dev/spacecloud/root-a of=/dev/spacecloud/root-b bs=4M status=none
mkdir -p /run/esp && mount -t vfat /dev/spacecloud/esp /run/esp && cd /run/esp/loader/entries
sed -e 's/^title .*/title spacecloud 0.9 in slot b/' -e 's/^version .*/version 9/' \
    -e 's/slots.a/slots\/b/' -e 's/00000000000a/00000000000b/g' -e 's/rauc.slot=a/rauc.slot=b systemd.mask=spacecloudd.service/' slot-a.conf >slot-b+1.conf
cp -r ../../slots/a ../../slots/b
cd / && umount /run/esp && systemctl --no-block reboot
"#;

/// Makes all of it; bundles are `NAME.raucb` in the folder.
fn prepare(image: &Image, folder: &Path) -> (BTreeMap<u16, Slots>, String) {
    let keys = slots::Keys::make(&folder.join("keys")).unwrap();
    let strangers = slots::Keys::make(&folder.join("strangers")).unwrap();
    let first = slots::image(image, "1.0", &Plan::slot_arguments(), &folder.join("first")).unwrap();
    let second = first.with_arguments("2.0", "", &folder.join("second")).unwrap();
    let to = |name: &str| folder.join(format!("{name}.raucb"));
    slots::bundle(&second, "2.0", None, &keys, &to("good")).unwrap();
    // From where the kernel is packed already: RAUC makes no bundle of what packs into next to nothing.
    let noise = &fs::read(folder.join("first/linux")).unwrap()[1 << 20..][..64 << 10];
    // Its kernel starts, and finds that its root is not what it should be.
    let damaged = first.with_arguments("3.0", "", &folder.join("damaged")).unwrap();
    let rootfs = folder.join("damaged/rootfs.img");
    fs::remove_file(&rootfs).unwrap();
    fs::write(&rootfs, noise).unwrap();
    slots::bundle(&damaged, "3.0", None, &keys, &to("damaged")).unwrap();
    let small = folder.join("small");
    fs::create_dir(&small).unwrap();
    for name in ["rootfs.img", "linux", "initrd", "slot.env"] {
        fs::write(small.join(name), noise).unwrap();
    }
    let with_root = |size: usize| {
        let root = fs::File::open(folder.join("first/rootfs.img")).unwrap();
        let mut part = root.take(size as u64);
        std::io::copy(&mut part, &mut fs::File::create(small.join("rootfs.img")).unwrap()).unwrap();
        SlotImage::in_folder(&small)
    };
    // What it holds is never read, for its writing takes a while and does not end.
    slots::bundle(&with_root(48 << 20), "2.0", None, &keys, &to("cut")).unwrap();
    // These are refused before their content matters.
    let small = with_root(noise.len());
    slots::bundle(&small, "2.0", Some("another-board"), &keys, &to("foreign")).unwrap();
    slots::bundle(&small, "2.0", None, &strangers, &to("forged")).unwrap();
    slots::bundle(&small, "2.0", None, &keys, &to("short")).unwrap();
    let whole = fs::read(to("short")).unwrap();
    fs::write(to("short"), &whole[..whole.len() / 2]).unwrap();
    assert!(BUNDLES.iter().all(|name| to(name).is_file()));
    let slots = (1..=3).map(|number| {
        let disk = folder.join(format!("module-{number}.slots"));
        slots::disk(image, &first, &disk).unwrap();
        let variables = folder.join(format!("module-{number}.vars"));
        fs::copy(spacesim::FIRMWARE_VARIABLES, &variables).unwrap();
        (number, Slots { disk, variables, extra: vec![] })
    });
    (slots.collect(), keys.authority().unwrap())
}

/// A reset ends QEMU; the board's power stays on. Answers whose reset that was.
fn revive(chassis: &Chassis) -> Vec<u16> {
    let dead = |module: &&Module| matches!(module.status(), Power::Dead { .. });
    let dead: Vec<_> = chassis.modules().filter(dead).collect();
    dead.iter().for_each(|module| module.power_on().unwrap());
    dead.into_iter().map(Module::slot).collect()
}

/// Waits until a module has booted from a slot, or the update that leads there has been given up.
fn runs_from(chassis: &Chassis, number: u16, slot: &str, mut update: Option<&mut Child>) {
    let module = chassis.module(number).unwrap();
    let what = format!("{} runs from slot {slot}", module.name());
    let expected = format!("rauc.slot={slot}");
    wait_until(&what, within(15.mins()), || {
        if let Some(update) = update.as_deref_mut() {
            let gave_up = update.try_wait().unwrap().is_some_and(|status| !status.success());
            assert!(!gave_up, "{}", said(update));
        }
        revive(chassis);
        module.run("cat /proc/cmdline", within(30.s())).is_ok_and(|said| said.contains(&expected))
    })
    .unwrap_or_else(|error| panic!("{error}; its console ends: {}", end_of(module)));
}

fn end_of(module: &Module) -> String {
    let console = module.console().unwrap_or_default();
    let lines: Vec<_> = console.lines().rev().take(25).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// `spacectl update`, as an operator runs it.
struct Operator {
    config: PathBuf,
    bundles: PathBuf,
}

impl Operator {
    /// Of a module, or of all of them (`--all`).
    fn update(&self, module: &str, bundle: &str) -> Command {
        let mut command = Command::new(twin::programs_folder().unwrap().join("spacectl"));
        command.arg("--config").arg(&self.config).args(["--timeout", "60s", "update", module]);
        command.arg(self.bundles.join(format!("{bundle}.raucb"))).stdin(Stdio::null());
        command
    }

    fn start(&self, module: &str, bundle: &str) -> Child {
        let mut command = self.update(module, bundle);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// It must fail with one line, and the running slot must not notice.
    fn refused(&self, module: &str, bundle: &str, words: &str) {
        let output = self.update(module, bundle).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{bundle} on {module}: {said}");
        assert!(last.starts_with("spacectl: ") && last.contains(words), "{bundle} on {module}: {said}");
        eprintln!("{last}");
    }
}

/// Waits for a command's end: its exit code, and what it said.
fn ended(mut command: Child, mut meanwhile: impl FnMut()) -> (Option<i32>, String) {
    let mut status = None;
    wait_until("spacectl has ended", within(45.mins()), || {
        meanwhile();
        status = command.try_wait().unwrap();
        status.is_some()
    })
    .unwrap_or_else(|error| {
        let _ = command.kill();
        panic!("{error}: {}", said(&mut command));
    });
    (status.and_then(|status| status.code()), said(&mut command))
}

fn said(command: &mut Child) -> String {
    let mut text = String::new();
    command.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    command.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn state(module: &Module) -> String {
    module.run("/usr/libexec/spacecloud/bootslot show", within(60.s())).unwrap().trim().to_owned()
}

/// All that runs, and since when.
fn running(snapshot: &Snapshot) -> BTreeSet<(String, u64)> {
    snapshot.instances.iter().map(|i| (i.id.clone(), i.started)).collect()
}

#[test]
fn modules_are_updated_while_their_apps_are_elsewhere_and_fall_back_by_themselves() {
    let begun = Instant::now();
    let tell = |what: &str| eprintln!("[{:6.1} s] {what}", begun.elapsed().as_secs_f64());
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("update");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let image = twin::ensure(&mut |step| tell(&step.name)).unwrap();
    let demo = image::demo::demo_app(&image::default_cache().unwrap()).unwrap();
    let (slots, authority) = prepare(&image, &root);
    tell("slots, keys and bundles are made");
    let run_dir = tempfile::Builder::new().prefix("ab").tempdir().unwrap();
    let mut plan = Plan::new(ChassisFile::parse(THREE).unwrap(), image, run_dir.path().join("run"));
    let papers = scenario::provision(&mut plan).unwrap();
    for identity in plan.identities.values_mut() {
        *identity = identity
            .clone()
            .file("/etc/spacecloud/spacecloud.toml.d/20-test.toml", 0o644, PATIENT)
            .file("/etc/rauc/ca.cert.pem", 0o644, authority.as_str())
            .file("/etc/spacecloud/bootslot.conf", 0o644, TRIAL);
    }
    let later = plan.identities[&3].clone();
    plan.identities.insert(3, later.clone().file("/etc/spacecloud/bootslot.conf", 0o644, SHORT_TRIAL));
    plan.slots = slots;
    let chassis = Chassis::power_on(plan).unwrap();
    let ports = chassis.module(1).unwrap().ground();
    let address = format!("127.0.0.1:{}", ports.grpc);
    let papers_of = chassis.dir().join("operator");
    let config = papers.write_client(&papers_of, &address).unwrap();
    let operator = Operator { config, bundles: root.clone() };
    let cluster = Cluster::connect(&papers_of, &address, within(300.s())).unwrap();
    let ready = |s: &Snapshot| s.modules.iter().filter(|m| m.state == "ready").count() == 3;
    let all_ready = |what: &str| {
        cluster.wait_for(what, within(900.s()), |_| drop(revive(&chassis)), ready).unwrap();
        tell(what);
    };
    all_ready("three modules are ready, all from slot a");
    let (module, third) = (chassis.module(2).unwrap(), chassis.module(3).unwrap());
    third.run(AGENTLESS, within(900.s())).unwrap();
    tell("module-3 restarts into a slot on trial whose agent never gets into the cluster");

    let slot = module.run("cat /run/spacecloud/slot", within(60.s())).unwrap();
    assert_eq!(slot.trim(), "2", "from the firmware");
    let verity = "dmsetup table slot 2>/dev/null || cat /sys/block/dm-0/dm/name";
    assert!(module.run(verity, within(60.s())).is_ok());
    operator.refused("module-9", "good", "there is no module module-9");
    operator.refused(
        "module-2",
        "foreign",
        "takes bundles for spacecloud-twin, this one is for another-board",
    );
    operator.refused("module-2", "short", "cut short");
    operator.refused("module-2", "forged", "signature");
    assert_eq!(state(module), "slot a: spacecloud 1.0 in slot a, tries left: proven\nslot b: not bootable");
    tell("four updates are refused, slot a is as it was");
    runs_from(&chassis, 3, "b", None);
    third.set_identity(later);

    // Power is cut in the middle of writing.
    let update = operator.start("module-2", "cut");
    wait_until("slot b is being written", within(15.mins()), || {
        revive(&chassis);
        let question =
            "awk '{ print $7 }' /sys/class/block/$(basename $(readlink /dev/spacecloud/root-b))/stat";
        let said = module.run(question, within(30.s())).unwrap_or_default();
        said.trim().parse::<u64>().is_ok_and(|sectors| sectors > 20_000)
    })
    .unwrap();
    module.power_cycle().unwrap();
    tell("power is cut while slot b of module-2 is written");
    runs_from(&chassis, 2, "a", None);
    assert_eq!(state(module), "slot a: spacecloud 1.0 in slot a, tries left: proven\nslot b: not bootable");
    let (code, said) = ended(update, || drop(revive(&chassis)));
    assert!(
        code == Some(1) && said.contains("module-2: the module was restarted while slot b was written"),
        "{said}"
    );
    all_ready("the power cut leaves slot a, which boots; spacectl says so");
    runs_from(&chassis, 3, "a", None);
    let left = state(third);
    assert!(left.contains("slot b: spacecloud 0.9 in slot b, tries left: 0"), "{left}");
    all_ready("module-3 has given its trial up by itself and is in the cluster again");

    scenario::push(ports.registry, &papers_of, &demo).unwrap();
    cluster.apply(WEB).unwrap();
    let whole = |s: &Snapshot| !s.apps.is_empty() && s.apps.iter().all(|app| app.ready == 3);
    cluster.wait_for("three replicas are ready", within(900.s()), |_| {}, |s| ready(s) && whole(s)).unwrap();
    let served = cluster.clock();
    tell("three replicas are ready");

    let (mut restarted, mut alone) = (Vec::new(), None);
    let (code, said) = ended(operator.start("--all", "good"), || {
        let reset = revive(&chassis);
        for slot in &reset {
            tell(&format!("module-{slot} restarts"));
        }
        if reset.contains(&1) {
            alone = Some((cluster.clock(), running(&cluster.now())));
        }
        restarted.extend(reset);
    });
    eprintln!("{said}");
    assert_eq!((code, &restarted), (Some(0), &vec![2, 3, 1]), "{said}");
    for number in 1..=3 {
        assert!(said.contains(&format!("module-{number} updated from 1.0 to 2.0")), "{said}");
        let state = state(chassis.module(number).unwrap());
        assert!(state.ends_with("slot b: spacecloud 2.0 in slot b, tries left: proven"), "{state}");
        let roots = cluster.now().modules.into_iter().filter(|m| m.slot == u32::from(number));
        let root = roots.filter_map(|m| m.root).next().unwrap();
        assert_eq!((root.slot.as_str(), root.version.as_str(), root.proven), ("b", "2.0", true));
    }
    all_ready("all modules run from slot b, one after the other, the server's last");
    // While the server was away the other modules went on, each with what it had.
    let (left, had) = alone.unwrap();
    let after: Vec<_> = cluster.history().into_iter().filter(|moment| moment.at > left).collect();
    let cordoned = |s: &Snapshot| s.modules.iter().any(|m| m.slot == 1 && m.cordoned);
    let back: Vec<_> = after.iter().take_while(|moment| cordoned(&moment.snapshot)).collect();
    let first = back.first().expect("the server is back before its module takes work again");
    eprintln!("the server was away for {:.1} s at least", (first.at - left) as f64 / 1e3);
    assert_eq!(had.len(), 3);
    for moment in &back {
        assert_eq!(running(&moment.snapshot), had, "{}", moment.at);
    }
    assert!(cluster.now().events.iter().any(|e| e.reason == "Absence" && e.subject == "module-1"));
    tell("while the server was away no app was stopped");

    let update = operator.start("module-2", "damaged");
    // The flight image's runtime tests, on the module with server and registry.
    cases::pass(chassis.module(1).unwrap(), 16);
    tell("the flight image's runtime tests pass on module-1, which runs from a slot");
    let mut fell = false;
    let (code, said) = ended(update, || fell |= revive(&chassis).contains(&2));
    assert!(fell, "it was never restarted: {said}");
    let words = "module-2: slot a did not prove good; the module fell back to slot b by itself; it runs 2.0 from slot b";
    assert!(code == Some(1) && said.contains(words), "{said}");
    eprintln!("{said}");
    let left = state(module);
    assert!(left.contains("slot a: spacecloud 3.0 in slot a, tries left: 0"), "{left}");
    all_ready("a damaged slot falls back to slot b by itself, and spacectl says so");

    // Of all that the cluster has shown since, no moment lacked a replica.
    let lacking = cluster.history().into_iter().find(|moment| moment.at > served && !whole(&moment.snapshot));
    assert!(lacking.is_none(), "{lacking:#?}");
    let events = cluster.now().events;
    for reason in ["Updated", "UpdateFailed"] {
        assert!(
            events.iter().any(|e| e.reason == reason && e.subject == "module-2"),
            "{reason}: {events:#?}"
        );
    }
    tell("no app was ever below its replicas");
}
