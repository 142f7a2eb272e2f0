//! The server's secrets on disk: the CA, the join token, the registry's certificate, an admin's.

use crate::{config::Config, files::write_whole, registry_tls::RegistryTls};
use anyhow::Context;
use identity::{Authority, Credentials, IdentityError, Role, Token, fingerprint};
use model::Name;
use std::{fs, net::IpAddr, path::Path};

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
        let token = open_token(config, &authority)?;
        open_admin(config, &authority).context("cannot write the admin's credentials")?;
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

/// The configured token if there is one, else one of our own in the state directory.
fn open_token(config: &Config, authority: &Authority) -> anyhow::Result<Token> {
    let own = config.state.join("token");
    for path in [&config.agent.token_file, &own] {
        if let Ok(text) = fs::read_to_string(path) {
            return text.parse().with_context(|| path.display().to_string());
        }
    }
    let token = Token::generate(&fingerprint(authority.certificate())?);
    write_whole(&own, SECRET, &format!("{}\n", token.reveal())).context("cannot write the token")?;
    Ok(token)
}

fn open_admin(config: &Config, authority: &Authority) -> anyhow::Result<()> {
    let directory = config.state.join("admin");
    if directory.join("spacectl.toml").exists() {
        return Ok(());
    }
    let admin = authority.issue(&Role::Admin, &[])?;
    write_whole(&directory.join("ca.pem"), PUBLIC, authority.certificate())?;
    write_whole(&directory.join("admin.pem"), PUBLIC, &admin.certificate)?;
    write_whole(&directory.join("admin.key"), SECRET, &admin.key)?;
    let text = format!(
        "server = \"{}\"\nca = \"ca.pem\"\ncertificate = \"admin.pem\"\nkey = \"admin.key\"\n",
        config.server.address
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
