//! The OCI runtime specification of one instance.

use crate::{
    Fence, RuntimeError,
    accelerator::{self, Grant},
    volumes::VolumeBind,
};
use model::{Binding, Desired, OnDisconnect, Resources};
use oci_spec::{
    OciSpecError,
    image::ImageConfiguration,
    runtime::{
        Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder,
        LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
        LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResourcesBuilder, Mount,
        MountBuilder, ProcessBuilder, RootBuilder, Spec, UserBuilder, get_default_maskedpaths,
        get_default_readonly_paths,
    },
};
use std::path::Path;

/// Docker's default set.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];
const CPU_PERIOD_US: u64 = 100_000;
const PIDS: i64 = 4096;
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The module's side of an instance.
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a Path,
    pub(crate) module: &'a str,
    pub(crate) grants: &'a [Grant],
    /// Where its names are resolved, if the module says so.
    pub(crate) resolv_conf: Option<&'a Path>,
    /// What it keeps its data in.
    pub(crate) volumes: &'a [VolumeBind],
}

/// Puts the instance's wishes, the image's configuration and the module's facts together.
pub(crate) fn build(
    desired: &Desired,
    image: &ImageConfiguration,
    place: &Place<'_>,
) -> Result<Spec, RuntimeError> {
    let args = arguments(desired, image)
        .ok_or_else(|| bad_image(desired, "it names no command; set command in the app file"))?;
    let refused = |e: OciSpecError| bad_image(desired, &e.to_string());
    let mut spec = assemble(desired, image, place, args).map_err(refused)?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if let Some(file) = place.resolv_conf {
        mounts.push(bind(file, "/etc/resolv.conf").map_err(refused)?);
    }
    for volume in place.volumes {
        mounts.push(mounted(volume).map_err(refused)?);
    }
    spec.set_mounts(Some(mounts));
    Ok(spec)
}

/// A file of the module's, seen but not changed by the instance.
fn bind(file: &Path, place: &str) -> Result<Mount, OciSpecError> {
    let options = ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    MountBuilder::default().destination(place).source(file).typ("bind").options(options).build()
}

/// A volume: programs in it run, but neither with another's rights nor as devices.
fn mounted(volume: &VolumeBind) -> Result<Mount, OciSpecError> {
    let access = if volume.read_only { "ro" } else { "rw" };
    let options = ["rbind", access, "nosuid", "nodev"].map(str::to_owned).to_vec();
    MountBuilder::default()
        .destination(&volume.path)
        .source(&volume.source)
        .typ("bind")
        .options(options)
        .build()
}

fn bad_image(desired: &Desired, reason: &str) -> RuntimeError {
    RuntimeError::BadImage { image: desired.spec.image.to_string(), reason: reason.to_owned() }
}

fn arguments(desired: &Desired, image: &ImageConfiguration) -> Option<Vec<String>> {
    if !desired.spec.command.is_empty() {
        return Some(desired.spec.command.clone());
    }
    let config = image.config().as_ref()?;
    let entry = config.entrypoint().clone().unwrap_or_default();
    let args: Vec<String> = entry.into_iter().chain(config.cmd().clone().unwrap_or_default()).collect();
    (!args.is_empty()).then_some(args)
}

fn environment(desired: &Desired, image: &ImageConfiguration, place: &Place<'_>) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    env.extend(image.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default());
    env.push(format!("SPACECLOUD_APP={}", desired.spec.name));
    env.push(format!("SPACECLOUD_INSTANCE={}", desired.id));
    env.push(format!("SPACECLOUD_MODULE={}", place.module));
    env.extend(accelerator::environment(place.grants));
    env.extend(desired.spec.env.iter().map(|(key, value)| format!("{key}={value}")));
    env
}

/// `UID[:GID]`; names would need the image's own files.
pub(crate) fn user(desired: &Desired, image: &ImageConfiguration) -> Result<(u32, u32), RuntimeError> {
    let text = image.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    if text.is_empty() || text == "root" {
        return Ok((0, 0));
    }
    let (uid, gid) = text.split_once(':').unwrap_or((&text, &text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err(bad_image(desired, &format!("its user {text:?} is a name; use numbers (USER 1000:1000)"))),
    }
}

fn assemble(
    desired: &Desired,
    image: &ImageConfiguration,
    place: &Place<'_>,
    args: Vec<String>,
) -> Result<Spec, OciSpecError> {
    let (uid, gid) = user(desired, image).map_err(|e| OciSpecError::Other(e.to_string()))?;
    let set: std::collections::HashSet<Capability> = CAPABILITIES.into_iter().collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()?;
    let workdir = image.config().as_ref().and_then(|c| c.working_dir().clone()).filter(|d| !d.is_empty());
    let mut process = ProcessBuilder::default()
        .args(args)
        .env(environment(desired, image, place))
        .cwd(workdir.unwrap_or_else(|| "/".to_owned()))
        .user(UserBuilder::default().uid(uid).gid(gid).build()?)
        .capabilities(capabilities)
        .no_new_privileges(true)
        .build()?;
    process.set_rlimits(None);
    let namespaces = [
        (LinuxNamespaceType::Pid, None),
        (LinuxNamespaceType::Ipc, None),
        (LinuxNamespaceType::Uts, None),
        (LinuxNamespaceType::Mount, None),
        (LinuxNamespaceType::Cgroup, None),
        (LinuxNamespaceType::Network, Some(place.netns.to_owned())),
    ];
    let mut list = Vec::new();
    for (kind, path) in namespaces {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        list.push(if let Some(path) = path { builder.path(path).build()? } else { builder.build()? });
    }
    let keep = desired.spec.migration.on_disconnect == OnDisconnect::Keep;
    let linux = LinuxBuilder::default()
        .namespaces(list)
        .resources(resources(&desired.spec.resources, &desired.binding, place.grants)?)
        .devices(devices(place.grants)?)
        .cgroups_path(format!("{}/{}", Fence::branch(keep), desired.id))
        .masked_paths(get_default_maskedpaths())
        .readonly_paths(get_default_readonly_paths())
        .build()?;
    let mut spec = Spec::default();
    spec.set_process(Some(process));
    spec.set_root(Some(RootBuilder::default().path("rootfs").readonly(false).build()?));
    spec.set_hostname(Some(desired.id.to_string()));
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// The limits of an instance. CPU in parts of cores is a quota; whole cores are a set, which needs none.
pub(crate) fn limits(asked: &Resources, binding: &Binding) -> Result<LinuxResourcesBuilder, OciSpecError> {
    let mut builder = LinuxResourcesBuilder::default();
    let mut cpu = LinuxCpuBuilder::default().period(CPU_PERIOD_US);
    if asked.cpu.0 > 0 {
        let quota = i64::try_from(asked.cpu.0.saturating_mul(CPU_PERIOD_US) / 1000).unwrap_or(i64::MAX);
        let shares = (asked.cpu.0.saturating_mul(1024) / 1000).clamp(2, 262_144);
        cpu = cpu.quota(quota.max(1000)).shares(shares);
    }
    if !binding.cores.is_empty() {
        let cores: Vec<String> = binding.cores.iter().map(ToString::to_string).collect();
        cpu = cpu.cpus(cores.join(","));
    }
    if asked.cpu.0 > 0 || !binding.cores.is_empty() {
        builder = builder.cpu(cpu.build()?);
    }
    if asked.memory.0 > 0 {
        let limit = i64::try_from(asked.memory.0).unwrap_or(i64::MAX);
        builder = builder.memory(LinuxMemoryBuilder::default().limit(limit).swap(limit).build()?);
    }
    Ok(builder)
}

fn resources(
    asked: &Resources,
    binding: &Binding,
    grants: &[Grant],
) -> Result<oci_spec::runtime::LinuxResources, OciSpecError> {
    limits(asked, binding)?
        .pids(LinuxPidsBuilder::default().limit(PIDS).build()?)
        .devices(device_rules(grants)?)
        .build()
}

fn kind(node: &crate::Node) -> LinuxDeviceType {
    if node.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

fn nodes(grants: &[Grant]) -> impl Iterator<Item = &crate::Node> {
    grants.iter().flat_map(|grant| &grant.nodes)
}

fn devices(grants: &[Grant]) -> Result<Vec<LinuxDevice>, OciSpecError> {
    nodes(grants)
        .map(|node| {
            LinuxDeviceBuilder::default()
                .path(&node.path)
                .typ(kind(node))
                .major(node.major)
                .minor(node.minor)
                .file_mode(0o666u32)
                .uid(0u32)
                .gid(0u32)
                .build()
        })
        .collect()
}

/// Nothing but what the OCI runtime gives everybody, and the nodes of the instance's own accelerators: a node that
/// somebody makes in the container for another one's device cannot be opened.
fn device_rules(grants: &[Grant]) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let nothing = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build();
    let own = nodes(grants).map(|node| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(node))
            .major(node.major)
            .minor(node.minor)
            .access("rw")
            .build()
    });
    std::iter::once(nothing).chain(own).collect()
}

#[cfg(test)]
mod tests;
