//! Key and certificate of the registry on this module: put where it waits for them, and made its own.

use crate::{
    config::Config,
    files::{give_to, write_whole},
};
use identity::Credentials;
use std::{io, path::Path};

const USER: &str = "space-registry";
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub(crate) struct RegistryTls<'a> {
    directory: &'a Path,
    enabled: &'a Path,
}

impl<'a> RegistryTls<'a> {
    pub(crate) fn of(config: &'a Config) -> Self {
        Self { directory: &config.server.registry_tls, enabled: &config.agent.registry_enabled }
    }

    /// Whether a registry could run here and has no key yet. One that was given by hand stays.
    pub(crate) fn is_missing(&self) -> bool {
        self.directory.parent().is_some_and(Path::exists) && !self.directory.join("registry.key").exists()
    }

    /// Whether one is to run here.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.exists()
    }

    /// The CA's certificate goes behind the registry's own: those that it follows are trusted by it.
    pub(crate) fn write(&self, own: &Credentials, ca: &str) -> io::Result<()> {
        let (certificate, key) = (self.directory.join("registry.crt"), self.directory.join("registry.key"));
        write_whole(&certificate, PUBLIC, &format!("{}{ca}", own.certificate))?;
        give_to(self.directory, USER)?;
        write_whole(&key, SECRET, &own.key)?;
        give_to(&certificate, USER)?;
        give_to(&key, USER)
    }
}
