use super::*;
use crate::testing::{NOW, app, event, instance, module, snapshot};

const NARROW: Look = Look { wide: false, colour: false };
const WIDE: Look = Look { wide: true, colour: false };

fn all() -> Snapshot {
    let mut all = snapshot();
    all.apps = vec![app("cam", 1, 2)];
    let mut waiting = instance("cam-2-4", "");
    waiting.phase = "pending".into();
    waiting.started = 0;
    waiting.message = "module-1: memory short by 1GiB".into();
    all.instances = vec![instance("cam-1-3", "module-1"), waiting];
    let mut drained = module("module-2", "lost");
    drained.cordoned = true;
    drained.draining = true;
    drained.labels = [("zone", "b"), ("gpu", "yes")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    all.modules = vec![module("module-1", "ready"), drained];
    all.events = vec![event(7, "warning", "silent for 600ms")];
    all
}

#[test]
fn apps_show_how_many_are_ready() {
    let text = apps(&all(), NARROW);
    assert_eq!(text, "APP  READY  AGE  IMAGE\ncam  1/2    12s  registry.spacecloud:5000/cam:1\n");
    assert!(apps(&all(), WIDE).contains("STRATEGY  REVISION  SERVICE  NOTE\n"));
    assert!(apps(&snapshot(), NARROW).contains("spacectl apply"));
}

#[test]
fn instances_show_where_and_since_when() {
    let text = instances(&all(), NARROW);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "REPLICA  PHASE    MODULE    RESTARTS  AGE   MESSAGE");
    assert_eq!(lines[1], "cam/1    ready    module-1  0         3min  -");
    assert_eq!(lines[2], "cam/2    pending  -         0         -     module-1: memory short by 1GiB");
    let wide = instances(&all(), WIDE);
    assert!(wide.contains("INSTANCE") && wide.contains("cam-1-3") && wide.contains("10.42.1.7"), "{wide}");
}

#[test]
fn modules_show_state_and_load() {
    let text = modules(&all(), NARROW);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "module-1  ready          3          0.5/2  256MiB/1GiB  10.0.0.1");
    assert!(lines[2].starts_with("module-2  lost,draining  "), "{text}");
    assert!(modules(&all(), WIDE).contains("gpu=yes,zone=b"));
}

#[test]
fn events_show_age_and_in_wide_the_moment() {
    let text = events(&all(), NARROW);
    assert!(text.contains("3s   warning   module-3  Lost    silent for 600ms\n"), "{text}");
    assert!(events(&all(), WIDE).contains("2027-01-15 07:59:57.000Z"), "{}", events(&all(), WIDE));
    assert_eq!(utc(u64::MAX), "-");
}

#[test]
fn json_is_the_contract_s_own_types() {
    let text = render(&all(), What::Instances, Output::Json, NARROW).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[0]["id"], "cam-1-3");
    assert_eq!(value[0]["started"], NOW - 200_000);
    assert_eq!(pick_json(&all(), What::Modules).unwrap()[1]["labels"]["zone"], "b");
    assert!(!pick_json(&all(), What::Events).unwrap().to_string().contains('\n'));
}
