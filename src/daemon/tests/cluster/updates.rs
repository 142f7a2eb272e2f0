//! Bundles on their way to modules, and what becomes of the modules. Only the slots themselves are fake.

use super::*;
use daemon::config::Roles;
use sha2::{Digest, Sha256};
use testkit::FakeSlots;

const WEB: &str = "name='web'\nimage='registry.spacecloud:5000/demo:1'\nreplicas=2\n";

struct Fleet {
    cluster: Cluster,
    slots: BTreeMap<u16, Arc<FakeSlots>>,
}

impl Fleet {
    /// A machine that is busy must not look like a module that is lost.
    async fn start(modules: u16) -> Self {
        Self::with_lease(modules, 20_000).await
    }

    async fn with_lease(modules: u16, lease: u64) -> Self {
        let mut cluster = Cluster::start(0).await;
        cluster.server.take().unwrap().stop();
        let token = cluster.server_config.state.join("token");
        let mut patient = config(cluster.dir.path(), 1, free_port(), free_port(), &token);
        (patient.timing.lease, patient.timing.suspect) = (model::Span(lease), model::Span(lease / 2));
        cluster.server = Some(server::start(&patient).await.unwrap());
        cluster.server_config = patient;
        let mut fleet = Self { cluster, slots: BTreeMap::new() };
        for slot in 1..=modules {
            fleet.slots.insert(slot, Arc::default());
            fleet.start_agent(slot);
        }
        let all = usize::from(modules);
        let ready = |s: &v1::Snapshot| s.modules.iter().filter(|m| m.state == "ready").count() == all;
        fleet.cluster.until("all modules ready", ready).await;
        fleet
    }

    /// One module that is empty and has checked a bundle.
    async fn checked(text: &str) -> Self {
        let fleet = Self::start(1).await;
        fleet.send(text).await;
        fleet.cordon(1, true).await;
        fleet.ask(1, text, "1", false).await.unwrap();
        fleet.until(1, "checked", "1").await;
        fleet
    }

    fn start_agent(&mut self, slot: u16) {
        let cluster = &mut self.cluster;
        let token = cluster.server_config.state.join("token");
        let port = |a: &str| a.rsplit(':').next().unwrap().parse().unwrap();
        let server = &cluster.server_config.server;
        let mut config = config(cluster.dir.path(), slot, port(&server.listen), port(&server.http), &token);
        config.state = cluster.dir.path().join(format!("agent-{slot}"));
        config.roles = if slot == 1 { Roles::Both } else { Roles::Agent };
        let (runtime, slots) = (Arc::new(FakeRuntime::default()), self.slots[&slot].clone());
        let shared = runtime.clone();
        let task = tokio::spawn(async move { agent::run_with(config, shared, slots).await.unwrap() });
        cluster.agents.insert(slot, (runtime, task));
    }

    /// Waits for what is neither said nor heard.
    async fn at_last(what: &str, done: impl Fn() -> bool) {
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(tokio::time::Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The module goes through a restart into the other slot, or back to where it was.
    async fn restart(&mut self, slot: u16, other: bool) {
        let slots = self.slots[&slot].clone();
        Self::at_last("a restart is asked for", || slots.is_restarting()).await;
        self.cluster.agents[&slot].1.abort();
        slots.boot(other);
        self.start_agent(slot);
    }

    async fn put(&self, text: &str, from: usize, to: usize) -> Result<v1::BundleStored, tonic::Status> {
        let (id, data) = (id(text), text.as_bytes());
        let parts: Vec<_> = (from..to)
            .step_by(1000)
            .map(|at| v1::BundlePart {
                bundle: Some(id.clone()),
                offset: at as u64,
                data: data[at..to.min(at + 1000)].to_vec(),
            })
            .collect();
        let mut client = self.cluster.client().await;
        client.put_bundle(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner)
    }

    async fn send(&self, text: &str) {
        assert!(self.put(text, 0, text.len()).await.unwrap().whole);
    }

    async fn ask(&self, slot: u16, text: &str, attempt: &str, install: bool) -> Result<(), String> {
        let (module, attempt) = (format!("module-{slot}"), attempt.to_owned());
        let request = v1::UpdateRequest { module, bundle: Some(id(text)), attempt, install };
        let answer = self.cluster.client().await.update(request).await;
        answer.map(drop).map_err(|refused| refused.message().to_owned())
    }

    async fn until(&self, slot: u16, phase: &str, attempt: &str) -> v1::RootSlot {
        let root = |s: &v1::Snapshot| {
            let module = s.modules.iter().find(|m| m.name == format!("module-{slot}"));
            let root = module.filter(|m| m.state == "ready")?.root.clone()?;
            let update = root.update.clone()?;
            (update.phase == phase && update.attempt == attempt).then_some(root)
        };
        let snapshot = self.cluster.until(phase, |s| root(s).is_some()).await;
        root(&snapshot).unwrap()
    }

    async fn cordon(&self, slot: u16, wanted: bool) {
        let module = format!("module-{slot}");
        let request = v1::CordonRequest {
            module: module.clone(),
            cordoned: wanted,
            draining: wanted,
            before_update: None,
        };
        self.cluster.client().await.cordon(request).await.unwrap();
        let empty = |s: &v1::Snapshot| !wanted || s.instances.iter().all(|i| i.module != module);
        self.cluster.until("it is as wanted", empty).await;
    }
}

fn id(text: &str) -> v1::BundleId {
    v1::BundleId { sha256: hex::encode(Sha256::digest(text)), size: text.len() as u64 }
}

fn bundle(head: &str) -> String {
    format!("{head} {}", "x".repeat(300_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_updated_only_when_it_is_empty_and_says_when_the_new_slot_has_proven_good() {
    let mut fleet = Fleet::start(3).await;
    fleet.cluster.apply(WEB).await.unwrap();
    fleet.cluster.until("ready", all_ready(2)).await;
    let text = bundle("board 2.0");
    // A link that is cut in the middle: what came is kept, a gap is refused, the rest makes it whole.
    let stored = fleet.put(&text, 0, 120_000).await.unwrap();
    assert_eq!((stored.have, stored.whole), (120_000, false));
    let refused = fleet.put(&text, 200_000, text.len()).await.unwrap_err();
    assert!(refused.message().contains("byte 120000 is next"), "{refused}");
    assert_eq!(fleet.put(&text, 120_000, text.len()).await.unwrap().have, text.len() as u64);

    let slot = fleet.cluster.until("placed", |_| true).await.instances[0].module.clone();
    let slot: u16 = slot.rsplit('-').next().unwrap().parse().unwrap();
    assert!(fleet.ask(slot, &text, "1", true).await.unwrap_err().contains("has not checked this bundle"));
    fleet.ask(slot, &text, "1", false).await.unwrap();
    let root = fleet.until(slot, "checked", "1").await;
    assert_eq!((root.slot.as_str(), root.version.as_str(), root.proven), ("a", "1.0", true));
    assert!(fleet.ask(slot, &text, "1", true).await.unwrap_err().contains("still has web-"));
    fleet.cordon(slot, true).await;
    fleet.ask(slot, &text, "1", true).await.unwrap();
    fleet.restart(slot, true).await;
    let root = fleet.until(slot, "trial", "1").await;
    assert_eq!((root.slot.as_str(), root.version.as_str(), root.proven), ("b", "2.0", false));
    let other = if slot == 1 { 2 } else { 1 };
    fleet.ask(other, &text, "1", false).await.unwrap();
    fleet.until(other, "checked", "1").await;
    let refused = fleet.ask(other, &text, "1", true).await.unwrap_err();
    assert!(refused.contains(&format!("module-{slot} is being updated")), "{refused}");
    fleet.slots[&slot].prove();
    assert!(fleet.until(slot, "done", "1").await.proven);
    fleet.cordon(slot, false).await;
    let told = |s: &v1::Snapshot| {
        s.events.iter().any(|e| e.reason == "Updated" && e.message.contains("2.0 from slot b"))
    };
    fleet.cluster.until("an event says so", told).await;
    // It does not take room for longer than it must.
    let folder = fleet.cluster.dir.path().join(format!("agent-{slot}/update"));
    let left = || -> Vec<_> { std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect() };
    Fleet::at_last("only the state is left", || left() == ["state.json"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_module_is_updated_while_the_others_go_on_without_it() {
    const LEASE: u64 = 4_000;
    let mut fleet = Fleet::with_lease(3, LEASE).await;
    fleet.cordon(1, true).await;
    fleet.cluster.apply(WEB).await.unwrap();
    fleet.cluster.until("ready", all_ready(2)).await;
    let text = bundle("board 2.0");
    fleet.send(&text).await;
    fleet.ask(1, &text, "1", false).await.unwrap();
    fleet.until(1, "checked", "1").await;
    fleet.ask(1, &text, "1", true).await.unwrap();
    let slots = fleet.slots[&1].clone();
    fleet
        .cluster
        .until("the other modules are told", |s| s.events.iter().any(|e| e.reason == "Absence"))
        .await;
    Fleet::at_last("a restart is asked for", || slots.is_restarting()).await;
    // Its port still takes connections, and never answers: as a module that is being restarted.
    fleet.cluster.server.take().unwrap().stop();
    fleet.cluster.agents[&1].1.abort();
    let running = |fleet: &Fleet| -> Vec<_> {
        let agents = &fleet.cluster.agents;
        [2, 3].map(|slot| agents[&slot].0.running()).concat()
    };
    let before = running(&fleet);
    assert_eq!(before.len(), 2);
    // However long it takes, as long as it is longer than a lease.
    tokio::time::sleep(Duration::from_millis(3 * LEASE)).await;
    assert_eq!(running(&fleet), before, "they went on without a server");
    for slot in [2, 3] {
        let runtime = &fleet.cluster.agents[&slot].0;
        assert!(runtime.running().iter().all(|id| runtime.starts(id) == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_falls_back_says_so_and_can_be_updated_again() {
    let mut fleet = Fleet::start(1).await;
    let text = bundle("board 3.0");
    fleet.send(&text).await;
    fleet.cordon(1, true).await;
    for (attempt, other, phase) in [("1", false, "failed"), ("2", true, "trial")] {
        fleet.ask(1, &text, attempt, false).await.unwrap();
        fleet.until(1, "checked", attempt).await;
        fleet.ask(1, &text, attempt, true).await.unwrap();
        fleet.restart(1, other).await;
        let root = fleet.until(1, phase, attempt).await;
        let message = root.update.unwrap().message;
        assert_eq!(message.contains("slot b did not prove good"), !other, "{message}");
    }
    let failed =
        |s: &v1::Snapshot| s.events.iter().any(|e| e.reason == "UpdateFailed" && e.severity == "warning");
    fleet.cluster.until("an event says so", failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_that_are_forged_foreign_or_damaged_go_no_further() {
    let fleet = Fleet::start(1).await;
    for (text, words) in [
        (bundle("forged 2.0"), "signature verification failed"),
        (bundle("bench 2.0"), "the bundle is for bench, this module is board"),
    ] {
        fleet.send(&text).await;
        fleet.ask(1, &text, words, false).await.unwrap();
        let root = fleet.until(1, "failed", words).await;
        let message = root.update.unwrap().message;
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
        assert_eq!(root.slot, "a");
    }
    let text = bundle("board 2.0");
    let part = |offset: usize| v1::BundlePart {
        bundle: Some(id(&text)),
        offset: offset as u64,
        data: vec![b'y'; text.len() - offset],
    };
    let mut client = fleet.cluster.client().await;
    let damaged = client.put_bundle(tokio_stream::iter([part(0)])).await.unwrap_err();
    assert!(damaged.message().contains("the bundle is damaged"), "{damaged}");
    let stored = client.bundle_at(id(&text)).await.unwrap().into_inner();
    assert_eq!((stored.have, stored.whole), (0, false));
    // The server has nothing to give: the module says so, and does not wait for ever.
    let bad = v1::BundleId { sha256: "../x".into(), size: 1 };
    assert_eq!(client.bundle_at(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_whose_last_byte_came_before_the_server_was_stopped_is_checked_when_it_is_asked_for() {
    let fleet = Fleet::start(0).await;
    let text = bundle("board 2.0");
    let folder = fleet.cluster.server_config.state.join("bundles");
    let mut client = fleet.cluster.client().await;
    for (content, have) in [(text.replace('x', "y"), 0), (text.clone(), text.len() as u64)] {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}.part", id(&text).sha256)), content).unwrap();
        let stored = client.bundle_at(id(&text)).await.unwrap().into_inner();
        assert_eq!((stored.have, stored.whole), (have, have > 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_writing_was_not_seen_to_its_end_is_not_started() {
    let text = bundle("board 2.0");
    let mut fleet = Fleet::checked(&text).await;
    let slots = fleet.slots[&1].clone();
    slots.end_silently();
    fleet.ask(1, &text, "1", true).await.unwrap();
    Fleet::at_last("the bundle is installed", || slots.is_written()).await;
    // The order's answer may have been lost: it is given again, and nothing comes of it.
    fleet.ask(1, &text, "1", true).await.unwrap();
    fleet.cluster.agents[&1].1.abort();
    fleet.start_agent(1);
    let message = fleet.until(1, "failed", "1").await.update.unwrap().message;
    assert!(message.contains("the agent was restarted while slot b was written"), "{message}");
    assert!(!slots.is_written() && !slots.is_restarting());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_cannot_note_down_what_it_does_does_not_do_it() {
    let text = bundle("board 2.0");
    let fleet = Fleet::checked(&text).await;
    let in_the_way = fleet.cluster.dir.path().join("agent-1/update/state.new/x");
    std::fs::create_dir_all(in_the_way).unwrap();
    fleet.ask(1, &text, "1", true).await.unwrap();
    let message = fleet.until(1, "failed", "1").await.update.unwrap().message;
    assert!(message.starts_with("the update's state cannot be kept over a restart: "), "{message}");
    assert!(!fleet.slots[&1].is_written() && !fleet.slots[&1].is_restarting());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ended_before_the_restart_asks_for_it_again() {
    let text = bundle("board 2.0");
    let mut fleet = Fleet::checked(&text).await;
    fleet.ask(1, &text, "1", true).await.unwrap();
    let slots = fleet.slots[&1].clone();
    Fleet::at_last("a restart is asked for", || slots.is_restarting()).await;
    // Nothing came of it.
    fleet.cluster.agents[&1].1.abort();
    slots.forget_restart();
    fleet.start_agent(1);
    fleet.restart(1, true).await;
    fleet.until(1, "trial", "1").await;
}
