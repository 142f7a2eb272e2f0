//! The A/B update of a module: firmware, boot manager, RAUC and the trial of a slot, all real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cases;

use spacesim::cluster::Cluster;
use spacesim::image::Image;
use spacesim::image::slots::{self, SlotImage};
use spacesim::{Chassis, ChassisFile, Module, Plan, Slots, Times, scenario, twin, wait_until, within};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const TWO: &str = r#"
name = "update"
[[slot]]
number = 1
kind = "compute"
roles = ["server", "agent", "registry"]
[[slot]]
number = 2
kind = "compute"
"#;

/// One try, so that a slot that fails costs one boot; and a trial that does not take minutes.
const TRIAL: &str = "tries=1\nwithin=90\n";

/// What the test installs.
const BUNDLES: [&str; 5] = ["good", "broken", "foreign", "forged", "short"];

/// Makes all of it, and a disk that carries the bundles.
fn prepare(image: &Image, folder: &Path) -> (Slots, String) {
    let keys = slots::Keys::make(&folder.join("keys")).unwrap();
    let strangers = slots::Keys::make(&folder.join("strangers")).unwrap();
    let first = slots::image(image, "1.0", &Plan::slot_arguments(), &folder.join("first")).unwrap();
    let second = first.with_arguments("2.0", "", &folder.join("second")).unwrap();
    // It boots, and its agent never gets into the cluster.
    let broken =
        first.with_arguments("3.0", "systemd.mask=spacecloudd.service", &folder.join("broken")).unwrap();
    let carried = folder.join("carried");
    fs::create_dir(&carried).unwrap();
    let to = |name: &str| carried.join(format!("{name}.raucb"));
    slots::bundle(&second, "2.0", None, &keys, &to("good")).unwrap();
    slots::bundle(&broken, "3.0", None, &keys, &to("broken")).unwrap();
    // These are refused before their content matters.
    let small = folder.join("small");
    fs::create_dir(&small).unwrap();
    for name in ["rootfs.img", "linux", "initrd", "slot.env"] {
        fs::write(small.join(name), vec![7; 64 << 10]).unwrap();
    }
    let small = SlotImage::in_folder(&small);
    slots::bundle(&small, "2.0", Some("another-board"), &keys, &to("foreign")).unwrap();
    slots::bundle(&small, "2.0", None, &strangers, &to("forged")).unwrap();
    slots::bundle(&small, "2.0", None, &keys, &to("short")).unwrap();
    let whole = fs::read(to("short")).unwrap();
    fs::write(to("short"), &whole[..whole.len() / 2]).unwrap();
    assert!(BUNDLES.iter().all(|name| to(name).is_file()));
    let bundles = folder.join("bundles.erofs");
    let packed = Command::new("mkfs.erofs").arg("--quiet").args([&bundles, &carried]).status().unwrap();
    assert!(packed.success());
    let disk = folder.join("module-2.slots");
    slots::disk(image, &first, &disk).unwrap();
    let variables = folder.join("module-2.vars");
    fs::copy(spacesim::FIRMWARE_VARIABLES, &variables).unwrap();
    let extra = vec![("bundles".to_owned(), bundles)];
    (Slots { disk, variables, extra }, keys.authority().unwrap())
}

/// Waits until a module has booted from a slot and is in the cluster.
fn runs_from(module: &Module, slot: &str) {
    let what = format!("{} runs from slot {slot}", module.name());
    let expected = format!("rauc.slot={slot}");
    wait_until(&what, within(300.s()), || {
        module.run("cat /proc/cmdline", within(30.s())).is_ok_and(|said| said.contains(&expected))
    })
    .unwrap_or_else(|error| panic!("{error}; its console ends: {}", end_of(module)));
}

fn end_of(module: &Module) -> String {
    let console = module.console().unwrap_or_default();
    let lines: Vec<_> = console.lines().rev().take(25).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Waits until a slot has proven good.
fn proven(module: &Module, slot: &str) {
    let what = format!("slot {slot} has proven good");
    wait_until(&what, within(300.s()), || {
        module
            .run(&format!("/usr/libexec/spacecloud/bootslot trial {slot}"), within(30.s()))
            .is_ok_and(|said| said.trim() == "proven")
    })
    .unwrap_or_else(|error| panic!("{error}; its console ends: {}", end_of(module)));
}

/// Installing must fail, and say why; the running slot must not notice.
fn refused(module: &Module, bundle: &str, words: &[&str]) {
    let output =
        module.exec(&format!("rauc install /run/bundles/{bundle}.raucb 2>&1"), within(300.s())).unwrap();
    assert_ne!(output.status, 0, "{bundle}: {}", output.stdout);
    assert!(words.iter().any(|word| output.stdout.contains(word)), "{bundle}: {}", output.stdout);
    eprintln!("{bundle}: {}", output.stdout.lines().last().unwrap_or_default());
    assert_eq!(state(module), "slot a: spacecloud 1.0 in slot a, tries left: proven\nslot b: not bootable");
}

fn state(module: &Module) -> String {
    module.run("/usr/libexec/spacecloud/bootslot show", within(60.s())).unwrap().trim().to_owned()
}

#[test]
fn a_module_is_updated_and_falls_back_by_itself() {
    let begun = Instant::now();
    let tell = |what: &str| eprintln!("[{:6.1} s] {what}", begun.elapsed().as_secs_f64());
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("update");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let image = twin::ensure(&mut |step| tell(&step.name)).unwrap();
    let (slots, authority) = prepare(&image, &root);
    tell("slots, keys and bundles are made");
    let run_dir = tempfile::Builder::new().prefix("ab").tempdir().unwrap();
    let mut plan = Plan::new(ChassisFile::parse(TWO).unwrap(), image, run_dir.path().join("run"));
    let papers = scenario::provision(&mut plan).unwrap();
    let identity = plan.identities.remove(&2).unwrap();
    let identity = identity.file("/etc/rauc/ca.cert.pem", 0o644, authority);
    plan.identities.insert(2, identity.file("/etc/spacecloud/bootslot.conf", 0o644, TRIAL));
    plan.slots.insert(2, slots);
    let chassis = Chassis::power_on(plan).unwrap();
    let address = format!("127.0.0.1:{}", chassis.module(1).unwrap().ground().grpc);
    let operator = chassis.dir().join("operator");
    papers.write_client(&operator, &address).unwrap();
    let cluster = Cluster::connect(&operator, &address, within(300.s())).unwrap();
    let ready = |s: &api::v1::Snapshot| s.modules.iter().filter(|m| m.state == "ready").count() == 2;
    cluster.wait_for("both modules are ready", within(300.s()), |_| {}, ready).unwrap();
    tell("both modules are ready, module-2 from slot a");

    let module = chassis.module(2).unwrap();
    assert_eq!(
        module.run("cat /run/spacecloud/slot", within(60.s())).unwrap().trim(),
        "2",
        "from the firmware"
    );
    assert!(
        module.run("dmsetup table slot 2>/dev/null || cat /sys/block/dm-0/dm/name", within(60.s())).is_ok()
    );
    let status = module.run("rauc status --output-format=shell", within(120.s())).unwrap();
    assert!(status.contains("RAUC_SYSTEM_BOOTED_BOOTNAME='a'"), "{status}");
    let mount = "mkdir -p /run/bundles && for s in /sys/block/vd*/serial; do [ $(cat $s) = bundles ] && \
                 mount -t erofs -o ro /dev/$(basename $(dirname $s)) /run/bundles; done; ls /run/bundles";
    assert!(module.run(mount, within(60.s())).unwrap().contains("good.raucb"));

    // The flight image's runtime tests: on a module in a slot, and on the one with the registry.
    cases::pass(module, 14);
    cases::pass(chassis.module(1).unwrap(), 13);
    tell("the flight image's runtime tests pass on both modules");

    refused(module, "forged", &["signature", "verif"]);
    refused(module, "foreign", &["ompatible"]);
    refused(module, "short", &["ignature", "bundle", "truncated", "size"]);
    tell("three bundles are refused, slot a is as it was");

    // Power is cut in the middle of writing.
    module.run("rauc install /run/bundles/good.raucb >/run/install.log 2>&1 &", within(60.s())).unwrap();
    wait_until("slot b is being written", within(120.s()), || {
        let question = "cut -d ' ' -f 7 /sys/class/block/$(basename $(readlink /dev/spacecloud/root-b))/stat; \
                        awk '{ print $7 }' /sys/class/block/$(basename $(readlink /dev/spacecloud/root-b))/stat";
        let said = module.run(question, within(30.s())).unwrap_or_default();
        said.lines().filter_map(|line| line.trim().parse::<u64>().ok()).max().unwrap_or(0) > 20_000
    })
    .unwrap();
    module.power_cycle().unwrap();
    runs_from(module, "a");
    assert_eq!(state(module), "slot a: spacecloud 1.0 in slot a, tries left: proven\nslot b: not bootable");
    tell("a power cut in the middle of writing leaves slot a, which boots");

    module.run(mount, within(60.s())).unwrap();
    cluster.wait_for("both modules are ready", within(300.s()), |_| {}, ready).unwrap();
    let said = module.run("rauc install /run/bundles/good.raucb 2>&1", within(600.s())).unwrap();
    assert!(said.contains("succeeded"), "{said}");
    assert!(state(module).ends_with("slot b: spacecloud 2.0 in slot b, tries left: 1"), "{}", state(module));
    tell("a good bundle is installed in slot b");
    let _ = module.exec("systemctl --no-block reboot", within(30.s()));
    runs_from(module, "b");
    tell("it runs from slot b, on trial");
    proven(module, "b");
    cluster.wait_for("both modules are ready", within(300.s()), |_| {}, ready).unwrap();
    tell("slot b has proven good: the agent is in the cluster");

    module.run(mount, within(60.s())).unwrap();
    let said = module.run("rauc install /run/bundles/broken.raucb 2>&1", within(600.s())).unwrap();
    assert!(said.contains("succeeded"), "{said}");
    let _ = module.exec("systemctl --no-block reboot", within(30.s()));
    runs_from(module, "a");
    assert!(!module.run("cat /proc/cmdline", within(60.s())).unwrap().contains("1.0"));
    tell("the broken one runs from slot a, on trial");
    runs_from(module, "b");
    tell("it fell back to slot b by itself");
    let left = state(module);
    assert!(left.contains("slot a: spacecloud 3.0 in slot a, tries left: 0"), "{left}");
    cluster.wait_for("both modules are ready", within(300.s()), |_| {}, ready).unwrap();
    tell("and is in the cluster");
}
