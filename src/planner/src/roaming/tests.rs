use super::*;
use crate::{AgentReport, Core, Event, Request, testing::*};
use model::{InstanceId, Live, Observed, Record, Timing};

const HOME: &str = "10.45.1.7";

/// Three modules with subnets that move live, and a counter on the first, which has an address.
fn ready(migration: &str) -> Bench {
    let mut bench = Bench::new(&[0, 0, 0]);
    for slot in [1, 2, 3] {
        bench.refit(slot, |m| {
            m.live = format!("10.44.0.{slot}:7441");
            m.address = format!("10.44.0.{slot}");
            m.pods = format!("10.45.{slot}.0/24");
        });
    }
    only(&mut bench, 1);
    bench.apply(vec![spec("counter", &format!("migration = {{ planned = 'live'{migration} }}"))]).unwrap();
    bench.run(500);
    assert_eq!(bench.place("counter"), "module-1");
    bench
}

/// New work goes to this module alone.
fn only(bench: &mut Bench, slot: u16) {
    for other in [1, 2, 3] {
        cordon(bench, other, other != slot, false);
    }
}

fn cordon(bench: &mut Bench, slot: u16, cordoned: bool, draining: bool) {
    let module = name(&format!("module-{slot}"));
    bench.ask(Request::Cordon { module, cordoned, draining }).unwrap();
}

/// What the agent on a module says of its only instance.
fn says(bench: &mut Bench, slot: u16, phase: Phase, address: &str, refused: &str) {
    let id = on(bench, slot).id.clone();
    report(bench, slot, Some((id, phase, address, refused)));
}

fn report(bench: &mut Bench, slot: u16, one: Option<(InstanceId, Phase, &str, &str)>) {
    let observed = one.into_iter().map(|(id, phase, address, refused)| Observed {
        id,
        phase,
        restarts: 0,
        address: address.to_owned(),
        message: String::new(),
        started: 1,
        connections: None,
        refused: refused.to_owned(),
    });
    let report = AgentReport {
        taken: 99,
        observed: observed.collect(),
        routed: 99,
        volumes: Default::default(),
        lease: model::Span(0),
    };
    bench.step(Event::Heartbeat(name(&format!("module-{slot}")), report)).unwrap();
}

fn on(bench: &Bench, slot: u16) -> Instance {
    let module = Some(name(&format!("module-{slot}")));
    bench.core.instances().find(|i| i.module == module).expect("an instance there").clone()
}

/// Begins a move of what has `address` now.
fn moves(bench: &mut Bench, from: u16, to: u16, address: &str) {
    says(bench, from, Phase::Ready, address, "");
    only(bench, to);
    cordon(bench, from, true, true);
    assert!(matches!(bench.core.live_part(&on(bench, to)), Some(Live::Takes { .. })));
}

/// The old one is gone, and nothing drains any more.
fn ends(bench: &mut Bench, from: u16, to: u16) {
    report(bench, from, None);
    only(bench, to);
}

fn roaming(bench: &Bench) -> Vec<(String, String)> {
    let table = &bench.core.services().roaming;
    table.iter().map(|r| (r.address.to_string(), r.via.to_string())).collect()
}

fn at(slot: u16) -> Vec<(String, String)> {
    vec![(HOME.to_owned(), format!("10.44.0.{slot}"))]
}

#[test]
fn the_address_is_where_the_process_is_and_free_when_the_instance_is_gone() {
    let mut bench = ready("");
    moves(&mut bench, 1, 2, HOME);
    assert_eq!(on(&bench, 2).keeps, Some(HOME.parse().unwrap()));
    assert_eq!(roaming(&bench), [], "it is at home as long as the process is");
    says(&mut bench, 2, Phase::Ready, HOME, "");
    assert!(on(&bench, 1).is_stopping(), "in the same step");
    assert_eq!(roaming(&bench), at(2));
    ends(&mut bench, 1, 2);
    assert_eq!(roaming(&bench), at(2));

    // On to a third module: the one that stops does not call it back.
    moves(&mut bench, 2, 3, HOME);
    assert_eq!(roaming(&bench), at(2));
    says(&mut bench, 3, Phase::Ready, HOME, "");
    assert!(on(&bench, 2).is_stopping());
    assert_eq!(roaming(&bench), at(3));
    ends(&mut bench, 2, 3);

    // And home: nothing is special any more.
    moves(&mut bench, 3, 1, HOME);
    assert_eq!(roaming(&bench), at(3));
    says(&mut bench, 1, Phase::Ready, HOME, "");
    assert_eq!(roaming(&bench), []);
    ends(&mut bench, 3, 1);

    moves(&mut bench, 1, 2, HOME);
    says(&mut bench, 2, Phase::Ready, HOME, "");
    ends(&mut bench, 1, 2);
    bench.ask(Request::Delete(vec![name("counter")])).unwrap();
    assert_eq!(roaming(&bench), at(2), "until it has stopped");
    report(&mut bench, 2, None);
    assert_eq!(roaming(&bench), []);
}

#[test]
fn a_refusal_leaves_the_address_where_it_is() {
    let mut bench = ready("");
    moves(&mut bench, 1, 2, HOME);
    says(&mut bench, 2, Phase::Starting, "", "no ring");
    assert_eq!((on(&bench, 2).keeps, roaming(&bench)), (None, vec![]));
    says(&mut bench, 2, Phase::Ready, "10.45.2.3", "");
    assert_eq!(roaming(&bench), []);
}

#[test]
fn a_source_that_is_lost_gives_the_address_only_with_the_process() {
    let timing = Timing::default();
    for came in [false, true] {
        let mut bench = ready("");
        moves(&mut bench, 1, 2, HOME);
        bench.silent.extend([name("module-1"), name("module-2")]);
        let end = bench.time + timing.lease.0 + timing.margin.0 + 300;
        while bench.time < end {
            says(&mut bench, 2, Phase::Starting, "", "");
            bench.run(100);
        }
        assert!(bench.core.instances().count() == 1, "module-1 is lost");
        assert_eq!(roaming(&bench), []);
        says(&mut bench, 2, Phase::Ready, if came { HOME } else { "10.45.2.3" }, "");
        assert_eq!(roaming(&bench), if came { at(2) } else { vec![] });
    }
}

#[test]
fn a_target_that_is_lost_frees_the_address() {
    let mut bench = ready("");
    moves(&mut bench, 1, 2, HOME);
    says(&mut bench, 2, Phase::Ready, HOME, "");
    ends(&mut bench, 1, 2);
    assert_eq!(roaming(&bench), at(2));
    bench.silent.insert(name("module-2"));
    let timing = Timing::default();
    bench.run(timing.lease.0 + timing.margin.0 + 300);
    assert_eq!(roaming(&bench), []);
}

#[test]
fn a_server_that_is_started_again_knows_where_it_is() {
    let mut bench = ready("");
    moves(&mut bench, 1, 2, HOME);
    says(&mut bench, 2, Phase::Ready, HOME, "");
    let records: Vec<Record> = bench.stored.values().cloned().collect();
    let core = Core::load(records, Timing::default(), bench.now());
    assert_eq!(core.roaming(), bench.core.services().roaming);
    assert!(!core.roaming().is_empty());
}

#[test]
fn an_address_that_stays_behind_says_why() {
    let mut bench = ready(", on_disconnect = 'keep'");
    moves(&mut bench, 1, 2, HOME);
    assert_eq!(on(&bench, 2).keeps, None);
    let said: Vec<&str> =
        bench.core.events().filter(|e| e.reason == "AddressStays").map(|e| e.message.as_str()).collect();
    assert!(matches!(said.as_slice(), [one] if one.contains("it goes on where it is cut off")), "{said:?}");

    // An agent that knows nothing of this gives it one of its own.
    let mut bench = ready("");
    moves(&mut bench, 1, 2, HOME);
    says(&mut bench, 2, Phase::Ready, "10.45.2.3", "");
    assert_eq!((on(&bench, 2).keeps, roaming(&bench)), (None, vec![]));
}
