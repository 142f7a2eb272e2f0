//! The power goes, again and again, while images are pushed and garbage is collected.

use crate::support::{MANIFEST, Registry, body, manifest, noise, run, sha256, wait_for};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::tempdir;

const ROUNDS: u64 = 20;

/// What the registry said it has: path and digest.
type Acknowledged = Mutex<BTreeMap<String, String>>;

#[test]
fn kill_9_at_any_point_loses_nothing_that_was_acknowledged() {
    let home = tempdir().unwrap();
    let root = home.path().join("root");
    let acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut registry = Registry::configured(home.path(), "[gc]\ngrace = \"200ms\"\nevery = \"0ms\"\n");
        let port = registry.port;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for pusher in 0..4 {
                let (stop, acknowledged) = (&stop, &acknowledged);
                scope.spawn(move || {
                    let mut image = 0;
                    while !stop.load(Ordering::Relaxed)
                        && push(port, pusher, round * 1000 + image, acknowledged).is_some()
                    {
                        image += 1;
                    }
                });
            }
            scope.spawn(|| {
                let agent = agent();
                let url = format!("http://127.0.0.1:{port}/v2/_space/gc");
                loop {
                    let gone = agent.post(&url).send_empty().is_err();
                    if gone || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            // Another point each time: after so many images, and then somewhere in the middle of the next ones.
            let before = acknowledged.lock().unwrap().len();
            let enough = 2 + usize::try_from(round % 5).unwrap();
            wait_for("images", || (acknowledged.lock().unwrap().len() >= before + enough).then_some(()));
            let end = Instant::now() + Duration::from_micros((round * 7919) % 30_000);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            registry.kill();
            stop.store(true, Ordering::Relaxed);
        });
        let (status, text) = run(&["fsck", "--root", root.to_str().unwrap()]);
        assert_eq!(status, 0, "after round {round}: {text}");
    }
    let registry = Registry::configured(home.path(), "");
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 20, "only {} acknowledged: the rounds are too short", acknowledged.len());
    for (path, digest) in &acknowledged {
        let mut answer = registry.get(path);
        assert_eq!(answer.status(), 200, "{path} was acknowledged and is gone");
        assert_eq!(sha256(&body(&mut answer)), *digest, "{path} has changed");
    }
    // Nothing is listed that is not there.
    for repository in registry.json("/v2/_catalog")["repositories"].as_array().unwrap() {
        let repository = repository.as_str().unwrap();
        for tag in registry.json(&format!("/v2/{repository}/tags/list"))["tags"].as_array().unwrap() {
            assert_eq!(
                registry.status(&format!("/v2/{repository}/manifests/{}", tag.as_str().unwrap())),
                200
            );
        }
    }
}

fn agent() -> ureq::Agent {
    crate::support::client()
}

/// Pushes an image; None when the registry is gone. Blobs count once a manifest keeps them from collection.
fn push(port: u16, pusher: u64, image: u64, acknowledged: &Acknowledged) -> Option<()> {
    let agent = agent();
    let base = format!("http://127.0.0.1:{port}");
    // Some layers are in several repositories.
    let content = noise(image / 2 + (pusher % 2) * 1_000_000, 30_000);
    let digest = sha256(&content);
    let url = format!("{base}/v2/p{pusher}/blobs/uploads/?digest={digest}");
    let pushed = agent.post(&url).send(&content[..]).ok()?;
    assert_eq!(pushed.status(), 201);
    let garbage = noise(image + 5_000_000 + pusher, 10_000);
    let url = format!("{base}/v2/p{pusher}/blobs/uploads/?digest={}", sha256(&garbage));
    agent.post(&url).send(&garbage[..]).ok()?;
    let text = manifest(&digest, &digest, &format!(r#","annotations":{{"image":"{image}"}}"#));
    let path = format!("/v2/p{pusher}/manifests/r{image}");
    let put = agent.put(format!("{base}{path}")).header("content-type", MANIFEST).send(&text).ok()?;
    // With so little grace the blob may have been collected before its manifest came.
    if put.status() == 201 {
        let mut acknowledged = acknowledged.lock().unwrap();
        acknowledged.insert(path, sha256(text.as_bytes()));
        acknowledged.insert(format!("/v2/p{pusher}/blobs/{digest}"), digest);
    }
    Some(())
}
