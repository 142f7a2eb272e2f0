//! Three modules boot, see each other, are cut off and come back, and keep their data over a power cycle.
//!
//! One boot serves the whole file: its steps run in order, each on what the one before left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use spacesim::image::Image;
use spacesim::image::kernel::OWN_KERNEL_ONLY;
use spacesim::image::kernel_config::{self, Modules};
use spacesim::{
    Accelerator, Chassis, ChassisFile, Link, Module, Plan, Power, Provision, Times, twin, wait_until, within,
};
use std::cell::OnceCell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Emulation on a busy host is slow; nothing here waits longer than it must.
const PATIENCE: Duration = Duration::from_secs(300);

/// What containers, their networks and their migration load.
const NEEDED_MODULES: &str =
    "bridge veth overlay br_netfilter nf_tables nft_chain_nat xt_MASQUERADE tcp_diag unix_diag";

type Verdict = Result<(), spacesim::SimError>;
type Step<'a> = (&'a str, &'a dyn Fn(&Chassis) -> Verdict);

#[test]
fn a_chassis_of_three() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut file = ChassisFile::load(&root.join("chassis/three.toml")).unwrap();
    let image =
        twin::ensure(&mut |step| eprintln!("image: {} ({}/{})", step.name, step.done, step.total)).unwrap();
    file.slots[1].accelerators = vec![
        Accelerator { number: 0, pcie_slot: 5, empty: false },
        Accelerator { number: 1, pcie_slot: 15, empty: false },
    ];
    let dir = tempfile::Builder::new().prefix("boot-").tempdir().unwrap();
    let mut plan = Plan::new(file, image.clone(), dir.path());
    for slot in 1..=3 {
        let word = format!("identity of {slot}\n");
        plan.identities.insert(slot, Provision::new().file("/etc/spacecloud/who", 0o640, word));
    }

    let chassis = Chassis::power_on(plan).unwrap();
    let clocks = OnceCell::new();
    let steps: [Step<'_>; 11] = [
        ("three modules boot in parallel", &boots),
        ("their clocks are read", &|chassis| read_clocks(chassis).map(|read| clocks.set(read).unwrap())),
        ("each names its slot", &|chassis| names_its_slot(chassis)),
        ("each kernel is real-time and has the features", &|chassis| has_the_kernel(chassis, root, &image)),
        ("accelerators are in their slots", &accelerators_are_in_their_slots),
        ("they ping each other over the backplane", &ping_each_other),
        ("an isolated module keeps its carrier and answers", &isolation_at_the_switch),
        ("an unplugged module sees its carrier go", &isolation_by_the_cable),
        ("a frozen module goes on where it was", &freeze_and_thaw),
        ("their clocks have kept pace with ours", &|chassis| kept_pace(clocks.get().unwrap(), chassis)),
        ("a power cycle keeps the data disk", &power_cycle_keeps_data),
    ];
    for (step, act) in steps {
        let begun = Instant::now();
        if let Err(error) = act(&chassis) {
            let kept = keep_consoles(&chassis);
            panic!("{step}: {}; consoles are in {kept}", error.one_line());
        }
        eprintln!("{step}: {:.1} s", begun.elapsed().as_secs_f64());
    }
}

/// The run directory goes with the test; its consoles do not, when they are needed.
fn keep_consoles(chassis: &Chassis) -> String {
    let kept = tempfile::Builder::new().prefix("consoles-").tempdir().unwrap().keep();
    for module in chassis.modules() {
        std::fs::copy(module.console_path(), kept.join(format!("{}.log", module.name()))).unwrap();
    }
    kept.display().to_string()
}

fn boots(chassis: &Chassis) -> Verdict {
    let took = chassis.wait_ready(within(PATIENCE), &|module| eprintln!("{} is up", module.name()))?;
    eprintln!("three modules ready {:.1} s after power-on", took.as_secs_f64());
    Ok(())
}

fn names_its_slot(chassis: &Chassis) -> Verdict {
    for module in chassis.modules() {
        assert_eq!(said(module, "hostname")?, module.name());
        assert_eq!(said(module, "cat /run/spacecloud/slot")?, module.slot().to_string());
        assert_eq!(said(module, "cat /etc/spacecloud/who")?, format!("identity of {}", module.slot()));
        assert_eq!(said(module, "stat -c %a /etc/spacecloud/who")?, "640");
        assert!(!module.console()?.is_empty(), "the console of {} is kept", module.name());
    }
    let error = chassis.module(7).unwrap_err().to_string();
    assert_eq!(error, "slot 7 is empty; modules are in 1, 2, 3");
    Ok(())
}

/// A module's uptime, and between which two moments of ours it was read.
#[derive(Debug)]
struct Reading {
    begun: Instant,
    ended: Instant,
    uptime: f64,
}

fn read_clocks(chassis: &Chassis) -> Result<Vec<Reading>, spacesim::SimError> {
    let read = |module: &Module| {
        let begun = Instant::now();
        let uptime = said(module, "cut -d ' ' -f 1 /proc/uptime")?.parse().unwrap();
        Ok(Reading { begun, ended: Instant::now(), uptime })
    };
    chassis.modules().map(read).collect()
}

/// To a tenth, whatever a reading takes.
fn kept_pace(before: &[Reading], chassis: &Chassis) -> Verdict {
    for (then, now) in before.iter().zip(read_clocks(chassis)?) {
        let theirs = now.uptime - then.uptime;
        let least = now.begun.duration_since(then.ended).as_secs_f64();
        let most = now.ended.duration_since(then.begun).as_secs_f64();
        assert!(
            (0.9 * least..1.1 * most).contains(&theirs),
            "{theirs:.1} s passed on a module while {least:.1} to {most:.1} s passed here"
        );
    }
    Ok(())
}

fn has_the_kernel(chassis: &Chassis, root: &Path, image: &Image) -> Verdict {
    let config = std::fs::read_to_string(&image.kernel_config).unwrap();
    let mut fragments = kernel_config::fragments(&root.join("../kernel-config")).unwrap();
    fragments.retain(|(name, _)| !OWN_KERNEL_ONLY.contains(&name.as_str()));
    for module in chassis.modules() {
        assert_eq!(said(module, "cat /sys/kernel/realtime")?, "1");
        // The kernel keeps no copy of its configuration: the image has the one that its release was built with.
        assert_eq!(said(module, "uname -r")?, image.kernel_release);
        let asked = fragments.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        assert_eq!(kernel_config::missing(asked, &config, Modules::Allowed), [], "on {}", module.name());
        // And what was built as a module was not left out of the image.
        let found = module.exec(&format!("modprobe -a {NEEDED_MODULES} && criu check"), within(120.s()))?;
        assert_eq!(found.status, 0, "{}: {}", module.name(), found.stdout);
    }
    Ok(())
}

fn accelerators_are_in_their_slots(chassis: &Chassis) -> Verdict {
    let second = chassis.module(2)?;
    for accelerator in &second.spec().accelerators {
        let address = said(second, &format!("cat /sys/bus/pci/slots/{}/address", accelerator.pcie_slot))?;
        let device = said(
            second,
            &format!("cat /sys/bus/pci/devices/{address}.0/vendor /sys/bus/pci/devices/{address}.0/device"),
        )?;
        assert_eq!(device.split_whitespace().collect::<Vec<_>>(), ["0x1234", "0x11e8"], "{accelerator:?}");
    }
    assert_eq!(
        second.exec("ls /sys/bus/pci/slots/4", within(60.s()))?.status,
        2,
        "no slot that was not asked for"
    );
    Ok(())
}

fn ping_each_other(chassis: &Chassis) -> Verdict {
    for from in chassis.modules() {
        for to in chassis.modules().filter(|to| to.slot() != from.slot()) {
            hears(from, to)?;
        }
        assert!(from.counters().sent > 0 && from.counters().received > 0);
    }
    Ok(())
}

fn isolation_at_the_switch(chassis: &Chassis) -> Verdict {
    let (first, third) = (chassis.module(1)?, chassis.module(3)?);
    third.isolate()?;
    assert_eq!(third.link(), Link::Isolated);
    assert_eq!(said(third, "hostname")?, "module-3");
    assert_eq!(carrier(third)?, "1");
    assert!(!pings(first, third)? && !pings(third, first)?);
    hears(first, chassis.module(2)?)?;
    third.rejoin()?;
    assert_eq!(third.link(), Link::Joined);
    hears(first, third)
}

fn isolation_by_the_cable(chassis: &Chassis) -> Verdict {
    let (first, third) = (chassis.module(1)?, chassis.module(3)?);
    third.unplug()?;
    assert_eq!(third.link(), Link::Unplugged);
    wait_until("the carrier goes", within(30.s()), || carrier(third).is_ok_and(|carrier| carrier != "1"))?;
    assert!(!pings(first, third)?);
    third.rejoin()?;
    wait_until("the carrier is back", within(30.s()), || carrier(third).is_ok_and(|carrier| carrier == "1"))?;
    hears(first, third)
}

fn freeze_and_thaw(chassis: &Chassis) -> Verdict {
    let second = chassis.module(2)?;
    let boot = said(second, "cat /proc/sys/kernel/random/boot_id")?;
    second.freeze()?;
    assert!(matches!(second.status(), Power::On { state, .. } if state == "paused"));
    second.thaw()?;
    assert!(matches!(second.status(), Power::On { state, .. } if state == "running"));
    assert_eq!(said(second, "cat /proc/sys/kernel/random/boot_id")?, boot);
    Ok(())
}

fn power_cycle_keeps_data(chassis: &Chassis) -> Verdict {
    let (first, third) = (chassis.module(1)?, chassis.module(3)?);
    let boot = said(third, "cat /proc/sys/kernel/random/boot_id")?;
    said(third, "echo kept >/var/lib/spacecloud/mark && sync && echo lost >/root/mark")?;
    third.power_off()?;
    assert_eq!(third.status(), Power::Off);
    assert!(third.exec("true", within(1.s())).is_err());
    assert!(!pings(first, third)?);
    third.power_on()?;
    third.wait_ready(within(PATIENCE))?;
    assert_ne!(said(third, "cat /proc/sys/kernel/random/boot_id")?, boot);
    assert_eq!(said(third, "cat /var/lib/spacecloud/mark")?, "kept");
    assert_eq!(said(third, "test -e /root/mark || echo gone")?, "gone");
    assert_eq!(said(third, "cat /etc/spacecloud/who")?, "identity of 3");
    hears(first, third)
}

fn said(module: &Module, command: &str) -> Result<String, spacesim::SimError> {
    Ok(module.run(command, within(60.s()))?.trim().to_owned())
}

fn carrier(module: &Module) -> Result<String, spacesim::SimError> {
    let mac = spacesim::backplane_mac(module.slot());
    said(
        module,
        &format!("cat $(dirname $(grep -l {mac} /sys/class/net/*/address))/carrier 2>/dev/null || echo none"),
    )
}

/// One try.
fn pings(from: &Module, to: &Module) -> Result<bool, spacesim::SimError> {
    let command = format!("busybox ping -c 1 -W 3 {}", to.address());
    Ok(from.exec(&command, within(60.s()))?.status == 0)
}

/// It gets through, if not at the first try: neighbour entries that failed meanwhile are tried again.
fn hears(from: &Module, to: &Module) -> Verdict {
    let what = format!("{} reaches {}", from.name(), to.name());
    wait_until(&what, within(60.s()), || pings(from, to).unwrap_or(false)).map(drop)
}
