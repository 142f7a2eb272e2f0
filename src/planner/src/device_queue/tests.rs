use crate::{
    Request,
    testing::{Bench, name, spec},
};
use model::{AcceleratorShare, Binding, Milli, Outcome};

const PASS: &str = "kind = 'task'\nduration = '10s'\nresources = { cpu = 2, memory = '512MiB', gpu = 2 }";

/// Runs the task once to its end, and answers where it was.
fn once(bench: &mut Bench, task: &str) -> String {
    bench.apply(vec![spec(task, PASS)]).unwrap();
    bench.run(1000);
    let place = bench.place(task);
    bench.run(12_000);
    assert_eq!(bench.core.instances().filter(|i| i.spec.name.as_str() == task).count(), 0);
    place
}

/// What the queue said, as the explanation of the running instance has it.
fn level(bench: &Bench, task: &str) -> String {
    let words = &bench.of(task).decision.level;
    words.strip_suffix("; reserved ahead for its window").unwrap_or(words).to_owned()
}

#[test]
fn one_without_a_past_success_goes_to_the_unit_level() {
    let mut bench = Bench::new(&[2, 4]);
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert_eq!(words, "device-level queue ①: pass has no past success; unit level");
    assert!(bench.of("pass").decision.level.ends_with("reserved ahead for its window"));
}

#[test]
fn two_the_whole_combination_is_free_and_taken() {
    let mut bench = Bench::new(&[4, 4]);
    // What is on module-1 when the task first runs makes it succeed elsewhere and with high numbers.
    let block = |n: u32, m: u16, gpu: u32| {
        spec(
            &format!("block-{n}"),
            &format!("resources = {{ gpu = {gpu} }}\nplacement = {{ modules = ['module-{m}'] }}"),
        )
    };
    bench.apply(vec![block(1, 1, 4), block(2, 2, 2)]).unwrap();
    bench.run(500);
    assert_eq!(once(&mut bench, "pass"), "module-2 2 3");
    let queue: Vec<_> =
        bench.core.device_queue().map(|s| (s.code.as_str(), s.combination.module.as_str())).collect();
    assert!(queue.contains(&("pass", "module-2")), "{queue:?}");
    bench.ask(Request::Delete(vec![name("block-1"), name("block-2")])).unwrap();
    bench.run(1000);
    // Everything is free now: the same combination is taken all the same.
    assert_eq!(once(&mut bench, "pass"), "module-2 2 3");
    let runs: Vec<_> = bench.core.history().filter(|r| r.code == "pass").map(|r| r.outcome).collect();
    assert_eq!(runs, [Outcome::Succeeded, Outcome::Succeeded]);
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert!(
        words.starts_with("device-level queue ②: the combination of pass's last success on module-2"),
        "{words}"
    );
    assert!(words.contains("accelerators 2 3"), "{words}");
}

#[test]
fn three_amounts_are_short_there() {
    let mut bench = Bench::new(&[4, 4]);
    let first = once(&mut bench, "pass");
    let module = first.split(' ').next().unwrap();
    let hog = format!("resources = {{ memory = '700MiB' }}\nplacement = {{ modules = ['{module}'] }}");
    bench.apply(vec![spec("hog", &hog)]).unwrap();
    bench.run(500);
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert!(
        words.starts_with(&format!("device-level queue ③: {module}, where pass succeeded last: memory")),
        "{words}"
    );
    bench.run(500);
    assert!(!bench.place("pass").starts_with(module), "{}", bench.place("pass"));
}

#[test]
fn three_a_module_that_takes_no_work_is_as_good_as_short() {
    let mut bench = Bench::new(&[4, 4]);
    let first = once(&mut bench, "pass");
    let module = first.split(' ').next().unwrap();
    bench.ask(Request::Cordon { module: name(module), cordoned: true, draining: false }).unwrap();
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert_eq!(
        *words,
        format!("device-level queue ③: {module}, where pass succeeded last: cordoned; unit level")
    );
}

#[test]
fn four_other_accelerators_of_the_same_module() {
    let mut bench = Bench::new(&[4, 4]);
    let first = once(&mut bench, "pass");
    assert_eq!(first, "module-1 0 1");
    bench
        .apply(vec![spec("one", "resources = { gpu = 1 }\nplacement = { modules = ['module-1'] }")])
        .unwrap();
    bench.run(500);
    assert_eq!(bench.place("one"), "module-1 0");
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert_eq!(
        words,
        "device-level queue ④: accelerators 0 of module-1 are taken, others there are not (accelerators 1 2, cores 0 1)"
    );
    bench.run(500);
    assert_eq!(bench.place("pass"), "module-1 1 2");
}

#[test]
fn four_too_few_others_go_to_the_unit_level() {
    let mut bench = Bench::new(&[4, 4]);
    assert_eq!(once(&mut bench, "pass"), "module-1 0 1");
    bench
        .apply(vec![spec("three", "resources = { gpu = 3 }\nplacement = { modules = ['module-1'] }")])
        .unwrap();
    bench.run(500);
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    let words = level(&bench, "pass");
    assert_eq!(
        words,
        "device-level queue ④: accelerators 0 1 of module-1 are taken, and it has too few others; unit level"
    );
    bench.run(500);
    assert_eq!(bench.place("pass"), "module-2 0 1");
}

#[test]
fn what_is_in_maintenance_is_never_granted_even_if_it_succeeded() {
    let mut bench = Bench::new(&[4, 4]);
    assert_eq!(once(&mut bench, "pass"), "module-1 0 1");
    bench.ask(Request::Maintenance { module: name("module-1"), number: 1, maintenance: true }).unwrap();
    bench.apply(vec![spec("pass", PASS)]).unwrap();
    bench.run(500);
    assert_eq!(bench.place("pass"), "module-1 0 2");
    let share = |number| AcceleratorShare { number, share: Milli(1000) };
    let binding = Binding { accelerators: vec![share(0), share(2)], cores: [0, 1].into() };
    assert_eq!(bench.of("pass").binding, binding);
}

#[test]
fn with_other_resources_it_is_another_task() {
    let mut bench = Bench::new(&[4, 4]);
    once(&mut bench, "pass");
    bench.apply(vec![spec("pass", &PASS.replace("gpu = 2", "gpu = 1"))]).unwrap();
    let words = level(&bench, "pass");
    assert_eq!(words, "device-level queue ①: pass succeeded with other resources only; unit level");
}

#[test]
fn tasks_that_share_a_code_share_their_history_and_apps_go_through_by_the_paper_s_strategy_only() {
    let mut bench = Bench::new(&[4, 4]);
    let coded = |n: u32| spec(&format!("pass-{n}"), &format!("code = 'zyckj'\n{PASS}"));
    bench.apply(vec![coded(1)]).unwrap();
    bench.run(12_000);
    bench.apply(vec![coded(2)]).unwrap();
    assert!(
        bench.plan("pass-2").decision.level.contains("zyckj's last success"),
        "{:?}",
        bench.plan("pass-2")
    );
    bench.apply(vec![spec("plain", "resources = { gpu = 1 }")]).unwrap();
    bench.run(500);
    assert_eq!(level(&bench, "plain"), "");
}
