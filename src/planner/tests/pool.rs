//! Random histories of a pool against a second, simple book-keeping, checked after every step.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use planner::pool::unit::{PerResource, UnitPolicy};
use planner::pool::{
    AcceleratorState, Amounts, NodeSpec, Placement, PolicyNumber, Pool, Refusal, Request, Strategy, Ticket,
    Verdict, WHOLE,
};
use proptest::prelude::{Just, Strategy as Generator, any, prop, prop_oneof, proptest};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Place(Request, Strategy),
    Release(usize),
    Maintain(usize, u16, bool),
    Close(usize, bool),
    Join(NodeSpec),
    Leave(usize),
}

fn amounts(cpu: u64) -> impl Generator<Value = Amounts> {
    (0..=cpu, 0..=64_u64, 0..=16_u64).prop_map(|(cpu, memory, disk)| Amounts { cpu: cpu * 500, memory, disk })
}

fn model() -> impl Generator<Value = String> {
    prop_oneof![Just("A".to_owned()), Just("B".to_owned()), Just(String::new())]
}

fn node() -> impl Generator<Value = NodeSpec> {
    (amounts(32), 0..=8_u16, model()).prop_map(|(capacity, accelerators, model)| NodeSpec {
        name: String::new(),
        capacity,
        accelerators,
        model,
    })
}

fn request() -> impl Generator<Value = Request> {
    let some = prop_oneof![
        3 => Just((0, 0)),
        4 => (Just(1), prop_oneof![Just(200_u16), Just(470), Just(500), Just(530), 1..WHOLE]),
        4 => (1..=8_u16, Just(WHOLE)),
        1 => (2..=3_u16, 100..WHOLE),
    ];
    let models = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(model(), 1..3)];
    (amounts(8), some, models).prop_map(|(mut amounts, (accelerators, milli), models)| {
        amounts.memory /= 8;
        amounts.disk /= 8;
        Request { amounts, accelerators, milli, models: models.into_iter().collect() }
    })
}

fn strategy() -> impl Generator<Value = Strategy> {
    prop::sample::select(Strategy::ALL.to_vec())
}

fn step() -> impl Generator<Value = Step> {
    prop_oneof![
        12 => (request(), strategy()).prop_map(|(request, strategy)| Step::Place(request, strategy)),
        6 => any::<usize>().prop_map(Step::Release),
        2 => (any::<usize>(), 0..9_u16, any::<bool>()).prop_map(|(node, n, on)| Step::Maintain(node, n, on)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(node, closed)| Step::Close(node, closed)),
        1 => node().prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

fn history() -> impl Generator<Value = (Vec<NodeSpec>, Vec<Step>)> {
    (prop::collection::vec(node(), 1..6), prop::collection::vec(step(), 1..60))
}

/// What one node holds, written down by other means than the pool's.
#[derive(Debug, Clone)]
struct Page {
    spec: NodeSpec,
    free: Amounts,
    devices: Vec<u16>,
    maintenance: Vec<bool>,
    closed: bool,
    left: bool,
}

impl Page {
    fn fits(&self, request: &Request) -> bool {
        let usable = self.devices.iter().zip(&self.maintenance).filter(|(_, maintenance)| !**maintenance);
        let devices = usable.filter(|(free, _)| **free >= request.milli).count();
        let model = request.models.is_empty() || request.models.contains(&self.spec.model);
        !self.closed
            && self.free.holds(&request.amounts)
            && (request.accelerators == 0 || model && devices >= usize::from(request.accelerators))
    }
}

#[derive(Debug, Default)]
struct Book {
    pages: Vec<Page>,
    held: BTreeMap<Ticket, (usize, Request, Vec<u16>)>,
}

impl Book {
    fn join(&mut self, pool: &mut Pool, spec: &NodeSpec) {
        let number = self.pages.iter().position(|page| page.left).unwrap_or(self.pages.len());
        let spec = NodeSpec { name: format!("n-{number}"), ..spec.clone() };
        assert_eq!(pool.add(&spec).unwrap(), number);
        assert!(pool.add(&spec).is_err(), "a duplicate is refused");
        let count = usize::from(spec.accelerators);
        let page = Page {
            free: spec.capacity,
            devices: vec![WHOLE; count],
            maintenance: vec![false; count],
            closed: false,
            left: false,
            spec,
        };
        if number < self.pages.len() {
            self.pages[number] = page;
        } else {
            self.pages.push(page);
        }
    }

    fn leave(&mut self, pool: &mut Pool, which: usize) {
        let number = which % self.pages.len();
        let lost = pool.remove(&format!("n-{number}"));
        if self.pages[number].left {
            assert!(lost.is_err(), "it left before");
            return;
        }
        let here: Vec<Ticket> =
            self.held.iter().filter(|(_, (node, ..))| *node == number).map(|(ticket, _)| *ticket).collect();
        assert_eq!(lost.unwrap(), here);
        here.into_iter().for_each(|ticket| self.release(ticket));
        let page = &mut self.pages[number];
        (page.spec.capacity, page.free) = Default::default();
        (page.devices, page.maintenance) = Default::default();
        (page.closed, page.left) = (true, true);
    }

    fn place(&mut self, request: &Request, placed: &Placement) {
        let page = &mut self.pages[placed.node];
        assert!(page.fits(request), "{request:?} does not fit on {page:?}");
        assert_eq!(placed.accelerators.len(), usize::from(request.accelerators));
        let mut unique = placed.accelerators.clone();
        unique.dedup();
        assert_eq!(unique.len(), placed.accelerators.len(), "one accelerator twice");
        let (free, wants) = (&mut page.free, &request.amounts);
        (free.cpu, free.memory, free.disk) =
            (free.cpu - wants.cpu, free.memory - wants.memory, free.disk - wants.disk);
        for number in &placed.accelerators {
            assert!(!page.maintenance[usize::from(*number)], "granted what is in maintenance");
            let device = &mut page.devices[usize::from(*number)];
            *device = device.checked_sub(request.milli).expect("an accelerator is given twice");
        }
        self.held.insert(placed.ticket, (placed.node, request.clone(), placed.accelerators.clone()));
    }

    fn release(&mut self, ticket: Ticket) {
        let (node, request, devices) = self.held.remove(&ticket).unwrap();
        let page = &mut self.pages[node];
        let (free, wants) = (&mut page.free, &request.amounts);
        (free.cpu, free.memory, free.disk) =
            (free.cpu + wants.cpu, free.memory + wants.memory, free.disk + wants.disk);
        devices.iter().for_each(|number| page.devices[usize::from(*number)] += request.milli);
    }

    fn check(&self, pool: &Pool) {
        let mut allocated = 0;
        for (number, page) in self.pages.iter().enumerate() {
            assert_eq!(pool.free(number), Some(page.free));
            let told = pool.accelerators(number);
            for ((state, usable), (free, maintenance)) in
                told.iter().zip(page.devices.iter().zip(&page.maintenance))
            {
                allocated += u64::from(WHOLE - free);
                assert_eq!(*usable, if *maintenance { 0 } else { *free });
                let expected = match (maintenance, *free) {
                    (true, _) => AcceleratorState::Maintenance,
                    (false, WHOLE) => AcceleratorState::Idle,
                    _ => AcceleratorState::Occupied,
                };
                assert_eq!(*state, expected);
            }
        }
        assert_eq!(pool.totals().accelerator_allocated, allocated);
        assert_eq!(pool.totals().instances, self.held.len());
    }
}

/// Plays a history and returns every decision.
fn play(nodes: &[NodeSpec], steps: &[Step]) -> Vec<Result<Placement, Refusal>> {
    let (mut pool, mut book, mut decisions) = (Pool::new(42), Book::default(), Vec::new());
    nodes.iter().for_each(|spec| book.join(&mut pool, spec));
    for step in steps {
        match step {
            Step::Place(request, strategy) => {
                let none = PolicyNumber::default();
                let explained = pool.explain(request, *strategy, none, &|_| None).unwrap();
                // Every node looked at anew must decide as the indexes do.
                let anew = pool.clone().place_where(request, *strategy, none, &|_| None);
                let decision = pool.place(request, *strategy);
                assert_eq!(anew, decision);
                agree(&explained, *strategy, &decision, &book);
                match &decision {
                    Ok(placed) => book.place(request, placed),
                    Err(why) => {
                        assert!(!book.pages.iter().any(|page| page.fits(request)), "{why}: {request:?}")
                    }
                }
                decisions.push(decision);
            }
            Step::Release(which) => {
                if let Some(ticket) = book.held.keys().nth(which % book.held.len().max(1)).copied() {
                    pool.release(ticket).unwrap();
                    assert!(pool.release(ticket).is_err(), "released twice");
                    book.release(ticket);
                }
            }
            Step::Maintain(node, number, on) => maintain(&mut pool, &mut book, *node, *number, *on),
            Step::Close(node, closed) => {
                let node = node % book.pages.len();
                let told = pool.close(&format!("n-{node}"), *closed);
                assert_eq!(told.is_err(), book.pages[node].left);
                book.pages[node].closed = *closed || book.pages[node].left;
            }
            Step::Join(spec) => book.join(&mut pool, spec),
            Step::Leave(which) => book.leave(&mut pool, *which),
        }
        book.check(&pool);
    }
    whole_again(pool, book);
    decisions
}

fn maintain(pool: &mut Pool, book: &mut Book, node: usize, number: u16, on: bool) {
    let node = node % book.pages.len();
    let told = pool.maintain(&format!("n-{node}"), number, on);
    let Some(flag) = book.pages[node].maintenance.get_mut(usize::from(number)) else {
        assert!(told.is_err(), "there is no such accelerator");
        return;
    };
    *flag = on;
    let holders = book.held.iter().filter(|(_, (at, _, devices))| *at == node && devices.contains(&number));
    assert_eq!(told.unwrap(), holders.map(|(ticket, _)| *ticket).collect::<Vec<_>>());
}

/// The table names the node that was chosen, and it is the best of those that were scored.
fn agree(
    told: &planner::pool::Explanation,
    strategy: Strategy,
    decision: &Result<Placement, Refusal>,
    book: &Book,
) {
    let chosen = decision.as_ref().ok().map(|placed| format!("n-{}", placed.node));
    assert_eq!(told.chosen, chosen);
    assert_eq!(told.rows.len(), book.pages.iter().filter(|page| !page.left).count());
    let score = |verdict: &Verdict| match verdict {
        Verdict::Scored { score, .. } => Some(*score),
        Verdict::Filtered { .. } => None,
    };
    let best = told.rows.iter().filter_map(|row| score(&row.verdict)).reduce(f64::max);
    assert_eq!(best.is_some(), chosen.is_some());
    if let Some(chosen) = chosen {
        let of_chosen = told.rows.iter().find(|row| row.node == chosen).and_then(|row| score(&row.verdict));
        assert!(of_chosen.is_some(), "{strategy} chose what it left out");
        assert_eq!(of_chosen, best, "{strategy}");
    }
}

/// When all is released, nothing is missing and nothing is left over.
fn whole_again(mut pool: Pool, book: Book) {
    book.held.keys().for_each(|ticket| pool.release(*ticket).unwrap());
    for (number, page) in book.pages.iter().enumerate() {
        assert_eq!(pool.free(number), Some(page.spec.capacity));
        let usable: u64 = pool.accelerators(number).iter().map(|(_, usable)| u64::from(*usable)).sum();
        let working = page.maintenance.iter().filter(|maintenance| !**maintenance).count() as u64;
        assert_eq!(usable, working * u64::from(WHOLE));
    }
    assert_eq!(pool.totals().accelerator_allocated, 0);
}

fn policy() -> impl Generator<Value = UnitPolicy> {
    let threshold = || prop::option::of(0.3..0.95_f64);
    (threshold(), threshold(), prop_oneof![Just(1.0), 0.01..1.0_f64], prop::option::of(-1.0..0.9_f64))
        .prop_flat_map(|(cpu, gpu, share, min_balance)| {
            (prop::option::of(0..9_u16), prop::option::of(0..4_u16)).prop_map(move |(max_gpu, min_gpu)| {
                UnitPolicy {
                    threshold: PerResource { cpu, gpu, disk: None, memory: None },
                    share,
                    min_balance,
                    max_gpu,
                    min_gpu,
                    ..UnitPolicy::default()
                }
            })
        })
}

/// Who waits asks again and again; what usually comes is what has arrived.
#[test]
fn a_request_that_waits_and_asks_again_has_not_arrived_again() {
    let common = PolicyNumber::default();
    let told = |again: &dyn Fn(&mut Pool, &Request)| {
        let mut pool = Pool::new(0);
        let capacity = Amounts { cpu: 64_000, memory: 1 << 20, disk: 0 };
        pool.add(&NodeSpec { name: "n".into(), capacity, accelerators: 4, model: String::new() }).unwrap();
        let part = Request::plain(1000, 1024).with_share(470);
        pool.place(&part, Strategy::Spacecloud).unwrap();
        let large = Request::plain(64_000, 1024).with_whole(1);
        assert!(pool.place(&large, Strategy::Spacecloud).is_err());
        (0..50).for_each(|_| again(&mut pool, &large));
        pool.explain(&part, Strategy::Spacecloud, common, &|_| None).unwrap()
    };
    let once = told(&|_, _| ());
    let waiting = told(&|pool, large| assert!(pool.retry(large, Strategy::Spacecloud, common).is_err()));
    assert_eq!(once, waiting);
    let arriving = told(&|pool, large| assert!(pool.place(large, Strategy::Spacecloud).is_err()));
    assert_ne!(once, arriving, "fifty that arrive are seen");
}

proptest! {
    #[test]
    fn a_pool_keeps_its_books((nodes, steps) in history()) {
        assert_eq!(play(&nodes, &steps), play(&nodes, &steps), "the same input gives the same output");
    }

    /// With any constraints: what is decided is allowed, and what is refused is refused by each node's own filters,
    /// never by the share or the reservation, which look at several.
    #[test]
    fn constraints_bind_and_never_leave_out_all(
        nodes in prop::collection::vec(node(), 1..8),
        requests in prop::collection::vec(request(), 1..40),
        policy in policy(),
    ) {
        let (mut pool, mut book) = (Pool::new(0), Book::default());
        nodes.iter().for_each(|spec| book.join(&mut pool, spec));
        let number = pool.policy(policy).unwrap();
        for request in &requests {
            let told = pool.explain(request, Strategy::Multilevel, number, &|_| None).unwrap();
            let decision = pool.place_under(request, Strategy::Multilevel, number);
            agree(&told, Strategy::Multilevel, &decision, &book);
            let several = ["share", "max_gpu"];
            for row in &told.rows {
                if let Verdict::Filtered { filter, reason } = &row.verdict {
                    assert!(decision.is_ok() || !several.contains(&filter.as_str()), "{filter}: {reason}");
                }
            }
            if let Ok(placed) = &decision {
                book.place(request, placed);
                let kept = book.pages.iter().map(|page| {
                    let working = page.devices.iter().zip(&page.maintenance);
                    working.filter(|(free, maintenance)| **free == WHOLE && !**maintenance).count()
                });
                let reserve = policy.max_gpu.is_none_or(|most| kept.max().unwrap_or(0) >= usize::from(most));
                assert!(reserve || placed.alarm, "the operator is not told that the reservation is lost");
            }
            book.check(&pool);
        }
    }
}
