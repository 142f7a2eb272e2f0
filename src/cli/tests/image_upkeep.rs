//! A registry that asks who is there, and one that is full of what nobody needs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod registry;

use common::{command, refused};
use registry::{
    Layout,
    ground::{Ground, ground_with},
    noise,
};
use std::{fs, io::Write, process::Stdio};

const MIB: usize = 1 << 20;
const ACCESS: &str = r#"
[auth]
htpasswd = "HTPASSWD"
[[auth.grant]]
user = "ground"
prefix = "demo"
role = "push"
[[auth.grant]]
user = "chief"
role = "admin"
"#;

/// An image of 1 MiB in the operator's home, as a layout of this name.
fn image(ground: &Ground, name: &str, seed: u64) {
    let layout = Layout::new(&ground.path(name));
    let image = layout.image("amd64", &[&noise(seed, MIB)]);
    layout.name("1", &image);
}

#[test]
fn a_password_opens_what_its_user_may_do() {
    let ground = ground_with(ACCESS, &[("ground", "one two"), ("chief", "three")]);
    let home = ground.home.path();
    image(&ground, "web", 1);
    fs::write(ground.path("password"), "one two\n").unwrap();
    let nobody = refused(home, &["image", "push", "web", "demo/web:1"], 1);
    assert!(nobody.contains("--user"), "{nobody}");
    let by_file = |words: &[&str]| {
        [words, &["--user", "ground", "--password-file", "password"]]
            .concat()
            .iter()
            .map(|w| w.to_string())
            .collect::<Vec<_>>()
    };
    let words = by_file(&["image", "push", "web", "demo/web:1"]);
    ground.done(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let elsewhere = by_file(&["image", "push", "web", "flight/web:1"]);
    let denied = refused(home, &elsewhere.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    assert!(denied.contains("ground may not do this"), "{denied}");
    let collect = by_file(&["image", "gc"]);
    assert!(refused(home, &collect.iter().map(String::as_str).collect::<Vec<_>>(), 1).contains("free space"));

    // The password of the environment, and of standard input; a wrong one is told from none.
    let mut chief = command(home, &["image", "rm", "demo/web:1", "--user", "chief"]);
    let output = chief.env("SPACECTL_REGISTRY_PASSWORD", "three").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut listed = command(home, &["image", "df", "--user", "chief", "--password-stdin"]);
    let mut listed = listed.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    listed.stdin.take().unwrap().write_all(b"three\n").unwrap();
    let output = listed.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("demo/web"));
    fs::write(ground.path("password"), "wrong\n").unwrap();
    let wrong = refused(home, &["image", "ls", "--user", "ground", "--password-file", "password"], 1);
    assert!(wrong.contains("user name or password is wrong"), "{wrong}");
}

#[test]
fn what_no_image_needs_is_freed() {
    let ground = ground_with("[gc]\ngrace = \"0s\"\n[storage]\nquota = \"4MiB\"\n", &[]);
    image(&ground, "web", 1);
    image(&ground, "cam", 2);
    ground.done(&["image", "push", "web", "demo/web:1"]);
    ground.done(&["image", "push", "cam", "demo/cam:1"]);
    let used = ground.json(&["image", "df", "-o", "json"]);
    assert_eq!((&used["quota_bytes"], &used["quarantined"]), (&(4 * MIB).into(), &0.into()), "{used}");
    let before = used["bytes"].as_u64().unwrap();
    let names: Vec<_> = used["repositories"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["demo/cam", "demo/web"]);
    assert_eq!(
        (&used["repositories"][0]["tags"], &used["repositories"][0]["manifests"]),
        (&1.into(), &1.into())
    );

    // Both are needed; one without its tag is kept until that is asked for.
    assert_eq!(ground.json(&["image", "gc", "-o", "json"])["removed_blobs"], 0);
    ground.done(&["image", "rm", "demo/web:1"]);
    assert_eq!(ground.json(&["image", "gc", "-o", "json"])["removed_blobs"], 0);
    let freed = ground.json(&["image", "gc", "--untagged", "-o", "json"]);
    assert_eq!((&freed["removed_manifests"], &freed["removed_blobs"]), (&1.into(), &3.into()), "{freed}");
    let after = ground.json(&["image", "df", "-o", "json"])["bytes"].as_u64().unwrap();
    assert_eq!(before - after, freed["freed_bytes"].as_u64().unwrap());
    assert!(ground.done(&["image", "gc"]).contains("removed 0 manifests and 0 blobs"));
    assert!(ground.done(&["image", "df"]).contains("of a quota of 4MiB"));

    // What does not fit is refused with the registry's words.
    let layout = Layout::new(&ground.path("large"));
    let large = layout.image("amd64", &[&noise(3, 5 * MIB)]);
    layout.name("1", &large);
    let (code, _, err) = common::spacectl(ground.home.path(), &["image", "push", "large", "demo/large:1"]);
    let line = err.lines().last().unwrap();
    assert_eq!(code, 1, "{err}");
    assert!(line.contains("refused to take"), "{line}");
    let listed = ground.done(&["image", "ls"]);
    assert_eq!(listed, "NAME      TAG\ndemo/cam  1\n");
}
