//! Bearer tokens: what their holder may do, signed with a key that dies with the process. A client whose token is
//! not accepted any more asks for another one.

use super::Scope;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) user: Option<String>,
    pub(super) scopes: Vec<Scope>,
    /// Seconds since 1970.
    pub(super) until: u64,
}

/// The issuer.
#[derive(Debug)]
pub(super) struct Tokens {
    key: hmac::Key,
    life: Duration,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Tokens {
    pub(super) fn new(life: Duration) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()), life }
    }

    /// Signs; answers with the token and its life in seconds.
    pub(super) fn issue(&self, claims: Claims) -> (String, u64) {
        let life = self.life.as_secs().max(60);
        let claims = Claims { until: now().saturating_add(life), ..claims };
        let text = serde_json::to_vec(&claims).unwrap_or_default();
        let signature = hmac::sign(&self.key, &text);
        (format!("{}.{}", URL_SAFE_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(signature)), life)
    }

    /// Reads a token; None when it is not ours or too old.
    pub(super) fn read(&self, token: &str) -> Option<Claims> {
        let (text, signature) = token.split_once('.')?;
        let (text, signature) = (URL_SAFE_NO_PAD.decode(text).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?);
        hmac::verify(&self.key, &text, &signature).ok()?;
        let claims: Claims = serde_json::from_slice(&text).ok()?;
        (claims.until > now()).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_tokens_are_read() {
        let tokens = Tokens::new(Duration::from_secs(100));
        let claims = Claims { user: Some("u".into()), scopes: Scope::parse("repository:a:pull"), until: 0 };
        let (token, life) = tokens.issue(claims);
        assert_eq!(life, 100);
        assert_eq!(tokens.read(&token).unwrap().user.as_deref(), Some("u"));
        assert_eq!(Tokens::new(Duration::from_secs(100)).read(&token), None);
        let (text, signature) = token.split_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(
            String::from_utf8(URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap().replace("\"u\"", "\"v\""),
        );
        assert_eq!(tokens.read(&format!("{forged}.{signature}")), None);
        for bad in ["", ".", "a", "a.b.c", "%.%"] {
            assert_eq!(tokens.read(bad), None, "{bad:?}");
        }
    }
}
