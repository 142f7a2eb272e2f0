//! What a module's first process keeps running: the same programs with the same arguments as the units in
//! `meta-spacecloud/recipes-core/spacecloud-conf/files`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which programs the modules run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Software {
    /// containerd and our daemons.
    #[default]
    Spacecloud,
    /// containerd and dockerd, to measure a peer under the same conditions.
    Docker,
}

/// One program that is started again whenever it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// For the console.
    pub(super) name: String,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Beyond PATH and HOME.
    pub(super) environment: Vec<(String, String)>,
    /// Somebody in the module's /etc/passwd, who owns the state directory; root if nobody is named.
    pub(super) user: Option<(String, PathBuf)>,
    /// It is left out where this file is not.
    pub(super) condition: Option<PathBuf>,
}

impl Service {
    fn new(name: &str, command: &str) -> Self {
        let command = command.split_whitespace().map(str::to_owned).collect();
        Self { name: name.to_owned(), command, environment: Vec::new(), user: None, condition: None }
    }
}

impl Software {
    pub(super) fn services(self) -> Vec<Service> {
        let trust = [("SSL_CERT_FILE", "/var/lib/spacecloud/tls/ca.pem"), ("SSL_CERT_DIR", "/nonexistent")];
        let containerd = Service {
            environment: trust.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            ..Service::new("containerd", "/usr/bin/containerd")
        };
        match self {
            Self::Docker => {
                let dockerd = "/usr/sbin/dockerd --host unix:///run/docker.sock --containerd /run/containerd/containerd.sock";
                vec![containerd, Service::new("dockerd", dockerd)]
            }
            Self::Spacecloud => {
                let daemon = "/usr/bin/spacecloudd --config /etc/spacecloud/spacecloud.toml";
                let registry = "/usr/bin/space-registry serve --config /etc/spacecloud/registry.toml";
                vec![
                    containerd,
                    Service::new("guard", &format!("{daemon} guard")),
                    Service::new("spacecloudd", daemon),
                    Service {
                        user: Some(("space-registry".to_owned(), "/var/lib/space-registry".into())),
                        condition: Some("/etc/spacecloud/registry.enabled".into()),
                        ..Service::new("space-registry", registry)
                    },
                ]
            }
        }
    }

    /// The socket that answers when the module's engine does.
    pub(super) fn engine_socket(self) -> &'static str {
        match self {
            Self::Spacecloud => "run/containerd/containerd.sock",
            Self::Docker => "run/docker.sock",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The units are the reference; a namespace has no systemd that would read them.
    #[test]
    fn our_daemons_are_started_as_their_units_start_them() {
        macro_rules! unit {
            ($name:literal) => {
                include_str!(concat!("../../../meta-spacecloud/recipes-core/spacecloud-conf/files/", $name))
            };
        }
        let services = Software::Spacecloud.services();
        for (name, unit) in [
            ("spacecloudd", unit!("spacecloudd.service")),
            ("guard", unit!("spacecloud-guard.service")),
            ("space-registry", unit!("space-registry.service")),
        ] {
            let service = services.iter().find(|service| service.name == name).unwrap();
            let line = format!("ExecStart={}\n", service.command.join(" "));
            assert!(unit.contains(&line), "{name}: {line}");
            if let Some(condition) = &service.condition {
                assert!(unit.contains(&format!("ConditionPathExists={}", condition.display())));
            }
        }
    }
}
