//! `spacectl update` against a server that speaks the contract; what a module does with a bundle is in the daemon's tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod server;

use api::v1::Cordon;
use common::{refused, spacectl};
use serde_json::Value;
use server::{Fate, Serving, app, instance, slotted};
use std::fs;

/// As RAUC lays a bundle out, but for the signature's mathematics: more than one part long.
fn bundle(serving: &Serving, compatible: &str) {
    let manifest =
        format!("0\u{1}[update]\ncompatible={compatible}\nversion=2.0\n\n[bundle]\nformat=verity\n\0");
    let mut bytes = [b"hsqs".as_slice(), &vec![7; 700_000], manifest.as_bytes()].concat();
    bytes.extend((manifest.len() as u64).to_be_bytes());
    fs::write(serving.home().join("b.raucb"), bytes).unwrap();
}

/// Three modules, the server on the first; one app with an instance on each of the last two.
fn chassis() -> Serving {
    let serving = Serving::start();
    serving.show(|s| {
        s.modules = vec![slotted(1), slotted(2), slotted(3)];
        s.modules[0].server = true;
        s.apps = vec![app("cam")];
        s.instances =
            vec![instance("cam-1-1", "module-2", "ready"), instance("cam-2-2", "module-3", "ready")];
    });
    bundle(&serving, "board");
    serving
}

#[test]
fn all_modules_are_checked_and_then_updated_one_by_one_the_servers_last() {
    let serving = chassis();
    serving.destine("module-1", Fate::TakesTheServerAlong);
    serving.show(|s| s.modules[2].cordoned = true);
    let (code, out, err) = spacectl(serving.home(), &["update", "--all", "b.raucb"]);
    assert_eq!(code, 0, "{out}{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    for (line, module) in lines.iter().zip(["module-2", "module-3", "module-1"]) {
        assert!(line.starts_with(&format!("{module} updated from 1.0 to 2.0 in ")), "{line}");
    }
    let all = ["check module-2", "check module-3", "check module-1"].map(str::to_owned);
    let each = [("module-2", false), ("module-3", true), ("module-1", false)].map(|(module, cordoned)| {
        [
            format!("{module} cordoned=true draining=true"),
            format!("install {module}"),
            format!("{module} cordoned={cordoned} draining=false"),
        ]
    });
    assert_eq!(serving.asked(), [all.as_slice(), each.concat().as_slice()].concat());
    // Again: there is nothing to do.
    let (code, out, _) = spacectl(serving.home(), &["update", "--all", "-o", "json", "b.raucb"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["bundle"]["version"]), (0, &Value::from("2.0")));
    let outcomes: Vec<_> =
        report["modules"].as_array().unwrap().iter().map(|m| m["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unchanged"; 3]);
    assert_eq!(serving.asked().len(), 12);
}

#[test]
fn the_first_module_that_fails_ends_it() {
    let serving = chassis();
    serving.destine("module-2", Fate::FallsBack);
    let (code, out, err) = spacectl(serving.home(), &["update", "--all", "-o", "json", "b.raucb"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["modules"].as_array().unwrap().len()), (1, 1));
    assert_eq!(
        (&report["modules"][0]["module"], &report["modules"][0]["outcome"]),
        (&"module-2".into(), &"failed".into())
    );
    let line = "spacectl: module-2: slot b did not prove good; the module fell back to slot a by itself; it runs 1.0 from slot a";
    assert_eq!(err.lines().last(), Some(line));
    // It takes work again: its old slot is good.
    assert_eq!(serving.asked().last().unwrap(), "module-2 cordoned=false draining=false");
    assert!(serving.asked().iter().all(|line| line != "install module-3"));
}

#[test]
fn a_bundle_that_a_module_refuses_moves_nothing() {
    let serving = chassis();
    serving.destine("module-3", Fate::Refuses);
    let (code, out, err) = spacectl(serving.home(), &["update", "--all", "b.raucb"]);
    assert_eq!((code, out.as_str()), (1, ""));
    let words = "module-3: cannot use the bundle: signature verification failed; it runs 1.0 from slot a";
    assert!(err.lines().last().unwrap().ends_with(words), "{err}");
    assert_eq!(serving.asked(), ["check module-2", "check module-3"]);
}

#[test]
fn what_an_earlier_one_has_left_drained_is_given_back_when_it_cannot_go_on() {
    let serving = chassis();
    serving.destine("module-2", Fate::Refuses);
    serving.show(|s| {
        (s.modules[1].cordoned, s.modules[1].draining) = (true, true);
        s.modules[1].before_update = Some(Cordon { cordoned: true, draining: false });
    });
    let (code, _, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb"]);
    assert!(code == 1 && err.lines().last().unwrap().contains("signature verification failed"), "{err}");
    assert_eq!(serving.asked(), ["check module-2", "module-2 cordoned=true draining=false"]);
}

#[test]
fn a_module_that_does_not_come_back_stays_drained() {
    let serving = chassis();
    serving.destine("module-2", Fate::Vanishes);
    let (code, _, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb", "--limit", "10s"]);
    let line = err.lines().last().unwrap();
    assert!(code == 1 && line.contains("module-2 was not done within 10s, last seen restarts"), "{err}");
    assert!(line.contains("; it stays drained: "), "{line}");
    assert_eq!(serving.asked().last().unwrap(), "install module-2");
    // It comes back by itself; saying the same again gives it back, as the operator had it.
    serving.show(|s| {
        let module = &mut s.modules[1];
        assert!(module.draining);
        module.state = "ready".into();
        let root = module.root.as_mut().unwrap();
        (root.slot, root.version) = ("b".into(), "2.0".into());
        root.update.as_mut().unwrap().phase = "done".into();
    });
    let (code, out, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb"]);
    assert!(code == 0 && out.starts_with("module-2 runs 2.0 already, from slot b"), "{out}{err}");
    assert_eq!(serving.asked().last().unwrap(), "module-2 cordoned=false draining=false");
}

#[test]
fn a_module_that_fell_back_after_nobody_watched_is_updated_and_given_back() {
    let serving = chassis();
    serving.destine("module-2", Fate::Vanishes);
    serving.show(|s| s.modules[1].cordoned = true);
    spacectl(serving.home(), &["update", "module-2", "b.raucb", "--limit", "3s"]);
    serving.destine("module-2", Fate::Good);
    serving.show(|s| {
        s.modules[1].state = "ready".into();
        s.modules[1].root.as_mut().unwrap().update.as_mut().unwrap().phase = "failed".into();
    });
    let (code, out, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb"]);
    assert!(code == 0 && out.starts_with("module-2 updated from 1.0 to 2.0 in "), "{out}{err}");
    assert_eq!(serving.asked().last().unwrap(), "module-2 cordoned=true draining=false");
}

#[test]
fn what_an_operator_says_in_the_middle_holds() {
    let serving = chassis();
    serving.destine("module-2", Fate::IsDrainedByHand);
    let (code, out, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb"]);
    assert!(code == 0 && out.starts_with("module-2 updated from 1.0 to 2.0 in "), "{out}{err}");
    assert_eq!(serving.asked().last().unwrap(), "install module-2");
}

#[test]
fn what_cannot_be_emptied_takes_work_again() {
    let serving = chassis();
    serving.show(|s| {
        let mut successor = instance("cam-1-9", "", "pending");
        successor.replaces = "cam-1-1".into();
        successor.message = "module-1: memory".into();
        s.instances.push(successor);
    });
    let (code, _, err) = spacectl(serving.home(), &["update", "module-2", "b.raucb"]);
    let line = err.lines().last().unwrap();
    assert!(
        code == 1
            && line.contains("module-2 cannot be emptied, cam/1 has no room elsewhere: module-1: memory"),
        "{err}"
    );
    assert_eq!(serving.asked().last().unwrap(), "module-2 cordoned=false draining=false");
    assert!(serving.asked().iter().all(|line| line != "install module-2"));
}

#[test]
fn what_is_wrong_from_the_start_is_one_line_and_changes_nothing() {
    let serving = chassis();
    let home = serving.home();
    assert!(refused(home, &["update", "module-9", "b.raucb"], 1).contains("there is no module module-9"));
    assert!(refused(home, &["update", "module-2", "gone.raucb"], 1).contains("gone.raucb"));
    let whole = fs::read(home.join("b.raucb")).unwrap();
    fs::write(home.join("short.raucb"), &whole[..whole.len() / 2]).unwrap();
    assert!(refused(home, &["update", "module-2", "short.raucb"], 1).contains("cut short"));
    bundle(&serving, "bench");
    let line = refused(home, &["update", "module-2", "b.raucb"], 1);
    assert!(line.contains("module-2 takes bundles for board, this one is for bench"), "{line}");
    bundle(&serving, "board");
    serving.show(|s| s.modules[1].state = "suspect".into());
    assert!(refused(home, &["update", "module-2", "b.raucb"], 1).contains("module-2 is suspect"));
    serving.show(|s| (s.modules[1].state, s.modules[1].root) = ("ready".into(), None));
    assert!(refused(home, &["update", "module-2", "b.raucb"], 1).contains("not started from a root slot"));
    for words in
        [&["update", "b.raucb"][..], &["update", "--all", "module-2", "b.raucb"], &["update", "--all"]]
    {
        refused(home, words, 64);
    }
    assert_eq!(serving.asked(), Vec::<String>::new());
}
