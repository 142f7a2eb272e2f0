//! The demo app: a tiny static HTTP service, compiled and packed as an OCI image layout.
//!
//! `skopeo copy oci:LAYOUT:demo docker://…` pushes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::cache::{self, Key};

/// The name of the image in the layout, as skopeo wants it after the last colon.
pub const TAG: &str = "demo";

/// Where the program lies in its image.
const PROGRAM: &str = "demo-app";

/// The folder with the demo app's OCI image layout; makes it when it is not there.
///
/// # Errors
/// When it does not compile or the cache cannot be written.
pub fn demo_app(cache: &Path) -> Result<PathBuf, ImageError> {
    let _lock = cache::lock(cache)?;
    let program = compile(cache, PROGRAM, include_str!("../../image/demo-app.rs"))?;
    let layouts = cache.join("demo");
    cache::create(&layouts)?;
    let mut key = Key::default();
    key.add("layout", include_str!("demo.rs").as_bytes());
    key.add_file(PROGRAM, &program)?;
    let layout = layouts.join(key.finish());
    if !layout.join("index.json").is_file() {
        let work = cache::work(cache)?;
        let content = std::fs::read(&program).map_err(ImageError::file("reading", &program))?;
        write_layout(work.path(), &content)?;
        if layout.exists() {
            std::fs::remove_dir_all(&layout).map_err(ImageError::file("removing", &layout))?;
        }
        std::fs::rename(work.keep(), &layout).map_err(ImageError::file("putting in place", &layout))?;
    }
    cache::touch(&layout);
    cache::prune(&layouts);
    Ok(layout)
}

/// Compiles a one-file program without dependencies to a static executable, once for each source.
pub(super) fn compile(cache: &Path, name: &'static str, source: &str) -> Result<PathBuf, ImageError> {
    const TOOL: &str = "rustc";
    const ARGUMENTS: [&str; 13] = [
        "--edition=2024",
        "--crate-type=bin",
        "-Copt-level=s",
        "-Clto=fat",
        "-Ccodegen-units=1",
        "-Cpanic=abort",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
        "-Crelocation-model=static",
        "--crate-name",
        "program",
        "--cap-lints=allow",
        "-o",
    ];
    let mut key = Key::default();
    key.add(name, source.as_bytes());
    key.add("arguments", ARGUMENTS.join(" ").as_bytes());
    let tools = cache.join("tools").join(name);
    cache::create(&tools)?;
    let program = tools.join(key.finish());
    if !program.is_file() {
        let work = cache::work(cache)?;
        let input = work.path().join("main.rs");
        let built = work.path().join(name);
        std::fs::write(&input, source).map_err(ImageError::file("writing", &input))?;
        let output = Command::new(TOOL)
            .args(ARGUMENTS)
            .args([&built, &input])
            .output()
            .map_err(|source| ImageError::Tool { tool: TOOL, source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ImageError::Failed { tool: TOOL, status: output.status, said });
        }
        std::fs::rename(&built, &program).map_err(ImageError::file("putting in place", &program))?;
    }
    cache::touch(&program);
    cache::prune(&tools);
    Ok(program)
}

/// Writes a layout with one image of one layer of one file (OCI image layout 1.0.0).
fn write_layout(folder: &Path, program: &[u8]) -> Result<(), ImageError> {
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let blobs = folder.join("blobs/sha256");
    cache::create(&blobs)?;
    let blob = |media_type: &str, content: &[u8]| -> Result<Value, ImageError> {
        let digest = hex::encode(Sha256::digest(content));
        write(&blobs.join(&digest), content)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() }))
    };
    let layer = blob(LAYER, &tar(PROGRAM, program))?;
    let diff_id = layer.get("digest");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [format!("/{PROGRAM}")], "ExposedPorts": { "8080/tcp": {} } },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let config = blob(CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = blob(MANIFEST, manifest.to_string().as_bytes())?;
    if let Some(descriptor) = manifest.as_object_mut() {
        descriptor.insert("annotations".to_owned(), json!({ "org.opencontainers.image.ref.name": TAG }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
    write(&folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // Last: a layout with an index is whole.
    write(&folder.join("index.json"), index.to_string().as_bytes())
}

fn write(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    std::fs::write(path, content).map_err(ImageError::file("writing", path))
}

/// A tar archive (POSIX ustar) with one executable file, the same for the same content.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = Vec::with_capacity(BLOCK);
    let mut field = |text: &str, width: usize| {
        header.extend(text.bytes().chain(std::iter::repeat(0)).take(width));
    };
    field(name, 100);
    field("0000755", 8);
    field("0000000", 8);
    field("0000000", 8);
    field(&format!("{:011o}", content.len()), 12);
    field("00000000000", 12);
    // The checksum is taken with blanks in its own place.
    field("        ", 8);
    field("0", 1);
    field("", 100);
    field("ustar", 6);
    field("00", 2);
    field("", BLOCK - 265);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    let mut archive = header;
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    #[test]
    fn the_layer_is_a_tar_that_tar_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut tool = Command::new("tar")
            .args(["-xpf", "-", "-C"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tool.stdin.take().unwrap().write_all(&tar("program", b"its content")).unwrap();
        assert!(tool.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("program")).unwrap(), b"its content");
    }

    #[test]
    fn skopeo_copies_the_image() {
        let folder = tempfile::tempdir().unwrap();
        write_layout(&folder.path().join("layout"), b"\x7fELF").unwrap();
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "oci:layout:demo", "dir:copied"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(folder.path().join("copied/manifest.json").is_file());
    }

    #[test]
    fn the_demo_app_names_its_module_and_stops_on_sigterm() {
        let cache = tempfile::tempdir().unwrap();
        let program = compile(cache.path(), PROGRAM, include_str!("../../image/demo-app.rs")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(program)
            .env("PORT", port.to_string())
            .env("SPACECLOUD_APP", "telemetry")
            .env("SPACECLOUD_INSTANCE", "telemetry-1")
            .env("SPACECLOUD_MODULE", "module-2")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let answer = loop {
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                break answer;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "nobody listens");
            std::thread::yield_now();
        };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(answer.ends_with("\r\n\r\napp=telemetry instance=telemetry-1 module=module-2\n"), "{answer}");
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].ends_with(" telemetry-1 module-2"), "{said}");
        assert!(lines[lines.len() - 1].ends_with(" telemetry-1 module-2 stop"), "{said}");
        assert!(lines.iter().all(|line| line.split(' ').next().unwrap().parse::<u64>().is_ok()), "{said}");
    }
}
