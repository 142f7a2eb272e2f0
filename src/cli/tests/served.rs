//! The real program against a server that speaks the contract over mutual TLS on loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod server;

use api::v1::{Resource, Volume};
use common::{command, home, refused, spacectl};
use identity::Authority;
use server::{Link, Serving, app, instance, module};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
};

const CAM: &str = "name = \"cam\"\nimage = \"registry.spacecloud:5000/cam:1\"\n";

/// Expects success without a word on stderr and answers what was printed.
fn done(serving: &Serving, words: &[&str]) -> String {
    let (code, out, err) = spacectl(serving.home(), words);
    assert_eq!((code, err.as_str()), (0, ""), "{words:?}: {out}");
    out
}

#[test]
fn apply_sends_all_apps_of_all_files_at_once() {
    let serving = Serving::start();
    let file = |name: &str, text: &str| fs::write(serving.home().join(name), text).unwrap();
    fs::create_dir(serving.home().join("apps")).unwrap();
    file("apps/b.toml", &CAM.replace("cam", "b"));
    file("apps/a.toml", &CAM.replace("cam", "a"));
    file("apps/README.md", "no app");
    file("two.toml", &format!("[[app]]\n{}[[app]]\n{CAM}", CAM.replace("cam", "c")));
    let mut child = command(serving.home(), &["apply", "-f", "apps", "-f", "two.toml", "-f", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(CAM.replace("cam", "d").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "5 apps\n");
    let asked = serving.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let names = ["a", "b", "c", "cam", "d"].map(|name| format!("\"name\":\"{name}\""));
    let mut rest = asked[0].as_str();
    for name in names {
        rest = rest.split_once(&name).unwrap_or_else(|| panic!("no {name} in order in {asked:?}")).1;
    }
}

#[test]
fn what_the_server_refuses_is_1_with_its_words() {
    let serving = Serving::start();
    fs::write(serving.home().join("cam.toml"), format!("[[app]]\n{CAM}[[app]]\n{CAM}")).unwrap();
    let line = refused(serving.home(), &["apply", "-f", "cam.toml"], 1);
    assert_eq!(line, "spacectl: app cam appears twice\n");
    let line = refused(serving.home(), &["cordon", "module-9"], 1);
    assert_eq!(line, "spacectl: there is no module-9\n");
    // Unavailable is the server's word for: not now.
    let line = refused(serving.home(), &["uncordon", "module-8"], 2);
    assert!(line.contains("starting"), "{line}");
}

#[test]
fn each_changing_verb_asks_for_what_it_says() {
    let serving = Serving::start();
    fs::write(serving.home().join("cam.toml"), CAM).unwrap();
    done(&serving, &["delete", "tm", "-f", "cam.toml"]);
    done(&serving, &["scale", "cam", "3"]);
    done(&serving, &["cordon", "module-1"]);
    done(&serving, &["uncordon", "module-1"]);
    assert_eq!(done(&serving, &["drain", "module-2"]), "module-2 cordoned=true draining=true\n");
    done(&serving, &["accelerator", "maintenance", "module-2/3", "on"]);
    done(&serving, &["resize", "cam", "--memory", "128MiB", "--cpu", "500m"]);
    done(&serving, &["forget", "module-3"]);
    let asked = serving.asked();
    assert_eq!(
        asked,
        [
            "delete tm,cam",
            "scale cam 3",
            "module-1 cordoned=true draining=false",
            "module-1 cordoned=false draining=false",
            "module-2 cordoned=true draining=true",
            "maintain module-2 3 true",
            "resize cam cpu=500m memory=128MiB disk=",
            "forget module-3",
        ]
    );
}

#[test]
fn reading_verbs_print_tables_and_json() {
    let serving = Serving::start();
    serving.show(|snapshot| {
        snapshot.modules = vec![module("module-1")];
        snapshot.apps = vec![app("cam")];
        snapshot.instances = vec![instance("cam-1-1", "module-1", "ready")];
    });
    assert!(done(&serving, &["get", "apps"]).contains("cam  1/1"));
    assert!(done(&serving, &["get", "instances", "-o", "wide"]).contains("cam-1-1"));
    assert!(done(&serving, &["get", "modules"]).contains("module-1  ready"));
    assert_eq!(done(&serving, &["get", "events"]), "no events\n");
    assert!(done(&serving, &["status"]).contains("instances  1 of 1 ready"));
    assert!(done(&serving, &["explain", "cam/1"]).contains("cam/1 (cam-1-1) is ready on module-1"));
    for (words, pointer, value) in [
        (&["get", "apps"][..], "/0/name", "cam"),
        (&["get", "instances"], "/0/module", "module-1"),
        (&["get", "modules"], "/0/state", "ready"),
        (&["explain", "cam"], "/0/id", "cam-1-1"),
        (&["status"], "/instances/0/phase", "ready"),
    ] {
        let text = done(&serving, &[words, &["-o", "json"]].concat());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.pointer(pointer).unwrap(), value, "{words:?}");
    }
    serving.show_tables(|tables| {
        let line = Resource { module: "module-1".into(), resource: "gpu-3".into(), ..Resource::default() };
        tables.resources = vec![Resource { state: "idle".into(), pcie_slot: "8".into(), ..line }];
    });
    assert!(done(&serving, &["get", "resources"]).contains("gpu-3"));
    let json: serde_json::Value =
        serde_json::from_str(&done(&serving, &["get", "resources", "-o", "json"])).unwrap();
    assert_eq!(json.pointer("/0/pcie_slot").unwrap(), "8");
    assert_eq!(done(&serving, &["get", "history"]), "nothing has run yet\n");
    assert_eq!(done(&serving, &["get", "device-queue"]), "nothing has succeeded yet\n");
    assert!(done(&serving, &["get", "tasks"]).starts_with("no tasks"));
    assert!(refused(serving.home(), &["explain", "gone/1"], 1).contains("get instances"));
}

#[test]
fn a_watch_prints_after_each_change_and_says_when_the_server_goes() {
    let serving = Serving::start();
    let mut child = command(serving.home(), &["get", "instances", "--watch", "-o", "json"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "[]");
    serving.show(|snapshot| snapshot.instances = vec![instance("cam-1-1", "module-1", "starting")]);
    assert!(lines.next().unwrap().unwrap().contains("\"phase\":\"starting\""));
    serving.stop();
    assert!(lines.next().is_none());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{told}");
    assert!(told.starts_with("spacectl: cannot reach") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_watch_notices_that_its_server_was_cut_off() {
    let serving = Serving::start();
    let link = Link::to(&serving.address());
    let words = ["get", "apps", "--watch", "-o", "json", "--timeout", "5s", "--server", link.address()];
    let mut child = command(serving.home(), &words);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "[]");
    link.cut();
    assert!(lines.next().is_none());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.starts_with("spacectl: cannot reach") && told.ends_with("; try again\n"), "{told}");
}

#[test]
fn drain_waits_until_nothing_is_left() {
    let serving = Serving::start();
    serving.show(|snapshot| snapshot.instances = vec![instance("cam-1-1", "module-2", "stopping")]);
    let late = spacectl(serving.home(), &["drain", "module-2", "--wait", "--limit", "3s"]);
    assert_eq!(late.0, 1);
    assert!(late.2.contains("module-2 still has 1 after 3s: cam/1;"), "{}", late.2);
    let mut child =
        command(serving.home(), &["drain", "module-2", "--wait"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("draining=true"));
    serving.cut_watches();
    serving.show(|snapshot| snapshot.instances = vec![instance("cam-1-2", "module-1", "ready")]);
    assert_eq!(lines.next().unwrap().unwrap(), "nothing is left on module-2");
    assert!(child.wait().unwrap().success());
}

#[test]
fn logs_are_passed_on_byte_by_byte() {
    let serving = Serving::start();
    serving.show(|snapshot| {
        snapshot.apps = vec![app("cam")];
        snapshot.instances =
            vec![instance("cam-1-1", "module-1", "stopping"), instance("cam-1-2", "module-2", "ready")];
    });
    assert_eq!(done(&serving, &["logs", "cam/1", "-f", "--tail", "5"]), "cam-1-2 tail=5 follow=true\nrest\n");
    assert_eq!(done(&serving, &["logs", "cam-1-1"]), "cam-1-1 tail=0 follow=false\nrest\n");
    refused(serving.home(), &["logs", "cam/7"], 1);
    // A reader that has had enough is no failure.
    let mut child = command(serving.home(), &["logs", "cam/1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn another_cluster_s_papers_are_2_and_the_keys_to_check() {
    let serving = Serving::start();
    let stranger = home(&Authority::create().unwrap().0, &serving.address());
    let line = refused(stranger.path(), &["status"], 2);
    assert!(line.contains("check ca, certificate and key"), "{line}");
    // The right CA, but a certificate of another cluster: now it is the server that refuses.
    let ca = serving.home().join(".config/spacecloud/ca.pem");
    fs::copy(ca, stranger.path().join(".config/spacecloud/ca.pem")).unwrap();
    let line = refused(stranger.path(), &["status"], 2);
    assert!(line.contains("check ca, certificate and key"), "{line}");
}

#[test]
fn volumes_are_applied_shown_and_erased() {
    let serving = Serving::start();
    let text = format!("[[volume]]\nname = 'data'\nclass = 'local'\nsize = '1MiB'\n[[app]]\n{CAM}");
    fs::write(serving.home().join("cam.toml"), text).unwrap();
    assert_eq!(done(&serving, &["apply", "-f", "cam.toml"]), "1 apps\n1 volumes\n");
    assert!(serving.asked()[0].contains("\"class\":\"local\""), "{:?}", serving.asked());
    serving.show(|snapshot| {
        let volume = Volume { name: "data".into(), state: "bound".into(), ..Volume::default() };
        snapshot.volumes.push(volume);
    });
    assert!(done(&serving, &["get", "volumes"]).contains("bound"));
    assert!(done(&serving, &["volume", "inspect", "data"]).contains("\"state\": \"bound\""));
    let line = refused(serving.home(), &["volume", "inspect", "other"], 1);
    assert!(line.contains("there is no volume other"), "{line}");
    done(&serving, &["volume", "rm", "data"]);
    done(&serving, &["delete", "cam", "--volumes"]);
    let asked = serving.asked();
    assert_eq!(asked[asked.len() - 2..], ["delete volumes data", "delete cam with volumes"]);
    fs::write(serving.home().join("bad.toml"), "kind = 'volume'\nname = 'x'\nclass = 'nfs'\nsize = '1MiB'\n")
        .unwrap();
    let line = refused(serving.home(), &["apply", "-f", "bad.toml"], 1);
    assert!(line.contains("bad.toml: line 3, class: unknown variant `nfs`"), "{line}");
}
