//! Who asks: basic authentication, and the token flow of the distribution project.
use super::error::{ImageError, Result};
use std::{
    fs,
    io::{self, BufRead},
    path::Path,
    time::{Duration, Instant},
};

/// The registry's default for a token that does not say how long it lives (distribution token spec).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token that ends in the middle of a request is of no use.
const TOKEN_SPARE: Duration = Duration::from_secs(15);

/// A name and its password.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    pub(super) fn basic(&self) -> String {
        use base64::{Engine, prelude::BASE64_STANDARD};
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// Finds the password of a user: a file, standard input, or the environment.
pub(super) fn login(
    user: Option<&str>,
    file: Option<&Path>,
    stdin: bool,
    variable: &str,
) -> Result<Option<Login>> {
    let Some(user) = user else {
        if stdin || file.is_some() {
            return Err(ImageError::Usage("a password was given, but no --user".into()));
        }
        return Ok(None);
    };
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let password = if let Some(file) = file {
        first(fs::read_to_string(file).map_err(ImageError::file("read the password from", file))?)
    } else if stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(ImageError::file("read", "standard input"))?;
        first(line)
    } else {
        std::env::var(variable).unwrap_or_default()
    };
    if password.is_empty() {
        return Err(ImageError::Usage(format!(
            "there is no password for {user}; set {variable}, or use --password-file or --password-stdin"
        )));
    }
    if user.contains(':') {
        return Err(ImageError::Usage(format!("{user:?} is no user name: it has a colon")));
    }
    Ok(Some(Login { user: user.into(), password }))
}

/// What a 401 asks for (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// None if it asks for something that we cannot give.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = next.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// What to send with requests of one scope, and until when.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) header: String,
    until: Option<Instant>,
}

impl Grant {
    pub(super) fn forever(header: String) -> Self {
        Self { header, until: None }
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// From a token server's answer.
    pub(super) fn from_answer(content: &[u8], now: Instant) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let answer: Answer = serde_json::from_slice(content).ok()?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
        let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
        let until = now.checked_add(life.saturating_sub(TOKEN_SPARE));
        Some(Self { header: format!("Bearer {token}"), until })
    }
}

/// A query's value.
pub(super) fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        assert_eq!(Challenge::parse("Basic realm=\"space\""), Some(Challenge::Basic));
        assert_eq!(
            Challenge::parse(
                "Bearer realm=\"https://a/token\",service=\"s\", scope=\"repository:a:pull,push\",error=x"
            ),
            Some(Challenge::Bearer {
                realm: "https://a/token".into(),
                service: Some("s".into()),
                scope: Some("repository:a:pull,push".into())
            })
        );
        for none in ["Digest realm=\"x\"", "Bearer service=\"x\"", "Bearer realm=\"x", ""] {
            assert_eq!(Challenge::parse(none), None, "{none}");
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let grant = Grant::from_answer(br#"{"access_token":"t","expires_in":100}"#, now).unwrap();
        assert_eq!(grant.header, "Bearer t");
        assert!(grant.holds(after(84)) && !grant.holds(after(86)));
        assert!(!Grant::from_answer(br#"{"token":"t"}"#, now).unwrap().holds(after(50)));
        assert!(Grant::from_answer(b"{}", now).is_none() && Grant::from_answer(b"no", now).is_none());
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }

    #[test]
    fn a_password_has_a_user_and_a_user_a_password() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p");
        fs::write(&file, "secret\nrest\n").unwrap();
        let none = "SPACECTL_NO_SUCH_VARIABLE";
        let found = login(Some("op"), Some(&file), false, none).unwrap().unwrap();
        assert_eq!(found.basic(), "Basic b3A6c2VjcmV0");
        assert!(login(None, None, false, none).unwrap().is_none());
        for (user, file) in
            [(None, Some(file.as_path())), (Some("op"), None), (Some("a:b"), Some(file.as_path()))]
        {
            assert_eq!(login(user, file, false, none).err().unwrap().exit_code(), 64);
        }
    }
}
