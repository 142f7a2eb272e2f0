use crate::{
    Refusal, Request,
    testing::{Bench, name, spec, specs},
};
use model::{Name, Outcome, Phase, PlanState};

fn task(who: &str, more: &str) -> model::AppSpec {
    spec(who, &format!("kind = 'task'\n{more}"))
}

fn count(bench: &Bench, app: &str) -> usize {
    bench.core.instances().filter(|i| i.spec.name.as_str() == app).count()
}

fn reserved(bench: &Bench, task: &str) -> Option<String> {
    let kept = bench.plan(task).reservation.as_ref()?;
    Some(format!("{} {:?}", kept.module, kept.binding.numbers().collect::<Vec<_>>()))
}

#[test]
fn a_task_is_reserved_ahead_started_on_time_and_ended_on_time() {
    let mut bench = Bench::new(&[2]);
    bench.apply(vec![task("t", "start = '+10s'\nend = '+20s'\nresources = { gpu = 2 }")]).unwrap();
    assert_eq!(reserved(&bench, "t").as_deref(), Some("module-1 [0, 1]"));
    // What is kept is kept: an app that would go on for good does not get it.
    bench.apply(vec![spec("app", "resources = { gpu = 1 }")]).unwrap();
    bench.run(9_000);
    assert_eq!((count(&bench, "t"), bench.of("app").phase), (0, Phase::Pending));
    // One that is over before is let in.
    bench.run(1_100);
    assert_eq!((bench.place("t").as_str(), bench.plan("t").state), ("module-1 0 1", PlanState::Running));
    bench.run(9_500);
    assert_eq!(count(&bench, "t"), 1);
    bench.run(1_000);
    let plan = bench.plan("t").clone();
    assert_eq!((count(&bench, "t"), plan.state), (0, PlanState::Succeeded));
    assert!(plan.ended - plan.end <= 100 && plan.started - plan.start <= 100, "{plan:?}");
    assert_eq!(bench.place("app"), "module-1 0", "what the task had is free again");
}

#[test]
fn windows_that_do_not_overlap_share_and_a_short_one_fits_before_a_later_one() {
    let mut bench = Bench::new(&[2]);
    let both = |who, start, end| {
        task(who, &format!("start = '+{start}'\nend = '+{end}'\nresources = {{ gpu = 2 }}"))
    };
    bench.apply(vec![both("late", "60s", "90s")]).unwrap();
    bench.apply(vec![both("early", "10s", "60s"), both("last", "90s", "100s")]).unwrap();
    assert_eq!(reserved(&bench, "early").as_deref(), Some("module-1 [0, 1]"));
    let refused = bench.apply(vec![both("between", "55s", "65s")]).unwrap_err().to_string();
    assert!(
        refused.starts_with("task between (1970-01-01 00:17 to 1970-01-01 00:17) has no room: "),
        "{refused}"
    );
    assert!(
        refused
            .contains("module-1: accelerators: asks 2, idle 0 of 2 at 1970-01-01 00:17, taken by task early"),
        "{refused}"
    );
    assert!(!bench.core.plans().any(|p| p.task.as_str() == "between"));
}

#[test]
fn a_conflict_names_the_first_minute_at_which_something_is_short() {
    let mut bench = Bench::new(&[0]);
    let cpu = |who, start, end, cpu| {
        task(who, &format!("start = '+{start}'\nend = '+{end}'\nresources = {{ cpu = {cpu} }}"))
    };
    bench.apply(vec![cpu("a", "10min", "20min", 4), cpu("b", "15min", "30min", 3)]).unwrap();
    let refused = bench.apply(vec![cpu("c", "1min", "40min", 3)]).unwrap_err().to_string();
    assert!(
        refused.contains("module-1: cpu: asks 3, free 1 at 1970-01-01 00:31, taken by task a, task b"),
        "{refused}"
    );
    bench.apply(vec![cpu("c", "1min", "40min", 1)]).unwrap();
}

#[test]
fn a_task_comes_after_another_and_circles_are_refused() {
    let mut bench = Bench::new(&[1]);
    let set = "[[task]]\nname='b'\nimage='r.s:5000/x'\nafter=['a']\nduration='10s'\nresources={gpu=1}\n\
               [[task]]\nname='a'\nimage='r.s:5000/x'\nduration='10s'\nresources={gpu=1}\n";
    bench.apply(specs(set)).unwrap();
    assert_eq!(bench.plan("b").start, bench.plan("a").end);
    bench.run(5_000);
    assert_eq!((count(&bench, "a"), count(&bench, "b")), (1, 0));
    bench.run(6_000);
    assert_eq!((bench.plan("a").state, bench.plan("b").state), (PlanState::Succeeded, PlanState::Running));
    let refused = |bench: &mut Bench, specs| bench.apply(specs).unwrap_err();
    let circle = vec![task("a", "duration = '10s'\nafter = ['b']")];
    assert!(matches!(refused(&mut bench, circle), Refusal::Circle(names) if names == "a, b"));
    let orphan = vec![task("c", "duration = '10s'\nafter = ['nobody']")];
    assert!(matches!(refused(&mut bench, orphan), Refusal::NoTask { .. }));
    let past = vec![task("c", "start = '1970-01-01T00:00:00Z'\nend = '1970-01-01T00:01:00Z'")];
    assert!(matches!(refused(&mut bench, past), Refusal::Over { .. }));
    let late = vec![task("c", "end = '+1s'\nafter = ['b']")];
    assert!(matches!(refused(&mut bench, late), Refusal::Over { .. }));
}

#[test]
fn one_that_grows_may_not_overtake_those_that_come_after_it() {
    let mut bench = Bench::new(&[1]);
    bench.apply(vec![task("a", "duration = '10s'"), task("b", "duration = '10s'\nafter = ['a']")]).unwrap();
    let refused = bench.apply(vec![task("a", "duration = '60s'")]).unwrap_err().to_string();
    assert!(refused.contains("task b starts at ") && refused.contains("apply both"), "{refused}");
    bench.apply(vec![task("a", "duration = '60s'"), task("b", "duration = '20s'\nafter = ['a']")]).unwrap();
    assert_eq!(bench.plan("b").start, bench.plan("a").end);
}

#[test]
fn when_a_module_is_lost_its_tasks_run_and_are_reserved_elsewhere() {
    let mut bench = Bench::new(&[2, 2]);
    let now = task(
        "now",
        "duration = '60s'\nresources = { gpu = 1 }\nplacement = { modules = ['module-2', 'module-1'] }",
    );
    bench.apply(vec![now, task("later", "start = '+30s'\nend = '+60s'\nresources = { gpu = 1 }")]).unwrap();
    bench.run(500);
    assert_eq!(
        (bench.place("now").as_str(), reserved(&bench, "later").as_deref()),
        ("module-1 0", Some("module-1 [1]"))
    );
    bench.silent.insert(Name::of_module(1));
    bench.run(1_500);
    assert_eq!(bench.place("now"), "module-2 0");
    assert_eq!(reserved(&bench, "later").as_deref(), Some("module-2 [1]"));
    let outcomes: Vec<Outcome> =
        bench.core.history().filter(|r| r.code == "now").map(|r| r.outcome).collect();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Running]);
    bench.run(60_000);
    assert_eq!(bench.plan("now").state, PlanState::Succeeded);
    assert_eq!(bench.plan("later").state, PlanState::Succeeded);
}

#[test]
fn a_reservation_that_cannot_be_kept_is_told_before_its_time() {
    let mut bench = Bench::new(&[1]);
    bench.apply(vec![task("t", "start = '+60s'\nend = '+70s'\nresources = { gpu = 1 }")]).unwrap();
    bench.ask(Request::Maintenance { module: name("module-1"), number: 0, maintenance: true }).unwrap();
    assert_eq!(reserved(&bench, "t"), None);
    let warned = |bench: &Bench| {
        bench
            .core
            .events()
            .filter(|e| e.reason == "Conflict" && e.subject == "t")
            .map(|e| e.message.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warned(&bench),
        [
            "task t (1970-01-01 00:17 to 1970-01-01 00:17) has no room: module-1: accelerators: asks 1, idle 0 of 1, 1 in maintenance"
        ]
    );
    bench.run(5_000);
    assert_eq!(warned(&bench).len(), 1, "once");
    bench.ask(Request::Maintenance { module: name("module-1"), number: 0, maintenance: false }).unwrap();
    assert_eq!(reserved(&bench, "t").as_deref(), Some("module-1 [0]"));
    // And one for which there is never room in its window has missed it.
    bench.ask(Request::Maintenance { module: name("module-1"), number: 0, maintenance: true }).unwrap();
    bench.run(58_000);
    assert!(bench.of("t").message.contains("in maintenance"));
    bench.run(10_000);
    assert_eq!((bench.plan("t").state, count(&bench, "t")), (PlanState::Missed, 0));
}

#[test]
fn a_task_that_exits_with_0_is_over_and_runs_again_when_it_is_applied_again() {
    let mut bench = Bench::new(&[1]);
    let spec = task("t", "duration = '60s'\nresources = { gpu = 1 }");
    bench.apply(vec![spec.clone()]).unwrap();
    bench.run(1_000);
    assert_eq!(bench.apply(vec![spec.clone()]).unwrap().lines, ["task t unchanged"]);
    let id = bench.of("t").id.clone();
    bench.done.insert(id);
    bench.run(1_000);
    assert_eq!((bench.plan("t").state, count(&bench, "t")), (PlanState::Succeeded, 0));
    assert!(bench.apply(vec![spec]).unwrap().lines[0].starts_with("task t changed: "));
    bench.run(1_000);
    assert_eq!((bench.plan("t").state, count(&bench, "t")), (PlanState::Running, 1));
    bench.ask(Request::Delete(vec![name("t")])).unwrap();
    bench.run(1_000);
    assert_eq!((bench.core.plans().count(), count(&bench, "t")), (0, 0));
}

#[test]
fn a_plan_made_before_any_module_has_joined_is_reserved_when_one_does() {
    let mut bench = Bench::new(&[]);
    let lines = bench.apply(vec![task("t", "start = '+10s'\nend = '+20s'")]).unwrap().lines;
    assert!(lines[0].ends_with("nothing is reserved yet: no module has joined"), "{lines:?}");
    bench.join(1, 2);
    assert_eq!(reserved(&bench, "t").as_deref(), Some("module-1 []"));
}

#[test]
fn maintenance_moves_what_runs_and_waits_where_there_is_no_other_place() {
    let mut bench = Bench::new(&[3]);
    bench.apply(vec![spec("a", "resources = { gpu = 1 }"), spec("b", "resources = { gpu = 1 }")]).unwrap();
    bench.run(500);
    assert_eq!((bench.place("a").as_str(), bench.place("b").as_str()), ("module-1 0", "module-1 1"));
    let maintain = |bench: &mut Bench, number| {
        bench.ask(Request::Maintenance { module: name("module-1"), number, maintenance: true }).unwrap();
        bench.run(1_000);
    };
    maintain(&mut bench, 0);
    assert_eq!((bench.place("a").as_str(), bench.place("b").as_str()), ("module-1 2", "module-1 1"));
    maintain(&mut bench, 1);
    assert_eq!(bench.place("b"), "module-1 1", "there is no other place yet");
    // A device that is gone leaves nothing to wait for, and blocks nobody else.
    bench.refit(1, |m| m.capacity.accelerators[2].fault = "no device in PCIe slot 7".into());
    assert_eq!(bench.of("a").phase, Phase::Pending);
    bench.apply(vec![spec("c", "")]).unwrap();
    bench.run(500);
    assert_eq!(bench.of("c").phase, Phase::Ready);
    bench.ask(Request::Maintenance { module: name("module-1"), number: 0, maintenance: false }).unwrap();
    bench.run(1_500);
    assert!(["module-1 0", "nowhere"].contains(&bench.place("a").as_str()), "{}", bench.place("a"));
}

#[test]
fn a_module_that_is_lost_for_good_is_forgotten_with_its_resources() {
    let mut bench = Bench::new(&[1, 1]);
    let forget = Request::Forget(Name::of_module(2));
    assert!(matches!(bench.ask(forget.clone()), Err(Refusal::StillThere(_))));
    bench.silent.insert(Name::of_module(2));
    bench.run(2_000);
    assert!(bench.core.resources().any(|r| r.module == Name::of_module(2) && r.why == "its module is lost"));
    bench.ask(forget.clone()).unwrap();
    assert!(!bench.core.resources().any(|r| r.module == Name::of_module(2)));
    assert!(!bench.stored.keys().any(|(_, key)| key.contains("module-2")));
    assert!(matches!(bench.ask(forget), Err(Refusal::NoModule(_))));
}

#[test]
fn parts_of_one_accelerator_are_shared_and_never_more_than_the_whole() {
    let mut bench = Bench::new(&[2]);
    let part = |n: u32, share: &str| {
        spec(&format!("p{n}"), &format!("strategy = 'binpack'\nresources = {{ gpu = '{share}' }}"))
    };
    bench.apply(vec![part(1, "500m"), part(2, "500m"), part(3, "700m"), part(4, "400m")]).unwrap();
    bench.run(1_000);
    let places: Vec<String> = (1..=4).map(|n| bench.place(&format!("p{n}"))).collect();
    assert_eq!(places, ["module-1 0", "module-1 0", "module-1 1", "nowhere"]);
    let waiting = &bench.of("p4").message;
    assert_eq!(waiting, "module-1: accelerators: asks 400m of one, the most free on one of 2 is 300m");
}

#[test]
fn cores_are_pinned_in_the_order_of_the_free_ones_and_the_rest_keeps_off_them() {
    let mut bench = Bench::new(&[0]);
    bench
        .apply(vec![spec("a", "resources = { cpu = 2 }"), spec("b", "resources = { cpu = '500m' }")])
        .unwrap();
    bench.run(500);
    bench.apply(vec![spec("c", "resources = { cpu = 1 }")]).unwrap();
    bench.run(500);
    let cores = |app: &str| bench.of(app).binding.cores.iter().copied().collect::<Vec<_>>();
    assert_eq!((cores("a"), cores("b"), cores("c")), (vec![0, 1], vec![], vec![2]));
    let told = bench.core.desired(bench.of("b")).binding.cores;
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
}
