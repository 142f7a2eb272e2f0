//! Garbage, damage, room: what the registry does with what it holds.

use crate::support::{
    MANIFEST, Registry, blob_file, body, client, code, header, manifest, noise, program, run, sha256,
    wait_for,
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use tempfile::{TempDir, tempdir};

const NOW: &str = "[gc]\ngrace = \"0ms\"\nevery = \"0ms\"\n";

fn collect(registry: &Registry, query: &str) -> serde_json::Value {
    let mut answer = registry.post(&format!("/v2/_space/gc{query}"));
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&body(&mut answer)).unwrap()
}

#[test]
fn garbage_goes_and_what_is_needed_stays() {
    let home = tempdir().unwrap();
    let registry = Registry::configured(home.path(), NOW);
    let root = home.path().join("root");
    let (kept, _) = registry.push_image("a", "kept", 1);
    let (dropped, digest) = registry.push_image("a", "dropped", 2);
    let (shared, _) = registry.push_image("b", "shared", 2);
    assert_eq!(dropped, shared);
    let alone = registry.push("a", b"no manifest names this");
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{digest}")), 202);
    let used = registry.json("/v2/_space/usage")["stored"].as_u64().unwrap();
    let collected = collect(&registry, "");
    assert_eq!((collected["blobs"].as_u64(), collected["links"].as_u64()), (Some(1), Some(2)), "{collected}");
    assert_eq!(registry.json("/v2/_space/usage")["stored"].as_u64().unwrap(), used - 22);
    assert!(!blob_file(&root, &alone).exists());
    assert_eq!(registry.status(&format!("/v2/a/blobs/{dropped}")), 404);
    assert_eq!(registry.status(&format!("/v2/b/blobs/{dropped}")), 200);
    assert_eq!(registry.status(&format!("/v2/a/blobs/{kept}")), 200);
    // Untagged manifests stay until it is said that they go; then their blobs go too.
    let (_, second) = registry.push_image("a", "kept", 7);
    assert_eq!(collect(&registry, "")["manifests"], 0);
    let removed = collect(&registry, "?untagged=remove");
    assert_eq!(removed["manifests"], 1, "{removed}");
    assert_eq!(registry.status(&format!("/v2/a/blobs/{kept}")), 404);
    assert_eq!(registry.status(&format!("/v2/a/manifests/{second}")), 200);
}

#[test]
fn collection_never_takes_what_a_push_relies_on() {
    let home = tempdir().unwrap();
    let mut registry = Registry::configured(home.path(), NOW);
    let stop = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                collect(&registry, "");
                rounds += 1;
            }
            rounds
        });
        let pushers: Vec<_> = (0..4_u64)
            .map(|pusher| {
                let registry = &registry;
                scope.spawn(move || {
                    (0..25).map(|round| push_until_taken(registry, pusher, round)).collect::<Vec<_>>()
                })
            })
            .collect();
        let all: Vec<_> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 1);
        all
    });
    assert_eq!(acknowledged.len(), 100);
    collect(&registry, "");
    for (repository, tag, layer) in &acknowledged {
        assert_eq!(registry.status(&format!("/v2/{repository}/manifests/{tag}")), 200);
        assert_eq!(sha256(&body(&mut registry.get(&format!("/v2/{repository}/blobs/{layer}")))), *layer);
    }
    registry.stop();
    let (status, text) = run(&["fsck", "--root", home.path().join("root").to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
}

/// With no grace at all a blob may go between two requests of a client. The registry must say so, and take the
/// image at the next attempt; what it must not do is to take an image without its blobs.
fn push_until_taken(registry: &Registry, pusher: u64, round: u64) -> (String, String, String) {
    let (repository, tag) = (format!("p{pusher}"), format!("r{round}"));
    loop {
        let config = registry.push(&repository, b"{}");
        // Every other layer is shared with the neighbour's.
        let layer = registry.push(&repository, &noise((pusher % 2) * 1000 + round, 20_000));
        let mut put = registry.put_manifest(&repository, &tag, MANIFEST, &manifest(&config, &layer, ""));
        if put.status() == 201 {
            return (repository, tag, layer);
        }
        assert_eq!(code(&mut put), "MANIFEST_BLOB_UNKNOWN");
    }
}

#[test]
fn a_flipped_bit_is_found_and_put_aside() {
    let home = tempdir().unwrap();
    let root = home.path().join("root");
    let registry = Registry::configured(home.path(), "[scrub]\nevery = \"200ms\"\nrate = \"1GiB\"\n");
    let (layer, _) = registry.push_image("a", "v", 3);
    let (sound, _) = registry.push_image("b", "v", 4);
    let path = blob_file(&root, &layer);
    let mut content = fs::read(&path).unwrap();
    content[20_000] ^= 4;
    fs::write(&path, &content).unwrap();
    wait_for("the quarantine", || (!path.exists()).then_some(()));
    assert_eq!(registry.status(&format!("/v2/a/blobs/{layer}")), 404);
    assert_eq!(registry.status(&format!("/v2/b/blobs/{sound}")), 200);
    wait_for("the metric", || {
        let metrics = String::from_utf8(body(&mut registry.get("/metrics"))).unwrap();
        metrics.contains("space_registry_damaged_blobs_total 1\n").then_some(())
    });
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 1);
    // Pushing it again heals the image.
    registry.push("a", &noise(3, 50_000));
    assert_eq!(sha256(&body(&mut registry.get(&format!("/v2/a/blobs/{layer}")))), layer);
}

fn fsck(root: &Path, repair: bool) -> (i32, String) {
    let mut arguments = vec!["fsck", "--root", root.to_str().unwrap()];
    arguments.extend(repair.then_some("--repair"));
    run(&arguments)
}

#[test]
fn fsck_finds_damage_and_mends_what_can_be_mended() {
    let home = tempdir().unwrap();
    let root = home.path().join("root");
    let mut registry = Registry::configured(home.path(), "");
    let (layer, digest) = registry.push_image("a", "v", 3);
    registry.push_image("b/c", "w", 4);
    assert_eq!(fsck(&root, false).0, 1, "a root in use is not checked");
    registry.stop();
    let (status, text) = fsck(&root, false);
    assert!(
        status == 0 && text.contains("5 blobs") && text.contains("2 manifests, 2 tags: 0 problems"),
        "{text}"
    );

    // An index that is gone or wrong is made anew.
    fs::remove_file(root.join("index.db")).unwrap();
    assert_eq!(fsck(&root, true).0, 0);
    fs::write(root.join("index.db"), b"this is no index").unwrap();
    let registry = Registry::configured(home.path(), "");
    assert_eq!(registry.json("/v2/_catalog")["repositories"], serde_json::json!(["a", "b/c"]));
    assert_eq!(registry.json("/v2/b/c/tags/list")["tags"], serde_json::json!(["w"]));
    drop(registry);

    fs::write(blob_file(&root, &layer), b"short").unwrap();
    fs::remove_file(blob_file(&root, &digest)).unwrap();
    let (status, text) = fsck(&root, false);
    assert_eq!(status, 1);
    for part in [
        format!("problem: blob {layer} does not hold what its name says"),
        format!("problem: a has no content for its blob {layer}"),
        format!("problem: a has no content for its manifest {digest}"),
        format!("problem: tag a:v leads to {digest}"),
    ] {
        assert!(text.contains(&part), "{part} is not in\n{text}");
    }
    assert_eq!(fsck(&root, true).0, 0);
    let (status, text) = fsck(&root, false);
    assert!(status == 0 && text.contains("1 damaged blobs are in quarantine"), "{text}");
    let registry = Registry::configured(home.path(), "");
    assert_eq!((registry.status("/v2/a/manifests/v"), registry.status("/v2/b/c/manifests/w")), (404, 200));
}

#[test]
fn an_image_that_lacks_a_layer_is_a_problem_that_stays() {
    let home = tempdir().unwrap();
    let root = home.path().join("root");
    let mut registry = Registry::configured(home.path(), "");
    let (layer, _) = registry.push_image("a", "v", 3);
    registry.stop();
    fs::remove_file(blob_file(&root, &layer)).unwrap();
    let (status, text) = fsck(&root, true);
    assert!(
        status == 1 && text.contains(&format!("needs {layer}, which is not there; push the image again")),
        "{text}"
    );
}

fn no_uploads(root: &Path) {
    wait_for("an empty directory of uploads", || {
        fs::read_dir(root.join("uploads")).unwrap().next().is_none().then_some(())
    });
}

#[test]
fn a_push_beyond_the_quota_is_refused_early_and_leaves_nothing() {
    let home = tempdir().unwrap();
    let root = home.path().join("root");
    let registry = Registry::configured(home.path(), "[storage]\nquota = \"1MiB\"\n");
    registry.push_image("a", "v", 3);
    let before = registry.json("/v2/_space/usage")["stored"].clone();
    let large = noise(9, 2_000_000);
    // Said in advance, in chunks, and without saying.
    let url = registry.url(&format!("/v2/a/blobs/uploads/?digest={}", sha256(&large)));
    let mut whole = client().post(&url).send(&large[..]).unwrap();
    assert_eq!((whole.status().as_u16(), code(&mut whole).as_str()), (507, "DENIED"));
    let begun = registry.post("/v2/a/blobs/uploads/");
    let location = registry.url(header(&begun, "location"));
    assert_eq!(client().patch(&location).send(&large[..600_000]).unwrap().status(), 202);
    let mut more = client().patch(&location).send(&large[600_000..]).unwrap();
    assert_eq!((more.status().as_u16(), code(&mut more).as_str()), (507, "DENIED"));
    assert_eq!(client().get(&location).call().unwrap().status(), 404);
    let mut reader = std::io::Cursor::new(large.clone());
    let mut unsaid = client().post(&url).send(ureq::SendBody::from_reader(&mut reader)).unwrap();
    let text = String::from_utf8(body(&mut unsaid)).unwrap();
    assert!(unsaid.status() == 507 && text.contains("quota of 1048576 bytes"), "{text}");
    no_uploads(&root);
    wait_for("their room is given back", || {
        (registry.json("/v2/_space/usage")["uploading"] == 0).then_some(())
    });
    assert_eq!(registry.json("/v2/_space/usage")["stored"], before);
    // What fits is still taken.
    registry.push_image("a", "w", 5);
}

/// A file system of its own, gone with the process that mounted it: ext4 in a file. Who is not root is that in a
/// namespace, where only one in memory can be mounted.
fn on_a_small_disk(home: &TempDir) -> Registry {
    let (disk, port) = (home.path().join("disk"), home.path().join("port"));
    fs::create_dir(&disk).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    let source = if is_root {
        let file = home.path().join("ext4");
        fs::File::create(&file).unwrap().set_len(10 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file).status().unwrap();
        assert!(made.success());
        format!("-o loop {}", file.display())
    } else {
        "-t tmpfs -o size=4m tmpfs".into()
    };
    let script = format!(
        "mount {source} {disk} && exec {program} serve --config {config} --insecure-http --port-file {port}",
        disk = disk.display(),
        program = program(),
        config = home.path().join("registry.toml").display(),
        port = port.display(),
    );
    let text = format!(
        "root = \"{}/root\"\nlisten = \"127.0.0.1:0\"\n[storage]\nreserve = \"0B\"\n",
        disk.display()
    );
    fs::write(home.path().join("registry.toml"), text).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    if !is_root {
        unshare.args(["--user", "--map-root-user"]);
    }
    let child = unshare.args(["sh", "-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    let mut registry = Registry { child, port: 0 };
    registry.port = wait_for("the port file", || {
        assert!(registry.child.try_wait().unwrap().is_none(), "no registry on a small file system");
        fs::read_to_string(&port).ok()?.parse().ok()
    });
    registry
}

#[test]
fn a_full_disk_is_an_error_and_not_the_end() {
    let home = tempdir().unwrap();
    let registry = on_a_small_disk(&home);
    let (layer, _) = registry.push_image("a", "v", 3);
    for seed in 0..3 {
        let large = noise(seed, 12_000_000);
        let url = registry.url(&format!("/v2/a/blobs/uploads/?digest={}", sha256(&large)));
        let mut answer = client().post(&url).send(&large[..]).unwrap();
        assert_eq!((answer.status().as_u16(), code(&mut answer).as_str()), (507, "DENIED"));
        wait_for("its room is given back", || {
            (registry.json("/v2/_space/usage")["uploading"] == 0).then_some(())
        });
    }
    assert_eq!(sha256(&body(&mut registry.get(&format!("/v2/a/blobs/{layer}")))), layer);
    registry.push_image("a", "again", 4);
    assert_eq!(registry.status("/v2/a/manifests/again"), 200);
}
