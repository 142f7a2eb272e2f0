//! The programs layer: our programs, their configuration and their units, as one small erofs.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{self, Key};
use super::{ImageError, Steps, demo};

/// The programs that go into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub spacecloudd: PathBuf,
    /// The registry.
    pub space_registry: PathBuf,
    /// The command line client.
    pub spacectl: PathBuf,
}

impl Programs {
    /// The three programs in the folder where cargo has put them.
    #[must_use]
    pub fn built_in(folder: &Path) -> Self {
        Self {
            spacecloudd: folder.join("spacecloudd"),
            space_registry: folder.join("space-registry"),
            spacectl: folder.join("spacectl"),
        }
    }

    fn all(&self) -> [(&'static str, &Path); 3] {
        [
            ("usr/bin/spacecloudd", &self.spacecloudd),
            ("usr/bin/space-registry", &self.space_registry),
            ("usr/bin/spacectl", &self.spacectl),
        ]
    }

    pub(super) fn check(&self) -> Result<(), ImageError> {
        match self.all().into_iter().find(|(_, path)| !path.is_file()) {
            Some((_, path)) => Err(ImageError::Program { path: path.to_owned() }),
            None => Ok(()),
        }
    }
}

macro_rules! conf {
    ($name:literal) => {
        include_str!(concat!("../../../meta-spacecloud/recipes-core/spacecloud-conf/files/", $name))
    };
}

/// What the twin takes updates for.
pub(super) const COMPATIBLE: &str = "spacecloud-twin";

const PLAIN: u32 = 0o644;
const EXECUTABLE: u32 = 0o755;

/// Path on the module, mode, content.
const FILES: [(&str, u32, &str); 28] = [
    ("etc/containerd/certs.d/_default/hosts.toml", PLAIN, conf!("certs-default-hosts.toml")),
    ("etc/containerd/certs.d/registry.spacecloud:5000/hosts.toml", PLAIN, conf!("certs-registry-hosts.toml")),
    ("etc/containerd/config.toml", PLAIN, conf!("containerd-config.toml")),
    ("etc/docker/daemon.json", PLAIN, conf!("daemon.json")),
    ("etc/hosts", PLAIN, conf!("hosts")),
    ("etc/nsswitch.conf", PLAIN, conf!("nsswitch.conf")),
    ("etc/spacecloud/network.conf", PLAIN, conf!("network.conf")),
    ("etc/spacecloud/registry.toml", PLAIN, conf!("registry.toml")),
    ("etc/spacecloud/spacecloud.toml", PLAIN, conf!("spacecloud.toml")),
    ("etc/systemd/system/containerd.service.d/spacecloud.conf", PLAIN, conf!("containerd.service.conf")),
    ("etc/systemd/journald.conf.d/twin.conf", PLAIN, include_str!("../../image/journald.conf")),
    ("etc/systemd/system.conf.d/twin.conf", PLAIN, include_str!("../../image/system.conf")),
    ("usr/lib/systemd/system/control.service", PLAIN, include_str!("../../image/control.service")),
    ("usr/lib/systemd/system/space-registry.service", PLAIN, conf!("space-registry.service")),
    ("usr/lib/systemd/system/spacecloud-guard.service", PLAIN, conf!("spacecloud-guard.service")),
    ("usr/lib/systemd/system/spacecloud-network.service", PLAIN, conf!("spacecloud-network.service")),
    ("usr/lib/systemd/system/spacecloudd.service", PLAIN, conf!("spacecloudd.service")),
    ("usr/lib/sysusers.d/spacecloud.conf", PLAIN, conf!("spacecloud.sysusers")),
    ("usr/libexec/spacecloud/network", EXECUTABLE, conf!("spacecloud-network")),
    ("etc/systemd/system/docker.service.d/spacecloud.conf", PLAIN, conf!("docker.service.conf")),
    ("etc/systemd/system/rauc.service.d/twin.conf", PLAIN, include_str!("../../image/rauc.service.conf")),
    ("etc/rauc/system.conf", PLAIN, conf!("rauc-system.conf")),
    ("usr/lib/systemd/system/spacecloud-trial.service", PLAIN, conf!("spacecloud-trial.service")),
    ("usr/lib/systemd/system/spacecloud-storage.service", PLAIN, conf!("spacecloud-storage.service")),
    ("usr/libexec/spacecloud/storage", EXECUTABLE, conf!("spacecloud-storage")),
    ("usr/libexec/spacecloud/bootslot", EXECUTABLE, conf!("bootslot")),
    ("usr/libexec/spacecloud/bootslot-installed", EXECUTABLE, conf!("bootslot-installed")),
    ("usr/libexec/spacecloud/trial", EXECUTABLE, conf!("spacecloud-trial")),
];

/// Path on the module, target.
const LINKS: [(&str, &str); 8] = [
    ("etc/docker/certs.d/registry.spacecloud:5000/ca.crt", "/var/lib/spacecloud/tls/ca.pem"),
    (
        "etc/systemd/system/multi-user.target.wants/space-registry.service",
        "/usr/lib/systemd/system/space-registry.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/spacecloud-guard.service",
        "/usr/lib/systemd/system/spacecloud-guard.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/spacecloud-network.service",
        "/usr/lib/systemd/system/spacecloud-network.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/spacecloud-storage.service",
        "/usr/lib/systemd/system/spacecloud-storage.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/spacecloud-trial.service",
        "/usr/lib/systemd/system/spacecloud-trial.service",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/spacecloudd.service",
        "/usr/lib/systemd/system/spacecloudd.service",
    ),
    ("etc/systemd/system/sysinit.target.wants/control.service", "/usr/lib/systemd/system/control.service"),
];

/// The layer's file; packs it when an input differs from what is there.
pub(super) fn ensure(
    cache: &Path,
    programs: &Programs,
    steps: &mut Steps<'_>,
) -> Result<PathBuf, ImageError> {
    let control = demo::compile(cache, "control", include_str!("../../image/control.rs"))?;
    let mut binaries = programs.all().to_vec();
    binaries.push(("usr/libexec/spacecloud/control", &control));
    let layers = cache.join("programs");
    cache::create(&layers)?;
    let layer = layers.join(format!("{}.erofs", key(&binaries)?));
    if !layer.is_file() {
        steps.begin("packing the programs");
        pack(&layers, &layer, &binaries)?;
    }
    cache::touch(&layer);
    cache::prune(&layers);
    Ok(layer)
}

fn key(binaries: &[(&str, &Path)]) -> Result<String, ImageError> {
    let mut key = Key::default();
    for (name, mode, content) in FILES {
        key.add(name, &mode.to_le_bytes());
        key.add(name, content.as_bytes());
    }
    for (name, target) in LINKS {
        key.add(name, target.as_bytes());
    }
    for (name, path) in binaries {
        key.add_file(name, path)?;
    }
    Ok(key.finish())
}

fn pack(layers: &Path, layer: &Path, binaries: &[(&str, &Path)]) -> Result<(), ImageError> {
    const TOOL: &str = "mkfs.erofs";
    let work = tempfile::tempdir().map_err(ImageError::file("creating", &std::env::temp_dir()))?;
    let root = work.path().join("root");
    lay_out(&root, binaries)?;
    let packed = tempfile::NamedTempFile::new_in(layers)
        .map_err(ImageError::file("creating a file in", layers))?
        .into_temp_path();
    let output = Command::new(TOOL)
        .args(["--quiet", "--all-root", "-T0"])
        .args([&packed, root.as_path()] as [&Path; 2])
        .output()
        .map_err(|source| ImageError::Tool { tool: TOOL, source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ImageError::Failed { tool: TOOL, status: output.status, said });
    }
    packed.persist(layer).map_err(|error| ImageError::file("putting in place", layer)(error.error))
}

fn lay_out(root: &Path, binaries: &[(&str, &Path)]) -> Result<(), ImageError> {
    let place = |name: &str| {
        let path = root.join(name);
        path.parent().map_or(Ok(()), cache::create).map(|()| path)
    };
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(ImageError::file("setting the mode of", path))
    };
    for (name, mode, content) in FILES {
        let path = place(name)?;
        std::fs::write(&path, for_the_twin(content)).map_err(ImageError::file("writing", &path))?;
        allow(&path, mode)?;
    }
    for (name, target) in LINKS {
        let path = place(name)?;
        symlink(target, &path).map_err(ImageError::file("linking", &path))?;
    }
    for (name, source) in binaries {
        let path = place(name)?;
        std::fs::copy(source, &path).map_err(ImageError::file("copying", source))?;
        allow(&path, EXECUTABLE)?;
    }
    // A folder of the upper layer covers the mode of the one below it, whatever this user's umask is.
    for folder in folders(root)? {
        allow(&folder, EXECUTABLE)?;
    }
    Ok(())
}

/// Fills in what a file leaves to the image that it goes into.
fn for_the_twin(content: &str) -> String {
    content.replace("@COMPATIBLE@", COMPATIBLE).replace("@CONFIGURATION@", "/etc/rauc")
}

/// A folder and all folders in it.
fn folders(top: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        let reading = || ImageError::file("reading", &folder);
        for entry in std::fs::read_dir(&folder).map_err(reading())? {
            let entry = entry.map_err(reading())?;
            if entry.file_type().map_err(reading())?.is_dir() {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stubs(folder: &Path) -> Programs {
        let programs = Programs::built_in(folder);
        for (_, path) in programs.all() {
            std::fs::write(path, b"#!/bin/sh\n").unwrap();
        }
        programs
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let programs = stubs(folder.path());
        std::fs::remove_file(&programs.spacectl).unwrap();
        assert!(matches!(programs.check(), Err(ImageError::Program { path }) if path == programs.spacectl));
    }

    #[test]
    fn the_key_follows_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        let programs = stubs(folder.path());
        let before = key(&programs.all()).unwrap();
        assert_eq!(before, key(&programs.all()).unwrap());
        std::fs::write(&programs.spacectl, b"another").unwrap();
        assert_ne!(before, key(&programs.all()).unwrap());
    }

    #[test]
    fn everything_is_readable_by_the_registrys_user() {
        let folder = tempfile::tempdir().unwrap();
        let programs = stubs(folder.path());
        let root = folder.path().join("root");
        lay_out(&root, &programs.all()).unwrap();
        let mode = |name: &str| std::fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
        for name in [
            "",
            "etc",
            "etc/spacecloud",
            "usr/bin",
            "usr/bin/space-registry",
            "usr/libexec/spacecloud/network",
        ] {
            assert_eq!(mode(name), 0o755, "{name}");
        }
        assert_eq!(mode("etc/spacecloud/registry.toml"), 0o644);
    }

    #[test]
    fn every_enabled_unit_is_there() {
        for (link, target) in LINKS {
            let unit = FILES.iter().any(|(path, _, _)| target == format!("/{path}"));
            assert!(unit || !link.contains(".wants/"), "{link} leads to {target}");
        }
    }
}
