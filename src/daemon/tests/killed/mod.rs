//! An agent is killed at every moment of a move, on the module that an instance leaves and on the one that it goes to:
//! before and after each thing that it does to the module. It always ends as the operator asked, and what must not run
//! twice never does.

use super::*;
use tokio::runtime::Runtime as Executor;

/// An agent that can be killed as a process is: all its tasks at once, wherever they are.
struct Mortal {
    runtime: Arc<FakeRuntime>,
    executor: Option<Executor>,
}

impl Mortal {
    fn kill(&mut self) {
        if let Some(executor) = self.executor.take() {
            executor.shutdown_background();
        }
    }

    fn runs(&self, app: &str) -> usize {
        self.runtime.running().iter().filter(|id| id.replica().app.as_str() == app).count()
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Mortals {
    cluster: Cluster,
    agents: BTreeMap<u16, Mortal>,
}

impl Mortals {
    async fn start() -> Self {
        let cluster = Cluster::start(0).await;
        let mut mortals = Self { cluster, agents: BTreeMap::new() };
        for slot in [1, 2] {
            let agent = Mortal { runtime: Arc::new(FakeRuntime::default()), executor: None };
            mortals.agents.insert(slot, agent);
            mortals.start_agent(slot);
        }
        let ready = |s: &v1::Snapshot| s.modules.iter().filter(|m| m.state == "ready").count() == 2;
        mortals.cluster.until("both modules are ready", ready).await;
        mortals
    }

    fn start_agent(&mut self, slot: u16) {
        let address = &self.cluster.server_config.server;
        let port = |a: &str| a.rsplit(':').next().unwrap().parse().unwrap();
        let token = self.cluster.server_config.state.join("token");
        let config =
            config(self.cluster.dir.path(), slot, port(&address.listen), port(&address.http), &token);
        let agent = self.agents.get_mut(&slot).unwrap();
        let executor =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let runtime = agent.runtime.clone();
        executor.spawn(async move { agent::run_on(config, runtime).await.unwrap() });
        agent.executor = Some(executor);
    }

    async fn drain(&self, slot: u16, wanted: bool) {
        let module = format!("module-{slot}");
        let request = v1::CordonRequest { module, cordoned: wanted, draining: wanted, before_update: None };
        self.cluster.client().await.cordon(request).await.unwrap();
    }

    /// Waits for a condition outside the server, with a bound.
    async fn until(&self, what: &str, test: impl Fn(&Self) -> bool) {
        for _ in 0..1200 {
            if test(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let running: Vec<_> = self.agents.values().map(|agent| agent.runtime.running()).collect();
        let says = self.cluster.client().await.get(v1::GetRequest {}).await;
        panic!("{what} did not come true: {running:?}, {says:#?}");
    }

    /// Where the app runs, and nowhere else.
    async fn only_place(&self) -> u16 {
        let places = |all: &Self| {
            all.agents
                .iter()
                .filter(|(_, agent)| agent.runs("once") > 0)
                .map(|(slot, _)| *slot)
                .collect::<Vec<_>>()
        };
        self.until("it runs in one place", |all| places(all).len() == 1).await;
        places(self).first().copied().unwrap()
    }

    /// Moves the app from a module to the other by a drain. One agent dies at a moment that has passed so often since
    /// the drain, and is started again. Answers whether the move had that moment.
    async fn move_and_kill(&mut self, from: u16, victim: u16, moment: &str, before: usize) -> bool {
        let engine = self.agents[&victim].runtime.clone();
        engine.die_at(moment, before);
        self.drain(from, true).await;
        let to = 3 - from;
        let moved = |all: &Self| {
            let [from, to] = [from, to].map(|slot| all.agents[&slot].runs("once"));
            (from, to) == (0, 1)
        };
        let over = |all: &Self| all.agents[&victim].runtime.died() || moved(all);
        self.until("it has moved, or died of it", over).await;
        let module = format!("module-{to}");
        let ended = |s: &v1::Snapshot| {
            let [only] = s.instances.as_slice() else { return false };
            only.phase == "ready" && only.module == module && s.modules.iter().all(|m| m.state == "ready")
        };
        if !engine.died() {
            self.cluster.until("the app runs where it was to go", ended).await;
        }
        // It may have died meanwhile, of what comes after the move.
        let died = engine.let_live();
        if died {
            self.agents.get_mut(&victim).unwrap().kill();
            self.start_agent(victim);
        }
        self.cluster.until("the app runs where it was to go", ended).await;
        self.until("it runs there alone", moved).await;
        self.drain(from, false).await;
        died
    }
}

/// What an agent does to its module. Which of it a move has more than once depends on who is quicker.
const MOMENTS: [&str; 8] = [
    "before pull",
    "after pull",
    "before start",
    "after start",
    "before route",
    "after route",
    "before stop",
    "after stop",
];
/// What no move can end without, on the module that is left and on the one that is reached.
const ALWAYS: [&[&str]; 2] = [&["stop"], &["pull", "start"]];

async fn every_moment(planned: &str) {
    let mut mortals = Mortals::start().await;
    let app = format!(
        "name='once'\nimage='registry.spacecloud:5000/demo:1'\ngrace='1s'\n\
         ports=[{{container=80, service=80}}]\nmigration={{planned='{planned}', drain='100ms'}}\n"
    );
    mortals.cluster.apply(&app).await.unwrap();
    mortals.cluster.until("ready", all_ready(1)).await;
    let watching = watch_for_doubles(&mortals, planned == "stop-first");
    for (reached, always) in [false, true].into_iter().zip(ALWAYS) {
        for (moment, before) in MOMENTS.into_iter().flat_map(|moment| [(moment, 0), (moment, 1)]) {
            let from = mortals.only_place().await;
            let victim = if reached { 3 - from } else { from };
            let died = mortals.move_and_kill(from, victim, moment, before).await;
            let must = before == 0 && always.iter().any(|what| moment.ends_with(what));
            assert!(
                died || !must,
                "no {moment} on the module that is {}",
                if reached { "reached" } else { "left" }
            );
        }
    }
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled(), "two copies ran");
}

/// Looks all the time whether two copies run. Of a `make-before-break` move two are allowed.
fn watch_for_doubles(mortals: &Mortals, forbidden: bool) -> JoinHandle<()> {
    let engines: Vec<_> = mortals.agents.values().map(|agent| agent.runtime.clone()).collect();
    tokio::spawn(async move {
        loop {
            let running: Vec<_> = engines.iter().flat_map(|engine| engine.running()).collect();
            assert!(running.len() <= if forbidden { 1 } else { 2 }, "{running:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// It fences itself when its lease is over. The server waits for a margin longer, and hears from it again before.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stalls_for_longer_than_its_lease_starts_again_what_it_has_stopped() {
    let mortals = Mortals::start().await;
    mortals.cluster.apply("name='once'\nimage='registry.spacecloud:5000/demo:1'\n").await.unwrap();
    mortals.cluster.until("ready", all_ready(1)).await;
    let agent = &mortals.agents[&mortals.only_place().await];
    let executor = agent.executor.as_ref().unwrap();
    let first = agent.runtime.running();
    // Its only worker, until the lease is over and the margin, 500 ms, is not.
    let lease = mortals.cluster.server_config.timing.lease.duration();
    executor.spawn(async move { std::thread::sleep(lease + Duration::from_millis(200)) });
    let stopped =
        |_: &Mortals| agent.runs("once") == 0 || first.iter().any(|id| agent.runtime.starts(id) > 1);
    mortals.until("it has stopped what it ran", stopped).await;
    mortals.until("it runs again", |all| all.agents.values().any(|agent| agent.runs("once") == 1)).await;
    mortals.cluster.until("ready again", all_ready(1)).await;
    mortals.only_place().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_at_every_moment_of_a_make_before_break_move() {
    every_moment("make-before-break").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_at_every_moment_of_a_stop_first_move() {
    every_moment("stop-first").await;
}
