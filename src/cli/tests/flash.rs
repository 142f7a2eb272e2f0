//! Images onto files, loop devices and network block devices: what is on them afterwards, and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod disk;

use common::{command, program, spacectl};
use disk::{Exported, Loop, Room, bmap, run, slot_of, wic};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;
use testkit::{noise, wait_for};

const MIB: usize = 1 << 20;

/// A directory with `a.wic`, `a.wic.bmap`, `b.wic.zst` and `b.wic.bmap`, all of the same image.
fn desk() -> (TempDir, Vec<u8>) {
    let desk = tempfile::tempdir().unwrap();
    let image = wic(24 * MIB, 1);
    let put = |name: &str, content: &[u8]| fs::write(desk.path().join(name), content).unwrap();
    put("a.wic", &image);
    put("a.wic.bmap", bmap(&image).as_bytes());
    put("b.wic.zst", &zstd::encode_all(&image[..], 1).unwrap());
    put("b.wic.bmap", bmap(&image).as_bytes());
    (desk, image)
}

fn done(desk: &Path, words: &[&str]) -> String {
    let (code, out, err) = spacectl(desk, words);
    assert_eq!(code, 0, "{words:?}: {err}");
    out
}

fn flashed(desk: &Path, image: &str, target: &str, more: &[&str]) -> Value {
    let words: Vec<&str> = ["flash", image, target, "-o", "json"].iter().chain(more).copied().collect();
    serde_json::from_str(&done(desk, &words)).unwrap()
}

#[test]
fn a_file_gets_the_whole_image_sparsely() {
    let (desk, image) = desk();
    let path = |name: &str| desk.path().join(name);
    for (given, target) in [("a.wic", "1"), ("a.wic.bmap", "2"), ("b.wic.zst", "3"), ("b.wic.bmap", "4")] {
        let outcome = flashed(desk.path(), given, target, &[]);
        assert_eq!((&outcome["used_bmap"], &outcome["verified"]), (&true.into(), &true.into()), "{given}");
        let written = outcome["bytes_written"].as_u64().unwrap();
        assert!(written < u64::try_from(8 * MIB).unwrap(), "{given}: {written} bytes of a sparse image");
        assert!(fs::read(path(target)).unwrap() == image, "{given}");
        let blocks = fs::metadata(path(target)).unwrap().blocks();
        assert!(
            blocks * 512 < u64::try_from(9 * MIB).unwrap(),
            "{given}: {blocks} blocks are no sparse file"
        );
    }
    // As pzstd writes them: each of many frames behind one that is to be skipped.
    let mut many = Vec::new();
    for part in image.chunks(4 * MIB) {
        let frame = zstd::encode_all(part, 1).unwrap();
        many.extend([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0]);
        many.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
        many.extend(frame);
    }
    fs::write(path("d.wic.zst"), many).unwrap();
    fs::copy(path("a.wic.bmap"), path("d.wic.bmap")).unwrap();
    flashed(desk.path(), "d.wic.zst", "9", &[]);
    assert!(fs::read(path("9")).unwrap() == image);
    // Streams that say how long they are, one behind the other.
    let halves = image.split_at(16 * MIB);
    let sized = |part: &[u8]| zstd::bulk::compress(part, 1).unwrap();
    fs::write(path("e.wic.zst"), [sized(halves.0), sized(halves.1)].concat()).unwrap();
    for (given, target) in [("a.wic", "5"), ("b.wic.zst", "6"), ("d.wic.zst", "10"), ("e.wic.zst", "11")] {
        let outcome = flashed(desk.path(), given, target, &["--no-bmap"]);
        assert_eq!((&outcome["used_bmap"], &outcome["bytes_written"]), (&false.into(), &image.len().into()));
        assert!(fs::read(path(target)).unwrap() == image, "{given}");
    }
    // A stream that does not say how long it is.
    let mut encoder = zstd::Encoder::new(fs::File::create(path("c.wic.zst")).unwrap(), 1).unwrap();
    encoder.write_all(&image).unwrap();
    encoder.finish().unwrap();
    flashed(desk.path(), "c.wic.zst", "7", &["--slot", "3"]);
    assert_eq!(slot_of(&fs::read(path("7")).unwrap()).unwrap(), "3\n");
    let told = done(desk.path(), &["flash", "a.wic", "8"]);
    assert!(told.starts_with("8: ") && told.contains("read back and right"), "{told}");
}

#[test]
fn in_a_terminal_there_is_a_bar() {
    let (desk, image) = desk();
    // script(1) gives the program a terminal, and passes on how it ended.
    let flash = format!("{} flash a.wic disk", program());
    let output = std::process::Command::new("script")
        .args(["-qec", &flash, "/dev/null"])
        .current_dir(desk.path())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script (Debian's bsdutils) must be installed to test the bar");
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    let bar = |what: &str| seen.contains(&format!("{what} ")) && !seen.contains(&format!("{what}: "));
    assert!(bar("writing") && bar("verifying") && seen.contains("/s") && seen.contains(" left"), "{seen}");
    assert!(seen.contains("read back and right"), "{seen}");
    assert!(fs::read(desk.path().join("disk")).unwrap() == image);
}

#[test]
fn the_slot_is_in_the_system_partition_and_can_be_set_anew() {
    let (desk, image) = desk();
    let target = desk.path().join("disk");
    assert_eq!(flashed(desk.path(), "a.wic", "disk", &["--slot", "2"])["slot"], 2);
    assert_eq!(slot_of(&fs::read(&target).unwrap()).unwrap(), "2\n");
    assert_eq!(slot_of(&image), None);
    flashed(desk.path(), "b.wic.zst", "disk", &["--slot", "11"]);
    assert_eq!(slot_of(&fs::read(&target).unwrap()).unwrap(), "11\n");
    fs::write(desk.path().join("plain.wic"), vec![1; MIB]).unwrap();
    let line = last_line(desk.path(), &["flash", "plain.wic", "other", "--slot", "2"], 1);
    assert!(line.contains("is written, but its slot cannot be set"), "{line}");
}

#[test]
fn what_lay_on_a_larger_disk_does_not_show_through() {
    let (desk, image) = desk();
    let target = desk.path().join("disk");
    fs::write(&target, vec![0xee; 32 * MIB]).unwrap();
    flashed(desk.path(), "a.wic", "disk", &["--no-bmap"]);
    let disk = fs::read(&target).unwrap();
    // But for what says how large the disk is: MBR and header, and the table's copy at the end.
    let end = disk.len() - 33 * 512;
    assert!(disk[1024..24 * MIB] == image[1024..] && disk[24 * MIB..end].iter().all(|byte| *byte == 0xee));
    // With the map what is empty is left as it was: its blocks belong to nobody.
    fs::write(&target, vec![0xee; 32 * MIB]).unwrap();
    flashed(desk.path(), "a.wic", "disk", &[]);
    let disk = fs::read(&target).unwrap();
    assert!(
        disk[1024..4096] == image[1024..4096]
            && disk[20 * MIB..20 * MIB + 4096].iter().all(|byte| *byte == 0xee)
    );
}

#[test]
fn the_partition_table_fits_a_larger_disk() {
    let (desk, image) = desk();
    let path = |name: &str| desk.path().join(name);
    let large = |name: &str, content: &[u8]| {
        fs::write(path(name), content).unwrap();
        fs::File::options()
            .write(true)
            .open(path(name))
            .unwrap()
            .set_len(u64::try_from(40 * MIB + 512).unwrap())
            .unwrap();
    };
    // What util-linux thinks of a disk: its complaints, and how it shows the partitions.
    let asked = |name: &str| {
        let sfdisk = |option: &str| {
            let output = std::process::Command::new("sfdisk")
                .args([option, name])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .current_dir(desk.path())
                .output()
                .expect("sfdisk (Debian's fdisk) must be installed to test partition tables");
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
        };
        let shown = sfdisk("--dump");
        let partitions: Vec<_> =
            shown.lines().filter(|line| line.contains("start=")).map(str::to_owned).collect();
        (sfdisk("--verify"), partitions)
    };
    large("disk", &image);
    let (complaints, partitions) = asked("disk");
    assert!(complaints.contains("backup GPT table is not on the end"), "{complaints}");
    assert_eq!(partitions.len(), 2, "{partitions:?}");
    for (given, more) in [("a.wic", [].as_slice()), ("b.wic.zst", &["--no-bmap", "--slot", "4"])] {
        large("disk", &[]);
        let outcome = flashed(desk.path(), given, "disk", more);
        assert_eq!(outcome["table_fitted"], true, "{given}");
        let (complaints, now) = asked("disk");
        assert!(complaints.contains("No errors detected"), "{given}: {complaints}");
        assert!(!complaints.contains("mismatch") && !complaints.contains("not on the end"), "{complaints}");
        assert_eq!(now, partitions, "{given}");
    }
    // An image of the disk's own size has its table in place.
    assert_eq!(flashed(desk.path(), "a.wic", "exact", &[])["table_fitted"], false);
    assert!(fs::read(path("exact")).unwrap() == image);
}

#[test]
fn damage_and_misfits_are_refused() {
    let (desk, image) = desk();
    let path = |name: &str| desk.path().join(name);
    let mut bad = image.clone();
    bad[1000] ^= 1;
    fs::write(path("bad.wic"), &bad).unwrap();
    fs::write(path("bad.wic.bmap"), bmap(&image)).unwrap();
    fs::write(path("map.wic"), &image).unwrap();
    fs::write(path("map.wic.bmap"), bmap(&image).replace("> 0-", "> 1-")).unwrap();
    let packed = zstd::encode_all(&noise(3, 4 * MIB)[..], 1).unwrap();
    fs::write(path("cut.wic.zst"), &packed[..packed.len() / 2]).unwrap();
    let half = zstd::encode_all(&image[..image.len() / 2], 1).unwrap();
    fs::write(path("short.wic.zst"), half).unwrap();
    fs::write(path("short.wic.bmap"), bmap(&image)).unwrap();
    fs::write(path("small"), vec![0; MIB]).unwrap();
    fs::write(path("bundle.raucb"), [b"hsqs".as_slice(), &[7; 4096]].concat()).unwrap();
    fs::write(path("false.wic.zst"), &image).unwrap();
    let mut encoder = zstd::Encoder::new(fs::File::create(path("endless.wic.zst")).unwrap(), 1).unwrap();
    encoder.write_all(&image).unwrap();
    encoder.finish().unwrap();
    fs::write(path("full"), vec![0; MIB]).unwrap();
    let cases: [(&[&str], i32, &str); 16] = [
        (&["flash", "bundle.raucb", "x"], 1, "give it to `spacectl update`"),
        (&["flash", "false.wic.zst", "x"], 1, "does not begin as a zstd stream does"),
        (&["flash", "endless.wic.zst", "full"], 1, "has 1048576 bytes and the image needs more; "),
        (&["flash"], 64, "IMAGE"),
        (&["flash", "a.wic"], 64, "name the device"),
        (&["flash", "a.wic", "x", "--slot", "0"], 64, "--slot"),
        (&["flash", "none.wic", "x"], 1, "none.wic"),
        (&["flash", "bad.wic", "x"], 1, "bad.wic is damaged: blocks 0 to "),
        (&["flash", "map.wic", "x"], 1, "its own checksum is wrong"),
        (&["flash", "cut.wic.zst", "x"], 1, "cut.wic.zst: "),
        (&["flash", "short.wic.zst", "x"], 1, "short.wic.zst: ends after 12582912 bytes"),
        (&["flash", "a.wic", "small"], 1, "has 1048576 bytes and the image needs 25165824"),
        (&["flash", "a.wic", "/dev/no-such-disk"], 1, "--list"),
        (&["flash", "a.wic", "/dev/null"], 1, "neither a disk nor a file"),
        (&["flash", "a.wic", "nbd://127.0.0.1:1/module"], 2, "cannot reach nbd://127.0.0.1:1/module"),
        (&["flash", "a.wic", "nbd:///x"], 64, "nbd://HOST"),
    ];
    for (words, code, told) in cases {
        let line = last_line(desk.path(), words, code);
        assert!(line.contains(told), "{words:?}: {line}");
    }
    assert_eq!(fs::read(path("small")).unwrap(), vec![0; MIB], "a file that was too small was written");
    flashed(desk.path(), "a.wic", "small", &["--force"]);
    assert!(fs::read(path("small")).unwrap() == image);
}

/// A refusal's line; progress may come before it.
fn last_line(desk: &Path, words: &[&str], code: i32) -> String {
    let (got, out, err) = spacectl(desk, words);
    assert_eq!((got, out.as_str()), (code, ""), "{words:?}: {err}");
    let lines: Vec<&str> = err.lines().collect();
    let told = lines.iter().filter(|line| line.starts_with("spacectl: ")).count();
    assert_eq!(told, 1, "{words:?}: {err}");
    lines.last().unwrap().to_string()
}

#[test]
fn disks_are_listed() {
    let desk = tempfile::tempdir().unwrap();
    assert!(done(desk.path(), &["flash", "--list"]).starts_with("DEVICE"));
    let list: Value = serde_json::from_str(&done(desk.path(), &["flash", "--list", "-o", "json"])).unwrap();
    assert!(list["disks"].is_array());
}

#[test]
fn a_network_block_device_is_flashed_and_read_back() {
    let (desk, image) = desk();
    let disk = desk.path().join("disk.raw");
    fs::write(&disk, vec![0xee; 32 * MIB]).unwrap();
    let mut exported = Exported::over_tcp(&disk, ",writable=on");
    let outcome = flashed(desk.path(), "b.wic.zst", &exported.url, &["--slot", "4"]);
    assert_eq!((&outcome["verified"], &outcome["slot"]), (&true.into(), &4.into()));
    flashed(desk.path(), "a.wic", &exported.url, &["--no-bmap"]);
    exported.stop();
    assert!(fs::read(&disk).unwrap()[1024..24 * MIB] == image[1024..]);

    let mut exported = Exported::over_unix(&disk, ",writable=on");
    flashed(desk.path(), "a.wic", &exported.url, &["--slot", "5"]);
    let line = last_line(desk.path(), &["flash", "a.wic", &exported.url.replace("module", "other")], 2);
    assert!(line.contains("refuses the export \"other\""), "{line}");
    exported.stop();
    assert_eq!(slot_of(&fs::read(&disk).unwrap()[..24 * MIB]).unwrap(), "5\n");

    let exported = Exported::over_tcp(&disk, "");
    let line = last_line(desk.path(), &["flash", "a.wic", &exported.url], 1);
    assert!(line.contains("for reading only"), "{line}");
    let small = desk.path().join("small.raw");
    fs::write(&small, vec![0; MIB]).unwrap();
    let exported = Exported::over_tcp(&small, ",writable=on");
    let line = last_line(desk.path(), &["flash", "a.wic", &exported.url], 1);
    assert!(line.contains("has 1048576 bytes"), "{line}");
}

#[test]
fn a_device_that_vanishes_is_named_with_how_far_it_came() {
    let desk = tempfile::tempdir().unwrap();
    // Large enough that it is still being written when its device goes.
    fs::write(desk.path().join("big.wic"), noise(5, 48 * MIB)).unwrap();
    let disk = desk.path().join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let mut exported = Exported::over_unix(&disk, ",writable=on");
    let mut flash = command(desk.path(), &["flash", "big.wic", &exported.url]);
    let flash = flash.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || {
        let mut first = [0];
        fs::File::open(&disk).unwrap().read_exact_at(&mut first, 8 << 20).unwrap();
        (first[0] != 0).then_some(())
    };
    wait_for("the first bytes", begun);
    exported.stop();
    let output = flash.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let line = told.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        line.contains("vanished while it was written, after ") && line.contains("of 50331648 bytes"),
        "{line}"
    );
    assert!(line.contains("flash it again"), "{line}");
}

/// Loop devices are root's: where they cannot be had this says so, and files and NBD have shown the rest.
fn loop_of(file: &Path, sectors: u32) -> Option<Loop> {
    let found = Loop::of(file, sectors);
    if found.is_none() {
        eprintln!("NOT RUN: this user or this kernel has no loop devices; real disks were not tested");
    }
    found
}

#[test]
fn a_disk_in_use_is_refused_and_a_free_one_flashed() {
    let (desk, image) = desk();
    let backing = desk.path().join("backing");
    fs::File::create(&backing).unwrap().set_len(32 << 20).unwrap();
    run("mke2fs", &["-q", "-F", backing.to_str().unwrap()]);
    let Some(mut disk) = loop_of(&backing, 512) else { return };
    let before = fs::read(&backing).unwrap();
    let at: PathBuf = desk.path().join("mounted here");
    disk.mount(&at);
    let line = last_line(desk.path(), &["flash", "a.wic", &disk.device], 1);
    assert!(
        line.contains("is mounted at") && line.contains("mounted here") && line.contains("--force"),
        "{line}"
    );
    disk.unmount();
    assert!(fs::read(&disk.device).unwrap()[..1024] == before[..1024], "a mounted disk was written");
    flashed(desk.path(), "a.wic", &disk.device, &["--no-bmap", "--slot", "7"]);
    let outcome = flashed(desk.path(), "b.wic.zst", &disk.device, &["--slot", "8"]);
    assert_eq!((&outcome["verified"], &outcome["slot"]), (&true.into(), &8.into()));
    let device = disk.device.clone();
    drop(disk);
    let after = fs::read(&backing).unwrap();
    assert_eq!(slot_of(&after[..24 * MIB]).unwrap(), "8\n", "{device}");
    assert!(after[20 * MIB..24 * MIB] == image[20 * MIB..]);
}

#[test]
fn a_disk_whose_sectors_are_not_the_images_is_refused() {
    let (desk, _) = desk();
    let backing = desk.path().join("backing");
    fs::File::create(&backing).unwrap().set_len(32 << 20).unwrap();
    let Some(disk) = loop_of(&backing, 4096) else { return };
    let untouched = fs::read(&backing).unwrap();
    for image in ["a.wic", "b.wic.zst"] {
        let line = last_line(desk.path(), &["flash", image, &disk.device], 1);
        let told = "has sectors of 4096 bytes, and the image's partition table counts in 512";
        assert!(line.contains(told) && line.contains("--force"), "{line}");
    }
    assert!(fs::read(&backing).unwrap() == untouched, "a refused disk was written");
    // Its owner may know better; and what has no partition table fits every disk.
    flashed(desk.path(), "a.wic", &disk.device, &["--force"]);
    fs::write(desk.path().join("bare.img"), noise(6, MIB)).unwrap();
    flashed(desk.path(), "bare.img", &disk.device, &[]);
}

#[test]
fn a_disk_that_fails_under_way_is_named() {
    let desk = tempfile::tempdir().unwrap();
    fs::write(desk.path().join("big.wic"), noise(6, 24 * MIB)).unwrap();
    // A disk that says 64 MiB and has room for 8: its file system is full before.
    let small = desk.path().join("small");
    fs::create_dir(&small).unwrap();
    let Some(_room) = Room::at(&small, "8m") else {
        eprintln!("NOT RUN: this user may not mount; a disk that fails under way was not tested");
        return;
    };
    let backing = small.join("backing");
    fs::File::create(&backing).unwrap().set_len(64 << 20).unwrap();
    let Some(disk) = loop_of(&backing, 512) else { return };
    let line = last_line(desk.path(), &["flash", "big.wic", &disk.device], 2);
    assert!(
        line.contains("vanished while it was written, after ") && line.contains("flash it again"),
        "{line}"
    );
}
