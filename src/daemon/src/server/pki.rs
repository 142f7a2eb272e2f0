//! The server's secrets on disk: the CA, the join token, the registry's certificate, an admin's.

use crate::{
    config::{Config, SERVER},
    files::write_whole,
    registry_tls::RegistryTls,
};
use anyhow::{Context, bail};
use identity::{Authority, Credentials, IdentityError, Role, Token, fingerprint};
use model::Name;
use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

pub(crate) struct Pki {
    pub(crate) authority: Authority,
    /// The server's certificate with the CA's behind it, so that a joining agent can check the CA against its token.
    pub(crate) server: Credentials,
    pub(crate) token: Token,
    /// The host that all modules pull from.
    registry: String,
}

fn registry_host(config: &Config) -> String {
    config.agent.registry.split(':').next().unwrap_or_default().to_owned()
}

/// What a registry is called beside the cluster's name for it: those that follow are reached by their modules.
fn names_beside(module: &Name) -> Vec<String> {
    vec![module.to_string(), "localhost".into(), "127.0.0.1".into()]
}

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

impl Pki {
    /// Opens what is there and makes what is missing.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let authority = open_authority(&config.state)?;
        let server = authority.issue(&Role::Server, &[api::SERVER_NAME.to_owned()])?;
        let server = Credentials {
            certificate: format!("{}{}", server.certificate, authority.certificate()),
            key: server.key,
        };
        write_whole(&config.state.join("tls/ca.pem"), PUBLIC, authority.certificate())
            .context("cannot write tls/ca.pem")?;
        let token = open_token(&authority, &[&config.agent.token_file, &config.state.join("token")])?;
        open_admin(&config.state, &config.server.address, &authority)
            .context("cannot write the admin's credentials")?;
        open_registry(config, &authority).context("cannot write the registry's certificate")?;
        Ok(Self { authority, server, token, registry: registry_host(config) })
    }

    /// The certificate of the registry on another module. It bears the name that all pull from only if that name
    /// leads to where the request came `from`: else any module could pass itself off as the cluster's registry.
    pub(crate) async fn certify_registry(
        &self,
        request_pem: &str,
        module: &Name,
        from: Option<IpAddr>,
    ) -> Result<String, IdentityError> {
        let mut names = names_beside(module);
        let leads = tokio::net::lookup_host((self.registry.as_str(), 0)).await;
        if leads.is_ok_and(|mut leads| leads.any(|leads| from == Some(leads.ip()))) {
            names.push(self.registry.clone());
        }
        self.authority.sign_as(request_pem, &Role::Registry(module.clone()), &names)
    }
}

/// Makes a mission's papers in a folder that is not there yet, and tells where each belongs. `address` is where operators
/// reach the server.
///
/// # Errors
/// The folder is there already or cannot be made; the address is none.
pub fn papers(folder: &Path, address: &str) -> anyhow::Result<String> {
    let is_host = |host: &str| {
        let outside = |c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c);
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        bare.map_or(!host.is_empty() && !host.contains(outside), |bare| bare.parse::<Ipv6Addr>().is_ok())
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if !address.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port)) {
        bail!("{address:?} is no address; write HOST:PORT, as {SERVER}");
    }
    let make = || {
        folder.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::DirBuilder::new().mode(0o700).create(folder)
    };
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already, and nothing was changed; name a new folder", folder.display())
        }
        made => made.with_context(|| format!("cannot make {}", folder.display()))?,
    }
    let authority = open_authority(folder)?;
    open_token(&authority, &[&folder.join("token")])?;
    open_admin(folder, address, &authority).context("cannot write the operator's papers")?;
    let here = folder.display();
    Ok(format!(
        "{here}/ca     the cluster's CA: onto the server's module as /var/lib/spacecloud/ca\n\
         {here}/token  the join token: onto every module as /etc/spacecloud/token\n\
         {here}/admin  an operator's: spacectl --config {here}/admin/spacectl.toml\n\
         Whoever has them commands the cluster: keep the folder in a safe.\n"
    ))
}

fn open_authority(state: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (state.join("ca/ca.pem"), state.join("ca/ca.key"));
    if key.exists() {
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let kept = Credentials { certificate: read(&certificate)?, key: read(&key)? };
        return Authority::load(&kept).with_context(|| format!("{} is damaged", state.join("ca").display()));
    }
    let (authority, kept) = Authority::create()?;
    write_whole(&certificate, PUBLIC, &kept.certificate).context("cannot write ca/ca.pem")?;
    // The key last: it is what says that the CA is whole.
    write_whole(&key, SECRET, &kept.key).context("cannot write ca/ca.key")?;
    tracing::info!("made a new cluster CA");
    Ok(authority)
}

/// The token that is in the first of these places that has one, else a new one in the last.
fn open_token(authority: &Authority, places: &[&Path]) -> anyhow::Result<Token> {
    for path in places {
        if let Ok(text) = fs::read_to_string(path) {
            return text.parse().with_context(|| path.display().to_string());
        }
    }
    let token = Token::generate(&fingerprint(authority.certificate())?);
    if let Some(own) = places.last() {
        write_whole(own, SECRET, &format!("{}\n", token.reveal())).context("cannot write the token")?;
    }
    Ok(token)
}

fn open_admin(state: &Path, address: &str, authority: &Authority) -> anyhow::Result<()> {
    let directory = state.join("admin");
    if directory.join("spacectl.toml").exists() {
        return Ok(());
    }
    let admin = authority.issue(&Role::Admin, &[])?;
    write_whole(&directory.join("ca.pem"), PUBLIC, authority.certificate())?;
    write_whole(&directory.join("admin.pem"), PUBLIC, &admin.certificate)?;
    write_whole(&directory.join("admin.key"), SECRET, &admin.key)?;
    let text = format!(
        "server = \"{address}\"\nca = \"ca.pem\"\ncertificate = \"admin.pem\"\nkey = \"admin.key\"\n"
    );
    write_whole(&directory.join("spacectl.toml"), SECRET, &text)?;
    Ok(())
}

/// The certificate of a registry on the server's own module, which asks nobody.
fn open_registry(config: &Config, authority: &Authority) -> anyhow::Result<()> {
    let place = RegistryTls::of(config);
    let Ok(module) = config.module() else { return Ok(()) };
    if !place.is_missing() {
        return Ok(());
    }
    let mut names = names_beside(&module);
    names.push(registry_host(config));
    let issued = authority.issue(&Role::Registry(module), &names)?;
    place.write(&issued, authority.certificate())?;
    Ok(())
}
