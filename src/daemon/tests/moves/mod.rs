//! Services, health, drains and updates through the real daemons.

use super::*;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use model::{Endpoint, InstanceId, ServiceTable};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener as Listener, UdpSocket};

/// Accepts connections for as long as it is open, in place of what the instances would do.
struct Door {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Door {
    async fn new() -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(AtomicBool::new(true));
        let is_open = open.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let status = if is_open.load(Ordering::Relaxed) { "200 OK" } else { "503 Not Now" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut question = [0; 512];
                    let _ = stream.read(&mut question).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { port, open }
    }
}

fn tables(cluster: &Cluster) -> Vec<ServiceTable> {
    cluster.agents.values().map(|(runtime, _)| runtime.table()).collect()
}

fn open_endpoints(table: &ServiceTable) -> Vec<&Endpoint> {
    table.endpoints().filter(|e| !e.draining).collect()
}

/// Waits until every module's table is as wished, with a bound.
async fn until_tables(cluster: &Cluster, what: &str, test: impl Fn(&ServiceTable) -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !tables(cluster).iter().all(&test) {
        assert!(tokio::time::Instant::now() < end, "{what} did not come true: {:#?}", tables(cluster));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn address_of(server: &str, name: &str) -> Option<String> {
    let mut question = Message::new(9, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let heard = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await;
    let answer = Message::from_vec(&buffer[..heard.unwrap().unwrap()]).unwrap();
    answer.answers.first().map(|record| record.data.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_one_address_a_name_and_only_healthy_endpoints() {
    let cluster = Cluster::start(2).await;
    let door = Door::new().await;
    let app = format!(
        "name='web'\nimage='registry.spacecloud:5000/demo:1'\nreplicas=2\n\
         ports=[{{container={}, service=80}}]\nhealth={{http='/', every='50ms', failures=2}}\n",
        door.port
    );
    cluster.apply(&app).await.unwrap();
    let snapshot = cluster.until("two ready", all_ready(2)).await;
    assert_eq!(snapshot.apps[0].service, "10.46.0.1:80");
    until_tables(&cluster, "two endpoints", |t| open_endpoints(t).len() == 2).await;
    for server in cluster.names.values() {
        assert_eq!(address_of(server, "web.space.").await.as_deref(), Some("10.46.0.1"));
        assert_eq!(address_of(server, "nobody.space.").await, None);
    }
    // Unhealthy: out of the service, and started anew.
    door.open.store(false, Ordering::Relaxed);
    until_tables(&cluster, "no endpoint", |t| open_endpoints(t).is_empty()).await;
    let sick = |s: &v1::Snapshot| {
        s.instances
            .iter()
            .all(|i| i.restarts > 0 && i.message.contains("/ answered 503") && i.phase == "back-off")
    };
    cluster.until("both are started anew and say why", sick).await;
    door.open.store(true, Ordering::Relaxed);
    cluster.until("two ready again", all_ready(2)).await;
    until_tables(&cluster, "two endpoints again", |t| open_endpoints(t).len() == 2).await;
    assert!(cluster.agents.values().all(|(r, _)| r.running().iter().all(|id| r.starts(id) >= 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_is_cut_off_and_holds_nobody_up() {
    let cluster = Cluster::start(1).await;
    let app = |name: &str, command: &str, start: &str| {
        format!(
            "[[app]]\nname='{name}'\nimage='registry.spacecloud:5000/demo:1'\nupdate={{within='10s'}}\n\
             health={{exec={command}, every='50ms', timeout='200ms', start_period='{start}', failures=2}}\n"
        )
    };
    let endless = "['sleep','600']";
    let apps = [
        app("hangs", endless, "0ms"),
        app("waits", endless, "1h"),
        app("fails", "['false']", "0ms"),
        app("works", "['true']", "0ms"),
    ];
    cluster.apply(&apps.concat()).await.unwrap();
    let is = |s: &v1::Snapshot, app: &str, phase: &str, message: &str| {
        s.instances.iter().any(|i| i.app == app && i.phase == phase && i.message.contains(message))
    };
    let met = |s: &v1::Snapshot| {
        is(s, "hangs", "back-off", "no answer in 200ms")
            && is(s, "waits", "running", "not healthy yet: no answer in 200ms")
            && is(s, "fails", "back-off", "false exited with 1")
            && is(s, "works", "ready", "")
    };
    cluster.until("each says how it is", met).await;
    // An update to a probe that hangs goes back, whether its failures count yet or not.
    for start in ["0ms", "1h"] {
        let last = cluster.until("it works", |s| is(s, "works", "ready", "")).await;
        let last = last.events.iter().map(|e| e.number).max().unwrap_or(0);
        cluster.apply(&app("works", endless, start)).await.unwrap();
        let back = |s: &v1::Snapshot| {
            let mut new = s.events.iter().filter(|e| e.number > last && e.reason == "RolledBack");
            new.any(|e| e.message.contains("no answer in 200ms")) && is(s, "works", "ready", "")
        };
        cluster.until("it is rolled back and says why", back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_module_keeps_its_connections_until_they_end() {
    let cluster = Cluster::start(2).await;
    let app = "name='web'\nimage='registry.spacecloud:5000/demo:1'\nports=[{container=80, service=80}]\n\
               migration={drain='10min'}\n";
    cluster.apply(app).await.unwrap();
    let snapshot = cluster.until("ready", all_ready(1)).await;
    let (old, module) = (snapshot.instances[0].id.clone(), snapshot.instances[0].module.clone());
    until_tables(&cluster, "one endpoint", |t| open_endpoints(t).len() == 1).await;
    let slot: u16 = module.rsplit('-').next().unwrap().parse().unwrap();
    let id: InstanceId = old.parse().unwrap();
    cluster.agents[&slot].0.connect(&id, 2);
    let request = v1::CordonRequest { module, cordoned: true, draining: true, before_update: None };
    cluster.client().await.cordon(request).await.unwrap();
    let both = |s: &v1::Snapshot| {
        s.instances.iter().any(|i| i.id == old && i.phase == "draining")
            && s.instances.iter().any(|i| i.id != old && i.phase == "ready")
    };
    cluster.until("the new one serves and the old one drains", both).await;
    until_tables(&cluster, "new connections go to the new one", |t| {
        open_endpoints(t).len() == 1 && t.endpoints().any(|e| e.instance == id && e.draining)
    })
    .await;
    assert!(cluster.agents[&slot].0.running().contains(&id));
    cluster.agents[&slot].0.connect(&id, 0);
    cluster.until("the old one is gone", |s| s.instances.iter().all(|i| i.id != old)).await;
    until_tables(&cluster, "and out of the table", |t| t.endpoints().all(|e| e.instance != id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_goes_on_or_goes_back_and_the_service_stays() {
    let cluster = Cluster::start(3).await;
    let app = |image: &str| {
        format!(
            "name='web'\nimage='registry.spacecloud:5000/{image}'\nreplicas=3\nports=[{{container=80, service=80}}]\n\
             update={{within='15s'}}\n"
        )
    };
    cluster.apply(&app("demo:1")).await.unwrap();
    cluster.until("ready", all_ready(3)).await;
    until_tables(&cluster, "three endpoints", |t| open_endpoints(t).len() == 3).await;
    let watch = async {
        loop {
            for table in tables(&cluster) {
                assert!(!open_endpoints(&table).is_empty(), "nobody serves");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let change = async {
        cluster.apply(&app("demo:2")).await.unwrap();
        let whole = |s: &v1::Snapshot| all_ready(3)(s) && s.instances.iter().all(|i| i.image.ends_with(":2"));
        cluster.until("all have the new image", whole).await;
        cluster.apply(&app("missing:3")).await.unwrap();
        let back = |s: &v1::Snapshot| {
            all_ready(3)(s)
                && s.instances.iter().all(|i| i.image.ends_with(":2"))
                && s.events
                    .iter()
                    .any(|e| e.reason == "RolledBack" && e.message.contains("not in the registry"))
        };
        let snapshot = cluster.until("it is rolled back and says why", back).await;
        assert!(snapshot.apps[0].note.contains("rolled back"), "{}", snapshot.apps[0].note);
        assert!(snapshot.apps[0].image.ends_with("demo:2"));
    };
    tokio::select! {
        () = watch => {}
        () = change => {}
    }
    // Pulled ahead: each image that ran is on every one of the three modules.
    for (runtime, _) in cluster.agents.values() {
        assert!(runtime.pulled().iter().any(|image| image.ends_with("demo:2")));
    }
}

/// What may outlive the lease does: an agent that starts again while it is cut off adopts it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_while_cut_off_keeps_what_it_may_keep() {
    let mut cluster = Cluster::start(1).await;
    let apps = "[[app]]\nname='stays'\nimage='registry.spacecloud:5000/demo:1'\nmigration={on_disconnect='keep'}\n\
                [[app]]\nname='goes'\nimage='registry.spacecloud:5000/demo:1'\n";
    cluster.apply(apps).await.unwrap();
    cluster.until("ready", all_ready(2)).await;
    cluster.server.take().unwrap().stop();
    // The same port answers nobody any more: a cut, not a server that is being restarted.
    let silent = Listener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let runtime = cluster.agents[&1].0.clone();
    cluster.agents[&1].1.abort();
    let token = cluster.server_config.state.join("token");
    let mut config = config(cluster.dir.path(), 1, silent.port(), free_port(), &token);
    config.server.address = "192.0.2.1:7440".to_owned();
    let again = runtime.clone();
    let task = tokio::spawn(async move { agent::run_on(config, again).await.unwrap() });
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    let names = |runtime: &FakeRuntime| -> Vec<String> {
        runtime.running().iter().map(|id| id.replica().to_string()).collect()
    };
    while names(&runtime) != ["stays/1"] {
        assert!(tokio::time::Instant::now() < end, "{:?} still run", names(&runtime));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(runtime.running().iter().all(|id| runtime.starts(id) == 1), "it was adopted, not started anew");
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_is_cut_off_serves_itself_with_what_it_keeps() {
    let mut cluster = Cluster::start(2).await;
    let app = "name='web'\nimage='registry.spacecloud:5000/demo:1'\nreplicas=2\nports=[{container=80, service=80}]\n\
               migration={on_disconnect='keep'}\n";
    cluster.apply(app).await.unwrap();
    cluster.until("ready", all_ready(2)).await;
    until_tables(&cluster, "two endpoints", |t| open_endpoints(t).len() == 2).await;
    // The port is still there, but nobody answers on it: no module hears anything any more.
    cluster.server.take().unwrap().stop();
    until_tables(&cluster, "only its own", |t| open_endpoints(t).len() == 1).await;
    for (slot, (runtime, _)) in &cluster.agents {
        let table = runtime.table();
        assert_eq!(open_endpoints(&table)[0].module.to_string(), format!("module-{slot}"));
        assert_eq!(runtime.running().len(), 1);
    }
}

/// A process that will be the server knows, before it binds the port, that nobody decides.
#[tokio::test]
async fn a_lease_that_holds_begins_anew_before_the_server_of_the_same_process_does() {
    let dir = tempfile::tempdir().unwrap();
    let grpc = free_port();
    let config = config(dir.path(), 1, grpc, free_port(), &dir.path().join("token"));
    let (fence, lease) = (config.fence(), config.timing.lease.0);
    let look = async |kept: u64| {
        fence.keep(kept, config.timing.lease).unwrap();
        agent::before_the_server(&config).await;
        fence.kept().unwrap().0
    };
    let now = runtime::boot_clock();
    assert!(look(now + lease / 2).await >= now + lease, "nobody serves");
    assert_eq!(look(now - 1).await, now - 1, "what has run out stays so");
    let _somebody = Listener::bind(("127.0.0.1", grpc)).await.unwrap();
    let now = runtime::boot_clock();
    assert_eq!(look(now + lease / 2).await, now + lease / 2, "somebody may decide");
}

/// The program itself looks before it takes a port; here it finds the second one taken, and goes no further.
#[tokio::test]
async fn the_program_looks_before_it_is_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let somebody = Listener::bind("127.0.0.1:0").await.unwrap();
    let http = somebody.local_addr().unwrap().port();
    let config = config(dir.path(), 1, free_port(), http, &dir.path().join("token"));
    let now = runtime::boot_clock();
    config.fence().keep(now + 60_000, model::Span(60_000)).unwrap();
    let file = dir.path().join("module-1/spacecloud.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("lease = '5s'", "lease = '100s'");
    std::fs::write(&file, format!("roles = 'server+agent'\n{text}")).unwrap();
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_spacecloudd"));
    let output = program.arg("--config").arg(&file).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains(&format!("cannot listen on 127.0.0.1:{http}")),
        "{said}"
    );
    let (deadline, length) = config.fence().kept().unwrap();
    assert!(deadline > now + 60_000 && length == model::Span(60_000), "{deadline} after {now}");
}
