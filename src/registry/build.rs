//! How the program is linked.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if packs_pointers() {
        // Where pointers lie that the loader adjusts: a few kilobytes instead of a third of a megabyte, all of which
        // it would read.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// That takes glibc 2.36. What is built for another machine has a newer one.
fn packs_pointers() -> bool {
    let of = |name: &str| env::var(name).unwrap_or_default();
    if (of("CARGO_CFG_TARGET_OS").as_str(), of("CARGO_CFG_TARGET_ENV").as_str()) != ("linux", "gnu") {
        return false;
    }
    if of("HOST") != of("TARGET") {
        return true;
    }
    let Ok(said) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let minor = said.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 36)
}
