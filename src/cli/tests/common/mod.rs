//! The real program, in a home of its own.
// Each test program is compiled by itself and uses a part of this.
#![allow(dead_code)]

use identity::{Authority, Role};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};
use tempfile::TempDir;

pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_spacectl"))
}

/// spacectl, to be run as a user whose home is `home` and who has no environment.
pub(crate) fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.env_clear().env("HOME", home).current_dir(home).args(words).stdin(Stdio::null());
    command
}

/// Runs spacectl to its end: (exit code, stdout, stderr).
pub(crate) fn spacectl(home: &Path, words: &[&str]) -> (i32, String, String) {
    let output = command(home, words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Expects a refusal and answers its one line.
pub(crate) fn refused(home: &Path, words: &[&str], code: i32) -> String {
    let (got, out, err) = spacectl(home, words);
    assert_eq!((got, out.as_str()), (code, ""), "{words:?}: {err}");
    assert!(err.starts_with("spacectl: ") && err.trim_end().lines().count() == 1, "{words:?}: {err:?}");
    err
}

/// A home with a configuration that is right, for the server at `server` of the cluster of `authority`.
#[allow(dead_code, reason = "some test programs have no server to be configured for")]
pub(crate) fn home(authority: &Authority, server: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/spacecloud");
    fs::create_dir_all(&folder).unwrap();
    let admin = authority.issue(&Role::Admin, &[]).unwrap();
    fs::write(folder.join("ca.pem"), authority.certificate()).unwrap();
    fs::write(folder.join("admin.pem"), admin.certificate).unwrap();
    fs::write(folder.join("admin.key"), admin.key).unwrap();
    let text =
        format!("server = \"{server}\"\nca = \"ca.pem\"\ncertificate = \"admin.pem\"\nkey = \"admin.key\"\n");
    fs::write(folder.join("spacectl.toml"), text).unwrap();
    home
}
