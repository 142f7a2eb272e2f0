use rand::Rng;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A token that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the join token is malformed; it reads sc1.<64 hex digits>.<secret>, as the server's token file has it"
)]
pub struct TokenError;

/// A join token. Its secret never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    fingerprint: String,
    secret: String,
}

impl Token {
    /// A new token for the cluster whose CA has this fingerprint.
    pub fn generate(fingerprint: &str) -> Self {
        let secret: [u8; 24] = rand::rng().random();
        Self { fingerprint: fingerprint.to_owned(), secret: hex::encode(secret) }
    }

    /// SHA-256 of the CA certificate, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The text to hand to a module.
    pub fn reveal(&self) -> String {
        format!("sc1.{}.{}", self.fingerprint, self.secret)
    }

    /// Compares through a hash, so that the time taken tells nothing.
    pub fn matches(&self, other: &Self) -> bool {
        Sha256::digest(self.reveal()) == Sha256::digest(other.reveal())
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("sc1"), Some(fingerprint), Some(secret), None)
                if fingerprint.len() == 64
                    && fingerprint.bytes().all(|b| b.is_ascii_hexdigit())
                    && secret.len() >= 16 =>
            {
                Ok(Self { fingerprint: fingerprint.to_owned(), secret: secret.to_owned() })
            }
            _ => Err(TokenError),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.fingerprint.get(..8).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_hides_its_secret() {
        let token = Token::generate(&"ab".repeat(32));
        assert!(token.reveal().parse::<Token>().unwrap().matches(&token));
        assert!(!format!("{token:?}").contains(&token.secret));
        assert!(!Token::generate(&"ab".repeat(32)).matches(&token));
        for bad in ["", "sc1", "sc1.xx.yy", "sc2.0.0"] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError));
        }
    }
}
