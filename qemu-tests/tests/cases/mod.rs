//! The flight image's own runtime tests, run on a module of the simulator: so they are known to work.

use serde_json::{Value, json};
use spacesim::{Module, Times, within};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What became of them, as (test, outcome).
pub fn run(module: &Module) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = root.join("../meta-spacecloud/lib/oeqa/runtime/cases");
    let mut command = Command::new("python3");
    command.arg(root.join("oeqa/run.py")).arg(cases).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("python3 runs");
    let mut answers = python.stdin.take().unwrap();
    let mut outcomes = Vec::new();
    for line in BufReader::new(python.stdout.take().unwrap()).lines() {
        let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if let Some(command) = said["run"].as_str() {
            // Emulated modules are some ten times slower than the boards that the limits are for.
            let limit = said["seconds"].as_u64().unwrap() * 10;
            let output = module.exec(command, within(limit.s())).unwrap();
            let answer = json!({ "status": output.status, "output": output.stdout });
            writeln!(answers, "{answer}").unwrap();
        } else {
            let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
            eprintln!("{}: {} {} {}", module.name(), text("test"), text("outcome"), text("why"));
            outcomes.push((text("test"), text("outcome")));
        }
    }
    assert!(python.wait().unwrap().success());
    outcomes
}

/// None failed, and at least so many passed.
pub fn pass(module: &Module, at_least: usize) {
    let outcomes = run(module);
    let count = |what: &str| outcomes.iter().filter(|(_, outcome)| outcome == what).count();
    assert_eq!(count("failed"), 0, "{outcomes:?}");
    assert!(count("passed") >= at_least, "{outcomes:?}");
}
