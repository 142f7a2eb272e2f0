//! An instance's network: a namespace, the CNI bridge plugin with host-local addresses, and portmap.

use crate::{RuntimeError, Services, hold, namespace, reserve, roaming};
use model::{AppSpec, InstanceId, Roaming, Subnet};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// The module's bridge and the plugins that attach instances to it.
#[derive(Debug, Clone)]
pub struct Network {
    plugins: PathBuf,
    subnet: Subnet,
    state: PathBuf,
    address: Option<Ipv4Addr>,
}

/// The bridge that instances hang on.
pub const BRIDGE: &str = "sc0";
/// One that hangs is not waited for longer.
const PLUGIN_LIMIT: Duration = Duration::from_secs(60);
/// The plugins' name for it.
const NETWORK: &str = "spacecloud";

impl Network {
    /// `plugins` is the directory of the CNI plugins, `subnet` the module's, `state` a directory on a tmpfs,
    /// `address` the module's own on the backplane.
    pub fn new(plugins: &Path, subnet: Subnet, state: &Path, address: Option<Ipv4Addr>) -> Self {
        Self { plugins: plugins.to_owned(), subnet, state: state.to_owned(), address }
    }

    /// The module's part in all services.
    pub(crate) fn services(&self) -> Services {
        Services::new(self.subnet, self.address)
    }

    /// The file that tells instances whom to ask for names; they have none of their own while it is missing.
    pub fn resolv_conf(&self) -> PathBuf {
        Self::resolv_conf_in(&self.state)
    }

    /// The same for a state directory.
    pub fn resolv_conf_in(state: &Path) -> PathBuf {
        state.join("resolv.conf")
    }

    /// The file that holds an instance's network namespace.
    pub fn namespace(&self, id: &InstanceId) -> PathBuf {
        self.state.join("netns").join(id.to_string())
    }

    /// The instances that have a namespace, or had begun to.
    pub(crate) fn namespaces(&self) -> BTreeSet<InstanceId> {
        let folder = fs::read_dir(self.state.join("netns")).into_iter().flatten().flatten();
        folder.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
    }

    /// Makes the namespace and attaches it; answers the instance's address. If it is one that it `keeps`, it has it when
    /// it is brought, see [`Network::bring`].
    ///
    /// # Errors
    /// The namespace cannot be made, or a plugin fails; the caller detaches then.
    pub async fn attach(
        &self,
        id: &InstanceId,
        spec: &AppSpec,
        keeps: Option<Ipv4Addr>,
    ) -> Result<String, RuntimeError> {
        let path = self.namespace(id);
        tokio::task::spawn_blocking(move || namespace::make(&path)).await.map_err(|e| {
            RuntimeError::Plugin {
                plugin: "namespace".into(),
                instance: id.to_string(),
                reason: e.to_string(),
            }
        })??;
        namespace::wake_loopback(&self.namespace(id)).await?;
        let mut result = self.run("bridge", "ADD", id, &self.config("bridge")).await?;
        if let (Some(address), Some(given)) = (keeps, result.pointer_mut("/ips/0/address")) {
            *given = json!(format!("{address}/32"));
        }
        let ports = port_mappings(spec);
        if !ports.is_empty() {
            let mut config = self.config("portmap");
            extend(&mut config, "runtimeConfig", json!({ "portMappings": ports }));
            extend(&mut config, "prevResult", result.clone());
            self.run("portmap", "ADD", id, &config).await?;
        }
        let address = result.pointer("/ips/0/address").and_then(Value::as_str).unwrap_or_default();
        Ok(address.split('/').next().unwrap_or_default().to_owned())
    }

    /// Undoes [`Network::attach`], as far as it came. Doing it twice is fine.
    pub async fn detach(&self, id: &InstanceId, spec: Option<&AppSpec>) -> Result<(), RuntimeError> {
        let path = self.namespace(id);
        let ports = match spec {
            Some(spec) => port_mappings(spec),
            // The plugin goes by the instance's name, and does nothing without a port.
            None if path.exists() => vec![json!({ "hostPort": 1, "containerPort": 1, "protocol": "tcp" })],
            None => vec![],
        };
        let mut failed = Ok(());
        let _ = fs::remove_file(self.state.join("stdin").join(id.to_string()));
        if !ports.is_empty() {
            let mut config = self.config("portmap");
            extend(&mut config, "runtimeConfig", json!({ "portMappings": ports }));
            failed = self.run("portmap", "DEL", id, &config).await.map(drop);
        }
        if path.exists() {
            failed = failed.and(self.run("bridge", "DEL", id, &self.config("bridge")).await.map(drop));
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            fs::remove_file(&path).map_err(RuntimeError::io("remove", &path))?;
        }
        failed
    }

    /// Lets nothing in or out of an instance any more, and gives its address to nobody else: its process is about to
    /// go elsewhere.
    ///
    /// # Errors
    /// The kernel, or nft, refuses.
    pub async fn hold(&self, id: &InstanceId, address: &str) -> Result<(), RuntimeError> {
        hold::close(&self.namespace(id)).await?;
        match self.own(address) {
            Some(address) => reserve::mark(&self.addresses(), address),
            None => Ok(()),
        }
    }

    /// Lets nothing in or out of one whose process is to come.
    ///
    /// # Errors
    /// The kernel, or nft, refuses.
    pub async fn expect(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        hold::shut(&self.namespace(id)).await
    }

    /// Its process goes on here, with this address.
    ///
    /// # Errors
    /// The kernel, or nft, refuses.
    pub async fn release(&self, id: &InstanceId, address: &str) -> Result<(), RuntimeError> {
        if let Some(address) = self.own(address) {
            reserve::unmark(&self.addresses(), address, &id.to_string())?;
        }
        hold::open(&self.namespace(id)).await
    }

    /// Gives an instance the address that it brings along, in place of the one that the plugin has given: that one
    /// stays given until the instance goes, and is not used.
    ///
    /// # Errors
    /// The kernel, or nft, refuses.
    pub async fn bring(&self, id: &InstanceId, address: Ipv4Addr) -> Result<(), RuntimeError> {
        let Some(gateway) = self.subnet.gateway() else { return Ok(()) };
        roaming::readdress(&self.namespace(id), address, gateway).await
    }

    /// Its process has come with this address: packets find it as soon as they are here.
    ///
    /// # Errors
    /// The kernel, or nft, refuses.
    pub async fn welcome(&self, id: &InstanceId, address: Ipv4Addr) -> Result<(), RuntimeError> {
        roaming::welcome(&self.namespace(id), address, self.subnet.contains(address)).await
    }

    /// Gives nobody an address that is elsewhere; `here` are the addresses of the instances on this module.
    pub(crate) fn reserve(
        &self,
        table: &[Roaming],
        here: &BTreeMap<Ipv4Addr, String>,
    ) -> Result<(), RuntimeError> {
        let elsewhere =
            table.iter().filter(|r| self.subnet.contains(r.address) && Some(r.via) != self.address);
        reserve::keep(&self.addresses(), &elsewhere.map(|r| r.address).collect(), here)
    }

    /// Whether it may have to take an address back that it keeps for somebody elsewhere.
    pub(crate) fn reserves(&self) -> bool {
        !reserve::away(&self.addresses()).is_empty()
    }

    /// Where the plugin keeps what it has given.
    fn addresses(&self) -> PathBuf {
        self.state.join("addresses").join(NETWORK)
    }

    fn own(&self, address: &str) -> Option<Ipv4Addr> {
        address.parse().ok().filter(|address| self.subnet.contains(*address))
    }

    /// A pipe that nobody writes to: the input of a restored instance.
    pub(crate) fn pipe(&self, id: &InstanceId) -> Result<PathBuf, RuntimeError> {
        let folder = self.state.join("stdin");
        fs::create_dir_all(&folder).map_err(RuntimeError::io("create", &folder))?;
        let path = folder.join(id.to_string());
        match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU) {
            Ok(()) | Err(nix::Error::EEXIST) => Ok(path),
            Err(errno) => Err(RuntimeError::io("make the pipe", &path)(errno.into())),
        }
    }

    /// The file that tells criu how to move what asks for it.
    pub(crate) fn criu_config(&self, name: &str, text: &str) -> Result<PathBuf, RuntimeError> {
        let path = self.state.join(name);
        fs::write(&path, text).map_err(RuntimeError::io("write", &path))?;
        Ok(path)
    }

    fn config(&self, plugin: &str) -> Value {
        let mut config = json!({ "cniVersion": "1.0.0", "name": NETWORK, "type": plugin });
        if plugin == "bridge" {
            extend(&mut config, "bridge", json!(BRIDGE));
            extend(&mut config, "isGateway", json!(true));
            extend(&mut config, "hairpinMode", json!(true));
            let data = self.state.join("addresses");
            extend(
                &mut config,
                "ipam",
                json!({
                    "type": "host-local",
                    "dataDir": data,
                    "ranges": [[{ "subnet": self.subnet }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                }),
            );
        }
        if plugin == "portmap" {
            extend(&mut config, "capabilities", json!({ "portMappings": true }));
            extend(&mut config, "snat", json!(true));
        }
        config
    }

    async fn run(
        &self,
        plugin: &str,
        verb: &str,
        id: &InstanceId,
        config: &Value,
    ) -> Result<Value, RuntimeError> {
        let program = self.plugins.join(plugin);
        let failed =
            |reason: String| RuntimeError::Plugin { plugin: plugin.into(), instance: id.to_string(), reason };
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id.to_string())
            .env("CNI_NETNS", self.namespace(id))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(RuntimeError::io("run", &program))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(config.to_string().as_bytes())
                .await
                .map_err(RuntimeError::io("write to", &program))?;
        }
        let output = match tokio::time::timeout(PLUGIN_LIMIT, child.wait_with_output()).await {
            Ok(output) => output.map_err(RuntimeError::io("wait for", &program))?,
            Err(_) => return Err(failed(format!("it was not done after {} s", PLUGIN_LIMIT.as_secs()))),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            let message = said.get("msg").and_then(Value::as_str).unwrap_or_default();
            return Err(failed(
                format!("{message} {}", String::from_utf8_lossy(&output.stderr)).trim().to_owned(),
            ));
        }
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|e| failed(format!("its answer is no JSON: {e}")))
    }
}

fn extend(config: &mut Value, key: &str, value: Value) {
    if let Some(map) = config.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

fn port_mappings(spec: &AppSpec) -> Vec<Value> {
    spec.ports
        .iter()
        // With a service, every module publishes it, not this instance.
        .filter(|p| p.service.is_none())
        .filter_map(|p| {
            let protocol = p.protocol.as_str();
            p.host.map(|host| json!({ "hostPort": host, "containerPort": p.container, "protocol": protocol }))
        })
        .collect()
}
