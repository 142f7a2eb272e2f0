//! The cluster on a chassis, seen from the ground: what `spacectl` does, for scenarios.

use crate::{SimError, waiting::Limit};
use api::v1::{self, cluster_client::ClusterClient};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A snapshot and when it came, in milliseconds since the recording began.
#[derive(Debug, Clone)]
pub struct Moment {
    /// When.
    pub at: u64,
    /// What.
    pub snapshot: v1::Snapshot,
}

/// A connection to the server, and all that it has shown since.
pub struct Cluster {
    runtime: tokio::runtime::Runtime,
    client: ClusterClient<Channel>,
    seen: Arc<Mutex<Vec<Moment>>>,
    begun: Instant,
}

fn refused(status: &tonic::Status) -> SimError {
    SimError::Refused { reason: format!("the cluster: {}", status.message()) }
}

const PAUSE: Duration = Duration::from_millis(50);

impl Cluster {
    /// Connects with the papers in `directory`, trying until the server answers or the limit is over.
    ///
    /// # Errors
    /// No answer in time, or the papers cannot be read.
    pub fn connect(directory: &Path, address: &str, limit: Limit) -> Result<Self, SimError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(SimError::io("read", path))
        };
        let failed = |e: &dyn std::fmt::Display| SimError::Refused { reason: format!("cannot connect: {e}") };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(SimError::io("start", "the asynchronous runtime"))?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.crt")?))
            .identity(Identity::from_pem(read("admin.pem")?, read("admin.key")?))
            .domain_name(api::SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|e| e.connect_timeout(Duration::from_secs(10)).tcp_nodelay(true).tls_config(tls))
            .map_err(|e| failed(&e))?;
        let deadline = limit.deadline();
        let client = loop {
            let attempt = runtime.block_on(async {
                let connected = tokio::time::timeout(Duration::from_secs(20), endpoint.connect()).await;
                let mut client =
                    ClusterClient::new(connected.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?);
                client.get(v1::GetRequest {}).await.map_err(|s| refused(&s))?;
                Ok::<_, SimError>(client)
            });
            match attempt {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(PAUSE * 4),
            }
        };
        let cluster = Self { runtime, client, seen: Arc::default(), begun: Instant::now() };
        cluster.record();
        Ok(cluster)
    }

    /// Keeps every snapshot from now on; a broken watch is taken up again.
    fn record(&self) {
        let (mut client, seen, begun) = (self.client.clone(), self.seen.clone(), self.begun);
        self.runtime.spawn(async move {
            loop {
                if let Ok(answer) = client.watch(v1::GetRequest {}).await {
                    let mut stream = answer.into_inner();
                    while let Ok(Some(snapshot)) = stream.message().await {
                        let at = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Moment { at, snapshot });
                    }
                }
                tokio::time::sleep(PAUSE * 4).await;
            }
        });
    }

    /// Everything seen so far.
    pub fn history(&self) -> Vec<Moment> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Milliseconds since the recording began.
    pub fn clock(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The newest snapshot.
    pub fn now(&self) -> v1::Snapshot {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().map(|moment| moment.snapshot.clone()).unwrap_or_default()
    }

    /// Waits for a condition and answers the snapshot that met it and how long that took.
    ///
    /// # Errors
    /// It was not met in time; the error shows the last state.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Limit,
        mut show: impl FnMut(&v1::Snapshot),
        test: impl Fn(&v1::Snapshot) -> bool,
    ) -> Result<(v1::Snapshot, Duration), SimError> {
        let begun = Instant::now();
        loop {
            let snapshot = self.now();
            show(&snapshot);
            if test(&snapshot) {
                return Ok((snapshot, begun.elapsed()));
            }
            if begun.elapsed() > limit.duration() {
                let what = format!("{what}; last seen:\n{}", table(&snapshot));
                return Err(SimError::Waited { what, limit: limit.duration() });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Applies the apps of a TOML text.
    ///
    /// # Errors
    /// The text is bad, or the cluster refuses.
    pub fn apply(&self, text: &str) -> Result<Vec<String>, SimError> {
        let bad = |e: &dyn std::fmt::Display| SimError::Refused { reason: e.to_string() };
        let model::AppFile { apps, volumes } = model::AppFile::parse("apps", text).map_err(|e| bad(&e))?;
        let specs_json =
            apps.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(|e| bad(&e))?;
        let volumes_json =
            volumes.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(|e| bad(&e))?;
        let mut client = self.client.clone();
        let request = v1::ApplyRequest { specs_json, volumes_json };
        let done = self.runtime.block_on(client.apply(request)).map_err(|s| refused(&s))?;
        Ok(done.into_inner().lines)
    }

    /// Deletes apps.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn delete(&self, apps: Vec<String>) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let request = v1::DeleteRequest { apps, volumes: false };
        self.runtime.block_on(client.delete(request)).map(drop).map_err(|s| refused(&s))
    }

    /// Erases volumes that no app mounts.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn delete_volumes(&self, volumes: Vec<String>) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let request = v1::DeleteVolumesRequest { volumes };
        self.runtime.block_on(client.delete_volumes(request)).map(drop).map_err(|s| refused(&s))
    }
}

/// What an operator may ask besides.
impl Cluster {
    /// The planner's tables.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn tables(&self) -> Result<v1::PlannerTables, SimError> {
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.tables(v1::GetRequest {}));
        answer.map(tonic::Response::into_inner).map_err(|s| refused(&s))
    }

    /// Takes an accelerator out of use, or gives it back.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn maintain(&self, module: &str, number: u32, maintenance: bool) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let request = v1::MaintainRequest { module: module.to_owned(), number, maintenance };
        self.runtime.block_on(client.maintain(request)).map(drop).map_err(|s| refused(&s))
    }

    /// Changes what the instances of an app have, while they run.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn resize(&self, app: &str, cpu: &str, memory: &str) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let (app, cpu, memory) = (app.to_owned(), cpu.to_owned(), memory.to_owned());
        let request = v1::ResizeRequest { app, cpu, memory, disk: String::new() };
        self.runtime.block_on(client.resize(request)).map(drop).map_err(|s| refused(&s))
    }

    /// Sets the number of replicas.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn scale(&self, app: &str, replicas: u32) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let request = v1::ScaleRequest { app: app.to_owned(), replicas };
        self.runtime.block_on(client.scale(request)).map(drop).map_err(|s| refused(&s))
    }

    /// Moves everything off a module, or lets it be used again.
    ///
    /// # Errors
    /// The cluster refuses.
    pub fn drain(&self, module: &str, wanted: bool) -> Result<(), SimError> {
        let mut client = self.client.clone();
        let request = v1::CordonRequest {
            module: module.to_owned(),
            cordoned: wanted,
            draining: wanted,
            before_update: None,
        };
        self.runtime.block_on(client.cordon(request)).map(drop).map_err(|s| refused(&s))
    }
}

/// How many instances are ready on each module, in the order of the modules' names.
pub fn counts(snapshot: &v1::Snapshot) -> Vec<usize> {
    let on = |module: &v1::Module| {
        snapshot.instances.iter().filter(|i| i.module == module.name && i.phase == "ready").count()
    };
    snapshot.modules.iter().map(on).collect()
}

/// Exactly `wanted` instances, each of them ready.
pub fn all_ready(snapshot: &v1::Snapshot, wanted: usize) -> bool {
    snapshot.instances.len() == wanted && snapshot.instances.iter().all(|i| i.phase == "ready")
}

/// Modules and what is on them, for people.
pub fn table(snapshot: &v1::Snapshot) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(["MODULE", "STATE", "READY", "INSTANCES"]);
    let unplaced = v1::Module { name: String::new(), state: "—".into(), ..v1::Module::default() };
    for module in snapshot.modules.iter().chain([&unplaced]) {
        let there: Vec<&v1::Instance> =
            snapshot.instances.iter().filter(|i| i.module == module.name).collect();
        if module.name.is_empty() && there.is_empty() {
            continue;
        }
        let ready = there.iter().filter(|i| i.phase == "ready").count();
        let words: Vec<String> = there
            .iter()
            .map(|i| {
                if i.phase == "ready" {
                    i.id.clone()
                } else {
                    format!("{} ({} {})", i.id, i.phase, i.message)
                }
            })
            .collect();
        table.add_row([module.name.clone(), module.state.clone(), ready.to_string(), words.join("\n")]);
    }
    table.to_string()
}
