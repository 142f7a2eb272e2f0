//! Server and agents over real gRPC, TLS and SQLite on the loopback; only the container engine is fake.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod killed;
mod moves;

use api::v1::{self, cluster_client::ClusterClient};
use daemon::{agent, config::Config, server};
use model::AppFile;
use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use testkit::FakeRuntime;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

#[path = "cluster/live.rs"]
mod live;
#[path = "cluster/papers.rs"]
mod papers;
#[path = "cluster/planning.rs"]
mod planning;
#[path = "cluster/registry.rs"]
mod registry;
#[path = "cluster/services.rs"]
mod services;
#[path = "cluster/updates.rs"]
mod updates;

struct Cluster {
    dir: TempDir,
    server_config: Config,
    server: Option<server::Running>,
    agents: BTreeMap<u16, (Arc<FakeRuntime>, JoinHandle<()>)>,
    /// Where each agent answers names.
    names: BTreeMap<u16, String>,
}

/// Below those that the kernel gives to outgoing connections, and never the same twice: it is free until it is used.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 2000).find(free).unwrap()
}

fn config(dir: &Path, slot: u16, grpc: u16, http: u16, token: &Path) -> Config {
    let home = dir.join(format!("module-{slot}"));
    std::fs::create_dir_all(home.join("run")).unwrap();
    let file = home.join("spacecloud.toml");
    let text = format!(
        "state = '{home}'\n[server]\naddress = '127.0.0.1:{grpc}'\nlisten = '127.0.0.1:{grpc}'\nhttp = '127.0.0.1:{http}'\n\
         registry_tls = '{home}/no/registry'\n[agent]\nslot = {slot}\ntoken_file = '{token}'\nbackplane = '127.0.0.1'\n\
         run = '{home}/run'\nregistry_enabled = '{home}/registry.enabled'\nlive = '127.0.0.1:0'\n[agent.names]\nlisten = '127.0.0.1:{names}'\n[timing]\nlease = '5s'\nsuspect = '2s'\nmargin = '500ms'\nsettle = '1s'\n",
        home = home.display(),
        token = token.display(),
        names = free_port()
    );
    std::fs::write(&file, text).unwrap();
    Config::load(&file).unwrap()
}

impl Cluster {
    async fn start(agents: u16) -> Self {
        let mut cluster = Self::server().await;
        let token = cluster.server_config.state.join("token");
        for slot in 1..=agents {
            cluster.start_agent(slot, Arc::new(FakeRuntime::default()), &token);
        }
        cluster.until_modules(agents).await;
        cluster
    }

    /// Without any agent.
    async fn server() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("module-1/token");
        let server_config = config(dir.path(), 1, free_port(), free_port(), &token);
        let server = Some(server::start(&server_config).await.unwrap());
        Self { dir, server_config, server, agents: BTreeMap::new(), names: BTreeMap::new() }
    }

    async fn until_modules(&self, agents: u16) -> v1::Snapshot {
        let ready = |s: &v1::Snapshot| s.modules.iter().filter(|m| m.state == "ready").count();
        self.until("all modules ready", |s| ready(s) == usize::from(agents)).await
    }

    fn start_agent(&mut self, slot: u16, runtime: Arc<FakeRuntime>, token: &Path) {
        self.start_agent_on(&tokio::runtime::Handle::current(), slot, runtime, token);
    }

    fn start_agent_on(
        &mut self,
        on: &tokio::runtime::Handle,
        slot: u16,
        runtime: Arc<FakeRuntime>,
        token: &Path,
    ) {
        let address = &self.server_config.server;
        let port = |a: &str| a.rsplit(':').next().unwrap().parse().unwrap();
        let config = config(self.dir.path(), slot, port(&address.listen), port(&address.http), token);
        self.names.insert(slot, config.agent.names.listen.clone());
        let shared = runtime.clone();
        let task = on.spawn(async move { agent::run_on(config, shared).await.unwrap() });
        self.agents.insert(slot, (runtime, task));
    }

    async fn client(&self) -> ClusterClient<Channel> {
        let read = |name: &str| std::fs::read(self.server_config.state.join("admin").join(name)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")))
            .identity(Identity::from_pem(read("admin.pem"), read("admin.key")))
            .domain_name(api::SERVER_NAME);
        let url = format!("https://{}", self.server_config.server.listen);
        ClusterClient::new(
            Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap(),
        )
    }

    /// Waits for a condition on the server's snapshot, with a bound.
    async fn until(&self, what: &str, test: impl Fn(&v1::Snapshot) -> bool) -> v1::Snapshot {
        let mut last = v1::Snapshot::default();
        let mut stream = self.client().await.watch(v1::GetRequest {}).await.unwrap().into_inner();
        let wait = async {
            while let Some(snapshot) = stream.message().await.unwrap() {
                last = snapshot;
                if test(&last) {
                    return true;
                }
            }
            false
        };
        let met = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(matches!(met, Ok(true)), "{what} did not come true: {last:#?}");
        last
    }

    async fn apply(&self, text: &str) -> Result<v1::Done, tonic::Status> {
        let apps = AppFile::parse("test", text).unwrap().apps;
        let specs_json = apps.iter().map(|a| serde_json::to_string(a).unwrap()).collect();
        self.client()
            .await
            .apply(v1::ApplyRequest { specs_json, ..Default::default() })
            .await
            .map(tonic::Response::into_inner)
    }

    fn counts(&self) -> Vec<usize> {
        self.agents.values().map(|(runtime, _)| runtime.running().len()).collect()
    }
}

fn ten() -> String {
    (0..10).map(|n| format!("[[app]]\nname='app-{n}'\nimage='registry.spacecloud:5000/demo:1'\n")).collect()
}

fn all_ready(count: usize) -> impl Fn(&v1::Snapshot) -> bool {
    move |s| s.instances.len() == count && s.instances.iter().all(|i| i.phase == "ready")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_apps_survive_the_loss_of_a_module_and_of_the_server_process() {
    let mut cluster = Cluster::start(3).await;
    cluster.apply(&ten()).await.unwrap();
    cluster.until("ten apps ready", all_ready(10)).await;
    let mut counts = cluster.counts();
    counts.sort_unstable();
    assert_eq!(counts, [3, 3, 4]);

    // The server goes away and comes back: nothing is started anew.
    cluster.server.take().unwrap().stop();
    let before: Vec<_> = cluster.agents.values().map(|(r, _)| r.running()).collect();
    drop(cluster.server.take());
    let again = free_port();
    // The old listener lives on in this process, so the new server listens elsewhere; agents are told so.
    let token = cluster.server_config.state.join("token");
    cluster.server_config = config(cluster.dir.path(), 1, again, free_port(), &token);
    cluster.server = Some(server::start(&cluster.server_config).await.unwrap());
    let kept: Vec<_> = cluster.agents.iter().map(|(slot, (r, _))| (*slot, r.clone())).collect();
    for (slot, runtime) in kept {
        cluster.agents[&slot].1.abort();
        cluster.start_agent(slot, runtime, &token);
    }
    cluster.until("three modules again", |s| s.modules.iter().all(|m| m.state == "ready")).await;
    let after: Vec<_> = cluster.agents.values().map(|(r, _)| r.running()).collect();
    assert_eq!(before, after);
    assert!(cluster.agents.values().all(|(r, _)| r.running().iter().all(|id| r.starts(id) == 1)));

    // An agent dies for good.
    cluster.agents[&3].1.abort();
    let snapshot = cluster
        .until("all ten on two modules", |s| {
            all_ready(10)(s) && s.instances.iter().all(|i| i.module != "module-3")
        })
        .await;
    assert!(snapshot.events.iter().any(|e| e.reason == "Lost" && e.subject == "module-3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_in_one_line_and_change_nothing() {
    let cluster = Cluster::start(1).await;
    let twice = "[[app]]\nname='a'\nimage='r.s:5000/x'\n".repeat(2);
    let refused = cluster.apply(&twice).await.unwrap_err();
    assert!(refused.message().contains("twice"), "{refused}");
    let large = "name='a'\nimage='r.s:5000/x'\nresources={memory='90TiB'}\n";
    let refused = cluster.apply(large).await.unwrap_err();
    assert!(refused.message().contains("no module is large enough"), "{refused}");
    assert!(cluster.until("nothing", |s| s.apps.is_empty()).await.instances.is_empty());

    cluster.apply("name='gone'\nimage='registry.spacecloud:5000/missing:1'\n").await.unwrap();
    let snapshot =
        cluster.until("a missing image is said", |s| s.instances.iter().any(|i| i.phase == "back-off")).await;
    assert!(
        snapshot.instances[0].message.contains("not in the registry"),
        "{}",
        snapshot.instances[0].message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_instance_is_started_again() {
    let cluster = Cluster::start(1).await;
    cluster.apply("name='a'\nimage='registry.spacecloud:5000/demo:1'\n").await.unwrap();
    cluster.until("ready", all_ready(1)).await;
    let runtime = &cluster.agents[&1].0;
    runtime.crash(&runtime.running()[0]);
    cluster.until("restarted", |s| s.instances.iter().any(|i| i.restarts == 1 && i.phase == "ready")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_does_not_join_and_nobody_without_a_certificate_asks() {
    let mut cluster = Cluster::start(1).await;
    let good = std::fs::read_to_string(cluster.server_config.state.join("token")).unwrap();
    let bad = cluster.dir.path().join("bad-token");
    std::fs::write(&bad, format!("{}{}", good.trim(), "0")).unwrap();
    cluster.start_agent(2, Arc::new(FakeRuntime::default()), &bad);

    let ca = std::fs::read(cluster.server_config.state.join("admin/ca.pem")).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(api::SERVER_NAME);
    let url = format!("https://{}", cluster.server_config.server.listen);
    let channel = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    let refused = ClusterClient::new(channel.clone()).get(v1::GetRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let request = v1::JoinRequest {
        token: std::fs::read_to_string(&bad).unwrap(),
        slot: 2,
        request_pem: String::new(),
    };
    let refused = v1::agents_client::AgentsClient::new(channel).join(request).await.unwrap_err();
    assert!(refused.message().contains("token is wrong"), "{refused}");
    assert_eq!(cluster.client().await.get(v1::GetRequest {}).await.unwrap().into_inner().modules.len(), 1);
}
