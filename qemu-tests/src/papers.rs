//! What a chassis is provisioned with at each `up`: a CA of its own, a join token, an admin's certificate. All made
//! at run time, none of it kept longer than the run directory.

use crate::{Owner, Provision, SimError};
use identity::{Authority, Credentials, Role, Token, fingerprint};
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The chassis's secrets.
pub struct Papers {
    authority: Credentials,
    admin: Credentials,
    token: Token,
}

/// Emulation without KVM is some ten times slower than a board, and three modules share a few cores.
pub const EMULATION: &str = r#"[timing]
heartbeat = "500ms"
suspect = "3s"
lease = "8s"
margin = "3s"
settle = "20s"
move_limit = "3min"
"#;

const REGISTRY: &str = include_str!("../../meta-spacecloud/recipes-core/spacecloud-conf/files/registry.toml");
const IMAGES_FROM: &str = "/etc/containerd/certs.d/registry.spacecloud:5000/hosts.toml";

/// Where containerd gets images from: the registry by its name, then those that follow it, in order.
fn images_from(replicas: &[u16]) -> String {
    let first = ["registry.spacecloud".to_owned()];
    let hosts = first.into_iter().chain(replicas.iter().map(|number| format!("module-{number}")));
    let host = |name: String| {
        format!(
            "\n[host.\"https://{name}:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/var/lib/spacecloud/tls/ca.pem\"\n"
        )
    };
    format!("server = \"https://registry.spacecloud:5000\"\n{}", hosts.map(host).collect::<String>())
}

fn failed(error: &impl std::fmt::Display) -> SimError {
    SimError::Refused { reason: format!("cannot make the chassis's certificates: {error}") }
}

impl Papers {
    /// Makes everything anew.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn create() -> Result<Self, SimError> {
        let (authority, kept) = Authority::create().map_err(|e| failed(&e))?;
        let admin = authority.issue(&Role::Admin, &[]).map_err(|e| failed(&e))?;
        let token = Token::generate(&fingerprint(&kept.certificate).map_err(|e| failed(&e))?);
        Ok(Self { authority: kept, admin, token })
    }

    /// What the module with these roles is given. `replicas` are the modules whose registry follows the server's;
    /// `configuration` is laid over spacecloudd's own.
    ///
    /// # Errors
    /// A certificate cannot be made.
    pub fn for_module(
        &self,
        number: u16,
        server: bool,
        registry: bool,
        replicas: &[u16],
        configuration: &str,
    ) -> Result<Provision, SimError> {
        let drop_in = "/etc/spacecloud/spacecloud.toml.d/10-simulator.toml";
        let mut provision = Provision::new().file("/etc/spacecloud/token", 0o600, self.token.reveal()).file(
            drop_in,
            0o644,
            configuration,
        );
        if server {
            provision = provision
                .file("/var/lib/spacecloud/ca/ca.pem", 0o644, self.authority.certificate.clone())
                .file("/var/lib/spacecloud/ca/ca.key", 0o600, self.authority.key.clone());
        }
        if registry {
            provision = provision.file("/etc/spacecloud/registry.enabled", 0o644, "");
        }
        if replicas.contains(&number) {
            provision = self.replica(provision, number)?;
        }
        if !replicas.is_empty() {
            provision = provision.file(IMAGES_FROM, 0o644, images_from(replicas));
        }
        Ok(provision)
    }

    /// A registry that follows the server's: its certificate, which the server makes only for its own, and its
    /// configuration.
    fn replica(&self, provision: Provision, number: u16) -> Result<Provision, SimError> {
        let names = [format!("module-{number}"), "localhost".into(), "127.0.0.1".into()];
        let issued = self.authority()?.issue(&Role::Server, &names).map_err(|e| failed(&e))?;
        let chain = format!("{}{}", issued.certificate, self.authority.certificate);
        let own = || Owner::named("space-registry");
        let followed = format!("{REGISTRY}\n[[replica]]\nurl = \"https://registry.spacecloud:5000\"\n");
        Ok(provision
            .file_of("/var/lib/space-registry/tls/registry.crt", 0o644, own(), chain)
            .file_of("/var/lib/space-registry/tls/registry.key", 0o600, own(), issued.key)
            .file("/etc/spacecloud/registry.toml", 0o644, followed))
    }

    fn authority(&self) -> Result<Authority, SimError> {
        Authority::load(&self.authority).map_err(|e| failed(&e))
    }

    /// Writes spacectl's configuration and what it names into `directory`; answers the configuration's path.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_client(&self, directory: &Path, server: &str) -> Result<PathBuf, SimError> {
        // Registry clients take every key in a directory of certificates for their own: the CA gets one for itself.
        let registry = directory.join("registry");
        fs::create_dir_all(&registry).map_err(SimError::io("create", &registry))?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            let _ = fs::remove_file(&path);
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
                .map_err(SimError::io("write", &path))?;
            Ok::<_, SimError>(path)
        };
        write("ca.crt", &self.authority.certificate)?;
        write("registry/ca.crt", &self.authority.certificate)?;
        write("admin.pem", &self.admin.certificate)?;
        write("admin.key", &self.admin.key)?;
        let text = format!(
            "server = \"{server}\"\nca = \"ca.crt\"\ncertificate = \"admin.pem\"\nkey = \"admin.key\"\n"
        );
        write("spacectl.toml", &text)
    }
}
