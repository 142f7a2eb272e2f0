//! `spacecloudd papers`: what is made on the ground makes a cluster of modules that know nothing else.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Exit code, and what was said on both channels.
fn papers(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spacecloudd"));
    let output = command.arg("papers").arg(folder).args(more).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn papers_from_the_ground_make_a_cluster() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let mission = dir.path().join("safe/mission");
    let (code, said, errors) = papers(&mission, &["--server", "192.0.2.7:7440"]);
    assert_eq!(code, Some(0), "{errors}");
    for (file, expected) in [("", 0o700), ("ca/ca.key", 0o600), ("token", 0o600), ("admin/admin.key", 0o600)]
    {
        assert_eq!(mode(&mission.join(file)), expected, "{file}");
    }
    assert!(said.contains("/var/lib/spacecloud/ca") && said.contains("/etc/spacecloud/token"), "{said}");
    let told = fs::read_to_string(mission.join("admin/spacectl.toml")).unwrap();
    assert!(told.contains("server = \"192.0.2.7:7440\""), "{told}");

    let server_config = config(dir.path(), 1, free_port(), free_port(), &mission.join("token"));
    for folder in ["ca", "admin"] {
        fs::create_dir_all(server_config.state.join(folder)).unwrap();
        for file in fs::read_dir(mission.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, server_config.state.join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    let server = Some(server::start(&server_config).await.unwrap());
    let mut cluster = Cluster { dir, server_config, server, agents: BTreeMap::new(), names: BTreeMap::new() };
    cluster.start_agent(1, Arc::new(FakeRuntime::default()), &mission.join("token"));
    cluster.until_modules(1).await;
}

#[test]
fn papers_are_never_made_over_others() {
    let dir = tempfile::tempdir().unwrap();
    let mission = dir.path().join("mission");
    for address in ["somewhere", "http://192.0.2.7:7440", "a\"b:7440", "host:0", "[host]:7440"] {
        let (code, _, said) = papers(&mission, &["--server", address]);
        assert_eq!((code, mission.exists()), (Some(1), false), "{address}");
        assert!(said.contains("is no address; write HOST:PORT") && said.lines().count() == 1, "{said}");
    }
    assert_eq!(papers(&mission, &["--server", "[2001:db8::7]:7440"]).0, Some(0));
    let key = fs::read(mission.join("ca/ca.key")).unwrap();
    // Neither over others nor into a folder of something else.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let before = mode(&other);
    for folder in [&mission, &other] {
        let (code, _, said) = papers(folder, &[]);
        assert_eq!(code, Some(1));
        assert!(said.contains("is there already") && said.lines().count() == 1, "{said}");
    }
    assert!(fs::read(mission.join("ca/ca.key")).unwrap() == key);
    assert!(mode(&other) == before && fs::read_dir(&other).unwrap().next().is_none());
}
