//! What a chassis is provisioned with at each `up`: a CA of its own, a join token, an admin's certificate. All made
//! at run time, none of it kept longer than the run directory.

use crate::{
    Provision,
    Role::{Registry, Server},
    SimError, Slot,
};
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
move_limit = "5min"
"#;

const REGISTRY: &str = include_str!("../../meta-spacecloud/recipes-core/spacecloud-conf/files/registry.toml");
const HOSTS: &str = include_str!("../../meta-spacecloud/recipes-core/spacecloud-conf/files/hosts");
const REGISTRY_NAME: &str = "registry.spacecloud";

/// The modules with a registry: the one that images are pushed to, and those that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    /// Where `registry.spacecloud` leads.
    pub first: u16,
    /// In the order in which they are asked when the first one does not answer.
    pub followers: Vec<u16>,
}

impl Registries {
    /// As the roles say: the first registry is the server's, if it has one.
    pub fn of(slots: &[Slot]) -> Option<Self> {
        let mut all: Vec<&Slot> = slots.iter().filter(|slot| slot.roles.contains(&Registry)).collect();
        all.sort_by_key(|slot| (!slot.roles.contains(&Server), slot.number));
        let mut numbers = all.into_iter().map(|slot| slot.number);
        Some(Self { first: numbers.next()?, followers: numbers.collect() })
    }

    /// Whether the image's own files say just this.
    fn as_the_image_has_it(&self) -> bool {
        self.first == 1 && self.followers == [2]
    }

    /// One for all of them, who follow each other, so that each can be healed by any; a registry leaves itself out.
    fn configuration(&self) -> Result<String, SimError> {
        let mut table: toml::Table = toml::from_str(REGISTRY).map_err(|e| failed(&e))?;
        let hosts = std::iter::once(REGISTRY_NAME.to_owned())
            .chain(self.followers.iter().map(|other| format!("module-{other}")));
        let replica =
            |host| toml::Table::from_iter([("url".to_owned(), format!("https://{host}:5000").into())]);
        table.insert("replica".to_owned(), hosts.map(replica).collect::<Vec<_>>().into());
        toml::to_string(&table).map_err(|e| failed(&e))
    }

    fn mirrors(&self) -> String {
        let names: Vec<String> =
            self.followers.iter().map(|number| format!("\"module-{number}:5000\"")).collect();
        format!("[agent]\nmirrors = [{}]\n", names.join(", "))
    }

    /// Names of a chassis whose first registry is not on module-1.
    fn hosts(&self) -> String {
        let moved = |line: &str| {
            let line = line.replace(&format!(" {REGISTRY_NAME}"), "");
            let here = line.ends_with(&format!(" module-{}", self.first));
            if here { format!("{line} {REGISTRY_NAME}\n") } else { format!("{line}\n") }
        };
        HOSTS.lines().map(moved).collect()
    }
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

    /// What a module is given. `configuration` is laid over spacecloudd's own.
    ///
    /// # Errors
    /// A certificate cannot be made.
    pub fn for_module(
        &self,
        slot: &Slot,
        configuration: &str,
        registries: Option<&Registries>,
    ) -> Result<Provision, SimError> {
        let drop_in = |name: &str| format!("/etc/spacecloud/spacecloud.toml.d/{name}.toml");
        let mut provision = Provision::new().file("/etc/spacecloud/token", 0o600, self.token.reveal()).file(
            &drop_in("10-simulator"),
            0o644,
            configuration,
        );
        if slot.roles.contains(&Server) {
            provision = provision
                .file("/var/lib/spacecloud/ca/ca.pem", 0o644, self.authority.certificate.clone())
                .file("/var/lib/spacecloud/ca/ca.key", 0o600, self.authority.key.clone());
        }
        let Some(registries) = registries else { return Ok(provision) };
        if slot.roles.contains(&Registry) {
            provision = provision.file("/etc/spacecloud/registry.enabled", 0o644, "");
        }
        if registries.as_the_image_has_it() {
            return Ok(provision);
        }
        provision = provision.file("/etc/spacecloud/registry.toml", 0o644, registries.configuration()?).file(
            &drop_in("15-mirrors"),
            0o644,
            registries.mirrors(),
        );
        if registries.first != 1 {
            provision = provision.file("/etc/hosts", 0o644, registries.hosts());
        }
        Ok(provision)
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

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: &str =
        include_str!("../../meta-spacecloud/recipes-core/spacecloud-conf/files/spacecloud.toml");

    #[test]
    fn the_servers_registry_is_the_first_and_names_follow_it() {
        let chassis = |roles: &[&str]| {
            let slots = roles.iter().enumerate().map(|(n, roles)| {
                format!("[[slot]]\nnumber = {}\nkind = \"compute\"\nroles = [{roles}]\n", n + 1)
            });
            let text = format!("name = \"c\"\n{}", slots.collect::<String>());
            Registries::of(&crate::ChassisFile::parse(&text).unwrap().slots)
        };
        assert_eq!(chassis(&["'server', 'agent'", "'agent'"]), None);
        let plain = chassis(&["'server', 'registry'", "'agent', 'registry'", "'agent'"]).unwrap();
        assert_eq!(plain, Registries { first: 1, followers: vec![2] });
        assert_eq!(plain.hosts(), HOSTS);
        assert_eq!(plain.mirrors(), "[agent]\nmirrors = [\"module-2:5000\"]\n");
        assert!(plain.as_the_image_has_it());
        let listed = |text: &str| {
            let table: toml::Table = toml::from_str(text).unwrap();
            let url = |replica: &toml::Value| replica["url"].as_str().unwrap().to_owned();
            table["replica"].as_array().unwrap().iter().map(url).collect::<Vec<_>>()
        };
        let both = ["https://registry.spacecloud:5000", "https://module-2:5000"];
        assert_eq!(
            (listed(REGISTRY), listed(&plain.configuration().unwrap())),
            (both.map(Into::into).into(), both.map(Into::into).into())
        );
        let agents: toml::Table = toml::from_str(AGENTS).unwrap();
        assert_eq!(agents["agent"]["mirrors"].as_array().unwrap(), &["module-2:5000".into()]);
        let three = Registries { first: 1, followers: vec![2, 3] };
        assert!(!three.as_the_image_has_it());
        let all = ["https://registry.spacecloud:5000", "https://module-2:5000", "https://module-3:5000"];
        assert_eq!(listed(&three.configuration().unwrap()), all);
        let alone = Registries { first: 1, followers: Vec::new() };
        assert_eq!(alone.mirrors(), "[agent]\nmirrors = []\n");
        let moved = chassis(&["'server', 'agent'", "'agent', 'registry'", "'agent', 'registry'"]).unwrap();
        assert_eq!(moved, Registries { first: 2, followers: vec![3] });
        let hosts = moved.hosts();
        assert!(hosts.contains("10.44.0.1 module-1\n"), "{hosts}");
        assert!(hosts.contains("10.44.0.2 module-2 registry.spacecloud\n"), "{hosts}");
    }
}
