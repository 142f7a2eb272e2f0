use super::*;
use crate::{AgentReport, Event, Request, testing::*};
use model::{AppFile, Observed, Record, Timing};

/// Two modules that move live, and a counter on the first.
fn ready() -> Bench {
    let mut bench = Bench::new(&[0, 0]);
    for slot in [1, 2] {
        bench.refit(slot, |m| m.live = format!("10.44.0.{slot}:7441"));
    }
    cordon(&mut bench, "module-2", true, false);
    bench.apply(vec![spec("counter", "migration = { planned = 'live' }")]).unwrap();
    bench.run(500);
    cordon(&mut bench, "module-2", false, false);
    assert_eq!(bench.place("counter"), "module-1");
    bench
}

fn cordon(bench: &mut Bench, module: &str, cordoned: bool, draining: bool) {
    bench.ask(Request::Cordon { module: name(module), cordoned, draining }).unwrap();
}

/// A move to module-2 is under way, and module-2 has said nothing of it yet. Answers the old and the new instance.
fn under_way(bench: &mut Bench) -> (Instance, Instance) {
    bench.silent.insert(name("module-2"));
    cordon(bench, "module-1", true, true);
    both(bench)
}

fn both(bench: &Bench) -> (Instance, Instance) {
    let on = |module: &str| {
        bench.core.instances().find(|i| i.module == Some(name(module))).expect("an instance").clone()
    };
    (on("module-1"), on("module-2"))
}

fn event(bench: &Bench, reason: &str) -> String {
    bench
        .core
        .events()
        .filter(|e| e.reason == reason)
        .map(|e| e.message.clone())
        .collect::<Vec<_>>()
        .join("\n")
}

/// What module-2's agent says of its instance.
fn says(bench: &mut Bench, new: &Instance, phase: Phase, refused: &str) {
    let observed = Observed {
        id: new.id.clone(),
        phase,
        restarts: 0,
        address: String::new(),
        message: String::new(),
        started: 1,
        connections: None,
        refused: refused.to_owned(),
    };
    let report = AgentReport {
        taken: 99,
        observed: vec![observed],
        routed: 99,
        volumes: Default::default(),
        lease: Default::default(),
    };
    bench.step(Event::Heartbeat(name("module-2"), report)).unwrap();
}

#[test]
fn both_agents_hear_of_it_and_the_old_one_is_stopped_when_the_new_one_runs() {
    let mut bench = ready();
    let (old, new) = under_way(&mut bench);
    let gives = Live::Gives { to: name("module-2"), successor: new.id.clone() };
    assert_eq!(bench.core.live_part(&old), Some(gives));
    let address = "10.44.0.1:7441".to_owned();
    let takes = Live::Takes { from: old.id.clone(), module: name("module-1"), address };
    assert_eq!(bench.core.live_part(&new), Some(takes));

    says(&mut bench, &new, Phase::Starting, "");
    assert!(!both(&bench).0.is_leaving());
    says(&mut bench, &new, Phase::Running, "");
    let (old, new) = both(&bench);
    assert!(old.is_stopping(), "in the same step: it is never told to go on");
    assert_eq!((new.takes.as_ref(), new.replaces.as_ref()), (None, None));
    assert!(event(&bench, "Moved").contains("live from module-1 to module-2: drain of module-1"));
}

#[test]
fn a_refusal_lets_the_old_one_go_on_and_is_kept() {
    let mut bench = ready();
    let (_, new) = under_way(&mut bench);
    says(&mut bench, &new, Phase::Starting, "no ring");
    let (old, new) = both(&bench);
    assert!(!old.is_leaving() && old.unmovable == "no ring");
    assert_eq!((bench.core.live_part(&old), bench.core.live_part(&new)), (None, None));
    assert_eq!(new.replaces, Some(old.id.clone()), "made before break");
    assert!(new.decision.cause.ends_with("drain of module-1; not live: no ring"), "{}", new.decision.cause);
    says(&mut bench, &new, Phase::Ready, "");
    assert!(both(&bench).0.is_leaving());
    assert!(event(&bench, "NotLive").contains("counter-1-1 is made before break: no ring"));
}

#[test]
fn a_target_that_is_lost_gives_the_process_back() {
    let mut bench = ready();
    let (old, _) = under_way(&mut bench);
    let timing = Timing::default();
    bench.run(timing.lease.0 + timing.margin.0 + 300);
    assert!(event(&bench, "Lost").contains("not heard"));
    let old = bench.core.instances().find(|i| i.id == old.id).expect("it is still there").clone();
    assert!(!old.is_leaving());
    assert_eq!(bench.core.live_part(&old), None);
}

#[test]
fn a_move_that_takes_too_long_is_given_up_but_the_process_waits_until_the_target_has_none() {
    let mut bench = ready();
    let (old, new) = under_way(&mut bench);
    let limit = Timing::default().move_limit.0;
    for _ in 0..=limit / 100 {
        says(&mut bench, &new, Phase::Starting, "");
        bench.run(100);
    }
    assert!(event(&bench, "MoveGivenUp").contains("was not ready in"));
    let (_, void) = both(&bench);
    assert!(void.is_stopping());
    assert!(bench.core.live_part(&old).is_some(), "it may run there as long as it is there");
    bench.silent.clear();
    bench.run(300);
    assert!(event(&bench, "NotLive").contains("was not ready in"), "the next try is made before break");
}

#[test]
fn a_server_that_is_started_again_goes_on_with_it() {
    let mut bench = ready();
    let (old, new) = under_way(&mut bench);
    let records: Vec<Record> = bench.stored.values().cloned().collect();
    let core = Core::load(records, Timing::default(), bench.now());
    assert_eq!(core.live_part(&old), bench.core.live_part(&old));
    assert_eq!(core.live_part(&new), bench.core.live_part(&new));
}

#[test]
fn what_is_known_to_be_unmovable_is_not_tried() {
    let mut bench = ready();
    bench.refit(1, |m| m.live = String::new());
    let (old, new) = under_way(&mut bench);
    assert_eq!((new.takes.as_ref(), new.replaces), (None, Some(old.id)));
    assert!(event(&bench, "NotLive").contains("module-1 has no criu, runc, tar or nft"));
    assert!(new.decision.cause.contains("not live: module-1 has no criu"), "{}", new.decision.cause);
}

#[test]
fn an_app_with_a_volume_is_moved_otherwise_and_hears_why() {
    for (access, how) in [("single-writer", "is stopped first"), ("shared", "is made before break")] {
        let mut bench = ready();
        let text = format!("kind='volume'\nname='data'\nsize='100MiB'\nclass='chassis'\naccess='{access}'\n");
        let volume = AppFile::parse("test", &text).unwrap().volumes.remove(0);
        let more = "migration = { planned = 'live' }\nvolumes = [{ name = 'data', path = '/data' }]";
        cordon(&mut bench, "module-2", true, false);
        bench.ask(Request::ApplyAll(vec![volume], vec![spec("db", more)])).unwrap();
        bench.run(500);
        assert_eq!(bench.place("db"), "module-1");
        cordon(&mut bench, "module-1", true, true);
        cordon(&mut bench, "module-2", false, false);
        bench.run(2000);
        assert_eq!(bench.place("db"), "module-2");
        let said = event(&bench, "NotLive");
        assert!(said.contains(&format!("db-1-1 {how}: it mounts volume data")), "{access}: {said}");
    }
}
