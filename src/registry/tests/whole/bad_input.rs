//! What nobody should send: each gets an error of the spec, and nothing is left behind.

use crate::support::{MANIFEST, Registry, body, client, code, files, header, manifest, noise, raw, sha256};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use tempfile::tempdir;

#[test]
fn names_that_lead_out() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let long = "a".repeat(300);
    let digest = sha256(b"x");
    for path in [
        "/v2/../../etc/passwd".to_owned(),
        "/v2/a/../b/tags/list".to_owned(),
        "/v2/a%2f..%2fb/tags/list".to_owned(),
        "/v2/%2e%2e/tags/list".to_owned(),
        "/v2/a/manifests/%2e%2e".to_owned(),
        "/v2/a/manifests/..".to_owned(),
        "/v2/a%00b/tags/list".to_owned(),
        "/v2//tags/list".to_owned(),
        "/v2/_uploads/tags/list".to_owned(),
        format!("/v2/{long}/tags/list"),
        format!("/v2/a/manifests/{long}"),
        format!("/v2/A/blobs/{digest}"),
        "/v2/a/blobs/sha256:../../../../etc/passwd".to_owned(),
        "/v2/a/blobs/uploads/../../../lock".to_owned(),
    ] {
        let answer =
            raw(registry.port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(status == 400 || status == 404, "{path}: {answer}");
        assert!(answer.contains("\"errors\":[{\"code\":\""), "{path}: {answer}");
    }
    // Nothing but what the registry makes for itself.
    let names: Vec<_> = files(root.path()).into_iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    let own = |name: &str| name.starts_with("index.") || name == "lock" || name == "port";
    assert!(names.iter().all(|name| own(name.to_str().unwrap())), "{names:?}");
}

#[test]
fn an_upload_belongs_to_its_repository() {
    let root = tempdir().unwrap();
    let mut registry = Registry::start(root.path());
    let begun = registry.post("/v2/mine/blobs/uploads/");
    let id = header(&begun, "location").rsplit('/').next().unwrap().to_owned();
    for restarted in [false, true] {
        if restarted {
            registry.kill();
            registry = Registry::start(root.path());
        }
        let foreign = registry.url(&format!("/v2/other/blobs/uploads/{id}"));
        let mut patch = client().patch(&foreign).send(&b"x"[..]).unwrap();
        assert_eq!((patch.status().as_u16(), code(&mut patch).as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
        assert_eq!(client().delete(&foreign).call().unwrap().status(), 404);
        assert_eq!(registry.status(&format!("/v2/mine/blobs/uploads/{id}")), 204);
    }
}

#[test]
fn manifests_that_are_none() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let blob = registry.push("a", b"{}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (text, status, expected) in [
        (format!(r#"{{"schemaVersion":2,"annotations":{{"k":{deep}}}}}"#), 400, "MANIFEST_INVALID"),
        (deep, 400, "MANIFEST_INVALID"),
        ("null".to_owned(), 400, "MANIFEST_INVALID"),
        ("\u{0}".to_owned(), 400, "MANIFEST_INVALID"),
        (r#"{"layers":[{"digest":7}]}"#.to_owned(), 400, "MANIFEST_INVALID"),
        (manifest(&blob, "sha256:zz", ""), 400, "MANIFEST_INVALID"),
        (manifest(&blob, &sha256(b"none"), ""), 404, "MANIFEST_BLOB_UNKNOWN"),
        (manifest(&blob, &blob, &format!(r#","x":"{}""#, "y".repeat(5_000_000))), 413, "SIZE_INVALID"),
    ] {
        let mut answer = registry.put_manifest("a", "bad", MANIFEST, &text);
        assert_eq!((answer.status().as_u16(), code(&mut answer).as_str()), (status, expected));
    }
    assert_eq!(registry.status("/v2/a/manifests/bad"), 404);
    let fits = manifest(&blob, &blob, &format!(r#","x":"{}""#, "y".repeat(4_000_000)));
    assert_eq!(registry.put_manifest("a", "large", MANIFEST, &fits).status(), 201);
}

#[test]
fn a_body_that_breaks_off_is_not_a_blob() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let content = noise(8, 100_000);
    let digest = sha256(&content);
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content[..60_000]).unwrap();
    drop(stream);
    crate::support::wait_for("the upload's end", || {
        std::fs::read_dir(root.path().join("uploads")).unwrap().next().is_none().then_some(())
    });
    assert_eq!(registry.status(&format!("/v2/a/blobs/{digest}")), 404);
    crate::support::wait_for("its room is given back", || {
        (registry.json("/v2/_space/usage")["uploading"] == 0).then_some(())
    });
}

#[test]
fn slow_clients_do_not_keep_others_waiting() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    registry.push_image("a", "v", 1);
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
            stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(registry.status("/v2/a/manifests/v"), 200);
    }
    // Each of them is let go after its half minute, and not before the others were served.
    let mut first = &slow[0];
    first.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let began = Instant::now();
    let mut end = Vec::new();
    let _ = first.read_to_end(&mut end);
    assert!(began.elapsed() < Duration::from_secs(85), "a client that never finishes its request is kept");
}

#[test]
fn an_upload_that_falls_silent_ends_and_leaves_nothing() {
    let directory = tempdir().unwrap();
    let registry = Registry::configured(directory.path(), "[storage]\nsilence = '2s'\n");
    let content = noise(8, 100_000);
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let digest = sha256(&content);
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content[..60_000]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("BLOB_UPLOAD_INVALID"), "{answer}");
    assert!(answer.contains("nothing came for 2s"), "{answer}");
    assert!(std::fs::read_dir(directory.path().join("root/uploads")).unwrap().next().is_none());
    assert_eq!(registry.json("/v2/_space/usage")["uploading"], 0);
}

#[test]
fn a_range_is_sent_as_asked_for_over_one_connection() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let content = noise(11, 3_000_000);
    let digest = registry.push("a", &content);
    let agent = client();
    // One connection, parts of several sizes between small answers: bytes and files must not get mixed up.
    for (first, last) in
        [(0, 2_999_999), (1, 1), (262_143, 262_144), (262_144, 2_900_000), (2_999_999, 2_999_999)]
    {
        let url = registry.url(&format!("/v2/a/blobs/{digest}"));
        let mut part = agent.get(&url).header("range", format!("bytes={first}-{last}")).call().unwrap();
        assert_eq!(part.status(), 206);
        assert!(body(&mut part) == content[first..=last], "bytes {first} to {last} are others");
        let mut list = agent.get(&registry.url("/v2/a/tags/list")).call().unwrap();
        assert_eq!(body(&mut list), br#"{"name":"a","tags":[]}"#);
    }
    let pipelined = format!(
        "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    stream.write_all(pipelined.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let start = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(all[start..start + content.len()] == content[..]);
    assert!(all.ends_with(b"{}"));
}
