//! The servers, each on a free port with an empty directory, and what they cost.

use crate::http::Connection;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Space,
    Docker,
    Nginx,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Space => "space-registry",
            Self::Docker => "docker-registry",
            Self::Nginx => "nginx",
        }
    }
}

pub struct Server {
    pub kind: Kind,
    pub port: u16,
    pub directory: TempDir,
    /// From the start to the first answer, in milliseconds.
    pub started: f64,
    child: Child,
}

/// An installed program, or one that is unpacked from its package.
fn program(package: &str, path: &str) -> PathBuf {
    if Path::new(path).exists() {
        return path.into();
    }
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rivals");
    let found = unpacked.join(path.trim_start_matches('/'));
    if !found.exists() {
        fs::create_dir_all(&unpacked).unwrap();
        let script = format!("apt-get download {package} && dpkg-deb -x {package}_*.deb .");
        let done = Command::new("sh").args(["-c", &script]).current_dir(&unpacked).status().unwrap();
        assert!(done.success() && found.exists(), "cannot get {package}; install it");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(kind: Kind, at: &Path, port: u16) -> Command {
    let root = at.join("root");
    fs::create_dir_all(&root).unwrap();
    match kind {
        Kind::Space => {
            // Another build can be measured beside this one.
            let built = env!("CARGO_BIN_EXE_space-registry").to_owned();
            let mut command = Command::new(std::env::var("SPACE_REGISTRY").unwrap_or(built));
            command
                .args(["serve", "--insecure-http", "--listen", &format!("127.0.0.1:{port}"), "--root"])
                .arg(root);
            command
        }
        Kind::Docker => {
            let config = at.join("config.yml");
            let text = format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
                root.display()
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new(program("docker-registry", "/usr/bin/docker-registry"));
            command.arg("serve").arg(config);
            command
        }
        Kind::Nginx => {
            let config = at.join("nginx.conf");
            let text = format!(
                "daemon off;\nuser root;\nworker_processes auto;\npid {at}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n",
                at = at.display(),
                root = root.display(),
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new(program("nginx", "/usr/sbin/nginx"));
            command.arg("-p").arg(at).arg("-c").arg(config);
            command
        }
    }
}

fn cpu_of(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // USER_HZ is 100 wherever Linux runs.
    ticks * 10.0
}

impl Server {
    pub fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = command(kind, directory.path(), port);
        let began = Instant::now();
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { kind, port, directory, started: 0.0, child };
        let path = if kind == Kind::Nginx { "/none" } else { "/v2/" };
        loop {
            let answered = Connection::open(port)
                .and_then(|mut connection| connection.request("GET", path, "text/plain", b""))
                .is_ok_and(|answer| answer.status < 500);
            if answered {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{} does not start", kind.name());
            std::thread::sleep(Duration::from_micros(200));
        }
        server.started = began.elapsed().as_secs_f64() * 1000.0;
        server
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.port).unwrap()
    }

    /// Milliseconds of processor time so far, with that of its workers.
    pub fn cpu(&self) -> f64 {
        let own = self.child.id();
        let workers = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        let processes =
            std::iter::once(own).chain(workers.split_whitespace().map(|pid| pid.parse().unwrap()));
        processes.map(cpu_of).sum()
    }

    /// Forgets the highest resident size so far.
    pub fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    fn memory(&self, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    pub fn resident(&self) -> f64 {
        self.memory("VmRSS:")
    }

    pub fn peak(&self) -> f64 {
        self.memory("VmHWM:")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not killed at once: nginx ends its workers with itself.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
