//! Who may do what: passwords, tokens, and the grants of the configuration.
//!
//! ```text
//!   request ──► Authorization? ── none ────► anonymous ─┐
//!                    │ Basic ──► htpasswd ──► user ─────┤──► grants ──► served
//!                    │ Bearer ─► signature ─► user ─────┘       │ role too low: 403 DENIED
//!                    └ wrong ──────► 401 ◄── anonymous, or token without the scope
//! ```

mod passwords;
mod scope;
mod token;

pub(crate) use passwords::{PasswordError, line as password_line};
pub(crate) use scope::Scope;

use crate::config::{self, Grant, Role};
use base64::{Engine, engine::general_purpose::STANDARD};
use passwords::Passwords;
use token::{Claims, Tokens};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// None: anonymous.
    pub(crate) user: Option<String>,
    /// What the token is good for; None: whatever the user may do.
    scopes: Option<Vec<Scope>>,
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Who it is must be said, or is said wrongly.
    Unauthorized,
    /// Nobody else would help: the user has not this right.
    Denied,
    /// Too many are having their passwords checked.
    TooMany,
}

/// The guard.
#[derive(Debug)]
pub(crate) struct Guard {
    passwords: Passwords,
    tokens: Tokens,
    anonymous_pull: bool,
    grants: Vec<Grant>,
    realm: Option<String>,
}

impl Caller {
    fn anonymous() -> Self {
        Self { user: None, scopes: None }
    }

    /// For the log.
    pub(crate) fn name(&self) -> &str {
        self.user.as_deref().unwrap_or("anonymous")
    }
}

impl Guard {
    /// Reads the password file.
    ///
    /// # Errors
    /// It cannot be read or holds something else than bcrypt.
    pub(crate) fn open(config: &config::Auth) -> Result<Self, PasswordError> {
        let passwords = Passwords::open(&config.htpasswd)?;
        Ok(Self {
            passwords,
            tokens: Tokens::new(config.token_life.duration()),
            anonymous_pull: config.anonymous_pull,
            grants: config.grant.clone(),
            realm: config.realm.clone(),
        })
    }

    /// Where clients get tokens, if the configuration says so.
    pub(crate) fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    /// Says who asks. Checking a password takes a while and is done on another thread.
    pub(crate) async fn identify(&self, authorization: Option<&str>) -> Result<Caller, Denial> {
        let Some(text) = authorization else { return Ok(Caller::anonymous()) };
        match shown(text).ok_or(Denial::Unauthorized)? {
            Shown::Password(user, password) => self.log_in(user, password).await,
            Shown::Token(token) => {
                let claims = self.tokens.read(token).ok_or(Denial::Unauthorized)?;
                Ok(Caller { user: claims.user, scopes: Some(claims.scopes) })
            }
        }
    }

    /// Checks a name and a password.
    pub(crate) async fn log_in(&self, user: String, password: String) -> Result<Caller, Denial> {
        match self.passwords.check(&user, &password).await {
            None => Err(Denial::TooMany),
            Some(true) => Ok(Caller { user: Some(user), scopes: None }),
            Some(false) => Err(Denial::Unauthorized),
        }
    }

    fn role(&self, user: Option<&str>, repository: &str) -> Option<Role> {
        let anonymous = self.anonymous_pull.then_some(Role::Pull);
        let granted = self.grants.iter().filter(|grant| {
            user.is_some_and(|user| grant.user == "*" || grant.user == user)
                && covers(&grant.prefix, repository)
        });
        granted.map(|grant| grant.role).chain(anonymous).max()
    }

    /// Whether somebody may do this with a repository; the empty name stands for the registry as a whole.
    pub(crate) fn allow(&self, caller: &Caller, repository: &str, role: Role) -> Result<(), Denial> {
        let has = self.role(caller.user.as_deref(), repository).is_some_and(|has| has >= role);
        if !has {
            return Err(if caller.user.is_none() { Denial::Unauthorized } else { Denial::Denied });
        }
        let scoped = caller.scopes.as_ref().is_none_or(|scopes| {
            repository.is_empty() || scopes.iter().any(|scope| scope.allows(repository, role))
        });
        if scoped { Ok(()) } else { Err(Denial::Unauthorized) }
    }

    /// Whether somebody may know of a repository.
    pub(crate) fn sees(&self, caller: &Caller, repository: &str) -> bool {
        self.role(caller.user.as_deref(), repository).is_some()
    }

    /// A token for as much of what is asked for as the user may have; with its life in seconds.
    pub(crate) fn token(&self, caller: &Caller, asked: &[Scope]) -> (String, u64) {
        let scopes = asked
            .iter()
            .filter_map(|scope| scope.at_most(self.role(caller.user.as_deref(), &scope.repository)))
            .collect();
        self.tokens.issue(Claims { user: caller.user.clone(), scopes, until: 0 })
    }
}

/// Whether a repository has this name or is below it.
fn covers(prefix: &str, repository: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    prefix.is_empty()
        || repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What an `Authorization` header shows.
enum Shown<'a> {
    Password(String, String),
    Token(&'a str),
}

fn shown(header: &str) -> Option<Shown<'_>> {
    let (kind, rest) = header.split_once(' ')?;
    match kind.to_ascii_lowercase().as_str() {
        "basic" => basic(rest).map(|(user, password)| Shown::Password(user, password)),
        "bearer" => Some(Shown::Token(rest.trim())),
        _ => None,
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use passwords::parse as parse_htpasswd;

/// For [`crate::any_input`]: whether this header is one of ours, and that no made-up token is taken.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn try_header(header: &str) -> bool {
    match shown(header) {
        Some(Shown::Password(user, _)) => !user.contains(':'),
        Some(Shown::Token(token)) => token::Tokens::new(std::time::Duration::ZERO).read(token).is_none(),
        None => true,
    }
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_a_slash() {
        for (prefix, repository, covered) in [
            ("", "a/b", true),
            ("", "", true),
            ("a", "a", true),
            ("a", "a/b", true),
            ("a/", "a/b", true),
            ("a", "ab", false),
            ("a/b", "a", false),
            ("a", "", false),
        ] {
            assert_eq!(covers(prefix, repository), covered, "{prefix:?} {repository:?}");
        }
    }

    #[test]
    fn words_of_an_authorization_header() {
        assert_eq!(basic("dTpwOnE="), Some(("u".into(), "p:q".into())));
        for bad in ["", "%%", "dXA="] {
            assert_eq!(basic(bad), None, "{bad:?}");
        }
    }
}
