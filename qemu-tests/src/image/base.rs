//! The base: Debian trixie's packages and kernel, assembled by mmdebstrap.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::{self, Key};
use super::{ImageError, Steps, vmlinux};

pub(super) const SUITE: &str = "trixie";

/// What the hooks read, laid down as `/image` in the root while it is made.
const SOURCES: [(&str, &str); 10] = [
    ("packages", include_str!("../../image/base/packages")),
    ("dpkg.cfg", include_str!("../../image/base/dpkg.cfg")),
    ("modules", include_str!("../../image/base/modules")),
    ("initramfs-modules", include_str!("../../image/base/initramfs-modules")),
    ("compressed", include_str!("../../image/base/compressed")),
    ("masked", include_str!("../../image/base/masked")),
    ("setup", include_str!("../../image/base/setup")),
    ("customize", include_str!("../../image/base/customize")),
    ("init", include_str!("../../image/base/init")),
    (
        "spacecloud.sysusers",
        include_str!("../../../meta-spacecloud/recipes-core/spacecloud-conf/files/spacecloud.sysusers"),
    ),
];

/// mmdebstrap's messages that begin a step worth telling.
const STAGES: [(&str, &str); 5] = [
    ("running apt-get update", "reading Debian's package lists"),
    ("downloading packages", "downloading packages"),
    ("extracting archives", "unpacking the essential packages"),
    ("installing remaining packages", "installing containerd, Docker, CNI, criu"),
    ("running --customize-hook", "taking out what a module never uses"),
];

/// How many of mmdebstrap's last lines an error shows.
const SAID: usize = 15;

/// The folder with the base; builds it when it is not there.
pub(super) fn ensure(cache: &Path, steps: &mut Steps<'_>) -> Result<PathBuf, ImageError> {
    let bases = cache.join("base");
    let base = bases.join(key());
    if !base.join("base.erofs").is_file() {
        cache::create(&bases)?;
        build(cache, &base, steps)?;
    }
    cache::touch(&base);
    cache::prune(&bases);
    Ok(base)
}

fn key() -> String {
    let mut key = Key::default();
    key.add("suite", SUITE.as_bytes());
    for (name, content) in SOURCES {
        key.add(name, content.as_bytes());
    }
    key.finish()
}

fn build(cache: &Path, base: &Path, steps: &mut Steps<'_>) -> Result<(), ImageError> {
    if !nix::unistd::geteuid().is_root() {
        may_make_roots()?;
    }
    let work = cache::work(cache)?;
    let lay_down = |name: &str| {
        let path = work.path().join(name);
        cache::create(&path).map(|()| path)
    };
    let (image, out, debs) = (lay_down("image")?, lay_down("out")?, lay_down("debs")?);
    let kept_debs = cache.join("debs");
    cache::create(&kept_debs)?;
    for (name, content) in SOURCES {
        let path = image.join(name);
        std::fs::write(&path, content).map_err(ImageError::file("writing", &path))?;
    }
    mmdebstrap(&image, &out, &kept_debs, &debs, work.path(), steps)?;
    steps.begin("unpacking the kernel");
    let packed = out.join("vmlinuz");
    vmlinux::unpack(&packed, &out.join("vmlinux"))?;
    // What this build has used is all that the next one needs.
    std::fs::remove_dir_all(&kept_debs).map_err(ImageError::file("removing", &kept_debs))?;
    std::fs::rename(&debs, &kept_debs).map_err(ImageError::file("keeping packages in", &kept_debs))?;
    if base.exists() {
        std::fs::remove_dir_all(base).map_err(ImageError::file("removing", base))?;
    }
    std::fs::rename(&out, base).map_err(ImageError::file("putting in place", base))
}

/// A root file system has files of many users: a user other than root needs a name space with ids of its own.
fn may_make_roots() -> Result<(), ImageError> {
    const TOOL: &str = "unshare";
    let tried = Command::new(TOOL).args(["--map-auto", "--map-root-user", "true"]).output();
    let output = tried.map_err(|source| ImageError::Tool { tool: TOOL, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Err(ImageError::NotAllowed { said })
}

/// Runs mmdebstrap. Without a mirror it finds the host's own sources of that suite, or else Debian's archive.
fn mmdebstrap(
    image: &Path,
    out: &Path,
    kept_debs: &Path,
    debs: &Path,
    work: &Path,
    steps: &mut Steps<'_>,
) -> Result<(), ImageError> {
    const TOOL: &str = "mmdebstrap";
    let packages = list(include_str!("../../image/base/packages")).collect::<Vec<_>>().join(",");
    let quoted = |path: &Path| format!("'{}'", path.display());
    let mode = if nix::unistd::geteuid().is_root() { "--mode=root" } else { "--mode=unshare" };
    let mut command = Command::new(TOOL);
    command.args([mode, "--variant=minbase", "--format=null", "--skip=download/empty,essential/unlink"]);
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    command.arg(format!("--include={packages}"));
    command.arg(format!("--setup-hook=copy-in {} /", quoted(image)));
    command.arg("--setup-hook=sh \"$1/image/setup\" \"$1\"");
    command.arg("--setup-hook=mkdir -p \"$1/var/cache/apt/archives\"");
    command.arg(format!("--setup-hook=sync-in {} /var/cache/apt/archives", quoted(kept_debs)));
    command.arg("--customize-hook=sh \"$1/image/customize\" \"$1\"");
    command.arg(format!("--customize-hook=sync-out /var/cache/apt/archives {}", quoted(debs)));
    command.arg(format!("--customize-hook=sync-out /image/out {}", quoted(out)));
    command.args([SUITE, "/dev/null"]);
    command.env("TMPDIR", work).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |source| ImageError::Tool { tool: TOOL, source };
    let mut child = command.spawn().map_err(failed)?;
    let mut said = std::collections::VecDeque::with_capacity(SAID);
    let mut next = STAGES.iter().peekable();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            tracing::debug!(line, "mmdebstrap");
            if let Some((_, step)) = next.next_if(|(message, _)| line.contains(message)) {
                steps.begin(step);
            }
            if said.len() == SAID {
                said.pop_front();
            }
            said.push_back(line);
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(ImageError::Failed { tool: TOOL, status, said: Vec::from(said).join("\n") })
    }
}

/// The entries of a list file: one a line, `#` begins a comment.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_without_its_comments() {
        assert_eq!(list("# all\nrunc # old\n\n  crun\n").collect::<Vec<_>>(), ["runc", "crun"]);
    }

    #[test]
    fn every_module_of_the_initramfs_is_kept_in_the_base_too() {
        let of = |name| SOURCES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).unwrap();
        let kept: Vec<_> = list(of("modules")).collect();
        for module in list(of("initramfs-modules")) {
            assert!(kept.contains(&module), "{module} is not in qemu-tests/image/base/modules");
        }
    }
}
