//! The Yocto layer, as far as it can be checked without Yocto: crates in step, files there, nothing unguarded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set to write what is checked instead: `make crates`.
const UPDATE: &str = "SPACECLOUD_UPDATE_CRATES";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder whose names end so.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut folders = vec![top().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What BitBake fetches, from Cargo.lock.
fn crates() -> String {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let (mut uris, mut sums) = (String::new(), String::new());
    for package in lock["package"].as_array().unwrap() {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str);
        let Some(source) = text("source") else { continue };
        let (name, version) = (text("name").unwrap(), text("version").unwrap());
        assert!(
            source.contains("crates.io"),
            "{name} comes from {source}: BitBake's list takes crates.io only"
        );
        uris += &format!("    crate://crates.io/{name}/{version} \\\n");
        sums += &format!("SRC_URI[{name}-{version}.sha256sum] = \"{}\"\n", text("checksum").unwrap());
    }
    format!(
        "# The crates of Cargo.lock. Written by `make crates`; `make test-unit` checks that it is up to date.\n\n\
         SRC_URI += \"\\\n{uris}\"\n\n{sums}"
    )
}

#[test]
fn the_recipes_crates_are_those_of_cargo_lock() {
    let list = "recipes-rust/spacecloud/spacecloud-crates.inc";
    if std::env::var_os(UPDATE).is_some() {
        fs::write(top().join(list), crates()).unwrap();
    }
    assert!(read(list) == crates(), "{list} is not in step with Cargo.lock: run `make crates` and commit it");
}

/// The files that a recipe names in SRC_URI.
fn named(recipe: &str) -> BTreeSet<String> {
    let uris =
        recipe.split_whitespace().filter_map(|word| word.trim_start_matches('"').strip_prefix("file://"));
    uris.map(|name| name.trim_end_matches('"').to_owned()).filter(|name| !name.contains('$')).collect()
}

#[test]
fn every_file_that_a_recipe_names_is_there_and_none_is_forgotten() {
    for recipe in files("meta-spacecloud", ".bb") {
        let folder = recipe.parent().unwrap().join("files");
        for name in named(&fs::read_to_string(&recipe).unwrap()) {
            assert!(
                folder.join(&name).is_file(),
                "{}: {name} is not in {}",
                recipe.display(),
                folder.display()
            );
        }
    }
    let folder = "meta-spacecloud/recipes-core/spacecloud-conf/";
    let mut installed = named(&read(format!("{folder}spacecloud-conf_0.1.0.bb")));
    // These belong to packages of other layers, which are told by bbappends.
    installed.extend(["hosts", "nsswitch.conf", "rauc-system.conf"].map(str::to_owned));
    let there: BTreeSet<_> = fs::read_dir(top().join(folder).join("files"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(installed, there);
}

/// The lines that say something; those of a file beside it in the place of the line that requires it.
fn statements(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .flat_map(|line| match line.strip_prefix("require ").filter(|required| !required.contains('$')) {
            Some(required) => statements(&file.with_file_name(required)),
            None => vec![line.to_owned()],
        })
        .collect()
}

/// Whether it does something only in our distribution, or only for our machines.
fn is_guarded(line: &str) -> bool {
    // Evaluated when it is parsed: what is asked later is part of a signature, whatever the answer.
    let when_parsed = line.starts_with("require ") || line.contains(" := ");
    let for_our_distribution = line.contains("'DISTRO_FEATURES', 'spacecloud'") && when_parsed;
    let name = line.split_whitespace().next().unwrap_or_default();
    for_our_distribution || name.contains(":spacevpx")
}

#[test]
fn nothing_of_another_layer_is_changed_without_the_distributions_feature() {
    let appends = files("meta-spacecloud", ".bbappend");
    assert!(appends.len() >= 5);
    for append in appends {
        let lines = statements(&append);
        assert!(!lines.is_empty(), "{} says nothing", append.display());
        for line in lines {
            assert!(is_guarded(&line), "{}: {line}", append.display());
        }
    }
}

#[test]
fn the_kernel_recipe_takes_every_feature() {
    let append = read("meta-spacecloud/recipes-kernel/linux/linux-yocto-rt-spacecloud.inc");
    for scc in files("kernel-config", ".scc") {
        let name = scc.file_stem().unwrap().to_string_lossy().into_owned();
        let listed = append
            .lines()
            .filter(|line| !line.starts_with('#'))
            .any(|line| line.split(|c: char| c.is_whitespace() || c == '"').any(|word| word == name));
        assert_eq!(listed, name != "legacy-tables", "{name}");
    }
}

#[test]
fn licence_sums_are_those_of_the_licence() {
    let output = Command::new("md5sum").arg(top().join("LICENSE")).output().unwrap();
    let sum = String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned();
    let recipes = [files("meta-spacecloud", ".bb"), files("recipes-rust", ".inc")].concat();
    let named: Vec<_> = recipes
        .iter()
        .flat_map(|recipe| fs::read_to_string(recipe).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.starts_with("LIC_FILES_CHKSUM"))
        .collect();
    assert!(named.len() >= 3 && named.iter().all(|line| line.contains(&sum)), "{sum}: {named:?}");
}

#[test]
fn the_layers_readme_says_what_a_user_and_the_layer_check_look_for() {
    let text = read("meta-spacecloud/README.md").to_lowercase();
    for word in ["maintainer", "patch", "@", "wrynose", "kas build"] {
        assert!(text.contains(word), "{word}");
    }
}
