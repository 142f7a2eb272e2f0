//! A kernel of our own: Debian's source, configured by the fragments of `kernel-config/` and nothing else.
//!
//! The flight image builds another source with the same fragments. Here they are proven in two ways: merged onto the
//! default configuration of each architecture all that they ask for must survive ([`check`]), and a slim kernel that
//! has nothing but them is built and booted ([`build`]).
//!
//! ```text
//! linux-source-6.12 ──▶ cache/kernel-source/KEY/{tarball, tree}        tree: what configuring reads, no more
//! tree + defconfig + fragments ──merge_config, olddefconfig──▶ .config ──▶ missing? moby?
//! tarball + allnoconfig + fragments ──make──▶ cache/kernel/KEY/{vmlinux, bzImage, config, release}
//! ```

mod build;
mod config;
mod source;

use std::path::{Path, PathBuf};

use super::kernel_config::Missing;
use super::{ImageError, Steps, cache};

pub use build::Kernel;
pub use config::{Base, Configured};
pub use source::Source;
pub(super) use source::run;

/// A fragment's file name and text.
pub type Fragment = (String, String);

macro_rules! fragments {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../kernel-config/", $name)))),*]
    };
}

/// The fragments, in the order in which they are merged. A test compares the list with the folder.
const FRAGMENTS: [(&str, &str); 20] = fragments![
    "realtime.cfg",
    "init.cfg",
    "containers.cfg",
    "docker-bridge.cfg",
    "legacy-tables.cfg",
    "cni-services.cfg",
    "checkpoint-restore.cfg",
    "data-disk.cfg",
    "verity.cfg",
    "flight.cfg",
    "hardening.cfg",
    "virtio.cfg",
    "nvme.cfg",
    "watchdog-edac.cfg",
    "uefi-pcie.cfg",
    "gpio.cfg",
    "accelerators.cfg",
    "nfs.cfg",
    "x86-64.cfg",
    "arm64.cfg",
];

/// What a distribution's kernel need not have, since modules that boot it do not need it.
pub const OWN_KERNEL_ONLY: [&str; 2] = ["flight.cfg", "arm64.cfg"];

/// Docker's requirements: the options that moby's own check calls generally necessary, for cgroup v2.
const MOBY: [&str; 29] = [
    "NAMESPACES",
    "NET_NS",
    "PID_NS",
    "IPC_NS",
    "UTS_NS",
    "CGROUPS",
    "CGROUP_SCHED",
    "CGROUP_BPF",
    "KEYS",
    "VETH",
    "BRIDGE",
    "BRIDGE_NETFILTER",
    "IP_NF_FILTER",
    "IP_NF_MANGLE",
    "IP_NF_RAW",
    "IP_NF_NAT",
    "IP_NF_TARGET_MASQUERADE",
    "IP6_NF_FILTER",
    "IP6_NF_MANGLE",
    "IP6_NF_RAW",
    "IP6_NF_NAT",
    "IP6_NF_TARGET_MASQUERADE",
    "NETFILTER_XT_MATCH_ADDRTYPE",
    "NETFILTER_XT_MATCH_CONNTRACK",
    "NETFILTER_XT_MATCH_IPVS",
    "NETFILTER_XT_MARK",
    "NF_NAT",
    "POSIX_MQUEUE",
    "OVERLAY_FS",
];

/// An architecture that the flight image exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// PCs and their relatives.
    X86_64,
    /// Arm servers and their relatives.
    Arm64,
}

impl Arch {
    /// As the kernel's Makefile calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// The fragments for it: all but the other architecture's.
    #[must_use]
    pub fn fragments(self) -> Vec<Fragment> {
        let other = match self {
            Self::X86_64 => "arm64.cfg",
            Self::Arm64 => "x86-64.cfg",
        };
        let ours = FRAGMENTS.iter().filter(|(name, _)| *name != other);
        ours.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }
}

/// What a kernel's configuration lacks of what Docker requires; built in or as a module, both will do for Docker.
#[must_use]
pub fn moby_missing(config: &str) -> Vec<&'static str> {
    let has = |option: &str| {
        let line = format!("CONFIG_{option}=");
        config.lines().any(|l| l.strip_prefix(&line).is_some_and(|value| value == "y" || value == "m"))
    };
    MOBY.into_iter().filter(|option| !has(option)).collect()
}

/// Merges fragments onto an architecture's default configuration.
///
/// # Errors
/// No source, a host tool is missing or fails, a fragment asks for what the kernel does not have, or what it asks for
/// did not survive because something that it depends on is off.
pub fn check(cache: &Path, arch: Arch, fragments: &[Fragment]) -> Result<Configured, ImageError> {
    let source = {
        let _lock = cache::lock(cache)?;
        source::ensure(cache)?
    };
    config::configure(&source, arch, Base::Default, fragments)
}

/// The slim kernel for x86-64, from the cache if it is there. Building it takes some 20 minutes of processor time.
///
/// # Errors
/// As [`check`], or the compiler fails.
pub fn build(cache: &Path, progress: &mut dyn FnMut(super::Step)) -> Result<Kernel, ImageError> {
    let _lock = cache::lock(cache)?;
    cache::sweep(cache);
    let mut steps = Steps { progress, done: 0 };
    steps.begin("fetching the kernel's source");
    let source = source::ensure(cache)?;
    let kernel = build::ensure(cache, &source, &Arch::X86_64.fragments(), &mut steps)?;
    steps.finish();
    Ok(kernel)
}

/// The error for options that a configuration lacks; those that no Kconfig file knows are said to be so.
fn lacks(missing: &[Missing], unknown: &[Missing]) -> ImageError {
    let say = |missing: &[Missing]| missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if unknown.is_empty() {
        ImageError::Options { lacking: say(missing) }
    } else {
        let names: Vec<_> = unknown.iter().map(|m| format!("{}: {}", m.feature, m.option)).collect();
        ImageError::NoSuchOption { options: names.join("; ") }
    }
}

fn folder(cache: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let folder = cache.join(name);
    cache::create(&folder).map(|()| folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::kernel_config;

    #[test]
    fn the_list_has_every_fragment_of_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config");
        let mut listed: Vec<_> = FRAGMENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        listed.sort();
        let there: Vec<_> =
            kernel_config::fragments(&folder).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, there);
    }

    #[test]
    fn an_architecture_leaves_out_the_other_ones_fragment() {
        let names = |arch: Arch| arch.fragments().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert!(names(Arch::X86_64).contains(&"x86-64.cfg".to_owned()));
        assert!(!names(Arch::X86_64).contains(&"arm64.cfg".to_owned()));
        assert!(!names(Arch::Arm64).contains(&"x86-64.cfg".to_owned()));
    }

    #[test]
    fn docker_is_content_with_modules_and_names_what_is_missing() {
        let all: String = MOBY.iter().map(|option| format!("CONFIG_{option}=m\n")).collect();
        assert_eq!(moby_missing(&all), [""; 0]);
        assert_eq!(moby_missing(&all.replace("CONFIG_VETH=m", "# CONFIG_VETH is not set")), ["VETH"]);
    }
}
