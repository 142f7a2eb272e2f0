use crate::Failure;
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The configuration of the whole machine.
const SYSTEM: &str = "/etc/spacecloud/spacectl.toml";
/// Where registries listen, by the contract of the chassis.
const REGISTRY_PORT: u16 = 5000;

/// `spacectl.toml` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    registry: Option<String>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What a connection needs: where to, and who we are.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where it was read from, for errors.
    pub(crate) file: PathBuf,
    /// `HOST:PORT`.
    pub(crate) server: String,
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
    /// Our certificate, PEM.
    pub(crate) certificate: String,
    /// Our key, PEM.
    pub(crate) key: String,
}

impl Config {
    /// Reads the configuration and the files that it names; `server` goes before the one in the file.
    pub(crate) fn load(server: Option<&str>, flag: Option<PathBuf>) -> Result<Self, Failure> {
        let (file, parsed) = read(flag)?;
        let broken = |reason: String| Failure::Config { file: file.clone(), reason };
        let server = match (server, parsed.server) {
            (Some(flag), _) => with_port(flag, api::GRPC_PORT)
                .ok_or_else(|| Failure::Usage(bad_address("--server", flag)))?,
            (None, Some(key)) => {
                with_port(&key, api::GRPC_PORT).ok_or_else(|| broken(bad_address("server", &key)))?
            }
            (None, None) => {
                return Err(broken(
                    "server is missing; write server = \"module-1:7440\" or use --server".to_owned(),
                ));
            }
        };
        Ok(Self {
            server,
            ca: pem(&file, "ca", &parsed.ca, "CERTIFICATE")?,
            certificate: pem(&file, "certificate", &parsed.certificate, "CERTIFICATE")?,
            key: pem(&file, "key", &parsed.key, "PRIVATE KEY")?,
            file,
        })
    }
}

/// What a connection to the registry needs.
#[derive(Debug)]
pub(crate) struct Registry {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
}

impl Registry {
    /// Reads the configuration; without a `registry` of its own it is port 5000 of the server.
    pub(crate) fn load(
        registry: Option<&str>,
        server: Option<&str>,
        flag: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let (file, parsed) = read(flag)?;
        let broken = |reason: String| Failure::Config { file: file.clone(), reason };
        let on_server = |address: &str| with_port(address, api::GRPC_PORT).and_then(|a| beside_server(&a));
        let usage = |key: &str, text: &str| Failure::Usage(bad_address(key, text));
        let address = match (registry, parsed.registry, server, parsed.server) {
            (Some(flag), ..) => with_port(flag, REGISTRY_PORT).ok_or_else(|| usage("--registry", flag))?,
            (_, Some(key), None, _) => {
                with_port(&key, REGISTRY_PORT).ok_or_else(|| broken(bad_address("registry", &key)))?
            }
            (_, _, Some(flag), _) => on_server(flag).ok_or_else(|| usage("--server", flag))?,
            (_, _, _, Some(key)) => on_server(&key).ok_or_else(|| broken(bad_address("server", &key)))?,
            (None, None, None, None) => {
                let why = "registry is missing; write registry = \"module-1:5000\" or use --registry";
                return Err(broken(why.to_owned()));
            }
        };
        Ok(Self { address, ca: pem(&file, "ca", &parsed.ca, "CERTIFICATE")? })
    }
}

fn beside_server(server: &str) -> Option<String> {
    server.rsplit_once(':').map(|(host, _)| format!("{host}:{REGISTRY_PORT}"))
}

/// Finds and reads the configuration.
fn read(flag: Option<PathBuf>) -> Result<(PathBuf, File), Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let variable = std::env::var_os("SPACECTL_CONFIG").map(PathBuf::from);
    let file = locate(flag, variable, home.as_deref(), Path::exists)?;
    let broken = |reason: String| Failure::Config { file: file.clone(), reason };
    let text = fs::read_to_string(&file)
        .map_err(|e| broken(format!("{e}; name another configuration with --config")))?;
    let parsed = parse(&text).map_err(broken)?;
    Ok((file, parsed))
}

/// Reads a PEM file that the configuration `file` names under `key`.
fn pem(file: &Path, key: &str, path: &Path, kind: &str) -> Result<String, Failure> {
    let broken = |reason: String| Failure::Config { file: file.to_owned(), reason };
    let path = file.parent().unwrap_or(Path::new("")).join(path);
    let text = fs::read_to_string(&path).map_err(|e| broken(format!("{key}: {}: {e}", path.display())))?;
    if text.contains("-----BEGIN ") && text.contains(kind) {
        Ok(text)
    } else {
        Err(broken(format!("{key}: {} holds no PEM {}", path.display(), kind.to_lowercase())))
    }
}

/// The first that is named, else the first that exists.
fn locate(
    flag: Option<PathBuf>,
    variable: Option<PathBuf>,
    home: Option<&Path>,
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Failure> {
    if let Some(named) = flag.or(variable.filter(|path| !path.as_os_str().is_empty())) {
        return Ok(named);
    }
    let own = home.map(|home| home.join(".config/spacecloud/spacectl.toml"));
    let candidates = own.iter().cloned().chain([PathBuf::from(SYSTEM)]);
    candidates.into_iter().find(|path| exists(path)).ok_or_else(|| Failure::Config {
        file: own.unwrap_or_else(|| SYSTEM.into()),
        reason: format!(
            "does not exist, nor does {SYSTEM}; write one with server, ca, certificate and key, or use --config"
        ),
    })
}

fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let reason = error.message().replace('\n', " ");
        // A missing key is nowhere: its span is the whole file.
        match error.span().filter(|_| !reason.starts_with("missing field")) {
            Some(span) => {
                let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
                format!("line {line}: {reason}; the keys are server, registry, ca, certificate and key")
            }
            None => format!("{reason}; the keys are server, registry, ca, certificate and key"),
        }
    })
}

/// `HOST:PORT` from `HOST` or `HOST:PORT`; an IPv6 address is in brackets.
fn with_port(text: &str, usual: u16) -> Option<String> {
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => {
            (host, port.parse().ok().filter(|p| *p > 0)?)
        }
        _ => (text, usual),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let right = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.chars().all(plain),
    };
    right.then(|| format!("{host}:{port}"))
}

fn bad_address(key: &str, value: &str) -> String {
    format!("{key}: {value:?} is no address; write HOST:PORT, as module-1:7440")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_configuration_wins() {
        let path = |p: &str| Some(PathBuf::from(p));
        let home = Some(Path::new("/home/op"));
        let own = PathBuf::from("/home/op/.config/spacecloud/spacectl.toml");
        assert_eq!(locate(path("flag"), path("var"), home, |_| true).unwrap(), PathBuf::from("flag"));
        assert_eq!(locate(None, path("var"), home, |_| true).unwrap(), PathBuf::from("var"));
        assert_eq!(locate(None, path(""), home, |_| true).unwrap(), own);
        assert_eq!(locate(None, None, home, |p| p.starts_with("/etc")).unwrap(), PathBuf::from(SYSTEM));
        let none = locate(None, None, home, |_| false).unwrap_err();
        assert!(none.to_string().contains(SYSTEM) && none.exit_code() == 78, "{none}");
    }

    #[test]
    fn a_broken_file_names_line_and_key() {
        let line = parse("ca = \"a\"\nserverr = \"x\"\n").unwrap_err();
        assert!(line.starts_with("line 2: unknown field `serverr`"), "{line}");
        let line = parse("ca = \"a\"\n").unwrap_err();
        assert!(line.starts_with("missing field `certificate`"), "{line}");
        assert!(parse("ca = ").unwrap_err().starts_with("line 1: "));
    }

    #[test]
    fn an_address_gets_the_default_port() {
        assert_eq!(with_port("module-1", 7440).unwrap(), "module-1:7440");
        assert_eq!(with_port("10.0.0.1:99", 7440).unwrap(), "10.0.0.1:99");
        assert_eq!(with_port("[fd00::1]", 7440).unwrap(), "[fd00::1]:7440");
        assert_eq!(with_port("[fd00::1]:5", 7440).unwrap(), "[fd00::1]:5");
        for bad in ["", ":1", "a:0", "a:x", "a b:1", "fd00::1", "https://a", "[a]:1"] {
            assert_eq!(with_port(bad, 7440), None, "{bad}");
        }
    }
}
