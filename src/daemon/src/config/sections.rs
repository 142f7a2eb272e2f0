//! The tables of spacecloud.toml that have keys of their own, and what holds where they say nothing.

use model::{Bytes, Name, Span, Subnet};
use runtime::AcceleratorSlot;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// `[storage]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Its address on the backplane.
    pub server: Ipv4Addr,
    /// The directory that it exports over NFSv4.
    #[serde(default = "StorageConfig::export_default")]
    pub export: String,
    /// How long a mount, or anything else that is asked of it, may take.
    #[serde(default = "StorageConfig::limit_default")]
    pub limit: Span,
}

impl StorageConfig {
    fn export_default() -> String {
        "/".into()
    }

    fn limit_default() -> Span {
        Span(15_000)
    }
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where agents find it.
    pub address: String,
    /// Where it listens for gRPC.
    pub listen: String,
    /// Where it listens for HTTP.
    pub http: String,
    /// Where the registry's certificate is put on a module that has a registry.
    pub registry_tls: PathBuf,
    /// Where services get their addresses; apart from everything else that the modules reach.
    pub services: Subnet,
}

/// Where the server is: module-1's address on the backplane.
pub const SERVER: &str = "10.44.0.1:7440";

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: SERVER.into(),
            listen: "0.0.0.0:7440".into(),
            http: "0.0.0.0:7480".into(),
            registry_tls: "/var/lib/space-registry/tls".into(),
            services: Subnet::SERVICES,
        }
    }
}

/// `[agent]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Slot, where neither the kernel's command line nor the slot file says it.
    pub slot: Option<u16>,
    /// Holds the join token.
    pub token_file: PathBuf,
    /// This module's address; `{slot}` is replaced.
    pub backplane: String,
    /// The subnet of its instances; `{slot}` is replaced.
    pub pods: String,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// runc or crun.
    pub oci_runtime: String,
    /// Directory of the CNI plugins.
    pub cni_bin: PathBuf,
    /// The registry that images come from.
    pub registry: String,
    /// Is there on a module that runs a registry.
    pub registry_enabled: PathBuf,
    /// Registries that follow it, as HOST:PORT: asked when it does not answer.
    pub mirrors: Vec<String>,
    /// Directory on a tmpfs: network namespaces, addresses, the lease.
    pub run: PathBuf,
    /// Where cgroup v2 is mounted; beside cgroup v1 that is often /sys/fs/cgroup/unified.
    pub cgroup: PathBuf,
    /// Memory that is left to the system.
    pub reserved: Bytes,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// Which number the device in each PCIe slot has.
    pub accelerators: Vec<AcceleratorSlot>,
    /// Where the kernel's view of the devices is mounted.
    pub sysfs: PathBuf,
    /// Where it gives processes away that move live, to other modules alone.
    pub live: String,
    /// The resolver of names.
    pub names: NamesConfig,
}

/// `[agent.names]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamesConfig {
    /// Where it listens, as ADDRESS:PORT; empty is port 53 of the bridge's address, where instances look.
    pub listen: String,
    /// Services are APP.ZONE.
    pub zone: Name,
    /// Who is asked for all other names, as ADDRESS:PORT; none at all is whoever resolv.conf names.
    pub upstream: Vec<SocketAddr>,
    /// The module's own list of name servers.
    pub resolv_conf: PathBuf,
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self {
            listen: String::new(),
            zone: Name::of_services(),
            upstream: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            slot: None,
            token_file: "/etc/spacecloud/token".into(),
            backplane: "10.44.0.{slot}".into(),
            pods: "10.45.{slot}.0/24".into(),
            containerd: "/run/containerd/containerd.sock".into(),
            oci_runtime: "runc".into(),
            cni_bin: "/usr/lib/cni".into(),
            registry: "registry.spacecloud:5000".into(),
            registry_enabled: "/etc/spacecloud/registry.enabled".into(),
            mirrors: Vec::new(),
            run: "/run/spacecloud".into(),
            cgroup: "/sys/fs/cgroup".into(),
            reserved: Bytes(192 << 20),
            labels: BTreeMap::new(),
            accelerators: Vec::new(),
            sysfs: "/sys".into(),
            live: "0.0.0.0:7441".into(),
            names: NamesConfig::default(),
        }
    }
}
