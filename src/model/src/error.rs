use thiserror::Error;

/// Why a spec, a name or a quantity was refused. Every variant names the key and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The text is no TOML, has an unknown key, or a value of the wrong type.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file, or another word for where the text came from.
        file: String,
        /// One line, with line number and key where known.
        reason: String,
    },
    /// A value that parses but makes no sense.
    #[error("{key}: {value:?} {reason}")]
    Value {
        /// The key, dotted from the top of the file.
        key: String,
        /// The value found.
        value: String,
        /// Why it is refused and what would be right.
        reason: String,
    },
    /// Two apps of one name in one request.
    #[error("app {name} appears twice; give each app a name of its own or use replicas")]
    Duplicate {
        /// The name that appears twice.
        name: String,
    },
    /// Another error, with the file that it was found in.
    #[error("{file}: {inner}")]
    In {
        /// The file.
        file: String,
        /// What is wrong in it.
        inner: Box<SpecError>,
    },
}

impl SpecError {
    /// A refused value.
    pub fn value(key: impl Into<String>, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), value: value.to_string(), reason: reason.into() }
    }

    /// The same error, prefixed by the file it was found in.
    pub fn in_file(self, file: &str) -> Self {
        match self {
            Self::Syntax { .. } | Self::In { .. } => self,
            other => Self::In { file: file.to_owned(), inner: Box::new(other) },
        }
    }
}
