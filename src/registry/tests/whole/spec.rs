//! The requirements of distribution-spec 1.1, by its chapters. What `tests/distribution.rs` shows is not shown again.

use crate::support::{
    INDEX, MANIFEST, Registry, body, client, code, header, manifest, noise, sha256, sha512,
};
use serde_json::{Value, json};
use tempfile::tempdir;

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// "Pulling manifests", "Checking if content exists": GET and HEAD by tag and digest, with the same headers.
#[test]
fn pull_manifests_and_blobs_with_head_and_get() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let (layer, digest) = registry.push_image("a/b", "v1", 1);
    for (path, expected) in [
        ("/v2/a/b/manifests/v1".to_owned(), &digest),
        (format!("/v2/a/b/manifests/{digest}"), &digest),
        (format!("/v2/a/b/blobs/{layer}"), &layer),
    ] {
        let mut got = registry.get(&path);
        let head = client().head(&registry.url(&path)).call().unwrap();
        assert_eq!((got.status().as_u16(), head.status().as_u16()), (200, 200), "{path}");
        for name in ["docker-content-digest", "content-type", "content-length", "etag"] {
            assert_eq!(header(&got, name), header(&head, name), "{name} of {path}");
        }
        assert_eq!(header(&got, "docker-content-digest"), expected.as_str());
        let content = body(&mut got);
        assert_eq!(sha256(&content), *expected);
        assert_eq!(header(&head, "content-length"), content.len().to_string());
    }
    for path in ["/v2/a/b/manifests/none", "/v2/none/manifests/v1"] {
        assert_eq!(client().head(&registry.url(path)).call().unwrap().status(), 404, "{path}");
    }
    // A blob of one repository is not there in another.
    assert_eq!(registry.status(&format!("/v2/a/c/blobs/{layer}")), 404);
}

/// "Pushing a blob in chunks" with sha512, as `digest-algorithm` announces it, and "Cancel".
#[test]
fn chunks_with_sha512() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let content = noise(5, 400_000);
    let digest = sha512(&content);
    let begun = registry.post("/v2/a/blobs/uploads/?digest-algorithm=sha512");
    assert_eq!(begun.status(), 202);
    let mut location = header(&begun, "location").to_owned();
    for (from, to) in [(0, 150_000), (150_000, 400_000)] {
        let request = client().patch(&registry.url(&location));
        let request = request.header("content-range", format!("{from}-{}", to - 1));
        let sent = request.send(&content[from..to]).unwrap();
        assert_eq!((sent.status().as_u16(), header(&sent, "range")), (202, format!("0-{}", to - 1).as_str()));
        location = header(&sent, "location").to_owned();
    }
    let put = client().put(&registry.url(&format!("{location}?digest={digest}"))).send_empty().unwrap();
    assert_eq!(put.status(), 201);
    assert_eq!(body(&mut registry.get(header(&put, "location"))), content);
    let mut bad = registry.post("/v2/a/blobs/uploads/?digest-algorithm=md5");
    assert_eq!((bad.status().as_u16(), code(&mut bad).as_str()), (400, "DIGEST_INVALID"));
}

/// "Pushing a blob in chunks": the last chunk in the PUT, also out of order; a range that is none.
#[test]
fn the_last_chunk_may_come_with_the_put() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let content = noise(6, 1000);
    let begun = registry.post("/v2/a/blobs/uploads/");
    let location = header(&begun, "location").to_owned();
    let put = |range: &str, part: &[u8]| {
        let url = registry.url(&format!("{location}?digest={}", sha256(&content)));
        client().put(&url).header("content-range", range).send(part).unwrap()
    };
    let sent =
        client().patch(&registry.url(&location)).header("content-range", "0-599").send(&content[..600]);
    assert_eq!(sent.unwrap().status(), 202);
    let early = put("700-999", &content[700..]);
    assert_eq!((early.status().as_u16(), header(&early, "range")), (416, "0-599"));
    let overlapping = put("500-999", &content[500..]);
    assert_eq!(overlapping.status(), 416);
    let mut nonsense = put("600", &content[600..]);
    assert_eq!((nonsense.status().as_u16(), code(&mut nonsense).as_str()), (400, "BLOB_UPLOAD_INVALID"));
    let mut wrong_length = put("600-700", &content[600..]);
    assert_eq!(
        (wrong_length.status().as_u16(), code(&mut wrong_length).as_str()),
        (400, "BLOB_UPLOAD_INVALID")
    );
    assert_eq!(put("600-999", &content[600..]).status(), 201);
    assert_eq!(body(&mut registry.get(&format!("/v2/a/blobs/{}", sha256(&content)))), content);
}

/// "Mounting a blob": also without `from`.
#[test]
fn a_blob_is_mounted_from_wherever_it_is() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let digest = registry.push("one", b"shared");
    let mounted = registry.post(&format!("/v2/two/blobs/uploads/?mount={digest}"));
    assert_eq!(mounted.status(), 201);
    assert_eq!(header(&mounted, "location"), format!("/v2/two/blobs/{digest}"));
    assert_eq!(registry.status(&format!("/v2/two/blobs/{digest}")), 200);
    let missing = registry.post(&format!("/v2/two/blobs/uploads/?mount={}&from=one", sha256(b"else")));
    assert_eq!(missing.status(), 202);
    assert!(!header(&missing, "location").is_empty());
}

/// "Pushing manifests": tags as parameters, answered one by one; the bytes stay as they came.
#[test]
fn tags_come_with_a_digest() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let blob = registry.push("a", b"{}");
    let text = manifest(&blob, &blob, r#","unknown":{"kept":[1, 2]}"#);
    for digest in [sha256(text.as_bytes()), sha512(text.as_bytes())] {
        let short = &digest[3..6];
        let put =
            registry.put_manifest("a", &format!("{digest}?tag={short}-x&tag={short}-y"), MANIFEST, &text);
        assert_eq!(put.status(), 201);
        let named: Vec<_> = put.headers().get_all("oci-tag").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(named, [format!("{short}-x"), format!("{short}-y")]);
        let mut got = registry.get(&format!("/v2/a/manifests/{short}-y"));
        assert_eq!(header(&got, "docker-content-digest"), digest);
        assert_eq!(body(&mut got), text.as_bytes());
    }
    let mut bad = registry.put_manifest("a", &format!("{}?tag=..", sha256(text.as_bytes())), MANIFEST, &text);
    assert_eq!((bad.status().as_u16(), code(&mut bad).as_str()), (400, "MANIFEST_INVALID"));
}

/// Image index, nested index, Docker's schema 2 and its list, an empty layer list, foreign layers.
#[test]
fn manifests_of_every_kind() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let config = registry.push("a", b"{}");
    let layer = registry.push("a", b"layer");
    let put = |tag: &str, kind: &str, value: &Value| {
        let text = value.to_string();
        let mut answer = registry.put_manifest("a", tag, kind, &text);
        let status = answer.status().as_u16();
        let error = if status == 201 { String::new() } else { code(&mut answer) };
        (status, error, sha256(text.as_bytes()))
    };
    let image = json!({"schemaVersion": 2, "mediaType": DOCKER,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": layer, "size": 5}]});
    let (status, _, digest) = put("docker", DOCKER, &image);
    assert_eq!(status, 201);
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [
        {"mediaType": DOCKER, "digest": digest, "size": 1, "platform": {"architecture": "amd64", "os": "linux"}}]});
    let (status, _, list_digest) = put("list", DOCKER_LIST, &list);
    assert_eq!(status, 201);
    let nested = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": DOCKER_LIST, "digest": list_digest, "size": 1}]});
    assert_eq!(put("nested", INDEX, &nested).0, 201);
    assert_eq!(header(&registry.get("/v2/a/manifests/list"), "content-type"), DOCKER_LIST);
    let missing = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": sha256(b"nowhere"), "size": 1}]});
    assert_eq!(put("missing", INDEX, &missing).1, "MANIFEST_BLOB_UNKNOWN");
    let foreign = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": sha256(b"elsewhere"), "size": 9, "urls": ["https://example.com/layer"]}]});
    assert_eq!(put("foreign", MANIFEST, &foreign).0, 201);
    let empty = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2}});
    assert_eq!(put("empty", MANIFEST, &empty).0, 201);
    assert_eq!(put("schema1", "application/vnd.docker.distribution.manifest.v1+json", &json!({})).0, 400);
}

/// "Listing tags": order, `n` of zero, `last` without `n`; the catalog in pages.
#[test]
fn lists_in_pages() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    for repository in ["x", "x/y", "b"] {
        registry.push_image(repository, "t", 1);
    }
    let blob = registry.push("x", b"{}");
    for tag in ["B", "a", "_z", "1"] {
        registry.put_manifest("x", tag, MANIFEST, &manifest(&blob, &blob, ""));
    }
    assert_eq!(registry.json("/v2/x/tags/list")["tags"], json!(["1", "B", "_z", "a", "t"]));
    assert_eq!(registry.json("/v2/x/tags/list?last=_z")["tags"], json!(["a", "t"]));
    let mut none = registry.get("/v2/x/tags/list?n=0");
    assert_eq!((none.status().as_u16(), header(&none, "link")), (200, ""));
    assert_eq!(serde_json::from_slice::<Value>(&body(&mut none)).unwrap()["tags"], json!([]));
    assert_eq!(registry.status("/v2/x/tags/list?n=-1"), 400);
    let (mut path, mut seen) = ("/v2/_catalog?n=2".to_owned(), Vec::new());
    loop {
        let mut page = registry.get(&path);
        let link = header(&page, "link").to_owned();
        let value: Value = serde_json::from_slice(&body(&mut page)).unwrap();
        seen.extend(
            value["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()),
        );
        let Some(next) = link.strip_prefix('<').and_then(|link| link.split('>').next()) else { break };
        path = next.to_owned();
    }
    assert_eq!(seen, ["b", "x", "x/y"]);
}

/// "Listing referrers": of an index without artifact type, of a configuration's type, after a deletion.
#[test]
fn referrers_follow_their_manifests() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let (_, subject) = registry.push_image("a", "app", 3);
    let blob = registry.push("a", b"{}");
    let about = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": about}).to_string();
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "subject": about,
        "config": {"mediaType": "application/x-of-config", "digest": blob, "size": 2}})
    .to_string();
    for (text, kind) in [(&index, INDEX), (&image, MANIFEST)] {
        let put = registry.put_manifest("a", &sha256(text.as_bytes()), kind, text);
        assert_eq!((put.status().as_u16(), header(&put, "oci-subject")), (201, subject.as_str()));
    }
    let list =
        || registry.json(&format!("/v2/a/referrers/{subject}"))["manifests"].as_array().unwrap().clone();
    assert_eq!(list().len(), 2);
    let of_config = list().into_iter().find(|d| d["mediaType"] == MANIFEST).unwrap();
    assert_eq!(of_config["artifactType"], "application/x-of-config");
    assert_eq!(of_config["size"], image.len());
    let of_index = list().into_iter().find(|d| d["mediaType"] == INDEX).unwrap();
    assert!(of_index.get("artifactType").is_none());
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", sha256(image.as_bytes()))), 202);
    assert_eq!(list().len(), 1);
    assert_eq!(registry.status("/v2/a/referrers/sha256:short"), 400);
}

/// "Content management": tags, manifests and blobs go one by one, and only once.
#[test]
fn deletion() {
    let root = tempdir().unwrap();
    let registry = Registry::start(root.path());
    let (layer, digest) = registry.push_image("a", "one", 4);
    registry.push_image("a", "two", 4);
    assert_eq!(registry.delete("/v2/a/manifests/one"), 202);
    assert_eq!(registry.delete("/v2/a/manifests/one"), 404);
    assert_eq!((registry.status("/v2/a/manifests/one"), registry.status("/v2/a/manifests/two")), (404, 200));
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{digest}")), 202);
    assert_eq!(registry.status("/v2/a/manifests/two"), 404);
    assert_eq!(registry.json("/v2/a/tags/list")["tags"], json!([]));
    assert_eq!(registry.delete(&format!("/v2/a/blobs/{layer}")), 202);
    assert_eq!(registry.delete(&format!("/v2/a/blobs/{layer}")), 404);
    assert_eq!(registry.delete("/v2/none/manifests/x"), 404);
    let answer = client().put(&registry.url("/v2/a/tags/list")).send_empty().unwrap();
    assert_eq!(answer.status(), 405);
}
