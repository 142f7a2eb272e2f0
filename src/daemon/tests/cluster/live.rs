//! Live moves through the real daemons: a text in memory goes along, never runs twice, and every failure has an end.

use super::*;
use model::InstanceId;
use testkit::Step;
use tokio::runtime::Runtime;

const APP: &str = "name='counter'\nimage='registry.spacecloud:5000/demo:1'\nmigration={planned='live'}\n";

struct Moved {
    cluster: Cluster,
    /// Each agent has a runtime of its own, so that it can die with all that it does.
    agents: BTreeMap<u16, Runtime>,
    /// Slots.
    from: u16,
    to: u16,
    old: InstanceId,
}

impl Moved {
    /// Two modules that move live; the counter runs on one of them and has a text in memory.
    async fn ready() -> Self {
        let mut cluster = Cluster::server().await;
        let token = cluster.server_config.state.join("token");
        let mut agents = BTreeMap::new();
        for slot in [1, 2] {
            let (own, runtime) = (runtime(), Arc::new(FakeRuntime::default().with_live_moves()));
            cluster.start_agent_on(own.handle(), slot, runtime, &token);
            agents.insert(slot, own);
        }
        cluster.until_modules(2).await;
        cluster.apply(APP).await.unwrap();
        let snapshot = cluster.until("ready", all_ready(1)).await;
        let from: u16 = snapshot.instances[0].module.rsplit('-').next().unwrap().parse().unwrap();
        let old: InstanceId = snapshot.instances[0].id.parse().unwrap();
        cluster.agents[&from].0.remember(&old, "forty-two");
        Self { cluster, agents, from, to: 3 - from, old }
    }

    fn source(&self) -> &FakeRuntime {
        &self.cluster.agents[&self.from].0
    }

    fn target(&self) -> &FakeRuntime {
        &self.cluster.agents[&self.to].0
    }

    async fn drain(&self) {
        let request = v1::CordonRequest {
            module: format!("module-{}", self.from),
            cordoned: true,
            draining: true,
            before_update: None,
        };
        self.cluster.client().await.cordon(request).await.unwrap();
    }

    /// One instance, ready, on the other module; while a live move was under way never two that did something.
    async fn settled(&self) -> v1::Snapshot {
        let to = format!("module-{}", self.to);
        let done = |s: &v1::Snapshot| all_ready(1)(s) && s.instances[0].module == to;
        let active =
            |runtime: &FakeRuntime| runtime.running().iter().filter(|id| !runtime.is_frozen(id)).count();
        let watch = async {
            loop {
                // The text is what must not be alive twice.
                let (here, there) = (active(self.source()), active(self.target()));
                let taken = self.target().running().iter().any(|id| self.target().memory(id).is_some());
                assert!(here + there < 2 || !taken, "the process runs twice");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            snapshot = self.cluster.until("moved", done) => snapshot,
            () = watch => unreachable!(),
        }
    }

    fn arrived(&self, snapshot: &v1::Snapshot) -> Option<String> {
        self.target().memory(&snapshot.instances[0].id.parse().unwrap())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Drop for Moved {
    fn drop(&mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.shutdown_background();
        }
    }
}

fn event(snapshot: &v1::Snapshot, reason: &str) -> String {
    let found = snapshot.events.iter().rfind(|e| e.reason == reason);
    found.unwrap_or_else(|| panic!("no event {reason}: {:#?}", snapshot.events)).message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_goes_along() {
    let moved = Moved::ready().await;
    moved.drain().await;
    let snapshot = moved.settled().await;
    assert_eq!(moved.arrived(&snapshot).as_deref(), Some("forty-two"));
    assert!(event(&snapshot, "Moved").contains("live: frozen for"), "{}", event(&snapshot, "Moved"));
    assert!(moved.source().running().is_empty());
    let new: InstanceId = snapshot.instances[0].id.parse().unwrap();
    assert_eq!(moved.target().starts(&new), 0, "it was not started afresh");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_that_fails_ends_in_make_before_break_and_is_named() {
    for step in [Step::Checkpoint, Step::Prepare, Step::Restore] {
        let moved = Moved::ready().await;
        moved.source().fail(step);
        moved.target().fail(step);
        moved.drain().await;
        let snapshot = moved.settled().await;
        assert_eq!(moved.arrived(&snapshot), None, "{step:?}");
        let why = event(&snapshot, "NotLive");
        assert!(why.contains(&format!("{step:?} was made to fail")), "{why}");
        let cause = snapshot.instances[0].decision.clone().unwrap().cause;
        assert!(cause.contains("; not live: "), "{cause}");
        assert!(event(&snapshot, "Moved").contains("drain of"), "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_takes_no_copies_ahead_is_moved_all_the_same() {
    let moved = Moved::ready().await;
    moved.source().fail(Step::Copy);
    moved.drain().await;
    let snapshot = moved.settled().await;
    assert_eq!(moved.arrived(&snapshot).as_deref(), Some("forty-two"));
    assert!(event(&snapshot, "Moved").contains(", 0 rounds ahead"), "{}", event(&snapshot, "Moved"));
}

/// The agent on one side dies in the middle of each step; another takes its place, as systemd would have it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_in_a_step_leaves_a_running_instance() {
    for (dies_here, step) in
        [(true, Step::Copy), (true, Step::Checkpoint), (false, Step::Prepare), (false, Step::Restore)]
    {
        let mut moved = Moved::ready().await;
        let slot = if dies_here { moved.from } else { moved.to };
        let runtime = moved.cluster.agents[&slot].0.clone();
        runtime.hang(step);
        moved.drain().await;
        let under_way =
            |s: &v1::Snapshot| s.instances.iter().any(|i| i.message.starts_with("taking counter"));
        moved.cluster.until("a move is under way", under_way).await;
        moved.agents.remove(&slot).unwrap().shutdown_background();
        runtime.heal();
        let (token, own) = (moved.cluster.server_config.state.join("token"), self::runtime());
        moved.cluster.start_agent_on(own.handle(), slot, runtime, &token);
        moved.agents.insert(slot, own);
        let snapshot = moved.settled().await;
        let frozen = moved.source().is_frozen(&moved.old);
        assert!(!frozen && moved.source().running().is_empty(), "{step:?}");
        assert_eq!(snapshot.instances.len(), 1, "{step:?}");
    }
}
