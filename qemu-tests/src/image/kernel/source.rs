//! The kernel's source as Debian packages it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::cache::{self, Key};
use super::super::{ImageError, base};

/// Debian's package; a stable suite's updates keep the name.
const PACKAGE: &str = "linux-source-6.12";

/// What configuring reads of the source, as tar's patterns: 50 MB of 1.5 GB.
const CONFIGURING: [&str; 5] =
    ["*/Makefile*", "*/Kconfig*", "*/Kbuild*", "*/configs/*", "linux-source-*/scripts/*"];

/// The source in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// All of it, packed.
    pub tarball: PathBuf,
    /// The part that configuring reads.
    pub tree: PathBuf,
}

/// The source; fetched by mmdebstrap, which finds the suite wherever the host's own packages come from.
pub(super) fn ensure(cache: &Path) -> Result<Source, ImageError> {
    let sources = super::folder(cache, "kernel-source")?;
    let mut key = Key::default();
    key.add("suite", base::SUITE.as_bytes());
    key.add("package", PACKAGE.as_bytes());
    for pattern in CONFIGURING {
        key.add("pattern", pattern.as_bytes());
    }
    let kept = sources.join(key.finish());
    if !kept.is_dir() {
        let work = cache::work(cache)?;
        fetch(work.path())?;
        let out = work.path().join("out");
        std::fs::rename(&out, &kept).map_err(ImageError::file("putting in place", &kept))?;
    }
    cache::touch(&kept);
    cache::prune(&sources);
    Ok(Source { tarball: kept.join("source.tar.xz"), tree: kept.join("tree") })
}

fn fetch(work: &Path) -> Result<(), ImageError> {
    let out = work.join("out");
    let tree = out.join("tree");
    for folder in [work.join("deb"), tree.clone()] {
        cache::create(&folder)?;
    }
    // No package is installed: mmdebstrap only sets up an apt for the suite, and the hook uses it.
    let mode = if nix::unistd::geteuid().is_root() { "--mode=root" } else { "--mode=unshare" };
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", mode, "--variant=custom", "--format=null"]);
    mmdebstrap.arg(format!(
        "--customize-hook=cd '{}' && APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get -qq -o APT::Sandbox::User=root download {PACKAGE}",
        work.join("deb").display()
    ));
    run("mmdebstrap", mmdebstrap.args([base::SUITE, "/dev/null"]).env("TMPDIR", work))?;
    let unpack = "dpkg-deb --fsys-tarfile deb/*.deb | tar -x --strip-components=3 -C out --wildcards './usr/src/*.tar.xz' \
                  && mv out/*.tar.xz out/source.tar.xz";
    run("sh", Command::new("sh").args(["-e", "-c", unpack]).current_dir(work))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--strip-components=1", "--wildcards", "-f"])
        .arg(out.join("source.tar.xz"))
        .arg("-C")
        .arg(&tree);
    run("tar", tar.args(CONFIGURING)).map(drop)
}

/// Runs a host tool to its end and returns what it printed; its last words are in the error.
pub(in super::super) fn run(tool: &'static str, command: &mut Command) -> Result<String, ImageError> {
    let output = command.output().map_err(|source| ImageError::Tool { tool, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut said: Vec<_> = text.lines().rev().take(15).collect();
    said.reverse();
    Err(ImageError::Failed { tool, status: output.status, said: said.join("\n") })
}
