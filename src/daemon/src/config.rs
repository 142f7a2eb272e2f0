//! spacecloud.toml.

mod sections;

pub use sections::{AgentConfig, NamesConfig, SERVER, ServerConfig, StorageConfig};

use model::{Name, Subnet, Timing};
use planner::pool::unit::UnitPolicy;
use runtime::{Accelerators, Fence, Storage, Volumes};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// A configuration that cannot be used: one line with file, key and remedy.
#[derive(Debug, Error)]
#[error("{file}: {reason}")]
pub struct ConfigError {
    file: PathBuf,
    reason: String,
}

/// Which roles this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Roles {
    /// The server too where its CA or the file server.enabled is.
    #[serde(rename = "auto")]
    Auto,
    /// Decides.
    #[serde(rename = "server")]
    Server,
    /// Runs instances.
    #[serde(rename = "agent")]
    Agent,
    /// Both.
    #[serde(rename = "server+agent")]
    Both,
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Roles of this process.
    #[serde(default = "Config::roles_default")]
    pub roles: Roles,
    /// Directory of the durable state.
    #[serde(default = "Config::state_default")]
    pub state: PathBuf,
    /// The server.
    #[serde(default)]
    pub server: ServerConfig,
    /// The agent.
    #[serde(default)]
    pub agent: AgentConfig,
    /// How the paper's unit level weighs, filters and reserves (strategy `multilevel`).
    #[serde(default)]
    pub placement: UnitPolicy,
    /// The chassis's storage module; without it there are local volumes only.
    #[serde(default)]
    pub storage: Option<StorageConfig>,
    /// How quickly things are noticed; the server's is what counts.
    #[serde(default)]
    pub timing: Timing,
}

impl Config {
    fn roles_default() -> Roles {
        Roles::Auto
    }

    fn state_default() -> PathBuf {
        "/var/lib/spacecloud".into()
    }

    /// Reads the file and merges the drop-ins in `FILE.d/*.toml` over it, in the order of their names.
    ///
    /// # Errors
    /// One line: which file, which key, why.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut table = read_table(file)?;
        let mut directory = file.as_os_str().to_owned();
        directory.push(".d");
        let mut last = file.to_owned();
        if let Ok(entries) = fs::read_dir(&directory) {
            let mut names: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            names.retain(|name| name.extension().is_some_and(|e| e == "toml"));
            names.sort();
            for name in names {
                merge(&mut table, read_table(&name)?);
                last = name;
            }
        }
        let refuse = |reason: String| ConfigError { file: last.clone(), reason };
        let config =
            Self::deserialize(table).map_err(|e| refuse(e.to_string().trim().replace('\n', ", ")))?;
        config.timing.check().map_err(|e| refuse(e.to_string()))?;
        for (key, address) in [("server.listen", &config.server.listen), ("server.http", &config.server.http)]
        {
            if address.parse::<SocketAddr>().is_err() {
                return Err(refuse(format!(
                    "{key}: {address:?} is no address; write ADDRESS:PORT, as 0.0.0.0:7440"
                )));
            }
        }
        if config.server.services.hosts() == 0 {
            return Err(refuse(format!("server.services: {} has no addresses", config.server.services)));
        }
        let names = &config.agent.names;
        if !names.listen.is_empty() && names.listen.parse::<SocketAddr>().is_err() {
            return Err(refuse(format!(
                "agent.names.listen: {:?} is no address; write ADDRESS:PORT, as 10.45.1.1:53",
                names.listen
            )));
        }
        if config.agent.live.parse::<SocketAddr>().is_err() {
            return Err(refuse(format!(
                "agent.live: {:?} is no address; write ADDRESS:PORT, as 0.0.0.0:7441",
                config.agent.live
            )));
        }
        if let Some(storage) = &config.storage {
            if !storage.export.starts_with('/') {
                return Err(refuse(format!(
                    "storage.export: {:?} is not absolute; write it from the root on, as /volumes",
                    storage.export
                )));
            }
            if storage.limit.0 == 0 {
                return Err(refuse("storage.limit: 0ms is no time at all; write a span as 15s".to_owned()));
            }
        }
        config.placement.check().map_err(|e| refuse(format!("placement.{e}")))?;
        config.check_accelerators().map_err(refuse)?;
        Ok(config)
    }

    fn check_accelerators(&self) -> Result<(), String> {
        let (mut numbers, mut slots) = (BTreeSet::new(), BTreeSet::new());
        for line in &self.agent.accelerators {
            if !numbers.insert(line.number) {
                return Err(format!(
                    "agent.accelerators.number: {} is used twice; give each slot a number of its own",
                    line.number
                ));
            }
            if line.pcie_slot.is_empty() || line.pcie_slot.contains('/') {
                return Err(format!(
                    "agent.accelerators.pcie_slot: {:?} is no slot; write a name under /sys/bus/pci/slots",
                    line.pcie_slot
                ));
            }
            if !slots.insert(&line.pcie_slot) {
                return Err(format!(
                    "agent.accelerators.pcie_slot: {:?} is used twice; a slot has one number",
                    line.pcie_slot
                ));
            }
        }
        Ok(())
    }

    /// The subnet of this module's instances.
    ///
    /// # Errors
    /// Nobody says in which slot it is, or `agent.pods` is no subnet.
    pub fn pods(&self) -> Result<Subnet, ConfigError> {
        let text = self.agent.pods.replace("{slot}", &self.slot()?.to_string());
        text.parse()
            .map_err(|e: model::SpecError| ConfigError { file: "agent.pods".into(), reason: e.to_string() })
    }

    /// The slot map on this module's bus.
    pub fn accelerators(&self) -> Accelerators {
        Accelerators::new(self.agent.accelerators.clone(), &self.agent.sysfs)
    }

    /// (server, agent)
    pub fn roles(&self) -> (bool, bool) {
        match self.roles {
            Roles::Server => (true, false),
            Roles::Agent => (false, true),
            Roles::Both => (true, true),
            Roles::Auto => {
                let here = self.state.join("ca/ca.key").exists()
                    || Path::new("/etc/spacecloud/server.enabled").exists();
                (here, true)
            }
        }
    }

    /// The slot: kernel command line, then file, then configuration.
    ///
    /// # Errors
    /// None of them says it.
    pub fn slot(&self) -> Result<u16, ConfigError> {
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let kernel =
            cmdline.split_whitespace().find_map(|word| word.strip_prefix("spacecloud.slot=")?.parse().ok());
        let file = || fs::read_to_string(self.agent.run.join("slot")).ok()?.trim().parse().ok();
        kernel.or_else(file).or(self.agent.slot).ok_or_else(|| ConfigError {
            file: "agent.slot".into(),
            reason: "no slot number: give spacecloud.slot=N on the kernel's command line or agent.slot here"
                .into(),
        })
    }

    /// This module's name.
    ///
    /// # Errors
    /// Nobody says in which slot it is.
    pub fn module(&self) -> Result<Name, ConfigError> {
        self.slot().map(Name::of_module)
    }

    /// The fence that agent and guard share.
    pub fn fence(&self) -> Fence {
        let fence = Fence::new(&self.agent.cgroup.join("spacecloud"), &self.agent.run.join("lease"));
        match &self.storage {
            Some(storage) => fence.with_storage(Volumes::mount_point(&self.agent.run), storage.server),
            None => fence,
        }
    }

    /// The storage module, if there is one.
    pub fn storage(&self) -> Option<Storage> {
        let StorageConfig { server, export, limit } = self.storage.clone()?;
        Some(Storage { server, export, limit: limit.duration() })
    }

    /// The volumes on this module and on the storage module.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.state, &self.agent.run, self.storage())
    }
}

fn read_table(file: &Path) -> Result<toml::Table, ConfigError> {
    let refuse = |reason: String| ConfigError { file: file.to_owned(), reason };
    let text = fs::read_to_string(file).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or_default().matches('\n').count() + 1);
        refuse(format!("line {line}: {}", e.message().replace('\n', " ")))
    })
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_override_and_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s.toml");
        fs::write(&file, "roles = 'agent'\n[timing]\nlease = '500ms'\n").unwrap();
        fs::create_dir(dir.path().join("s.toml.d")).unwrap();
        let drop_in = dir.path().join("s.toml.d/slow.toml");
        fs::write(&drop_in, "[timing]\nlease = '5s'\n").unwrap();
        assert_eq!(Config::load(&file).unwrap().timing.lease.0, 5000);
        for (bad, word) in [
            ("[timing]\nlease = 5", "unit"),
            ("[agnet]\n", "agnet"),
            ("x", "line 1"),
            ("[timing]\nlease='1ms'", "lease"),
            (
                "[[agent.accelerators]]\nnumber=1\npcie_slot='5'\n[[agent.accelerators]]\nnumber=1\npcie_slot='6'",
                "number: 1",
            ),
            (
                "[[agent.accelerators]]\nnumber=1\npcie_slot='5'\n[[agent.accelerators]]\nnumber=2\npcie_slot='5'",
                "used twice",
            ),
            ("[storage]\nserver='module-4'", "IP"),
            ("[storage]\nserver='10.44.0.4'\nexport='volumes'", "not absolute"),
            ("[placement]\nscore = { gpu = nan }", "placement.score.gpu"),
            ("[placement]\nthreshold = { gpu = 1.5 }", "placement.threshold.gpu"),
            ("[placement]\nscore = { cpu = 0, memory = 0, disk = 0, gpu = 0, match = 0 }", "sum to nothing"),
            ("[[agent.accelerators]]\nnumber=-1\npcie_slot='5'", "u32"),
            ("[[agent.accelerators]]\nnumber=1\npcie_slot='../5'", "is no slot"),
        ] {
            fs::write(&drop_in, bad).unwrap();
            let message = Config::load(&file).unwrap_err().to_string();
            assert!(
                message.contains(word) && message.contains("slow.toml") && !message.contains('\n'),
                "{message}"
            );
        }
    }
}
