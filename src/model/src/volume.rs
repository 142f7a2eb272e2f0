//! Volumes: directories that outlive the instances which use them.
//!
//! A volume is a thing of its own, as a claim is in Kubernetes: it is applied (`kind = "volume"`), apps mount it by name
//! (`[[volumes]]`, as a container does there and in Docker), and it stays when the last of them is deleted.
//!
//! ```text
//!  apply ──► known ──first instance is placed──► has data ──`volume rm`, nobody mounts it──► erased ──► gone
//!            (no directory)                      (local: on that module, for good)
//! ```
//!
//! Who has it attached is not written down a second time: the instances that are placed, and whose spec mounts it.

use crate::{Bytes, InstanceId, Name, SpecError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where a volume's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// On the disk of the module where it is first used: its instances run there and nowhere else.
    Local,
    /// On the chassis's storage module: its instances run on any module that reaches it.
    Chassis,
}

impl Class {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Chassis => "chassis",
        }
    }
}

/// How many instances may have a volume at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// One: the next gets it when the last is gone, or is fenced.
    #[default]
    SingleWriter,
    /// Any number; they agree among themselves, for example by locks on its files.
    Shared,
}

impl Access {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleWriter => "single-writer",
            Self::Shared => "shared",
        }
    }
}

/// What a user wants to keep data in: the contents of a volume file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Unique in the cluster.
    pub name: Name,
    /// Where the data is; for good.
    pub class: Class,
    /// How much it may hold.
    pub size: Bytes,
    /// How many instances may have it at a time; for good.
    #[serde(default)]
    pub access: Access,
}

impl VolumeSpec {
    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// The first key that is refused.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.size.0 == 0 {
            return Err(SpecError::value(
                "size",
                self.size,
                "holds nothing; write an amount such as \"100MiB\"",
            ));
        }
        Ok(())
    }
}

/// A file that is one volume: its `kind` says so.
pub(crate) fn parse_one(text: &str) -> Result<VolumeSpec, toml::de::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        #[serde(rename = "kind")]
        _kind: String,
        name: Name,
        class: Class,
        size: Bytes,
        #[serde(default)]
        access: Access,
    }
    let One { name, class, size, access, .. } = toml::from_str(text)?;
    Ok(VolumeSpec { name, class, size, access })
}

/// A volume that an app mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The volume.
    pub name: Name,
    /// Where its instances see it: an absolute path.
    pub path: String,
    /// They cannot write there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Where the kernel's own files are: nothing may lie over them.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Checks the mounts of one app.
///
/// # Errors
/// The first key that is refused.
pub(crate) fn check_mounts(mounts: &[Mount]) -> Result<(), SpecError> {
    let mut paths = BTreeSet::new();
    for Mount { path, .. } in mounts {
        let refuse = |reason: &str| Err(SpecError::value("volumes.path", path, reason));
        let Some(rest) = path.strip_prefix('/') else {
            return refuse("is not absolute; write it from the root on, as \"/data\"");
        };
        if rest.is_empty() {
            return refuse("is the root; a volume needs a directory of its own, as \"/data\"");
        }
        if rest.split('/').any(|part| part.is_empty() || part == "." || part == "..") || path.contains('\0') {
            return refuse("is not plain; leave out '//', '.', '..' and a '/' at the end");
        }
        if KERNEL.iter().any(|own| path.strip_prefix(own).is_some_and(|r| r.is_empty() || r.starts_with('/')))
        {
            return refuse("is the kernel's; mount the volume elsewhere");
        }
        if !paths.insert(path) {
            return refuse("is used twice in this app; give each volume a path of its own");
        }
    }
    Ok(())
}

/// A volume as the server records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// What its user wants.
    pub spec: VolumeSpec,
    /// Unix milliseconds of its first apply: tells it from an earlier one of the same name.
    pub created: u64,
    /// Of class `local`: the module that has its data; none until it is first used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<Name>,
    /// An instance has had it: there is data.
    #[serde(default)]
    pub used: bool,
    /// It is to be erased as soon as nobody has it.
    #[serde(default)]
    pub deleting: bool,
}

impl Volume {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    /// What a module needs to know to find its data.
    pub fn key(&self) -> VolumeKey {
        VolumeKey { name: self.spec.name.clone(), class: self.spec.class, created: self.created }
    }
}

/// Which volume, for a module: a name alone might be an earlier volume's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeKey {
    /// Its name.
    pub name: Name,
    /// Where its data is.
    pub class: Class,
    /// When it was first applied.
    pub created: u64,
}

/// A volume that an instance is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which.
    pub key: VolumeKey,
    /// How much it may hold.
    pub size: Bytes,
    /// Where the instance sees it.
    pub path: String,
    /// The instance cannot write there.
    pub read_only: bool,
}

/// What a module sees of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSeen {
    /// Which.
    pub key: VolumeKey,
    /// How much it holds.
    #[serde(default)]
    pub used: Bytes,
    /// How its size is enforced there: `project quota`, or `watched: ` and why there is none.
    #[serde(default)]
    pub quota: String,
    /// Its data is gone, as it was asked for.
    #[serde(default)]
    pub erased: bool,
    /// What a person should know: why it cannot be erased.
    #[serde(default)]
    pub message: String,
}

/// What a module reports of volumes with each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeReport {
    /// Why the storage module cannot be used from here; empty when it can.
    pub storage: String,
    /// What is attached here, and what was to be erased.
    pub volumes: Vec<VolumeSeen>,
}

/// A volume with all that is known of it, for displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeState<'a> {
    /// The record.
    pub volume: &'a Volume,
    /// Apps that mount it.
    pub apps: Vec<&'a Name>,
    /// Who has it, where.
    pub attached: Vec<(&'a InstanceId, &'a Name)>,
    /// As last reported.
    pub seen: Option<&'a VolumeSeen>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> String {
        let mount = Mount { name: "data".parse().unwrap(), path: path.to_owned(), read_only: false };
        check_mounts(&[mount]).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_plain_absolute_and_their_own() {
        assert!(refused("data").contains("is not absolute"));
        assert!(refused("/").contains("is the root"));
        assert!(refused("/data/").contains("is not plain"));
        assert!(refused("/a/../b").contains("is not plain"));
        assert!(refused("/proc/self").contains("is the kernel's"));
        let mount = |path: &str| Mount { name: "data".parse().unwrap(), path: path.into(), read_only: false };
        check_mounts(&[mount("/data"), mount("/data/x"), mount("/devices")]).unwrap();
        let twice = check_mounts(&[mount("/data"), mount("/data")]).unwrap_err().to_string();
        assert!(twice.contains("used twice"), "{twice}");
    }
}
