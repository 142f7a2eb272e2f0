//! A registry of its own for every test: the real program on a free port, gone when the test ends.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;
pub use testkit::{noise, sha256, wait_for};
use ureq::{Agent, Body, http::Response};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_space-registry"))
}

pub struct Registry {
    pub child: Child,
    pub port: u16,
}

impl Registry {
    /// On loopback without TLS.
    pub fn start(root: &Path) -> Self {
        Self::start_with(
            root,
            &["--root", root.to_str().unwrap(), "--listen", "127.0.0.1:0", "--insecure-http"],
        )
    }

    /// With these arguments and a port file in `directory`.
    pub fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let port_file = directory.join("port");
        let _ = fs::remove_file(&port_file);
        let child = Command::new(program())
            .arg("serve")
            .args(arguments)
            .arg("--port-file")
            .arg(&port_file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut registry = Self { child, port: 0 };
        wait_for("the port file", || {
            assert!(registry.child.try_wait().unwrap().is_none(), "space-registry ended at its start");
            fs::read_to_string(&port_file)
                .ok()
                .and_then(|text| text.parse().ok())
                .map(|port| registry.port = port)
        });
        registry
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Pushes a blob in one request.
    pub fn push(&self, repository: &str, content: &[u8]) -> String {
        let digest = sha256(content);
        let url = self.url(&format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
        let answer = client().post(&url).send(content).unwrap();
        assert_eq!(answer.status(), 201);
        digest
    }

    pub fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        kind: &str,
        content: &str,
    ) -> Response<Body> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"));
        client().put(&url).header("content-type", kind).send(content).unwrap()
    }

    pub fn get(&self, path: &str) -> Response<Body> {
        client().get(&self.url(path)).call().unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn client() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

pub fn header<'a>(answer: &'a Response<Body>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

pub fn body(answer: &mut Response<Body>) -> Vec<u8> {
    let mut content = Vec::new();
    answer.body_mut().as_reader().read_to_end(&mut content).unwrap();
    content
}

/// The first error code of a refusal.
pub fn code(answer: &mut Response<Body>) -> String {
    let value: serde_json::Value = serde_json::from_slice(&body(answer)).unwrap();
    value["errors"][0]["code"].as_str().unwrap().to_owned()
}

/// An image manifest of one configuration and one layer.
pub fn manifest(config: &str, layer: &str, more: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":1}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":1}}]{more}}}"#
    )
}

/// An OCI layout of one image with one small layer, named `tag`.
pub fn layout(directory: &Path, layer: &[u8]) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |content: &[u8]| {
        let digest = sha256(content);
        fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), content).unwrap();
        (digest, content.len())
    };
    let (layer, layer_size) = put(layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
    );
    let (config, config_size) = put(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
    );
    let (manifest, size) = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{manifest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"tag"}}}}]}}"#
    );
    fs::write(directory.join("index.json"), index).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Runs skopeo, with its state in a directory of its own.
pub fn skopeo(home: &TempDir, arguments: &[&str]) {
    let output: Output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(arguments)
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .output()
        .expect("skopeo must be installed to test the registry");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Registry {
    /// With a configuration file, on loopback without TLS. `directory` also gets the images and the log.
    pub fn configured(directory: &Path, sections: &str) -> Self {
        let config = directory.join("registry.toml");
        let root = directory.join("root");
        fs::write(&config, format!("root = {root:?}\nlisten = \"127.0.0.1:0\"\n{sections}")).unwrap();
        Self::start_with(directory, &["--config", config.to_str().unwrap(), "--insecure-http"])
    }

    /// Pushes an image of one small layer; answers with the layer's digest and the manifest's.
    pub fn push_image(&self, repository: &str, tag: &str, seed: u64) -> (String, String) {
        let config = self.push(repository, b"{}");
        let layer = self.push(repository, &noise(seed, 50_000));
        let text = manifest(&config, &layer, "");
        assert_eq!(self.put_manifest(repository, tag, MANIFEST, &text).status(), 201);
        (layer, sha256(text.as_bytes()))
    }

    pub fn post(&self, path: &str) -> Response<Body> {
        client().post(&self.url(path)).send_empty().unwrap()
    }

    pub fn delete(&self, path: &str) -> u16 {
        client().delete(&self.url(path)).call().unwrap().status().as_u16()
    }

    pub fn status(&self, path: &str) -> u16 {
        self.get(path).status().as_u16()
    }

    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&body(&mut self.get(path))).unwrap()
    }

    /// Ends in good order.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        wait_for("its end", || self.child.try_wait().unwrap());
    }
}

/// Runs the program to its end; answers with its exit code and what it wrote.
pub fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program()).args(arguments).env("RUST_LOG", "off").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A request as it stands, for what no client library would send; answers with everything that comes back.
pub fn raw(port: u16, request: &str) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn sha512(content: &[u8]) -> String {
    use sha2::Digest;
    format!("sha512:{}", hex::encode(sha2::Sha512::digest(content)))
}

/// Where a registry keeps a blob.
pub fn blob_file(root: &Path, digest: &str) -> std::path::PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    root.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// The files below a directory, as paths.
pub fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found
}
