//! The slim kernel: no modules, nothing that no fragment asks for.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::cache::{self, Key};
use super::super::kernel_config::{self, Modules};
use super::super::{ImageError, Steps};
use super::source::{self, Source};
use super::{Arch, Base, Fragment, config, lacks};

/// A kernel that was built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The ELF file, booted through its PVH entry.
    pub vmlinux: PathBuf,
    /// For a boot loader.
    pub bzimage: PathBuf,
    /// What it was built with.
    pub config: PathBuf,
    /// As `uname -r` says it.
    pub release: String,
}

/// Beside the version in `uname -r`.
const LOCAL_VERSION: &str = "-spacecloud";

pub(super) fn ensure(
    cache: &Path,
    source: &Source,
    fragments: &[Fragment],
    steps: &mut Steps<'_>,
) -> Result<Kernel, ImageError> {
    let kernels = super::folder(cache, "kernel")?;
    let mut key = Key::default();
    key.add_file("source", &source.tarball)?;
    key.add("version", LOCAL_VERSION.as_bytes());
    for (name, text) in fragments {
        key.add(name, text.as_bytes());
    }
    let kept = kernels.join(key.finish());
    if !kept.is_dir() {
        let work = cache::work(cache)?;
        compile(work.path(), source, fragments, steps)?;
        let out = work.path().join("kernel");
        std::fs::rename(&out, &kept).map_err(ImageError::file("putting in place", &kept))?;
    }
    cache::touch(&kept);
    cache::prune(&kernels);
    let release = kept.join("release");
    let text = std::fs::read_to_string(&release).map_err(ImageError::file("reading", &release))?;
    Ok(Kernel {
        vmlinux: kept.join("vmlinux"),
        bzimage: kept.join("bzImage"),
        config: kept.join("config"),
        release: text.trim().to_owned(),
    })
}

fn compile(
    work: &Path,
    source: &Source,
    fragments: &[Fragment],
    steps: &mut Steps<'_>,
) -> Result<(), ImageError> {
    let (tree, out, kernel) = (work.join("tree"), work.join("out"), work.join("kernel"));
    for folder in [&tree, &out, &kernel] {
        cache::create(folder)?;
    }
    steps.begin("unpacking the kernel's source");
    let mut tar = Command::new("tar");
    source::run(
        "tar",
        tar.args(["-x", "--strip-components=1", "-f"]).arg(&source.tarball).arg("-C").arg(&tree),
    )?;
    let text = config::merge(&tree, &out, Arch::X86_64, Base::Nothing, fragments)?;
    let pairs = fragments.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let missing = kernel_config::missing(pairs, &text, Modules::Refused);
    if !missing.is_empty() {
        return Err(lacks(&missing, &[]));
    }
    steps.begin("compiling the kernel (some 20 minutes of processor time)");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(&out).arg(format!("-j{jobs}")).arg(format!("LOCALVERSION={LOCAL_VERSION}"));
    // The same kernel whoever builds it.
    make.args(["KBUILD_BUILD_USER=spacecloud", "KBUILD_BUILD_HOST=spacecloud", "bzImage"]);
    source::run("make", make.env("KBUILD_BUILD_TIMESTAMP", "2026-01-01"))?;
    for (built, name) in [
        ("vmlinux", "vmlinux"),
        ("arch/x86/boot/bzImage", "bzImage"),
        (".config", "config"),
        ("include/config/kernel.release", "release"),
    ] {
        let built = out.join(built);
        std::fs::copy(&built, kernel.join(name)).map_err(ImageError::file("keeping", &built))?;
    }
    Ok(())
}
