use crate::{
    Request,
    testing::{Bench, name, spec},
};
use model::PlanState;

fn task(who: &str, more: &str) -> model::AppSpec {
    spec(who, &format!("kind = 'task'\n{more}"))
}

fn chain(bench: &mut Bench, second: &str) {
    let first = task("a", "duration = '100s'\nresources = { gpu = 1 }");
    bench
        .apply(vec![first, task("b", &format!("after = ['a']\nresources = {{ gpu = 1 }}\n{second}"))])
        .unwrap();
    bench.run(1_000);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Running, PlanState::Planned));
}

fn ends(bench: &mut Bench, task: &str) {
    let id = bench.of(task).id.clone();
    bench.done.insert(id);
    bench.run(1_000);
}

#[test]
fn one_that_comes_after_another_starts_when_that_has_ended_early() {
    let mut bench = Bench::new(&[1]);
    chain(&mut bench, "duration = '50s'");
    ends(&mut bench, "a");
    let plan = bench.plan("b").clone();
    assert_eq!((plan.state, plan.end - plan.start), (PlanState::Running, 50_000));
    assert!(plan.started - bench.plan("a").ended <= 500, "{plan:?}");
    assert_eq!(bench.place("b"), "module-1 0");
    let said = bench.core.events().find(|e| e.reason == "BroughtForward").unwrap();
    assert!(
        said.message.starts_with("what it comes after is over: from 1970-01-01T00:16:"),
        "{}",
        said.message
    );
    // And is told to end when its own length is over.
    bench.run(51_000);
    assert_eq!(bench.plan("b").state, PlanState::Succeeded);
}

#[test]
fn one_with_a_fixed_end_starts_early_and_has_more_time() {
    let mut bench = Bench::new(&[1]);
    chain(&mut bench, "end = '+200s'");
    let end = bench.plan("b").end;
    ends(&mut bench, "a");
    assert_eq!((bench.plan("b").state, bench.plan("b").end), (PlanState::Running, end));
}

#[test]
fn one_with_a_start_of_its_own_waits_for_that() {
    let mut bench = Bench::new(&[1]);
    chain(&mut bench, "start = '+150s'\nduration = '10s'");
    let start = bench.plan("b").start;
    ends(&mut bench, "a");
    assert_eq!((bench.plan("b").state, bench.plan("b").start), (PlanState::Planned, start));
    bench.run(start - bench.time + 500);
    assert_eq!(bench.plan("b").state, PlanState::Running);
}

#[test]
fn one_that_was_deleted_holds_nobody_up() {
    let mut bench = Bench::new(&[1]);
    let first = task("a", "start = '+50s'\nduration = '100s'\nresources = { gpu = 1 }");
    bench.apply(vec![first, task("b", "after = ['a']\nduration = '10s'\nresources = { gpu = 1 }")]).unwrap();
    bench.ask(Request::Delete(vec![name("a")])).unwrap();
    bench.run(500);
    assert_eq!(bench.plan("b").state, PlanState::Running);
}

#[test]
fn it_waits_for_its_own_window_while_there_is_no_room_and_starts_as_soon_as_there_is() {
    let mut bench = Bench::new(&[1, 1]);
    let on = |slot: u16| format!("placement = {{ modules = ['module-{slot}'] }}");
    let a = task("a", &format!("duration = '100s'\nresources = {{ gpu = 1 }}\n{}", on(1)));
    let b = task("b", &format!("duration = '100s'\nafter = ['a']\nresources = {{ gpu = 1 }}\n{}", on(2)));
    let other = task("c", &format!("duration = '60s'\nresources = {{ gpu = 1 }}\n{}", on(2)));
    bench.apply(vec![a, b, other]).unwrap();
    bench.run(1_000);
    ends(&mut bench, "a");
    assert_eq!(bench.plan("b").state, PlanState::Planned, "c has its accelerator");
    ends(&mut bench, "c");
    assert_eq!(bench.plan("b").state, PlanState::Running);
}

#[test]
fn a_reservation_that_cannot_be_kept_names_task_resource_and_minute() {
    let mut bench = Bench::new(&[1, 1]);
    bench.apply(vec![task("now", "start = '+60s'\nend = '+30min'\nresources = { gpu = 1 }")]).unwrap();
    bench.apply(vec![task("later", "start = '+10min'\nend = '+20min'\nresources = { gpu = 1 }")]).unwrap();
    assert_ne!(bench.plan("now").reservation, bench.plan("later").reservation);
    bench.run(500);
    let module = bench.plan("later").reservation.as_ref().unwrap().module.clone();
    bench.silent.insert(module.clone());
    bench.run(3_000);
    let said = bench.core.events().find(|e| e.reason == "Conflict").unwrap();
    assert_eq!(said.subject, "later");
    let told = "task later (1970-01-01 00:26 to 1970-01-01 00:36) has no room: ";
    assert!(said.message.starts_with(told), "{}", said.message);
    let kept = &bench.plan("now").reservation.as_ref().unwrap().module;
    let short = format!("{kept}: accelerators: asks 1, idle 0 of 1 at 1970-01-01 00:26, taken by task now");
    assert!(said.message.contains(&short), "{}", said.message);
    // It comes back, and the plan is kept after all.
    bench.silent.clear();
    bench.hello(&module);
    bench.run(120_000);
    assert!(bench.plan("later").reservation.is_some());
}

#[test]
fn a_module_that_comes_back_smaller_loses_what_it_cannot_hold_any_more() {
    let mut bench = Bench::new(&[0, 0]);
    bench.apply(vec![task("t", "start = '+60s'\nduration = '60s'\nresources = { cpu = 4 }")]).unwrap();
    assert_eq!(bench.plan("t").reservation.as_ref().unwrap().module, name("module-1"));
    bench.refit(1, |module| module.capacity.cpu = model::Milli(2000));
    assert_eq!(bench.plan("t").reservation.as_ref().unwrap().module, name("module-2"));
}

const MINUTE: i64 = 60_000;

/// A window is an appointment by the wall clock, so it moves with it. Whoever runs is neither started anew nor run twice.
#[test]
fn a_clock_that_is_set_back_gives_a_running_task_more_time() {
    let mut bench = Bench::new(&[1, 1]);
    let first = task("a", "duration = '60s'\nresources = { gpu = 1 }");
    let later = task("b", "start = '+2min'\nduration = '60s'\nresources = { gpu = 1 }");
    bench.apply(vec![first, later, spec("web", "replicas = 2")]).unwrap();
    bench.run(1_000);
    let before: Vec<_> = bench.core.instances().map(|i| (i.id.clone(), i.module.clone())).collect();
    bench.ahead -= 10 * MINUTE;
    bench.run(600_000);
    let after: Vec<_> = bench.core.instances().map(|i| (i.id.clone(), i.module.clone())).collect();
    assert_eq!(before, after);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Running, PlanState::Planned));
    bench.run(200_000);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Succeeded, PlanState::Succeeded));
}

#[test]
fn a_clock_that_is_set_forward_ends_windows_and_names_what_was_missed() {
    let mut bench = Bench::new(&[1]);
    let first = task("a", "duration = '60s'\nresources = { gpu = 1 }");
    let later = task("b", "start = '+2min'\nduration = '60s'\nresources = { gpu = 1 }");
    bench.apply(vec![first, later, spec("web", "replicas = 2")]).unwrap();
    bench.run(1_000);
    let web = |bench: &Bench| {
        let of = bench.core.instances().filter(|i| i.spec.name.as_str() == "web");
        of.map(|i| (i.id.clone(), i.module.clone(), i.phase)).collect::<Vec<_>>()
    };
    let before = web(&bench);
    bench.ahead += 10 * MINUTE;
    bench.run(1_000);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Succeeded, PlanState::Missed));
    let said = bench.core.events().find(|e| e.reason == "Missed").unwrap();
    assert_eq!(
        (said.subject.as_str(), said.message.as_str()),
        ("b", "its window passed before it could start")
    );
    // Set right again: what is over stays over, and may be planned anew.
    bench.ahead -= 10 * MINUTE;
    bench.run(1_000);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Succeeded, PlanState::Missed));
    assert_eq!(web(&bench), before);
    bench.apply(vec![task("b", "duration = '60s'\nresources = { gpu = 1 }")]).unwrap();
    bench.run(1_000);
    assert_eq!(bench.plan("b").state, PlanState::Running);
}
