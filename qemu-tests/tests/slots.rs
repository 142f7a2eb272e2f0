//! The scripts of a module's slots, run as they are: which root slot is booted, and which slot of the chassis this is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    let files = "../meta-spacecloud/recipes-core/spacecloud-conf/files";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(files).join(name)
}

/// An ESP in a folder.
struct Esp(tempfile::TempDir);

impl Esp {
    fn new(entries: &[(&str, u32)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("loader/entries")).unwrap();
        for (name, version) in entries {
            let text = format!("title x\nsort-key spacecloud\nversion {version}\nlinux /slots/a/linux\n");
            fs::write(folder.path().join("loader/entries").join(name), text).unwrap();
        }
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.arg(script("bootslot")).args(arguments).env("SPACECLOUD_ESP", self.0.path());
        command.output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn refuses(&self, arguments: &[&str], words: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said:?} lacks {words:?}");
    }

    fn entries(&self) -> Vec<String> {
        let found = fs::read_dir(self.0.path().join("loader/entries")).unwrap();
        let mut names: Vec<_> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As systemd-boot does before it starts an entry.
    fn boot(&self) -> String {
        let slot = self.says(&["get-primary"]);
        let name = self.entries().into_iter().find(|name| name.starts_with(&format!("slot-{slot}"))).unwrap();
        if let Some((head, tail)) = name.trim_end_matches(".conf").split_once('+') {
            let (left, done) = tail.split_once('-').unwrap_or((tail, "0"));
            let count = |text: &str| text.parse::<u32>().unwrap();
            let next = format!("{head}+{}-{}.conf", count(left) - 1, count(done) + 1);
            let entries = self.0.path().join("loader/entries");
            fs::rename(entries.join(name), entries.join(next)).unwrap();
        }
        slot
    }
}

#[test]
fn a_slot_on_trial_is_tried_three_times_and_then_passed_over() {
    let esp = Esp::new(&[("slot-a.conf", 4), ("slot-b+3.conf", 5)]);
    assert_eq!(esp.says(&["get-state", "b"]), "good");
    for left in ["2", "1", "0"] {
        assert_eq!(esp.boot(), "b");
        assert_eq!(esp.says(&["trial", "b"]), left);
    }
    assert_eq!(esp.says(&["get-state", "b"]), "bad");
    assert_eq!(esp.boot(), "a");
    assert_eq!(esp.says(&["trial", "a"]), "proven");
}

#[test]
fn a_slot_that_has_proven_good_stays() {
    let esp = Esp::new(&[("slot-a.conf", 4), ("slot-b+3.conf", 5)]);
    assert_eq!(esp.boot(), "b");
    esp.says(&["set-state", "b", "good"]);
    assert_eq!(esp.entries(), ["slot-a.conf", "slot-b.conf"]);
    for _ in 0..5 {
        assert_eq!(esp.boot(), "b");
    }
    // Back to the other one by hand; it is on trial again.
    esp.says(&["set-primary", "a"]);
    assert_eq!(esp.entries(), ["slot-a+3.conf", "slot-b.conf"]);
    assert_eq!(esp.boot(), "a");
}

#[test]
fn a_slot_that_is_being_written_has_no_entry() {
    let esp = Esp::new(&[("slot-a.conf", 4), ("slot-b+0-3.conf", 5)]);
    esp.says(&["set-state", "b", "bad"]);
    assert_eq!(esp.entries(), ["slot-a.conf"]);
    assert_eq!(esp.says(&["get-primary"]), "a");
    esp.refuses(&["set-primary", "b"], "nothing was installed there");
    esp.refuses(&["set-state", "b", "good"], "cannot be good");
}

#[test]
fn what_was_not_seen_to_its_end_is_abandoned_and_what_has_proven_good_is_not() {
    let esp = Esp::new(&[("slot-a.conf", 4), ("slot-b+3.conf", 5)]);
    esp.says(&["abandon", "b"]);
    esp.says(&["abandon", "a"]);
    assert_eq!(esp.entries(), ["slot-a.conf"]);
    esp.says(&["abandon", "b"]);
    assert_eq!(esp.entries(), ["slot-a.conf"]);
}

#[test]
fn an_installed_bundle_gets_its_kernel_and_an_entry_on_trial() {
    let esp = Esp::new(&[("slot-a.conf", 7)]);
    let bundle = tempfile::tempdir().unwrap();
    let env = "blocks=100\nroot=aa\nsalt=bb\nversion='2.0'\narguments='console=ttyS0 quiet'\n";
    fs::write(bundle.path().join("slot.env"), env).unwrap();
    fs::write(bundle.path().join("linux"), "kernel").unwrap();
    let install = || {
        let mut command = Command::new("sh");
        command.arg(script("bootslot")).arg("installed").env("SPACECLOUD_ESP", esp.0.path());
        command.env("RAUC_BUNDLE_MOUNT_POINT", bundle.path()).env("RAUC_TARGET_SLOTS", "2");
        command.env("RAUC_SLOT_BOOTNAME_1", "a").env("RAUC_SLOT_BOOTNAME_2", "b").output().unwrap()
    };
    let output = install();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(esp.entries(), ["slot-a.conf", "slot-b+3.conf"]);
    let entry = fs::read_to_string(esp.0.path().join("loader/entries/slot-b+3.conf")).unwrap();
    let uuid = "PARTUUID=5ace0001-0000-4000-8000-00000000000b";
    let table = format!("0 800 verity 1 {uuid} {uuid} 4096 4096 100 100 sha256 aa bb");
    for part in [
        "title spacecloud 2.0 in slot b",
        "version 8",
        "linux /slots/b/linux",
        "rauc.slot=b root=/dev/dm-0",
        &format!("dm-mod.create=\"slot,,,ro,{table}\" console=ttyS0 quiet"),
    ] {
        assert!(entry.contains(part), "{part} is not in {entry}");
    }
    assert!(!entry.contains("initrd"));
    // As an image's build calls it: the file beside it, which is not looked for in PATH.
    let mut command = Command::new("sh");
    let output = command.arg(script("bootslot")).args(["entry", "a", "slot.env"]).current_dir(bundle.path());
    let output = output.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("title spacecloud 2.0 in slot a"), "{said}");
    assert_eq!(fs::read(esp.0.path().join("slots/b/linux")).unwrap(), b"kernel");
    assert_eq!(esp.says(&["get-primary"]), "b");
    assert_eq!(esp.says(&["version", "b"]), "2.0");
    // Again, over what is there.
    assert!(install().status.success());
    assert_eq!(esp.entries(), ["slot-a.conf", "slot-b+3.conf"]);
}

#[test]
fn what_is_wrong_is_said() {
    let esp = Esp::new(&[]);
    esp.refuses(&["get-primary"], "no slot has an entry");
    esp.refuses(&["get-state", "c"], "no slot 'c'");
    esp.refuses(&["version", "a"], "slot a has no entry");
    esp.refuses(&["set-state", "a", "great"], "not 'great'");
    esp.refuses(&["fly"], "'fly' is not");
}

/// The slot script with a made-up command line, pins and firmware.
fn slot(
    arguments: &str,
    pins: Option<&str>,
    tag: Option<&str>,
    data: Option<&str>,
) -> Result<String, String> {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    write("proc/cmdline", arguments);
    let tool =
        pins.map_or_else(|| "#!/bin/sh\nexit 1\n".to_owned(), |pins| format!("#!/bin/sh\necho {pins}\n"));
    fs::set_permissions(write("bin/gpioget", &tool), fs::Permissions::from_mode(0o755)).unwrap();
    if let Some(tag) = tag {
        write("sys/class/dmi/id/chassis_asset_tag", tag);
    }
    if let Some(data) = data {
        write("run/spacecloud/esp/spacecloud/slot", &format!("{data}\n"));
    }
    let path = format!("{}:/usr/bin:/bin", root.path().join("bin").display());
    let mut command = Command::new("sh");
    let output = command.arg(script("spacecloud-slot")).env("SPACECLOUD_ROOT", root.path()).env("PATH", path);
    let output = output.env("SPACECLOUD_TRIES", "2").output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        return Err(said(&output.stderr));
    }
    let number = fs::read_to_string(root.path().join("run/spacecloud/slot")).unwrap();
    assert!(said(&output.stdout).contains(number.trim()));
    Ok(number.trim().to_owned())
}

#[test]
fn the_slot_comes_from_the_first_source_that_knows_it() {
    // Pins are low for one. Slot 5 is GA0 and GA2; two ones, so the parity pin is a one too.
    let five = Some("0 1 0 1 1 0");
    assert_eq!(slot("quiet spacecloud.slot=9", five, None, None).as_deref(), Ok("9"));
    assert_eq!(slot("quiet", five, Some("slot-7"), Some("3")).as_deref(), Ok("5"));
    assert_eq!(slot("quiet", None, Some("slot-7"), Some("3")).as_deref(), Ok("7"));
    assert_eq!(slot("quiet", None, Some("To be filled by O.E.M."), Some("3")).as_deref(), Ok("3"));
    // An open pin spoils the parity: the next source is asked.
    assert_eq!(slot("quiet", Some("1 1 0 1 1 0"), None, Some("3")).as_deref(), Ok("3"));
    let nothing = slot("quiet", None, None, None).unwrap_err();
    assert!(nothing.contains("spacecloud.slot=N") && nothing.contains("slot.conf"), "{nothing}");
    assert!(slot("spacecloud.slot=99", None, None, None).is_err());
}

/// What the trial of slot b comes to, with programs that are made up and as many seconds of time: its exit code, what it
/// has asked systemd for, and whether the slot counts as proven.
fn trial(within: u32, bootslot: &str, rauc: &str, lease: Option<&str>) -> (Option<i32>, String, bool) {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("etc/spacecloud/bootslot.conf", &format!("within={within}\n"));
    let current = "[ \"$1\" != get-current ] || { echo b; exit; }";
    write("usr/libexec/spacecloud/bootslot", &format!("#!/bin/sh\n{current}\n{bootslot}\n"));
    write("bin/rauc", &format!("#!/bin/sh\n{rauc}\n"));
    write("bin/systemctl", "#!/bin/sh\necho \"$*\" >>\"$SPACECLOUD_ROOT/asked\"\n");
    if let Some(lease) = lease {
        write("run/spacecloud/lease", lease);
    }
    let path = format!("{}:/usr/bin:/bin", root.path().join("bin").display());
    let mut command = Command::new("sh");
    command.arg(script("spacecloud-trial")).env("SPACECLOUD_ROOT", root.path()).env("PATH", path);
    let code = command.output().unwrap().status.code();
    let asked = fs::read_to_string(root.path().join("asked")).unwrap_or_default();
    (code, asked, root.path().join("run/spacecloud/slot-proven").exists())
}

/// Far in the future, as the agent writes it.
const LEASE: Option<&str> = Some("00009999999999999 00000000000000000500\n");
/// Fails at first.
const SECOND_TIME: &str = "[ -e \"$SPACECLOUD_ROOT/once\" ] || { : >\"$SPACECLOUD_ROOT/once\"; exit 1; }";

#[test]
fn a_trial_ends_with_a_proof_or_a_restart_and_goes_on_over_what_fails_once() {
    let start = "start rauc.service\n";
    assert_eq!(
        trial(60, "echo 2", "[ \"$*\" = 'status mark-good' ]", LEASE),
        (Some(0), start.to_owned(), true)
    );
    assert_eq!(trial(60, "echo 2", SECOND_TIME, LEASE), (Some(0), start.repeat(2), true));
    let late = format!("{SECOND_TIME}\necho 2");
    assert_eq!(trial(60, &late, "exit 0", LEASE), (Some(0), start.to_owned(), true));
    let given_up = (Some(1), "--no-block reboot\n".to_owned(), false);
    assert_eq!(trial(2, "echo 2", "exit 0", None), given_up);
    assert_eq!(trial(2, "echo 2", "exit 0", Some("1")), given_up);
    let (code, asked, proven) = trial(2, "echo 2", "exit 1", LEASE);
    assert!(code == Some(1) && asked.ends_with("--no-block reboot\n") && !proven, "{code:?} {asked}");
}

#[test]
fn a_module_is_not_restarted_for_a_slot_that_is_proven_or_that_nobody_knows_about() {
    assert_eq!(trial(60, "echo proven", "exit 1", None), (Some(0), String::new(), true));
    assert_eq!(trial(2, "exit 1", "exit 0", None), (Some(1), String::new(), false));
    assert_eq!(trial(2, "exit 1", "exit 0", LEASE), (Some(1), String::new(), false));
}

/// Two ports of one card, and a virtio one, as sysfs shows them; answers what was asked of `ip`, or the refusal.
fn network(conf: &str) -> Result<String, String> {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("run/spacecloud/slot", "5\n", 0o644);
    write("etc/spacecloud/network.conf", conf, 0o644);
    write("bin/ip", "#!/bin/sh\necho \"$*\" >>\"$SPACECLOUD_ROOT/asked\"\n", 0o755);
    write("bin/modprobe", "#!/bin/sh\n", 0o755);
    let pci = "sys/devices/pci0000:00/0000:00:1c.0";
    for (name, mac, below) in [
        ("eth0", "0c:00:00:00:00:01", "0000:03:00.0"),
        ("eth1", "0c:00:00:00:00:02", "0000:03:00.1"),
        ("eth2", "52:54:00:44:00:05", "0000:04:00.0/virtio3"),
    ] {
        let device = format!("{pci}/{below}");
        write(&format!("{device}/net/{name}/address"), &format!("{mac}\n"), 0o644);
        let link = root.path().join(format!("{device}/net/{name}/device"));
        std::os::unix::fs::symlink(root.path().join(&device), link).unwrap();
        fs::create_dir_all(root.path().join("sys/class/net")).unwrap();
        let class = root.path().join("sys/class/net").join(name);
        std::os::unix::fs::symlink(root.path().join(format!("{device}/net/{name}")), class).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", root.path().join("bin").display());
    let mut command = Command::new("sh");
    command.arg(script("spacecloud-network")).env("SPACECLOUD_ROOT", root.path()).env("PATH", path);
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(fs::read_to_string(root.path().join("asked")).unwrap())
}

#[test]
fn ports_are_found_by_their_place_on_the_bus_by_name_and_by_address() {
    let backplane = |name: &str| {
        format!(
            "link set {name} down\nlink set {name} name bp0\nlink set bp0 up\n\
             address replace 10.44.0.5/24 dev bp0\n"
        )
    };
    for (place, name) in
        [("path=0000:03:00.0", "eth0"), ("path=0000:03:00.1", "eth1"), ("path=0000:04:00.0", "eth2")]
    {
        let asked = network(&format!("BACKPLANE_MATCH={place}\n")).unwrap();
        assert!(asked.ends_with(&backplane(name)), "{place}: {asked}");
    }
    assert!(network("BACKPLANE_MATCH=name=eth1\n").unwrap().ends_with(&backplane("eth1")));
    assert!(network("").unwrap().ends_with(&backplane("eth2")));
    let refused = network("BACKPLANE_MATCH=path=0000:07:00.0\nWAIT_SECONDS=0\n").unwrap_err();
    assert!(refused.contains("no interface matches BACKPLANE_MATCH=path=0000:07:00.0"), "{refused}");
}
