//! Does a kernel have what the cluster needs? Compares `kernel-config/*.cfg` with a kernel's configuration.

use std::collections::BTreeMap;
use std::path::Path;

use super::ImageError;

/// One option that a feature asks for and a kernel lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The fragment's file name.
    pub feature: String,
    /// With its `CONFIG_` prefix.
    pub option: String,
    /// What the fragment says: `y`, `m`, `n` or a value.
    pub wanted: String,
    /// What the kernel has; `n` for what it does not mention.
    pub found: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { feature, option, wanted, found } = self;
        write!(f, "{feature}: {option} is {found}, not {wanted}")
    }
}

/// Whether a driver may be a module where a fragment wants it built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// `m` satisfies `y`: a distribution's kernel.
    Allowed,
    /// Only `y` satisfies `y`: a kernel of our own.
    Refused,
}

/// The options that the fragments (file name, text) ask for and the kernel's configuration lacks.
#[must_use]
pub fn missing<'a>(
    fragments: impl IntoIterator<Item = (&'a str, &'a str)>,
    config: &str,
    modules: Modules,
) -> Vec<Missing> {
    let kernel = parse(config);
    let satisfied = |wanted: &str, found: &str| {
        wanted == found || (wanted == "y" && found == "m" && modules == Modules::Allowed)
    };
    fragments
        .into_iter()
        .flat_map(|(feature, text)| {
            parse(text).into_iter().map(move |(option, wanted)| (feature, option, wanted))
        })
        .filter_map(|(feature, option, wanted)| {
            let found = kernel.get(option).copied().unwrap_or("n");
            (!satisfied(wanted, found)).then(|| Missing {
                feature: feature.to_owned(),
                option: option.to_owned(),
                wanted: wanted.to_owned(),
                found: found.to_owned(),
            })
        })
        .collect()
}

/// The fragments in a folder as (file name, text), by name.
///
/// # Errors
/// When the folder or a fragment cannot be read.
pub fn fragments(folder: &Path) -> Result<Vec<(String, String)>, ImageError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ImageError::file("reading", folder))? {
        let path = entry.map_err(ImageError::file("reading", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "cfg") {
            let text = std::fs::read_to_string(&path).map_err(ImageError::file("reading", &path))?;
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.push((name, text));
        }
    }
    found.sort();
    Ok(found)
}

/// Options and values; `# CONFIG_X is not set` is `n`.
fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let unset = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"));
            let (option, value) = unset.map(|option| (option, "n")).or_else(|| line.split_once('='))?;
            option.starts_with("CONFIG_").then_some((option, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str =
        "# Why.\nCONFIG_BRIDGE=y\nCONFIG_PREEMPT_RT=y\n# CONFIG_RT_GROUP_SCHED is not set\n";

    fn lacks(config: &str, modules: Modules) -> Vec<String> {
        missing([("f.cfg", FRAGMENT)], config, modules).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_will_do_for_a_distribution_only() {
        let config = "CONFIG_BRIDGE=m\nCONFIG_PREEMPT_RT=y\n";
        assert_eq!(lacks(config, Modules::Allowed), [""; 0]);
        assert_eq!(lacks(config, Modules::Refused), ["f.cfg: CONFIG_BRIDGE is m, not y"]);
    }

    #[test]
    fn what_is_unset_or_absent_is_missing_and_what_must_be_unset_must_be() {
        assert_eq!(
            lacks("# CONFIG_BRIDGE is not set\nCONFIG_RT_GROUP_SCHED=y\n", Modules::Allowed),
            [
                "f.cfg: CONFIG_BRIDGE is n, not y",
                "f.cfg: CONFIG_PREEMPT_RT is n, not y",
                "f.cfg: CONFIG_RT_GROUP_SCHED is y, not n",
            ]
        );
    }

    fn ours() -> Vec<(String, String)> {
        fragments(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config")).unwrap()
    }

    /// Parsing must take in every line, or a misspelt one would never be asked for.
    #[test]
    fn every_line_of_our_fragments_is_an_option_or_a_comment() {
        for (feature, text) in ours() {
            assert!(!parse(&text).is_empty(), "{feature} asks for nothing");
            for line in text.lines().filter(|line| !line.is_empty()) {
                let comment = line.starts_with("# ") && !line.contains("CONFIG_");
                assert!(comment || parse(line).len() == 1, "{feature}: {line}");
            }
        }
    }

    #[test]
    fn every_fragment_is_named_by_its_feature_and_no_option_is_asked_for_twice() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config");
        let mut seen = BTreeMap::new();
        for (feature, text) in ours() {
            let scc = std::fs::read_to_string(folder.join(feature.replace(".cfg", ".scc"))).unwrap();
            assert!(scc.contains("KFEATURE_DESCRIPTION") && scc.contains(&feature), "{feature}");
            for (option, _) in parse(&text) {
                assert_eq!(seen.insert(option.to_owned(), feature.clone()), None, "{option} in {feature}");
            }
        }
    }

    #[test]
    fn an_empty_kernel_lacks_everything_that_we_ask_for() {
        let fragments = ours();
        let pairs = || fragments.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        // What must be unset is, in an empty kernel.
        let wanted = |text| parse(text).values().filter(|value| **value != "n").count();
        let asked: usize = pairs().map(|(_, text)| wanted(text)).sum();
        assert_eq!(missing(pairs(), "", Modules::Allowed).len(), asked);
        let all: String = pairs().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
        assert_eq!(missing(pairs(), &all, Modules::Refused), []);
    }
}
