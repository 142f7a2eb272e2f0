//! Registries that follow each other: each change goes around once, and nothing comes back that was deleted.

use super::peers::{Relay, damage, following, there};
use crate::support::{Registry, blob_file, body, client, header, sha256, wait_for};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};
use tempfile::{TempDir, tempdir};

const SCRUB: &str = "[scrub]\nevery = \"200ms\"\nrate = \"1GiB\"\n";

/// Below those that the kernel gives to outgoing connections, and never the same twice: it stays free while the
/// registry that has it is stopped.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 22_000 + u16::try_from(std::process::id() % 80).unwrap() * 100;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 2000).find(free).unwrap()
}

/// A place for a registry, also while none runs there.
struct Place {
    directory: TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempdir().unwrap(), port: port() }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// One that follows the others.
    fn start(&self, sections: &str, others: &[&Self]) -> Registry {
        let replicas: String = others.iter().map(|other| following(other.port)).collect();
        self.start_with(&format!("{sections}{replicas}"))
    }

    fn start_with(&self, sections: &str) -> Registry {
        let config = self.directory.path().join("registry.toml");
        let head = format!("root = {:?}\nlisten = \"127.0.0.1:{}\"\n", self.root(), self.port);
        fs::write(&config, format!("{head}{sections}")).unwrap();
        let arguments = ["--config", config.to_str().unwrap(), "--insecure-http"];
        Registry::start_with(self.directory.path(), &arguments)
    }
}

fn history(registry: &Registry) -> Vec<Value> {
    registry.json("/v2/_space/changes?after=0")["changes"].as_array().unwrap().clone()
}

/// The last change of a tag or manifest: what it leads to, and since when.
fn change(registry: &Registry, reference: &str) -> Option<(Value, i64)> {
    let found = history(registry).into_iter().find(|change| change["reference"] == reference)?;
    Some((found["digest"].clone(), found["stamp"].as_i64().unwrap()))
}

/// Waits until all say the same of each reference, and nothing moves any more.
fn settled(registries: &[&Registry]) {
    let known = |history: &Vec<Value>| {
        let said =
            |change: &Value| format!("{} {} {}", change["reference"], change["digest"], change["stamp"]);
        history.iter().map(said).collect::<BTreeSet<String>>()
    };
    let (mut before, mut alike) = (Vec::new(), 0);
    wait_for("agreement and quiet", || {
        // With their numbers, which grow with every change.
        let now: Vec<Vec<Value>> = registries.iter().map(|registry| history(registry)).collect();
        let agreed = now.windows(2).all(|pair| known(&pair[0]) == known(&pair[1]));
        alike = if agreed && now == before { alike + 1 } else { 0 };
        before = now;
        (alike == 25).then_some(())
    });
}

/// Whether it is here, whatever others have.
fn is_here(registry: &Registry, path: &str) -> bool {
    let answer = client().get(registry.url(path)).header("space-registry-passed-on", "1").call();
    answer.unwrap().status() == 200
}

fn brought_back(registry: &Registry, count: u32) {
    let wanted = format!("space_registry_brought_back_blobs_total {count}\n");
    wait_for("the metric", || {
        let metrics = body(&mut registry.get("/metrics"));
        String::from_utf8(metrics).unwrap().contains(&wanted).then_some(())
    });
}

/// Each module of a chassis can have the same configuration.
#[test]
fn one_list_serves_all_that_are_on_it() {
    let [one, two] = [Place::new(), Place::new()];
    let (first, second) = (one.start("", &[&one, &two]), two.start("", &[&one, &two]));
    let (layer, _) = first.push_image("app", "of-one", 1);
    let (other, _) = second.push_image("app", "of-two", 2);
    settled(&[&first, &second]);
    for registry in [&first, &second] {
        for path in [format!("/v2/app/blobs/{layer}"), format!("/v2/app/blobs/{other}")] {
            assert!(is_here(registry, &path), "{path}");
        }
        wait_for("one other, reached", || {
            let metrics = String::from_utf8(body(&mut registry.get("/metrics"))).unwrap();
            let counted = ["space_registry_peers_reached 1\n", "space_registry_peers_lost 0\n"];
            counted.iter().all(|line| metrics.contains(line)).then_some(())
        });
    }
}

#[test]
fn a_deletion_wins_over_those_who_were_away() {
    let [one, two, three] = [Place::new(), Place::new(), Place::new()];
    let first = one.start("", &[&two, &three]);
    let mut second = two.start("", &[&one, &three]);
    let third = three.start("", &[&one, &two]);
    let (_, digest) = first.push_image("a", "going", 1);
    first.push_image("a", "staying", 2);
    for registry in [&second, &third] {
        there(registry, "/v2/a/manifests/going");
        there(registry, "/v2/a/manifests/staying");
    }
    second.stop();
    assert_eq!(first.delete(&format!("/v2/a/manifests/{digest}")), 202);
    wait_for("the deletion", || (!is_here(&third, "/v2/a/manifests/going")).then_some(()));
    // It has the image still, and those who follow it have heard of nothing since.
    let second = two.start("", &[&one, &three]);
    settled(&[&first, &second, &third]);
    for registry in [&first, &second, &third] {
        for gone in ["going", &digest] {
            assert_eq!(registry.status(&format!("/v2/a/manifests/{gone}")), 404, "{gone}");
        }
        assert!(is_here(registry, "/v2/a/manifests/staying"));
    }
    // What is pushed again after that is no resurrection.
    second.push_image("a", "going", 1);
    for registry in [&first, &third] {
        there(registry, "/v2/a/manifests/going");
    }
    settled(&[&first, &second, &third]);
}

#[test]
fn a_deletion_goes_around_a_ring_through_one_that_never_had_the_image() {
    let [one, two, three] = [Place::new(), Place::new(), Place::new()];
    let first = one.start("", &[&three]);
    let (layer, digest) = first.push_image("a", "v", 1);
    let mut third = three.start("", &[&one]);
    there(&third, "/v2/a/manifests/v");
    third.stop();
    assert_eq!(first.delete("/v2/a/manifests/v"), 202);
    assert_eq!(first.delete(&format!("/v2/a/manifests/{digest}")), 202);
    // From the second, which begins only now, the third hears of the deletion.
    let second = two.start("", &[&one]);
    let third = three.start("", &[&two]);
    settled(&[&first, &second, &third]);
    for registry in [&first, &second, &third] {
        assert_eq!(registry.status("/v2/a/manifests/v"), 404);
        assert_eq!(registry.status(&format!("/v2/a/manifests/{digest}")), 404);
    }
    assert!(is_here(&third, &format!("/v2/a/blobs/{layer}")), "the third did have it");
}

#[test]
fn what_was_deleted_here_is_not_fetched_through_from_one_that_has_not_heard() {
    let [one, two] = [Place::new(), Place::new()];
    let second = two.start("", &[]);
    let (_, digest) = second.push_image("a", "v", 1);
    let first = one.start("", &[&two]);
    there(&first, "/v2/a/manifests/v");
    for gone in ["v", &digest] {
        let path = format!("/v2/a/manifests/{gone}");
        assert_eq!(first.delete(&path), 202);
        assert_eq!((first.status(&path), second.status(&path)), (404, 200));
    }
    // Put there again since, it counts again.
    second.push_image("a", "v", 1);
    wait_for("the new push", || (first.status("/v2/a/manifests/v") == 200).then_some(()));
}

#[test]
fn what_is_fetched_through_is_no_change() {
    let [one, two] = [Place::new(), Place::new()];
    let first = one.start("", &[]);
    let (_, digest) = first.push_image("a", "v", 1);
    // It never hears of changes: it has what it was asked for, as of the time that it was pushed.
    let deaf = Relay::start(one.port, u64::MAX, true);
    let second = two.start_with(&following(deaf.port));
    let mut answer = second.get("/v2/a/manifests/v");
    assert_eq!((answer.status().as_u16(), header(&answer, "space-registry-changed")), (200, ""));
    assert_eq!(sha256(&body(&mut answer)), digest);
    there(&second, "/v2/a/manifests/v");
    wait_for("the copy", || change(&second, "v"));
    assert_eq!(change(&second, "v"), change(&first, "v"));
}

#[test]
fn both_heal_from_the_other() {
    let [one, two] = [Place::new(), Place::new()];
    let first = one.start(SCRUB, &[&two]);
    let second = two.start(SCRUB, &[&one]);
    let (layer, digest) = first.push_image("a", "v", 1);
    there(&second, "/v2/a/manifests/v");
    for (place, registry) in [(&one, &first), (&two, &second)] {
        for (count, damaged) in (1..).zip([&layer, &digest]) {
            damage(&place.root(), damaged);
            brought_back(registry, count);
            assert_eq!(sha256(&fs::read(blob_file(&place.root(), damaged)).unwrap()), *damaged);
        }
    }
    settled(&[&first, &second]);
    assert_eq!((first.status("/v2/a/manifests/v"), second.status("/v2/a/manifests/v")), (200, 200));
}

#[test]
fn damage_and_a_power_cut_are_not_told_as_a_deletion() {
    let [one, two] = [Place::new(), Place::new()];
    let mut first = one.start(SCRUB, &[&two]);
    let mut second = two.start("", &[&one]);
    let (_, digest) = first.push_image("a", "v", 1);
    there(&second, "/v2/a/manifests/v");
    // By the scrub that asks for it, or by following, whichever comes first.
    let file = blob_file(&one.root(), &digest);
    let whole = || fs::read(&file).is_ok_and(|content| sha256(&content) == digest);
    let whole_again = || wait_for("its content", || whole().then_some(()));
    // Found while nobody could help, and then the lights go out: the index is made anew without the manifest.
    second.stop();
    damage(&one.root(), &digest);
    wait_for("the quarantine", || (!file.exists()).then_some(()));
    first.kill();
    let mut first = one.start(SCRUB, &[&two]);
    assert!(!is_here(&first, "/v2/a/manifests/v"));
    let second = two.start("", &[&one]);
    whole_again();
    settled(&[&first, &second]);
    assert!(is_here(&first, "/v2/a/manifests/v") && is_here(&second, "/v2/a/manifests/v"));
    // Damaged and cut off before anybody has read it again.
    first.kill();
    damage(&one.root(), &digest);
    let first = one.start(SCRUB, &[&two]);
    whole_again();
    settled(&[&first, &second]);
    assert!(is_here(&first, "/v2/a/manifests/v") && is_here(&second, "/v2/a/manifests/v"));
}
