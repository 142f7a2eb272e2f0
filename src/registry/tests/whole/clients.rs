//! Clients as they come from the distribution: skopeo, podman, buildah, containerd.

use crate::support::{INDEX, MANIFEST, Registry, body, header, layout, noise, sha256, skopeo, wait_for};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::{TempDir, tempdir};

/// Runs a client to its end, with its state in a directory of its own; answers with what it wrote.
fn client(home: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed to test the registry: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// An OCI layout whose tag `all` leads to an index of two platforms.
fn multi_arch(directory: &Path) -> String {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = sha256(content);
        fs::write(blobs.join(&digest[7..]), content).unwrap();
        (digest, content.len())
    };
    let mut entries = Vec::new();
    for (number, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let (layer, layer_size) = put(&noise(number as u64 + 50, 20_000));
        let (config, config_size) = put(format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
        ).as_bytes());
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
        );
        let (digest, size) = put(text.as_bytes());
        entries.push(format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{size},"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#
        ));
    }
    let (index, size) =
        put(format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","))
            .as_bytes());
    let top = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{INDEX}","digest":"{index}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"all"}}}}]}}"#
    );
    fs::write(directory.join("index.json"), top).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    index
}

#[test]
fn skopeo_copies_lists_and_deletes() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let host = format!("127.0.0.1:{}", registry.port);
    let index = multi_arch(&home.path().join("all"));
    let source = format!("oci:{}:all", home.path().join("all").display());
    let (one, two) = (format!("docker://{host}/flight/one:1"), format!("docker://{host}/flight/two:1"));
    skopeo(&home, &["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &source, &one]);
    assert_eq!(header(&registry.get("/v2/flight/one/manifests/1"), "docker-content-digest"), index);
    // From repository to repository: layers are mounted, not sent again (skopeo does send the configurations).
    let received = |registry: &Registry| {
        let text = String::from_utf8(body(&mut registry.get("/metrics"))).unwrap();
        let line = text.lines().find(|line| line.starts_with("space_registry_blob_received_bytes_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = received(&registry);
    skopeo(
        &home,
        &[
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &one,
            &two,
        ],
    );
    assert_eq!(header(&registry.get("/v2/flight/two/manifests/1"), "docker-content-digest"), index);
    assert!(received(&registry) - before < 1000, "layers of 20,000 bytes were sent again");
    // Docker's media types, too.
    layout(&home.path().join("image"), &tar(&home));
    let source = format!("oci:{}:tag", home.path().join("image").display());
    let docker = format!("docker://{host}/flight/docker:2");
    skopeo(&home, &["copy", "--format", "v2s2", "--dest-tls-verify=false", &source, &docker]);
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(header(&registry.get("/v2/flight/docker/manifests/2"), "content-type"), kind);
    let listed = client(
        home.path(),
        "skopeo",
        &["list-tags", "--tls-verify=false", &format!("docker://{host}/flight/docker")],
    );
    assert!(listed.contains("\"2\""), "{listed}");
    skopeo(&home, &["delete", "--tls-verify=false", &docker]);
    assert_eq!(registry.status("/v2/flight/docker/manifests/2"), 404);
}

/// An OCI layout whose tag `sbom` leads to an artifact about `subject`.
fn artifact(directory: &Path, subject: &str, size: usize) -> String {
    layout(directory, b"{\"spdxVersion\":\"SPDX-2.3\"}");
    let index = fs::read_to_string(directory.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let blob = |digest: &str| directory.join("blobs/sha256").join(&digest[7..]);
    let image = fs::read_to_string(blob(index["manifests"][0]["digest"].as_str().unwrap())).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&image).unwrap();
    manifest["artifactType"] = "application/spdx+json".into();
    manifest["subject"] = serde_json::json!({"mediaType": INDEX, "digest": subject, "size": size});
    let text = manifest.to_string();
    let digest = sha256(text.as_bytes());
    fs::write(blob(&digest), &text).unwrap();
    let name = serde_json::json!({"org.opencontainers.image.ref.name": "sbom"});
    index["manifests"] = serde_json::json!([
        {"mediaType": MANIFEST, "digest": digest, "size": text.len(), "annotations": name}
    ]);
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    digest
}

#[test]
fn skopeo_brings_an_artifact_that_refers_to_an_index() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let index = multi_arch(&home.path().join("all"));
    let size = fs::read(home.path().join("all/blobs/sha256").join(&index[7..])).unwrap().len();
    let sbom = artifact(&home.path().join("sbom"), &index, size);
    let target = |name: &str, tag: &str| format!("docker://127.0.0.1:{}/flight/{name}:{tag}", registry.port);
    let copy = |from: &str, to: &str| {
        let options = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false"];
        skopeo(&home, &[&options[..], &["--dest-tls-verify=false", from, to]].concat());
    };
    // In either order: here the artifact comes before what it is about.
    copy(&format!("oci:{}:sbom", home.path().join("sbom").display()), &target("app", "sbom"));
    copy(&format!("oci:{}:all", home.path().join("all").display()), &target("app", "1"));
    let about = |name: &str| {
        let list = registry
            .json(&format!("/v2/flight/{name}/referrers/{index}?artifactType=application%2Fspdx%2Bjson"));
        let found = list["manifests"].as_array().unwrap().iter();
        found.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(about("app"), [sbom.as_str()]);
    copy(&target("app", "1"), &target("copy", "1"));
    assert!(about("copy").is_empty(), "it was not copied");
    copy(&target("app", "sbom"), &target("copy", "sbom"));
    assert_eq!(about("copy"), [sbom.as_str()]);
    skopeo(&home, &["delete", "--tls-verify=false", &target("app", "sbom")]);
    assert_eq!((about("app"), about("copy")), (vec![], vec![sbom]));
}

/// A layer that can be unpacked.
fn tar(home: &TempDir) -> Vec<u8> {
    let directory = home.path().join("layer");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("content"), noise(60, 30_000)).unwrap();
    let archive = home.path().join("layer.tar");
    client(home.path(), "tar", &["-C", directory.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    fs::read(archive).unwrap()
}

/// Storage of podman and buildah that needs no privileges and leaves nothing outside of `home`.
fn storage(home: &Path) -> (String, [String; 6]) {
    let policy = home.join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let at = |name: &str| home.join(name).display().to_string();
    let options = ["--storage-driver", "vfs", "--root", &at("storage"), "--runroot", &at("run")];
    (policy.display().to_string(), options.map(str::to_owned))
}

#[test]
fn podman_pulls_tags_and_pushes() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let host = format!("127.0.0.1:{}", registry.port);
    let (policy, options) = storage(home.path());
    layout(&home.path().join("image"), &tar(&home));
    let source = format!("oci:{}:tag", home.path().join("image").display());
    skopeo(&home, &["copy", "--dest-tls-verify=false", &source, &format!("docker://{host}/flight/app:1")]);
    let podman = |arguments: &[&str]| {
        let options = options.iter().map(String::as_str);
        let all: Vec<&str> = options
            .chain(["--events-backend", "none", "--cgroup-manager", "cgroupfs"])
            .chain(arguments.iter().copied())
            .collect();
        client(home.path(), "podman", &all)
    };
    let (image, again) = (format!("{host}/flight/app:1"), format!("{host}/flight/again:2"));
    podman(&["pull", "--tls-verify=false", "--signature-policy", &policy, &image]);
    podman(&["tag", &image, &again]);
    podman(&["push", "--tls-verify=false", "--signature-policy", &policy, &again]);
    assert_eq!(registry.status("/v2/flight/again/manifests/2"), 200);
    podman(&["rmi", "--all", "--force"]);
    podman(&["pull", "--tls-verify=false", "--signature-policy", &policy, &again]);
    assert!(podman(&["images", "--format", "{{.Repository}}"]).contains("flight/again"));
}

#[test]
fn buildah_builds_and_pushes_an_index() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let (policy, options) = storage(home.path());
    let buildah = |arguments: &[&str]| {
        let all: Vec<&str> = options.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        client(home.path(), "buildah", &all)
    };
    let file = home.path().join("Containerfile");
    fs::write(home.path().join("content"), noise(61, 10_000)).unwrap();
    fs::write(&file, "FROM scratch\nCOPY content /content\nLABEL built=here\n").unwrap();
    let (file, context) = (file.to_str().unwrap(), home.path().to_str().unwrap());
    buildah(&["manifest", "create", "flight"]);
    for platform in ["linux/amd64", "linux/arm64"] {
        buildah(&[
            "bud",
            "--isolation",
            "chroot",
            "--signature-policy",
            &policy,
            "--platform",
            platform,
            "--manifest",
            "flight",
            "-f",
            file,
            context,
        ]);
    }
    let target = format!("docker://127.0.0.1:{}/built/app:all", registry.port);
    buildah(&[
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "--signature-policy",
        &policy,
        "flight",
        &target,
    ]);
    let index = registry.json("/v2/built/app/manifests/all");
    let children = index["manifests"].as_array().unwrap();
    assert_eq!(children.len(), 2);
    for child in children {
        assert_eq!(
            registry.status(&format!("/v2/built/app/manifests/{}", child["digest"].as_str().unwrap())),
            200
        );
    }
}

/// A containerd of the test's own.
struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(home: &Path) -> Self {
        let socket = home.join("containerd.sock");
        let config = home.join("containerd.toml");
        let text = format!(
            "version = 2\nroot = \"{home}/data\"\nstate = \"{home}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{socket}\"\n",
            home = home.display(),
            socket = socket.display(),
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(home.join("containerd.log")).unwrap();
        // It wants to be root; who is not, is at least in a namespace of its own.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let child = command
            .args(["containerd", "--config"])
            .arg(&config)
            .stderr(log)
            .spawn()
            .expect("containerd must be installed to test the registry");
        let mut containerd = Self { child, socket };
        wait_for("containerd", || {
            let ended = containerd.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(home.join("containerd.log")).unwrap());
            let ready =
                Command::new("ctr").arg("--address").arg(&containerd.socket).arg("version").output().unwrap();
            ready.status.success().then_some(())
        });
        containerd
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn containerd_fetches_and_pushes() {
    let (root, home) = (tempdir().unwrap(), tempdir().unwrap());
    let registry = Registry::start(root.path());
    let index = multi_arch(&home.path().join("all"));
    let source = format!("oci:{}:all", home.path().join("all").display());
    let image = format!("127.0.0.1:{}/flight/app:1", registry.port);
    skopeo(
        &home,
        &[
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &source,
            &format!("docker://{image}"),
        ],
    );
    let containerd = Containerd::start(home.path());
    let ctr = |arguments: &[&str]| {
        let all: Vec<&str> = ["--address", containerd.socket.to_str().unwrap()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        client(home.path(), "ctr", &all)
    };
    ctr(&["content", "fetch", "--plain-http", "--all-platforms", &image]);
    assert!(ctr(&["content", "ls", "-q"]).contains(&index));
    let again = format!("127.0.0.1:{}/flight/again:2", registry.port);
    ctr(&["images", "tag", &image, &again]);
    ctr(&["images", "push", "--plain-http", &again]);
    assert_eq!(header(&registry.get("/v2/flight/again/manifests/2"), "docker-content-digest"), index);
}
