//! Several registries that follow each other.

use crate::support::{INDEX, MANIFEST, Registry, blob_file, body, client, manifest, noise, sha256, wait_for};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use tempfile::{TempDir, tempdir};

pub fn following(port: u16) -> String {
    format!("[[replica]]\nurl = \"http://127.0.0.1:{port}\"\n")
}

pub fn there(registry: &Registry, path: &str) {
    let hop = || {
        // Only what is really here counts, not what would be passed on.
        let answer = client().get(&registry.url(path)).header("space-registry-passed-on", "1").call();
        answer.is_ok_and(|answer| answer.status() == 200).then_some(())
    };
    wait_for(path, hop);
}

fn pair() -> (TempDir, Registry, TempDir, Registry) {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let first = Registry::configured(one.path(), "");
    let second = Registry::configured(two.path(), &following(first.port));
    (one, first, two, second)
}

#[test]
fn everything_that_was_acknowledged_survives_the_loss_of_the_first() {
    let (_one, mut first, two, mut second) = pair();
    let (layer, digest) = first.push_image("flight/app", "1", 1);
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1}}]}}"#
    );
    assert_eq!(first.put_manifest("flight/app", "all", INDEX, &text).status(), 201);
    let blob = first.push("flight/app", b"{}");
    let about = format!(
        r#","artifactType":"x/y","subject":{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1}}"#
    );
    let signature = manifest(&blob, &blob, &about);
    let signature_digest = sha256(signature.as_bytes());
    assert_eq!(first.put_manifest("flight/app", &signature_digest, MANIFEST, &signature).status(), 201);
    there(&second, &format!("/v2/flight/app/manifests/{signature_digest}"));
    first.push_image("flight/other", "2", 2);
    there(&second, "/v2/flight/other/manifests/2");
    first.kill();
    for path in ["/v2/flight/app/manifests/1", "/v2/flight/app/manifests/all", "/v2/flight/other/manifests/2"]
    {
        assert_eq!(second.status(path), 200, "{path}");
    }
    assert_eq!(sha256(&body(&mut second.get(&format!("/v2/flight/app/blobs/{layer}")))), layer);
    let referrers = second.json(&format!("/v2/flight/app/referrers/{digest}"));
    assert_eq!(referrers["manifests"][0]["digest"], signature_digest);
    assert_eq!(second.json("/v2/flight/app/tags/list")["tags"], serde_json::json!(["1", "all"]));
    // It is no copy that lives by the other's grace: a restart alone changes nothing.
    second.stop();
    let second = Registry::configured(two.path(), &following(first.port));
    assert_eq!(second.status("/v2/flight/app/manifests/all"), 200);
}

#[test]
fn tags_move_and_go_as_there() {
    let (_one, first, _two, second) = pair();
    first.push_image("a", "moving", 1);
    let (_, gone) = first.push_image("a", "going", 2);
    there(&second, "/v2/a/manifests/going");
    let (_, moved) = first.push_image("a", "moving", 3);
    assert_eq!(first.delete("/v2/a/manifests/going"), 202);
    wait_for("the move", || {
        let answer = second.get("/v2/a/manifests/moving");
        (answer.headers()["docker-content-digest"] == moved.as_str()).then_some(())
    });
    wait_for("the deletion", || {
        (second.json("/v2/a/tags/list")["tags"] == serde_json::json!(["moving"])).then_some(())
    });
    assert_eq!(first.delete(&format!("/v2/a/manifests/{gone}")), 202);
    wait_for("the manifest's deletion", || {
        (second.status(&format!("/v2/a/manifests/{gone}")) == 404).then_some(())
    });
}

#[test]
fn registries_that_follow_each_other_agree() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let mut first = Registry::configured(one.path(), "");
    let second = Registry::configured(two.path(), &following(first.port));
    // The first one learns of the second only now: ports are not known in advance.
    let port = first.port;
    first.stop();
    let text = following(second.port);
    fs::write(
        one.path().join("registry.toml"),
        format!("root = {:?}\nlisten = \"127.0.0.1:{port}\"\n{text}", one.path().join("root")),
    )
    .unwrap();
    let config = one.path().join("registry.toml");
    let first = Registry::start_with(one.path(), &["--config", config.to_str().unwrap(), "--insecure-http"]);
    for round in 0..5 {
        first.push_image("a", "both", round * 2);
        second.push_image("a", "both", round * 2 + 1);
    }
    first.push_image("a", "of-first", 100);
    second.push_image("a", "of-second", 101);
    for registry in [&first, &second] {
        there(registry, "/v2/a/manifests/of-first");
        there(registry, "/v2/a/manifests/of-second");
    }
    let digest =
        |registry: &Registry| registry.get("/v2/a/manifests/both").headers()["docker-content-digest"].clone();
    wait_for("agreement", || (digest(&first) == digest(&second)).then_some(()));
    // And no end of copying back and forth.
    let last = |registry: &Registry| {
        let feed = registry.json("/v2/_space/changes?after=0");
        feed["changes"].as_array().unwrap().last().unwrap()["seq"].as_i64().unwrap()
    };
    let (mut before, mut alike) = ((0, 0), 0);
    wait_for("quiet", || {
        let now = (last(&first), last(&second));
        alike = if now == before { alike + 1 } else { 0 };
        before = now;
        (alike == 60).then_some(())
    });
}

#[test]
fn a_pull_of_something_missing_is_fetched_through() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let first = Registry::configured(one.path(), "");
    let (layer, digest) = first.push_image("a", "v", 1);
    // The follower never hears of changes and cannot copy by itself: it must ask when it is asked.
    let relay = Relay::start(first.port, u64::MAX, true);
    let second = Registry::configured(two.path(), &following(relay.port));
    let mut pulled = second.get(&format!("/v2/a/blobs/{layer}"));
    assert_eq!((pulled.status().as_u16(), sha256(&body(&mut pulled))), (200, layer.clone()));
    let mut pulled = second.get("/v2/a/manifests/v");
    assert_eq!((pulled.status().as_u16(), sha256(&body(&mut pulled))), (200, digest));
    // A push must not be told that a blob is here which is only there.
    assert_eq!(client().head(second.url(&format!("/v2/b/blobs/{layer}"))).call().unwrap().status(), 404);
    assert_eq!(second.status("/v2/a/manifests/none"), 404);
    there(&second, "/v2/a/manifests/v");
    assert_eq!(second.status(&format!("/v2/a/blobs/{}", sha256(b"nobody has this"))), 404);
}

pub fn damage(root: &Path, digest: &str) -> PathBuf {
    let path = blob_file(root, digest);
    let mut content = fs::read(&path).unwrap();
    content[0] ^= 4;
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn what_the_scrub_puts_aside_comes_back_from_a_peer() {
    const SCRUB: &str = "[scrub]\nevery = \"200ms\"\nrate = \"1GiB\"\n";
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let mut first = Registry::configured(one.path(), "");
    let mut second = Registry::configured(two.path(), &format!("{SCRUB}{}", following(first.port)));
    let root = two.path().join("root");
    let (layer, digest) = first.push_image("a", "v", 1);
    there(&second, "/v2/a/manifests/v");
    let back = |registry: &Registry, count: u32| {
        wait_for("the metric", || {
            let metrics = String::from_utf8(body(&mut registry.get("/metrics"))).unwrap();
            metrics.contains(&format!("space_registry_brought_back_blobs_total {count}\n")).then_some(())
        });
    };
    // A layer, then a manifest.
    for (count, (damaged, kind)) in (1..).zip([(&layer, "blobs"), (&digest, "manifests")]) {
        let path = damage(&root, damaged);
        back(&second, count);
        there(&second, &format!("/v2/a/{kind}/{damaged}"));
        assert_eq!(sha256(&fs::read(&path).unwrap()), *damaged);
    }
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 2, "the damaged files are kept");

    // Found while the peer was gone: it is asked at the next start.
    first.stop();
    let path = damage(&root, &layer);
    wait_for("the quarantine", || (!path.exists()).then_some(()));
    second.stop();
    let first = Registry::configured(one.path(), "");
    let second = Registry::configured(two.path(), &format!("{SCRUB}{}", following(first.port)));
    back(&second, 1);
    assert_eq!(sha256(&fs::read(&path).unwrap()), layer);
    assert_eq!(second.status("/v2/a/manifests/v"), 200);
}

/// A cable that is cut after so many bytes of each connection's answers, until it is mended.
pub struct Relay {
    pub port: u16,
    limit: Arc<AtomicU64>,
}

impl Relay {
    /// `deaf`: nothing about changes gets through.
    pub fn start(to: u16, limit: u64, deaf: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Arc::new(AtomicU64::new(limit));
        let shared = limit.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(near), Ok(far)) = (stream, TcpStream::connect(("127.0.0.1", to))) else { continue };
                let limit = shared.clone();
                let (mut from, mut back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || {
                    let mut head = [0; 4096];
                    let count = from.read(&mut head).unwrap_or(0);
                    if deaf && head[..count].windows(14).any(|part| part == b"_space/changes") {
                        let _ = from.shutdown(std::net::Shutdown::Both);
                        return;
                    }
                    let _ = back.write_all(&head[..count]).and_then(|()| std::io::copy(&mut from, &mut back));
                });
                thread::spawn(move || relay(far, near, &limit));
            }
        });
        Self { port, limit }
    }
}

fn relay(mut far: TcpStream, mut near: TcpStream, limit: &AtomicU64) {
    let mut buffer = vec![0; 32 << 10];
    let mut passed = 0;
    while let Ok(count) = far.read(&mut buffer) {
        passed += count as u64;
        if count == 0 || passed > limit.load(Ordering::Relaxed) || near.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = near.shutdown(std::net::Shutdown::Both);
    let _ = far.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_copy_goes_on_where_the_cable_was_cut() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let first = Registry::configured(one.path(), "");
    let content = noise(77, 4_000_000);
    let (config, layer) = (first.push("a", b"{}"), first.push("a", &content));
    assert_eq!(first.put_manifest("a", "v", MANIFEST, &manifest(&config, &layer, "")).status(), 201);
    let relay = Relay::start(first.port, 1_500_000, false);
    let second = Registry::configured(two.path(), &following(relay.port));
    // Each connection brings a megabyte and a half at most; whoever began anew each time would never end.
    there(&second, "/v2/a/manifests/v");
    let mut copied = second.get(&format!("/v2/a/blobs/{layer}"));
    assert_eq!(sha256(&body(&mut copied)), layer);
    wait_for("its room is given back", || (second.json("/v2/_space/usage")["uploading"] == 0).then_some(()));
}
