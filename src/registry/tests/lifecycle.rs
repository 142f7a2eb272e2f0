//! Starting, stopping and dying of the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, unreachable_pub, missing_docs)]

mod support;

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use support::{
    MANIFEST, Registry, body, client, header, layout, manifest, noise, program, sha256, skopeo, wait_for,
};
use tempfile::tempdir;

/// Exit code and message of a start that must fail.
fn refused(arguments: &[&str]) -> (i32, String) {
    let mut child = Command::new(program())
        .args(arguments)
        .stderr(Stdio::piped())
        .env("RUST_LOG", "off")
        .spawn()
        .unwrap();
    let ended = wait_for("its end", || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    (ended.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn one_line(message: &str) -> bool {
    message.matches('\n').count() == 1 && message.ends_with('\n')
}

#[test]
fn what_cannot_start_says_so_in_one_line() {
    let directory = tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let (status, message) = refused(&["serve", "--root", root, "--listen", "0.0.0.0:0", "--insecure-http"]);
    assert!(status == 64 && one_line(&message) && message.contains("0.0.0.0:0"), "{status} {message}");
    let (status, message) = refused(&["serve", "--root", root, "--listen", "127.0.0.1:0"]);
    assert!(status == 64 && one_line(&message) && message.contains("--insecure-http"), "{status} {message}");
    assert_eq!(refused(&["serve", "--colour"]).0, 64);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, message) = refused(&["serve", "--root", root, "--listen", &address, "--insecure-http"]);
    assert!(status == 1 && one_line(&message) && message.contains(&address), "{status} {message}");

    let config = directory.path().join("registry.toml");
    fs::write(&config, "rot = \"/x\"\n").unwrap();
    let (status, message) = refused(&["serve", "--config", config.to_str().unwrap()]);
    let named = ["registry.toml", "rot", "`root`"].iter().all(|part| message.contains(part));
    assert!(status == 78 && one_line(&message) && named, "{status} {message}");

    let tls = "[tls]\ncert = \"/nowhere/a.pem\"\nkey = \"/nowhere/b.pem\"\nwait = \"10ms\"\n";
    fs::write(&config, format!("root = {root:?}\n{tls}")).unwrap();
    let (status, message) = refused(&["--config", config.to_str().unwrap()]);
    let named = ["tls.cert", "/nowhere/a.pem"].iter().all(|part| message.contains(part));
    assert!(status == 78 && one_line(&message) && named, "{status} {message}");
}

fn make_certificate(directory: &Path) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(directory.join("ca.crt"), made.cert.pem()).unwrap();
}

#[test]
fn tls_begins_when_the_certificate_has_come() {
    let (directory, home) = (tempdir().unwrap(), tempdir().unwrap());
    let at = directory.path();
    let config = at.join("registry.toml");
    let text = format!(
        "root = {:?}\nlisten = \"127.0.0.1:0\"\n[tls]\ncert = {:?}\nkey = {:?}\nwait = \"10s\"\n",
        at.join("root"),
        at.join("ca.crt"),
        at.join("key.pem")
    );
    fs::write(&config, text).unwrap();
    let writer = {
        let (at, lock) = (at.to_owned(), at.join("root/lock"));
        // The root is locked before the certificate is looked for.
        thread::spawn(move || {
            wait_for("the root", || lock.exists().then_some(()));
            make_certificate(&at);
        })
    };
    let registry = Registry::start_with(at, &["--config", config.to_str().unwrap()]);
    writer.join().unwrap();
    let certificates = home.path().join("certificates");
    fs::create_dir(&certificates).unwrap();
    fs::copy(at.join("ca.crt"), certificates.join("ca.crt")).unwrap();
    layout(&home.path().join("image"), &noise(9, 100_000));
    let source = format!("oci:{}:tag", home.path().join("image").display());
    let image = format!("docker://127.0.0.1:{}/demo/app:1", registry.port);
    let trust = certificates.to_str().unwrap();
    skopeo(&home, &["copy", "--dest-cert-dir", trust, &source, &image]);
    skopeo(&home, &["inspect", "--cert-dir", trust, &image]);
    assert_eq!(agreed_protocol(&at.join("ca.crt"), registry.port), b"h2");
}

/// What a client that offers HTTP/2 and HTTP/1.1 gets.
fn agreed_protocol(authority: &Path, port: u16) -> Vec<u8> {
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.complete_io(&mut stream).unwrap();
    connection.alpn_protocol().unwrap().to_vec()
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let root = tempdir().unwrap();
    let mut registry = Registry::start(root.path());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let pushers: Vec<_> = (0..6_u64)
        .map(|pusher| {
            let (acknowledged, stop, port) = (acknowledged.clone(), stop.clone(), registry.port);
            thread::spawn(move || {
                let agent = client();
                for round in 0..10_000_u64 {
                    if stop.load(Ordering::Relaxed)
                        || push_image(&agent, port, pusher, round, &acknowledged).is_none()
                    {
                        return;
                    }
                }
            })
        })
        .collect();
    wait_for("60 acknowledged blobs and manifests", || {
        (acknowledged.lock().unwrap().len() >= 60).then_some(())
    });
    registry.kill();
    stop.store(true, Ordering::Relaxed);
    pushers.into_iter().for_each(|pusher| pusher.join().unwrap());

    let registry = Registry::start(root.path());
    let acknowledged = acknowledged.lock().unwrap();
    for (path, digest) in acknowledged.iter() {
        let mut answer = registry.get(path);
        assert_eq!(answer.status(), 200, "{path} was acknowledged and is gone");
        assert_eq!(sha256(&body(&mut answer)), *digest, "{path} has changed");
    }
    // Whatever was not acknowledged: nothing in the store has another content than its name says.
    let mut blobs = 0;
    for shelf in fs::read_dir(root.path().join("blobs/sha256")).unwrap() {
        for blob in fs::read_dir(shelf.unwrap().path()).unwrap() {
            let blob = blob.unwrap();
            assert_eq!(
                sha256(&fs::read(blob.path()).unwrap()),
                format!("sha256:{}", blob.file_name().to_str().unwrap())
            );
            blobs += 1;
        }
    }
    assert!(blobs >= acknowledged.len());
}

/// Pushes a blob and a manifest of it; None when the registry is gone.
fn push_image(
    agent: &ureq::Agent,
    port: u16,
    pusher: u64,
    round: u64,
    acknowledged: &Mutex<Vec<(String, String)>>,
) -> Option<()> {
    let base = format!("http://127.0.0.1:{port}");
    let content = noise(pusher * 100_000 + round + 1, 150_000);
    let digest = sha256(&content);
    let url = format!("{base}/v2/p{pusher}/blobs/uploads/?digest={digest}");
    let answer = agent.post(&url).send(&content[..]).ok()?;
    assert_eq!(answer.status(), 201);
    acknowledged.lock().unwrap().push((format!("/v2/p{pusher}/blobs/{digest}"), digest.clone()));
    let text = manifest(&digest, &digest, "");
    let url = format!("{base}/v2/p{pusher}/manifests/r{round}");
    let answer = agent.put(&url).header("content-type", MANIFEST).send(&text).ok()?;
    assert_eq!(answer.status(), 201);
    acknowledged.lock().unwrap().push((format!("/v2/p{pusher}/manifests/r{round}"), sha256(text.as_bytes())));
    Some(())
}

#[test]
fn sigterm_lets_a_request_end() {
    let root = tempdir().unwrap();
    let mut registry = Registry::start(root.path());
    let content = b"slowly";
    let digest = sha256(content);
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let head =
        format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    wait_for("the upload", || {
        (fs::read_dir(root.path().join("uploads")).unwrap().count() == 1).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(registry.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_for("the closed port", || TcpStream::connect(("127.0.0.1", registry.port)).err());
    stream.write_all(content).unwrap();
    let ended = wait_for("its end", || registry.child.try_wait().unwrap());
    assert!(ended.success());
    let registry = Registry::start(root.path());
    let found = registry.get(&format!("/v2/a/blobs/{digest}"));
    assert_eq!((found.status().as_u16(), header(&found, "content-length")), (200, "6"));
}
