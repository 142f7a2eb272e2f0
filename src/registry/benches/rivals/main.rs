//! The same loads for space-registry, Debian's docker-registry and, for plain files, nginx: turn by turn on one
//! machine, medians of several rounds, each beside what it should be. Run by `make bench`.
//!
//! docker-registry and nginx are the distribution's: installed ones are used, others are unpacked into the
//! build directory and not installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod http;
mod loads;
mod server;

use loads::{Figures, LOADS};
use server::{Kind, Server};
use std::collections::BTreeMap;

/// How many, unless the environment's `ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Only the loads whose names are in the environment's `LOADS`, if it says so.
fn wanted(name: &str) -> bool {
    std::env::var("LOADS").map_or(true, |names| names.split(',').any(|wanted| wanted == name))
}

type Key = (Kind, &'static str);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What each figure should be, as a ratio of ours to theirs.
struct Limit {
    figure: &'static str,
    what: &'static str,
    ratio: f64,
    /// Whether more is better.
    more: bool,
    rival: Kind,
}

const fn limit(figure: &'static str, what: &'static str, ratio: f64, more: bool, rival: Kind) -> Limit {
    Limit { figure, what, ratio, more, rival }
}

const LIMITS: [Limit; 25] = [
    limit("push.rate", "push 5 x 40 MiB, MB/s", 1.0, true, Kind::Docker),
    limit("push.cpu", "  server CPU, ms per GiB", 0.5, false, Kind::Docker),
    limit("push.rss", "  peak RSS, MiB", 0.34, false, Kind::Docker),
    limit("pull.rate", "pull of it, MB/s", 1.0, true, Kind::Docker),
    limit("pull.cpu", "  server CPU, ms per GiB", 0.5, false, Kind::Docker),
    limit("pull.rss", "  peak RSS, MiB", 0.34, false, Kind::Docker),
    limit("parallel.rate", "16 pulls at once, MB/s", 1.0, true, Kind::Docker),
    limit("parallel.cpu", "  server CPU, ms per GiB", 0.5, false, Kind::Docker),
    limit("parallel.rss", "  peak RSS, MiB", 0.34, false, Kind::Docker),
    limit("small-push-1.rate", "200 small images, pushed per second, 1 connection", 1.5, true, Kind::Docker),
    limit("small-push-1.cpu", "  server CPU, ms per image", 0.5, false, Kind::Docker),
    limit("small-push-8.rate", "  8 connections", 1.5, true, Kind::Docker),
    limit("small-push-8.cpu", "  server CPU, ms per image", 0.5, false, Kind::Docker),
    limit("small-push-8.rss", "  peak RSS, MiB", 0.34, false, Kind::Docker),
    limit("small-pull-1.rate", "  pulled per second, 1 connection", 1.5, true, Kind::Docker),
    limit("small-pull-1.cpu", "  server CPU, ms per image", 0.5, false, Kind::Docker),
    limit("small-pull-8.rate", "  8 connections", 1.5, true, Kind::Docker),
    limit("small-pull-8.cpu", "  server CPU, ms per image", 0.5, false, Kind::Docker),
    limit("small-pull-8.rss", "  peak RSS, MiB", 0.34, false, Kind::Docker),
    limit("start.ms", "start to first answer, ms", 1.0, false, Kind::Docker),
    limit("start.rss", "idle RSS, MiB", 1.0, false, Kind::Docker),
    limit("raw.rate", "16 raw GETs of 40 MiB blobs, MB/s; beside nginx", 0.9, true, Kind::Nginx),
    limit("raw.cpu", "  server CPU, ms per GiB", 1.1, false, Kind::Nginx),
    limit("raw-4.rate", "4 raw GETs of 40 MiB blobs, MB/s; beside nginx", 0.9, true, Kind::Nginx),
    limit("raw-4.cpu", "  server CPU, ms per GiB", 1.1, false, Kind::Nginx),
];

/// Limits that no rival sets.
const ABSOLUTE: [(&str, &str, f64); 2] =
    [("start.ms", "start to first answer below 25 ms", 25.0), ("start.rss", "idle RSS below 10 MiB", 10.0)];

fn main() {
    let mut all: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS).max(1);
    for round in 1..=rounds {
        for load in LOADS.into_iter().filter(|load| wanted(load.name)) {
            let rival = if load.name == "raw" { Kind::Nginx } else { Kind::Docker };
            for kind in [Kind::Space, rival] {
                eprintln!("round {round} of {rounds}: {} with {}", load.name, kind.name());
                let mut server = Server::start(kind);
                let figures: Figures = (load.run)(&mut server);
                for (name, value) in figures {
                    all.entry((kind, name)).or_default().push(value);
                }
            }
        }
    }
    report(&all);
}

fn report(all: &BTreeMap<Key, Vec<f64>>) {
    println!("\n{:<52} {:>10} {:>10} {:>7}  {:<11} wanted", "medians", "ours", "theirs", "ratio", "by round");
    for Limit { figure, what, ratio, more, rival } in LIMITS {
        let (Some(our), Some(their)) = (all.get(&(Kind::Space, figure)), all.get(&(rival, figure))) else {
            println!("{what:<52} was not measured");
            continue;
        };
        let (ours, theirs) = (median(our.clone()), median(their.clone()));
        let each = || our.iter().zip(their).map(|(ours, theirs)| ours / theirs);
        let spread = format!(
            "{:.2}..{:.2}",
            each().fold(f64::INFINITY, f64::min),
            each().fold(f64::NEG_INFINITY, f64::max)
        );
        let found = ours / theirs;
        let met = if more { found >= ratio } else { found <= ratio };
        let sign = if more { ">=" } else { "<=" };
        let verdict = if met { "" } else { "  MISSED" };
        println!("{what:<52} {ours:>10.1} {theirs:>10.1} {found:>7.2}  {spread:<11} {sign} {ratio}{verdict}");
    }
    for (figure, what, most) in ABSOLUTE {
        let Some(found) = all.get(&(Kind::Space, figure)).cloned().map(median) else { continue };
        println!("{what:<52} {found:>10.1} {:>27}", if found < most { "met" } else { "MISSED" });
    }
}
