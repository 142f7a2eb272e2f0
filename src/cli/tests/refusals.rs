//! What a person gets who types, configures or writes something wrong: one line and an exit code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{refused, spacectl};
use identity::Authority;
use std::fs;
use tempfile::TempDir;

/// A configured home in a cluster that nobody serves.
fn home(server: &str) -> TempDir {
    common::home(&Authority::create().unwrap().0, server)
}

#[test]
fn a_wrong_command_line_is_64() {
    let home = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&[], "--help"),
        (&["launch"], "'launch'"),
        (&["apply"], "--file"),
        (&["delete"], "APP"),
        (&["get", "planets"], "planets"),
        (&["get", "apps", "-o", "xml"], "xml"),
        (&["scale", "Telemetry", "2"], "DNS label"),
        (&["drain", "module-2", "--limit", "1min"], "--wait"),
        (&["status", "--timeout", "20"], "ms, s, min or h"),
    ];
    for (words, told) in cases {
        let line = refused(home.path(), words, 64);
        assert!(line.contains(told), "{words:?}: {line}");
    }
}

#[test]
fn what_needs_no_server_works_without_one() {
    let home = tempfile::tempdir().unwrap();
    for (words, told) in [
        (&["--help"][..], "apply"),
        (&["--version"], "spacectl "),
        (&["version"], "spacectl "),
        (&["completions", "bash"], "complete"),
        (&["completions", "fish"], "complete"),
    ] {
        let (code, out, err) = spacectl(home.path(), words);
        assert!(code == 0 && out.contains(told) && err.is_empty(), "{words:?}: {code} {err}");
    }
}

#[test]
fn a_server_that_is_not_there_is_2() {
    let unknown = home("no-such-host.invalid:7440");
    let line = refused(unknown.path(), &["status"], 2);
    assert!(line.contains("no-such-host.invalid:7440") && line.contains("--server"), "{line}");
    // Port 1 of this machine: nobody listens there, and the flag goes before the configuration.
    let line = refused(unknown.path(), &["--server", "127.0.0.1:1", "get", "apps"], 2);
    assert!(line.contains("127.0.0.1:1") && line.contains("spacecloudd"), "{line}");
}

#[test]
fn a_server_that_never_speaks_is_2_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = home(&silent.local_addr().unwrap().to_string());
    let begun = std::time::Instant::now();
    let line = refused(home.path(), &["--timeout", "200ms", "status"], 2);
    assert!(line.contains("within 200ms"), "{line}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(15));
}

#[test]
fn a_broken_configuration_is_78() {
    let home = home("127.0.0.1:1");
    let file = home.path().join(".config/spacecloud/spacectl.toml");
    let good = fs::read_to_string(&file).unwrap();
    let cases = [
        (good.replace("ca =", "cca ="), "line 2: unknown field `cca`"),
        (good.replace("key = \"admin.key\"\n", ""), "missing field `key`"),
        (good.replace("server = \"127.0.0.1:1\"\n", ""), "server is missing"),
        (good.replace("127.0.0.1:1", "a b"), "write HOST:PORT"),
        (good.replace("ca.pem", "none.pem"), "none.pem"),
        (good.replace("ca.pem", "admin.key"), "ca: "),
        ("server = ".to_owned(), "line 1"),
    ];
    for (text, told) in cases {
        fs::write(&file, text).unwrap();
        let line = refused(home.path(), &["status"], 78);
        assert!(line.contains("spacectl.toml") && line.contains(told), "{line}");
    }
    fs::write(
        home.path().join(".config/spacecloud/ca.pem"),
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    fs::write(&file, good).unwrap();
    let line = refused(home.path(), &["status"], 78);
    assert!(line.contains("ca, certificate or key"), "{line}");
}

#[test]
fn a_configuration_that_is_not_there_is_78() {
    let home = tempfile::tempdir().unwrap();
    let line = refused(home.path(), &["--config", "gone.toml", "status"], 78);
    assert!(line.contains("gone.toml") && line.contains("--config"), "{line}");
}

#[test]
fn a_bad_app_file_is_1_and_names_file_key_and_remedy() {
    let home = home("127.0.0.1:1");
    let app = |more: &str| format!("name = \"cam\"\nimage = \"registry.spacecloud:5000/cam:1\"\n{more}");
    let cases = [
        (app("replica = 2\n"), "line 3, replica: unknown field `replica`, expected"),
        (app("[resources]\nmemory = \"64MB!\"\n"), "64MiB"),
        (app("[resources]\nmemory = 64\n"), "has no unit"),
        (app("replicas = 5000\n"), "is more than 1000"),
        (app("").replace("cam\"\nimage", "Cam_1\"\nimage"), "is no DNS label; use only a-z, 0-9 and '-'"),
        ("name = ".to_owned(), "line 1"),
    ];
    for (text, told) in cases {
        fs::write(home.path().join("bad.toml"), text).unwrap();
        for verb in ["apply", "delete"] {
            let line = refused(home.path(), &[verb, "-f", "bad.toml"], 1);
            assert!(line.contains("bad.toml: ") && line.contains(told), "{line}");
        }
    }
    assert!(refused(home.path(), &["apply", "-f", "gone.toml"], 1).contains("gone.toml"));
    fs::create_dir(home.path().join("empty")).unwrap();
    assert!(refused(home.path(), &["apply", "-f", "empty"], 1).contains("holds no .toml file"));
    // One bad file among good ones stops all of them before the server is asked.
    fs::create_dir(home.path().join("apps")).unwrap();
    fs::write(home.path().join("apps/a.toml"), app("")).unwrap();
    fs::write(home.path().join("apps/b.toml"), app("x = 1\n")).unwrap();
    assert!(refused(home.path(), &["apply", "-f", "apps"], 1).contains("apps/b.toml"));
}
