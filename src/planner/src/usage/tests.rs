use super::*;
use crate::testing;
use model::{AcceleratorShare, Bytes, Milli};

fn spec(gpu: u64, cpu: u64) -> AppSpec {
    testing::spec("a", &format!("resources = {{ cpu = '{cpu}m', gpu = '{gpu}m' }}"))
}

fn module(accelerators: u32) -> Module {
    let mut module = testing::module(1, accelerators);
    (module.capacity.cpu, module.capacity.memory) = (Milli(4000), Bytes(1 << 30));
    module
}

fn binding(numbers: &[u32]) -> Binding {
    let share = |number: &u32| AcceleratorShare { number: *number, share: Milli(1000) };
    Binding { accelerators: numbers.iter().map(share).collect(), ..Binding::default() }
}

#[test]
fn the_most_at_any_moment_counts_not_the_sum_of_all() {
    let (name, spec, first, second) =
        ("module-1".parse().unwrap(), spec(1000, 2000), binding(&[0]), binding(&[1]));
    let hold = |from, until, binding| Hold {
        module: &name,
        window: Window { from, until },
        spec: &spec,
        binding,
        who: format!("task at {from}"),
        instance: None,
    };
    let holds = [hold(10, 20, &first), hold(20, 30, &second), hold(40, 50, &first)];
    let refs: Vec<&Hold<'_>> = holds.iter().collect();
    let usage = Usage::of(&refs, Window { from: 0, until: 40 });
    assert_eq!((usage.load.cpu, usage.load.instances), (2000, 1));
    assert_eq!(usage.accelerators, BTreeMap::from([(0, 1000), (1, 1000)]));
    assert_eq!(Usage::of(&refs, Window { from: 30, until: 40 }).load, Load::default());
    assert_eq!(Usage::of(&refs, Window::for_good(25)).accelerators.len(), 2);
}

#[test]
fn a_conflict_names_resource_moment_and_holders() {
    let (name, task, numbers) = ("module-1".parse().unwrap(), spec(2000, 3000), binding(&[0, 1]));
    let hold = Hold {
        module: &name,
        window: Window { from: 10, until: 20 },
        spec: &task,
        binding: &numbers,
        who: "task a".into(),
        instance: None,
    };
    let holds = [&hold];
    let asked = |gpu, cpu| spec(gpu, cpu);
    let find =
        |spec: &AppSpec, from, until| first_conflict(&module(3), 3, &holds, spec, Window { from, until });
    let found = find(&asked(2000, 0), 5, 15).unwrap();
    assert_eq!(found, Conflict { resource: "accelerators", at: 10, holders: vec!["task a".into()] });
    assert_eq!(find(&asked(0, 2000), 5, 15).unwrap().resource, "cpu");
    assert_eq!(find(&asked(1000, 1000), 5, 15), None);
    assert_eq!(find(&asked(2000, 2000), 20, 30), None);
    // Two of three are taken, and a part still fits on the third.
    assert_eq!(find(&asked(500, 0), 5, 15), None);
}
