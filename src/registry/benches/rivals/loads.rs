//! The loads.

use crate::server::{Kind, Server};
use std::{fs, path::Path, thread, time::Instant};
use testkit::{noise, sha256 as digest};

pub type Figures = Vec<(&'static str, f64)>;

pub struct Load {
    pub name: &'static str,
    pub run: fn(&mut Server) -> Figures,
}

pub const LOADS: [Load; 4] = [
    Load { name: "start", run: start },
    Load { name: "large", run: large },
    Load { name: "small", run: small },
    Load { name: "raw", run: raw },
];

const LAYERS: usize = 5;
const LAYER: usize = 40 << 20;
const SMALL: usize = 200;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Image {
    name: String,
    blobs: Vec<(String, Vec<u8>)>,
    manifest: String,
}

fn image(name: String, layers: Vec<Vec<u8>>) -> Image {
    let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"name\":\"{name}\"}}").into_bytes();
    let (config_digest, config_size) = (digest(&config), config.len());
    let mut blobs: Vec<_> = layers.into_iter().map(|layer| (digest(&layer), layer)).collect();
    let listed: Vec<_> = blobs
        .iter()
        .map(|(digest, content)| {
            format!("{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{digest}\",\"size\":{}}}", content.len())
        })
        .collect();
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{config_digest}\",\"size\":{config_size}}},\"layers\":[{}]}}",
        listed.join(",")
    );
    blobs.push((config_digest, config));
    Image { name, blobs, manifest }
}

struct Cost {
    seconds: f64,
    cpu: f64,
    peak: f64,
}

fn measure(server: &Server, work: impl FnOnce()) -> Cost {
    server.reset_peak();
    let (before, began) = (server.cpu(), Instant::now());
    work();
    let seconds = began.elapsed().as_secs_f64();
    Cost { seconds, cpu: server.cpu() - before, peak: server.peak() }
}

fn start(server: &mut Server) -> Figures {
    // What it takes once it has nothing to do.
    let mut resident = server.resident();
    let end = Instant::now() + std::time::Duration::from_millis(500);
    while Instant::now() < end {
        thread::sleep(std::time::Duration::from_millis(50));
        resident = server.resident();
    }
    vec![("start.ms", server.started), ("start.rss", resident)]
}

/// As clients do: some layers at a time, then the manifest.
fn large(server: &mut Server) -> Figures {
    let image = image("large".into(), (0..LAYERS as u64).map(|seed| noise(seed, LAYER)).collect());
    let bytes = (LAYERS * LAYER) as f64;
    let push = measure(server, || {
        thread::scope(|scope| {
            for (digest, content) in &image.blobs {
                let server = &*server;
                scope.spawn(move || server.connect().push_blob("large", digest, content));
            }
        });
        let mut connection = server.connect();
        let put =
            connection.request("PUT", "/v2/large/manifests/v", MANIFEST, image.manifest.as_bytes()).unwrap();
        assert_eq!(put.status, 201);
    });
    let pull_all = |server: &Server| {
        server.connect().get("/v2/large/manifests/v");
        thread::scope(|scope| {
            for (digest, content) in &image.blobs {
                scope.spawn(move || {
                    let got = server.connect().get(&format!("/v2/large/blobs/{digest}"));
                    assert_eq!(got, content.len() as u64);
                });
            }
        });
    };
    let pull = measure(server, || (0..4).for_each(|_| pull_all(server)));
    let parallel = measure(server, || {
        thread::scope(|scope| {
            for _ in 0..16 {
                let server = &*server;
                scope.spawn(move || pull_all(server));
            }
        });
    });
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    vec![
        ("push.rate", bytes / 1e6 / push.seconds),
        ("push.cpu", push.cpu / gib(bytes)),
        ("push.rss", push.peak),
        ("pull.rate", 4.0 * bytes / 1e6 / pull.seconds),
        ("pull.cpu", pull.cpu / gib(4.0 * bytes)),
        ("pull.rss", pull.peak),
        ("parallel.rate", 16.0 * bytes / 1e6 / parallel.seconds),
        ("parallel.cpu", parallel.cpu / gib(16.0 * bytes)),
        ("parallel.rss", parallel.peak),
    ]
}

/// Images of two layers that all share and one of their own.
fn small(server: &mut Server) -> Figures {
    let bases = [noise(1000, 200_000), noise(1001, 100_000)];
    let images = |from: usize| -> Vec<Image> {
        (from..from + SMALL)
            .map(|number| {
                let own = noise(2000 + number as u64, 20_000);
                image(format!("small/app-{}", number % 20), vec![bases[0].clone(), bases[1].clone(), own])
            })
            .enumerate()
            .map(|(tag, mut image)| {
                image.name = format!("{} t{}", image.name, from + tag);
                image
            })
            .collect()
    };
    let push = |server: &Server, images: &[Image], connections: usize| {
        measure(server, || {
            each(images, connections, |image| {
                let (repository, tag) = image.name.split_once(' ').unwrap();
                let mut connection = server.connect();
                for (digest, content) in &image.blobs {
                    connection.push_blob(repository, digest, content);
                }
                let path = format!("/v2/{repository}/manifests/{tag}");
                let put = connection.request("PUT", &path, MANIFEST, image.manifest.as_bytes()).unwrap();
                assert_eq!(put.status, 201);
            });
        })
    };
    let pull = |server: &Server, images: &[Image], connections: usize| {
        measure(server, || {
            each(images, connections, |image| {
                let (repository, tag) = image.name.split_once(' ').unwrap();
                let mut connection = server.connect();
                connection.get(&format!("/v2/{repository}/manifests/{tag}"));
                for (digest, _) in &image.blobs {
                    connection.get(&format!("/v2/{repository}/blobs/{digest}"));
                }
            });
        })
    };
    let (first, second) = (images(0), images(SMALL));
    let (push_1, push_8) = (push(server, &first, 1), push(server, &second, 8));
    let (pull_1, pull_8) = (pull(server, &first, 1), pull(server, &second, 8));
    let (rate, cpu) = (|cost: &Cost| SMALL as f64 / cost.seconds, |cost: &Cost| cost.cpu / SMALL as f64);
    vec![
        ("small-push-1.rate", rate(&push_1)),
        ("small-push-1.cpu", cpu(&push_1)),
        ("small-push-8.rate", rate(&push_8)),
        ("small-push-8.cpu", cpu(&push_8)),
        ("small-push-8.rss", push_8.peak),
        ("small-pull-1.rate", rate(&pull_1)),
        ("small-pull-1.cpu", cpu(&pull_1)),
        ("small-pull-8.rate", rate(&pull_8)),
        ("small-pull-8.cpu", cpu(&pull_8)),
        ("small-pull-8.rss", pull_8.peak),
    ]
}

fn each<T: Sync>(items: &[T], at_once: usize, work: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for part in items.chunks(items.len().div_ceil(at_once)) {
            let work = &work;
            scope.spawn(move || part.iter().for_each(work));
        }
    });
}

fn raw(server: &mut Server) -> Figures {
    /// Of all connections together: enough for seconds, so that the rate is of the stream and not of its start.
    const GETS: usize = 192;
    let content = noise(77, LAYER);
    let digest = digest(&content);
    let path = match server.kind {
        Kind::Nginx => {
            fs::write(server.directory.path().join("root/blob"), &content).unwrap();
            "/blob".to_owned()
        }
        Kind::Space | Kind::Docker => {
            server.connect().push_blob("raw", &digest, &content);
            format!("/v2/raw/blobs/{digest}")
        }
    };
    forget(server.directory.path());
    assert_eq!(server.connect().get(&path), LAYER as u64);
    let get = |server: &Server, at_once: usize| {
        let cost = measure(server, || {
            thread::scope(|scope| {
                for _ in 0..at_once {
                    let path = &path;
                    scope.spawn(move || {
                        let mut connection = server.connect();
                        (0..GETS / at_once).for_each(|_| assert_eq!(connection.get(path), LAYER as u64));
                    });
                }
            });
        });
        let bytes = (GETS * LAYER) as f64;
        (bytes / 1e6 / cost.seconds, cost.cpu / (bytes / f64::from(1 << 30)))
    };
    let ((rate, cpu), (rate_4, cpu_4)) = (get(server, 16), get(server, 4));
    vec![("raw.rate", rate), ("raw.cpu", cpu), ("raw-4.rate", rate_4), ("raw-4.cpu", cpu_4)]
}

/// Empties the kernel's cache of a server's files: how it holds them depends on how they were written, and the
/// servers are to send the same.
fn forget(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            forget(&entry.path());
        } else if entry.file_type().unwrap().is_file() {
            let file = fs::File::open(entry.path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}
