//! space-registry on loopback with TLS, a link to it that can be cut, and images to push.
// Each test program is compiled by itself and uses a part of this.
#![allow(dead_code)]

pub(crate) mod ground;

use identity::{Authority, Role};
use registry::{
    command::{Arguments, Order},
    serve,
};
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tempfile::TempDir;
pub(crate) use testkit::{noise, sha256, wait_for};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The registry's server, with its files in a directory of its own; gone when dropped.
pub(crate) struct Registry {
    pub(crate) port: u16,
    pub(crate) root: TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// With a certificate that knows the registry's name in the cluster, and not the address that is dialled.
    pub(crate) fn start(authority: &Authority) -> Self {
        Self::start_with(authority, "", &[])
    }

    /// The same with more in its configuration, and with these users and their passwords.
    pub(crate) fn start_with(authority: &Authority, more: &str, users: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let issued = authority.issue(&Role::Server, &["registry.spacecloud".into()]).unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("tls.crt"), format!("{}{}", issued.certificate, authority.certificate())).unwrap();
        fs::write(path("tls.key"), issued.key).unwrap();
        let text = format!(
            "root = {:?}\nlisten = \"127.0.0.1:0\"\n[tls]\ncert = {:?}\nkey = {:?}\n{}\n",
            path("images"),
            path("tls.crt"),
            path("tls.key"),
            more.replace("HTPASSWD", &path("htpasswd").display().to_string())
        );
        let users =
            users.iter().map(|(user, password)| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap()));
        fs::write(path("htpasswd"), users.collect::<String>()).unwrap();
        let file = path("registry.toml");
        fs::write(&file, text).unwrap();
        Self::serve(root, &["--config", file.to_str().unwrap()])
    }

    /// Without TLS, as on a desk.
    pub(crate) fn start_plain() -> Self {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join("images");
        Self::serve(root, &["--root", images.to_str().unwrap(), "--listen", "127.0.0.1:0", "--insecure-http"])
    }

    fn serve(root: TempDir, words: &[&str]) -> Self {
        let port_file = root.path().join("port");
        let words = ["space-registry", "serve"].into_iter().chain(words.iter().copied());
        let words = words.chain(["--port-file", port_file.to_str().unwrap()]);
        let arguments = <Arguments as clap::Parser>::try_parse_from(words).unwrap();
        let Order::Serve(settings) = arguments.order().unwrap() else { panic!("this is no order to serve") };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                tokio::select! {
                    served = serve::run(*settings) => served.unwrap(),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        });
        let port = wait_for("the registry's port", || fs::read_to_string(&port_file).ok()?.parse().ok());
        Self { port, root, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A wire to the registry that carries so many bytes towards it and then is cut.
pub(crate) struct Link {
    pub(crate) port: u16,
    carried: Arc<AtomicU64>,
    budget: Arc<AtomicI64>,
    cuts: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Link {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Self {
            port: listener.local_addr().unwrap().port(),
            carried: Arc::default(),
            budget: Arc::new(AtomicI64::new(i64::MAX)),
            cuts: Arc::default(),
            over: Arc::default(),
        };
        let (carried, budget) = (link.carried.clone(), link.budget.clone());
        let (cuts, over) = (link.cuts.clone(), link.over.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if budget.load(Ordering::Relaxed) <= 0 {
                    // The cut lasts for one attempt only if there is something to carry afterwards.
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (back, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || copy(back, to_client, |_| true));
                let (carried, budget, cuts) = (carried.clone(), budget.clone(), cuts.clone());
                std::thread::spawn(move || {
                    copy(client, server, |count| {
                        let left = budget.fetch_sub(i64::try_from(count).unwrap(), Ordering::Relaxed);
                        if left <= 0 {
                            cuts.fetch_add(1, Ordering::Relaxed);
                            return false;
                        }
                        carried.fetch_add(count, Ordering::Relaxed);
                        true
                    });
                });
            }
        });
        link
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Carries so many bytes more, and then nothing.
    pub(crate) fn carry_only(&self, bytes: u64) {
        self.carried.store(0, Ordering::Relaxed);
        self.budget.store(i64::try_from(bytes).unwrap(), Ordering::Relaxed);
    }

    /// Is whole again.
    pub(crate) fn mend(&self) {
        self.carry_only(1 << 60);
    }

    /// What went towards the registry since the last change.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut may: impl FnMut(u64) -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !may(u64::try_from(count).unwrap()) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// An OCI layout in the making.
pub(crate) struct Layout {
    directory: PathBuf,
    manifests: Vec<String>,
}

impl Layout {
    pub(crate) fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { directory: directory.into(), manifests: Vec::new() }
    }

    fn put(&self, content: &[u8]) -> String {
        let digest = sha256(content);
        fs::write(self.directory.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap()), content)
            .unwrap();
        digest
    }

    /// An image of these layers: its manifest's descriptor.
    pub(crate) fn image(&self, architecture: &str, layers: &[&[u8]]) -> String {
        let descriptors: Vec<String> = layers
            .iter()
            .map(|layer| {
                let kind = "application/vnd.oci.image.layer.v1.tar";
                format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, self.put(layer), layer.len())
            })
            .collect();
        let ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", sha256(layer))).collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Entrypoint":["/app"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
            self.put(config.as_bytes()),
            config.len(),
            descriptors.join(",")
        );
        format!(
            r#""mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}"#,
            self.put(manifest.as_bytes()),
            manifest.len()
        )
    }

    /// An index of several images: its descriptor.
    pub(crate) fn index(&self, images: &[&str]) -> String {
        let kind = "application/vnd.oci.image.index.v1+json";
        let images: Vec<String> = images.iter().map(|image| format!("{{{image}}}")).collect();
        let index =
            format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, images.join(","));
        format!(r#""mediaType":"{kind}","digest":"{}","size":{}"#, self.put(index.as_bytes()), index.len())
    }

    /// Lists a descriptor under a name.
    pub(crate) fn name(mut self, name: &str, descriptor: &str) -> Self {
        let key = "org.opencontainers.image.ref.name";
        self.manifests.push(format!(r#"{{{descriptor},"annotations":{{"{key}":"{name}"}}}}"#));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, self.manifests.join(","));
        fs::write(self.directory.join("index.json"), index).unwrap();
        self
    }
}

/// A tar of a directory, with its names as they are.
pub(crate) fn archive(directory: &Path, file: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(file).unwrap());
    builder.append_dir_all(".", directory).unwrap();
    builder.finish().unwrap();
}
