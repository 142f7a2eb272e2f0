//! The distribution interface of the real program, as clients use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub, missing_docs)]

mod support;

use serde_json::Value;
use std::fs;
use support::{
    INDEX, MANIFEST, Registry, body, client, code, header, layout, manifest, noise, sha256, skopeo,
};
use tempfile::tempdir;

#[test]
fn skopeo_pushes_and_pulls() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let (out, back) = (home.path().join("out"), home.path().join("back"));
    layout(&out, &noise(1, 300_000));
    let image = format!("docker://127.0.0.1:{}/demo/app:1", registry.port);
    skopeo(
        &home,
        &[
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:tag", out.display()),
            &image,
        ],
    );
    skopeo(
        &home,
        &[
            "copy",
            "--preserve-digests",
            "--src-tls-verify=false",
            &image,
            &format!("oci:{}:tag", back.display()),
        ],
    );
    let names = |directory: &std::path::Path| {
        let mut names: Vec<_> =
            fs::read_dir(directory.join("blobs/sha256")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&out).len(), 3);
    assert_eq!(names(&out), names(&back));
    let mut tags = registry.get("/v2/demo/app/tags/list");
    assert_eq!(header(&tags, "docker-distribution-api-version"), "registry/2.0");
    assert_eq!(
        serde_json::from_slice::<Value>(&body(&mut tags)).unwrap(),
        serde_json::json!({"name": "demo/app", "tags": ["1"]})
    );
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let wrong = sha256(b"something else");
    let url = registry.url(&format!("/v2/a/blobs/uploads/?digest={wrong}"));
    let mut answer = client().post(&url).send(&noise(2, 500_000)[..]).unwrap();
    assert_eq!((answer.status().as_u16(), code(&mut answer).as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(fs::read_dir(root.path().join("uploads")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.path().join("blobs")).unwrap().count(), 0);
    let mut missing = registry.get(&format!("/v2/a/blobs/{wrong}"));
    assert_eq!((missing.status().as_u16(), code(&mut missing).as_str()), (404, "BLOB_UNKNOWN"));
}

#[test]
fn chunks_resume_also_after_a_restart() {
    let root = tempdir().unwrap();
    let content = noise(3, 700_000);
    let digest = sha256(&content);
    let mut registry = Registry::start(root.path());
    let started = client().post(&registry.url("/v2/a/b/blobs/uploads/")).send_empty().unwrap();
    assert_eq!(started.status(), 202);
    let location = header(&started, "location").to_owned();
    let patch = |registry: &Registry, from: usize, to: usize| {
        let range = format!("{from}-{}", to - 1);
        let request = client().patch(&registry.url(&location)).header("content-range", range);
        request.send(&content[from..to]).unwrap()
    };
    let first = patch(&registry, 0, 300_000);
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-299999"));
    let gap = patch(&registry, 400_000, 500_000);
    assert_eq!((gap.status().as_u16(), header(&gap, "range")), (416, "0-299999"));
    registry.kill();
    let registry = Registry::start(root.path());
    let status = registry.get(&location);
    assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-299999"));
    assert_eq!(patch(&registry, 300_000, 600_000).status(), 202);
    let put = registry.url(&format!("{location}?digest={digest}"));
    let done = client().put(&put).send(&content[600_000..]).unwrap();
    assert_eq!((done.status().as_u16(), header(&done, "docker-content-digest")), (201, digest.as_str()));
    assert_eq!(body(&mut registry.get(&format!("/v2/a/b/blobs/{digest}"))), content);
    let mut again = registry.get(&location);
    assert_eq!((again.status().as_u16(), code(&mut again).as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[test]
fn uploads_are_cancelled_and_blobs_mounted_and_deleted() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let started = client().post(&registry.url("/v2/a/blobs/uploads/")).send_empty().unwrap();
    let location = registry.url(header(&started, "location"));
    assert_eq!(client().delete(&location).call().unwrap().status(), 204);
    assert_eq!(client().delete(&location).call().unwrap().status(), 404);
    let digest = registry.push("a", b"shared");
    let mount = |from: &str| {
        let url = registry.url(&format!("/v2/b/blobs/uploads/?mount={digest}&from={from}"));
        client().post(&url).send_empty().unwrap().status().as_u16()
    };
    assert_eq!(mount("c"), 202);
    assert_eq!(registry.get(&format!("/v2/b/blobs/{digest}")).status(), 404);
    assert_eq!(mount("a"), 201);
    let in_a = registry.url(&format!("/v2/a/blobs/{digest}"));
    assert_eq!(client().delete(&in_a).call().unwrap().status(), 202);
    assert_eq!(client().head(&in_a).call().unwrap().status(), 404);
    assert_eq!(body(&mut registry.get(&format!("/v2/b/blobs/{digest}"))), b"shared");
}

#[test]
fn parts_of_a_blob() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let content = noise(4, 400_000);
    let digest = registry.push("a", &content);
    let url = registry.url(&format!("/v2/a/blobs/{digest}"));
    let part = |range: &str| client().get(&url).header("range", range).call().unwrap();
    let mut middle = part("bytes=1000-300000");
    assert_eq!(
        (middle.status().as_u16(), header(&middle, "content-range")),
        (206, "bytes 1000-300000/400000")
    );
    assert_eq!(body(&mut middle), content[1000..=300_000]);
    let mut end = part("bytes=-10");
    assert_eq!(body(&mut end), content[399_990..]);
    let beyond = part("bytes=400000-");
    assert_eq!((beyond.status().as_u16(), header(&beyond, "content-range")), (416, "bytes */400000"));
    let head = client().head(&url).call().unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "400000"));
}

#[test]
fn manifests_are_checked() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let (config, layer) = (registry.push("a", b"{}"), sha256(b"layer"));
    let text = manifest(&config, &layer, "");
    let mut early = registry.put_manifest("a", "1", MANIFEST, &text);
    assert_eq!((early.status().as_u16(), code(&mut early).as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    registry.push("a", b"layer");
    let stored = registry.put_manifest("a", "1", MANIFEST, &text);
    let digest = sha256(text.as_bytes());
    assert_eq!((stored.status().as_u16(), header(&stored, "docker-content-digest")), (201, digest.as_str()));
    for reference in ["1", &digest] {
        let mut found = registry.get(&format!("/v2/a/manifests/{reference}"));
        assert_eq!(header(&found, "content-type"), MANIFEST);
        assert_eq!(body(&mut found), text.as_bytes());
    }
    let sha512 = {
        use sha2::Digest;
        format!("sha512:{}", hex::encode(sha2::Sha512::digest(text.as_bytes())))
    };
    assert_eq!(registry.put_manifest("a", &sha512, MANIFEST, &text).status(), 201);
    assert_eq!(header(&registry.get(&format!("/v2/a/manifests/{sha512}")), "docker-content-digest"), sha512);
    for (reference, kind, text, status, expected) in [
        (sha256(b"other").as_str(), MANIFEST, text.clone(), 400, "DIGEST_INVALID"),
        ("2", INDEX, text.clone(), 400, "MANIFEST_INVALID"),
        ("2", MANIFEST, "{".to_owned(), 400, "MANIFEST_INVALID"),
        ("2", MANIFEST, " ".repeat(5 << 20), 413, "SIZE_INVALID"),
        ("2", MANIFEST, manifest("md5:00", &layer, ""), 400, "MANIFEST_INVALID"),
    ] {
        let mut answer = registry.put_manifest("a", reference, kind, &text);
        assert_eq!((answer.status().as_u16(), code(&mut answer).as_str()), (status, expected));
    }
    for (path, status, expected) in [
        ("/v2/a/manifests/2", 404, "MANIFEST_UNKNOWN"),
        ("/v2/nobody/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/A/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:12", 400, "DIGEST_INVALID"),
    ] {
        let mut answer = registry.get(path);
        assert_eq!((answer.status().as_u16(), code(&mut answer).as_str()), (status, expected), "{path}");
    }
    let by_digest = registry.url(&format!("/v2/a/manifests/{digest}"));
    assert_eq!(client().delete(&by_digest).call().unwrap().status(), 202);
    assert_eq!(registry.get("/v2/a/manifests/1").status(), 404);
}

#[test]
fn indexes_tags_catalog_and_operations() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let blob = registry.push("x/y", b"{}");
    let text = manifest(&blob, &blob, "");
    let index = |digest: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1}}]}}"#
        )
    };
    let mut early = registry.put_manifest("x/y", "all", INDEX, &index(&sha256(text.as_bytes())));
    assert_eq!(code(&mut early), "MANIFEST_BLOB_UNKNOWN");
    for tag in ["c", "a", "b"] {
        assert_eq!(registry.put_manifest("x/y", tag, MANIFEST, &text).status(), 201);
    }
    assert_eq!(registry.put_manifest("x/y", "all", INDEX, &index(&sha256(text.as_bytes()))).status(), 201);
    let mut first = registry.get("/v2/x/y/tags/list?n=2");
    assert_eq!(header(&first, "link"), "</v2/x/y/tags/list?n=2&last=all>; rel=\"next\"");
    assert_eq!(
        serde_json::from_slice::<Value>(&body(&mut first)).unwrap()["tags"],
        serde_json::json!(["a", "all"])
    );
    let mut rest = registry.get("/v2/x/y/tags/list?n=2&last=all");
    assert_eq!(header(&rest, "link"), "");
    assert_eq!(
        serde_json::from_slice::<Value>(&body(&mut rest)).unwrap()["tags"],
        serde_json::json!(["b", "c"])
    );
    let mut catalog = registry.get("/v2/_catalog");
    assert_eq!(
        serde_json::from_slice::<Value>(&body(&mut catalog)).unwrap(),
        serde_json::json!({"repositories": ["x/y"]})
    );
    assert_eq!(registry.get("/healthz").status(), 200);
    assert_eq!(registry.get("/readyz").status(), 200);
    let metrics = String::from_utf8(body(&mut registry.get("/metrics"))).unwrap();
    assert!(metrics.contains("space_registry_requests_total{method=\"PUT\",code=\"201\"} 4\n"), "{metrics}");
    assert!(metrics.contains("space_registry_blob_received_bytes_total 2\n"), "{metrics}");
}

#[test]
fn referrers_of_a_manifest() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let blob = registry.push("a", b"{}");
    let subject = sha256(b"not here yet");
    let more = |artifact: &str| {
        format!(
            r#","artifactType":"{artifact}","annotations":{{"k":"v"}},
            "subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1}}"#
        )
    };
    for artifact in ["text/sbom", "text/signature"] {
        let text = manifest(&blob, &blob, &more(artifact));
        let stored = registry.put_manifest("a", &sha256(text.as_bytes()), MANIFEST, &text);
        assert_eq!((stored.status().as_u16(), header(&stored, "oci-subject")), (201, subject.as_str()));
    }
    registry.put_manifest("a", "unrelated", MANIFEST, &manifest(&blob, &blob, ""));
    let list = |path: &str| {
        let mut answer = registry.get(path);
        assert_eq!(header(&answer, "content-type"), INDEX);
        let applied = header(&answer, "oci-filters-applied").to_owned();
        let index: Value = serde_json::from_slice(&body(&mut answer)).unwrap();
        (index["manifests"].as_array().unwrap().clone(), applied)
    };
    let (all, _) = list(&format!("/v2/a/referrers/{subject}"));
    assert_eq!(all.len(), 2);
    let (some, applied) = list(&format!("/v2/a/referrers/{subject}?artifactType=text%2Fsbom"));
    assert_eq!((some.len(), applied.as_str()), (1, "artifactType"));
    assert_eq!(some[0]["artifactType"], "text/sbom");
    assert_eq!(some[0]["annotations"]["k"], "v");
    assert_eq!(list(&format!("/v2/nobody/referrers/{subject}")).0.len(), 0);
}
