//! `spacectl replay`: what it prints, and what it refuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{refused, spacectl};
use serde_json::Value;
use std::{fs, path::Path};
use tempfile::TempDir;

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn-0,64000,262144,8,A\nn-1,64000,262144,8,B\n";
const TASKS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n\
    t-0,4000,1024,2,1000,,LS\nt-1,4000,1024,1,500,,LS\nt-2,8000,1024,1,500,B,LS\n\
    t-3,10000,1024,8,1000,,LS\nt-4,2000,512,0,0,,LS\n";

fn home(nodes: &str, tasks: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("nodes.csv"), nodes).unwrap();
    fs::write(home.path().join("tasks.csv"), tasks).unwrap();
    home
}

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "--nodes", "nodes.csv", "--tasks", "tasks.csv"], more].concat()
}

fn json(home: &Path, more: &[&str]) -> Vec<Value> {
    let (code, out, err) = spacectl(home, &words(&[more, &["-o", "json"]].concat()));
    assert_eq!((code, err.as_str()), (0, ""), "{more:?}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn the_figures_of_a_small_trace_are_right() {
    let home = home(NODES, TASKS);
    let runs = json(home.path(), &["--strategy", "multilevel,tiling"]);
    let (multilevel, tiling) = (&runs[0], &runs[1]);
    assert_eq!(multilevel["strategy"], "multilevel");
    assert_eq!(multilevel["seed"], Value::Null);
    assert_eq!((&multilevel["nodes"], &multilevel["tasks"]), (&2.into(), &5.into()));
    assert_eq!(multilevel["gpu_capacity_milli"], 16_000);
    // Tiling puts the first two tasks on two nodes, and none is left for eight accelerators.
    assert_eq!((&tiling["placed"], &tiling["failed"]), (&4.into(), &1.into()));
    assert_eq!(tiling["gpu_allocated_milli"], 3000);
    assert_eq!(tiling["gpu_allocated_percent"], 18.75);
    for field in ["seconds", "decisions_per_second", "decision_us_p50", "decision_us_p99"] {
        assert!(multilevel[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert_eq!(multilevel.as_object().unwrap().len(), 13);
}

#[test]
fn the_same_seed_gives_the_same_run_and_demand_is_met() {
    let home = home(NODES, TASKS);
    let all = "spread,binpack,tiling,multilevel,random,best-fit,dot-product,gpu-packing,gpu-clustering,fgd,spacecloud";
    let more = ["--strategy", all, "--order", "seed:7", "--demand", "1.3"];
    let stable = |runs: Vec<Value>| -> Vec<Value> {
        let fields = ["strategy", "seed", "tasks", "placed", "failed", "gpu_allocated_milli"];
        runs.iter().map(|run| fields.iter().map(|field| run[field].clone()).collect()).collect()
    };
    let first = json(home.path(), &more);
    assert_eq!(first.len(), 11);
    let names: Vec<&str> = first.iter().map(|run| run["strategy"].as_str().unwrap()).collect();
    assert_eq!(names.join(","), all, "in the order that was asked for");
    for run in &first {
        assert_eq!(run["seed"], 7);
        assert_eq!(
            run["placed"].as_u64().unwrap() + run["failed"].as_u64().unwrap(),
            run["tasks"].as_u64().unwrap()
        );
    }
    assert_eq!(stable(first), stable(json(home.path(), &more)));
}

#[test]
fn several_strategies_make_a_picture_with_a_line_each() {
    let home = home(NODES, TASKS);
    let (code, out, _) =
        spacectl(home.path(), &words(&["--strategy", "fgd,spacecloud", "--picture", "out.svg"]));
    assert_eq!(code, 0);
    assert!(out.contains("STRATEGY") && out.lines().count() == 3, "{out}");
    let picture = fs::read_to_string(home.path().join("out.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.matches("<polyline").count() == 2, "{picture}");
    assert!(picture.contains("fgd") && picture.contains("spacecloud"));
}

/// The sister files of a trace differ in this and that.
#[test]
fn files_are_read_however_they_are_written() {
    let nodes = "\u{feff}\"model\",\"gpu\",\"zone\",\"memory_mib\",\"sn\",\"cpu_milli\"\r\n\
        \"A\",\"8\",\"z\",\"262144\",\"n-0\",\"64000\"\r\n\"B\",\"8\",\"\",\"262144\",\"n-1\",\"64000\"\r\n\
        \"\",\"0\",\"z\",\"262144\",\"n-2\",\"64000\"";
    let tasks = "gpu_spec, gpu_milli, num_gpu, memory_mib, cpu_milli, name, deletion_time, creation_time\n\
        A|C,1000,2,1024,4000,t-0,,\n|B|,500,1,1024,4000,t-1,9,0\n,,0,1024,64000,t-2,,3\n\"C\",1000,1,1,1,t-3,,";
    let home = home(nodes, tasks);
    let runs = json(home.path(), &["--strategy", "binpack,fgd,spacecloud,gpu-packing"]);
    for run in runs {
        assert_eq!((&run["nodes"], &run["gpu_capacity_milli"]), (&3.into(), &16_000.into()));
        // Nobody has a C; the large one without accelerators has a node without them to itself.
        assert_eq!((&run["placed"], &run["failed"]), (&3.into(), &1.into()), "{run}");
        assert_eq!(run["gpu_allocated_milli"], 2500);
    }
}

#[test]
fn a_row_that_lies_is_refused_with_row_key_and_reason() {
    let node = |row: &str| format!("sn,cpu_milli,memory_mib,gpu,model\nn-0,64000,262144,8,A\n{row}\n");
    let task = |row: &str| {
        format!(
            "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time\n\
             t-0,1,1,1,1000,,0,9\n{row}\n"
        )
    };
    let cases: [(String, String, [&str; 3]); 20] = [
        (node("n-1,-4,1,8,A"), task(""), ["row 3", "cpu_milli", "negative"]),
        (node("n-1,4,NaN,8,A"), task(""), ["row 3", "memory_mib", "whole number"]),
        (node("n-1,4,1,1.5,A"), task(""), ["row 3", "gpu", "whole number"]),
        (node("n-1,0,1,1,A"), task(""), ["row 3", "cpu_milli", "without CPU"]),
        (node("n-0,4,1,1,A"), task(""), ["row 3", "sn", "earlier row"]),
        (node(",4,1,1,A"), task(""), ["row 3", "sn", "empty"]),
        (node("n-1,4,1"), task(""), ["row 3", "gpu:", "3 fields, the header 5"]),
        (node("n-1,4,1,1,A,B"), task(""), ["row 3", "model:", "6 fields, the header 5"]),
        (node("\"n-1,4,1,1,A"), task(""), ["row 3", "cpu_milli:", "1 fields"]),
        (node("").replace("model", "model,gpu"), task(""), ["row 1", "gpu", "twice"]),
        (node("n-1,99999999999999999999,1,1,A"), task(""), ["row 3", "cpu_milli", "too much"]),
        (node(""), task("t-1,1,1,1,1001,,0,9"), ["row 3", "gpu_milli", "at most 1000"]),
        (node(""), task("t-1,1,1,1,0,,0,9"), ["row 3", "gpu_milli", "num_gpu is 1"]),
        (node(""), task("t-1,1,1,0,500,,0,9"), ["row 3", "gpu_milli", "num_gpu is 0"]),
        (node(""), task("t-1,1,1,-1,500,,0,9"), ["row 3", "num_gpu", "negative"]),
        (node(""), task("t-1,1,,1,500,,0,9"), ["row 3", "memory_mib", "is nothing"]),
        (node(""), task("t-0,1,1,1,500,,0,9"), ["row 3", "name", "earlier row"]),
        (node(""), task("t-1,1,1,1,500,,9,3"), ["row 3", "deletion_time", "before it starts"]),
        (node(""), task("t-1,1,1,1,500,,NaN,3"), ["row 3", "creation_time", "no number"]),
        (node(""), "name,cpu_milli\nt-0,1\n".to_owned(), ["row 1", "memory_mib", "no such column"]),
    ];
    for (nodes, tasks, told) in cases {
        let home = home(&nodes, &tasks);
        let line = refused(home.path(), &words(&["--strategy", "fgd"]), 1);
        assert!(told.iter().all(|word| line.contains(word)), "{told:?}: {line}");
    }
}

#[test]
fn wrong_flags_are_64() {
    let home = home(NODES, TASKS);
    let cases: [(&[&str], &str); 9] = [
        (&[], "--strategy"),
        (&["--strategy", "best"], "there is no strategy"),
        (&["--strategy", "fgd,fgd"], "twice"),
        (&["--strategy", "fgd", "--order", "random"], "seed:"),
        (&["--strategy", "fgd", "--order", "seed:-1"], "seed:"),
        (&["--strategy", "fgd", "--order", "seed:1", "--demand", "NaN"], "above 0"),
        (&["--strategy", "fgd", "--order", "seed:1", "--demand", "0"], "above 0"),
        (&["--strategy", "fgd", "--demand", "1.3"], "--order seed:N"),
        (&["--strategy", "fgd", "-o", "xml"], "xml"),
    ];
    for (more, told) in cases {
        let line = refused(home.path(), &words(more), 64);
        assert!(line.contains(told), "{more:?}: {line}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    let line = refused(home.path(), &words(&["--strategy", "fgd"]), 1);
    assert!(line.contains("nodes.csv"), "{line}");
}
