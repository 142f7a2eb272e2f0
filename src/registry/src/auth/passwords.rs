//! The htpasswd file. Lines are `user:bcrypt`; other kinds of hashes are refused at the start, not at the login.

use ring::hmac;
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use thiserror::Error;
use tokio::sync::Semaphore;

/// A password that was right stays right for this long without bcrypt, which is slow by design.
const REMEMBERED: Duration = Duration::from_secs(300);
const MOST_REMEMBERED: usize = 1024;
/// How many passwords are checked at a time: guessing must not take the processors from the rest.
const AT_ONCE: usize = 2;
/// How many may wait for their turn.
const MOST_WAITING: usize = 64;
const COST: u32 = 10;

/// No passwords from this file.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// It cannot be read.
    #[error("auth.htpasswd {} cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not of this kind.
    #[error("auth.htpasswd {}: line {line} is not USER:BCRYPT; write it with htpasswd -B or space-registry passwd", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// bcrypt failed.
    #[error("cannot hash the password")]
    Hash(#[from] bcrypt::BcryptError),
}

#[derive(Debug, Clone)]
struct File {
    read: Option<SystemTime>,
    hashes: HashMap<String, String>,
}

/// The users.
#[derive(Debug)]
pub(super) struct Passwords {
    path: PathBuf,
    file: Mutex<File>,
    /// Signatures of names with passwords that were right, and when.
    right: Mutex<HashMap<Vec<u8>, Instant>>,
    key: hmac::Key,
    turns: Semaphore,
    waiting: AtomicUsize,
    /// What an unknown user's password is compared with, so that it takes as long as a known one's.
    nobody: String,
}

/// A line for the file.
///
/// # Errors
/// The password is longer than bcrypt can take.
pub(crate) fn line(user: &str, password: &str) -> Result<String, PasswordError> {
    Ok(format!("{user}:{}", bcrypt::hash(password, COST)?))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn load(path: &Path) -> Result<File, PasswordError> {
    let read = modified(path);
    let text =
        fs::read_to_string(path).map_err(|source| PasswordError::Read { file: path.into(), source })?;
    let hashes = parse(&text).map_err(|line| PasswordError::Line { file: path.into(), line })?;
    Ok(File { read, hashes })
}

/// Users and their hashes; the error is the number of a line, counted from one.
pub(crate) fn parse(text: &str) -> Result<HashMap<String, String>, usize> {
    let mut hashes = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, hash) = line.split_once(':').ok_or(number + 1)?;
        hash.parse::<bcrypt::HashParts>().map_err(|_| number + 1)?;
        hashes.insert(user.to_owned(), hash.to_owned());
    }
    Ok(hashes)
}

impl Passwords {
    pub(super) fn open(path: &Path) -> Result<Self, PasswordError> {
        Ok(Self {
            path: path.into(),
            file: Mutex::new(load(path)?),
            right: Mutex::default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            turns: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
            nobody: bcrypt::hash("nobody", COST)?,
        })
    }

    /// A changed file counts at once; a broken one is logged and the old one stays.
    fn reload(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if modified(&self.path) == file.read {
            return;
        }
        match load(&self.path) {
            Ok(new) => {
                *file = new;
                self.right.lock().unwrap_or_else(PoisonError::into_inner).clear();
                tracing::info!(file = %self.path.display(), "passwords read again");
            }
            Err(error) => tracing::warn!(%error, "the passwords stay as they were"),
        }
    }

    /// Whether the password is right; None: too many are asking.
    pub(super) async fn check(&self, user: &str, password: &str) -> Option<bool> {
        self.reload();
        let mark = hmac::sign(&self.key, format!("{user}:{password}").as_bytes()).as_ref().to_vec();
        if self.remembers(&mark) {
            return Some(true);
        }
        let known = self.file.lock().unwrap_or_else(PoisonError::into_inner).hashes.get(user).cloned();
        let exists = known.is_some();
        let hash = known.unwrap_or_else(|| self.nobody.clone());
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = if waiting < MOST_WAITING { self.turns.acquire().await.ok() } else { None };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let _turn = turn?;
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        let right = exists && matches!(checked, Ok(Ok(true)));
        if right {
            self.remember(mark);
        }
        Some(right)
    }

    fn remembers(&self, mark: &[u8]) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        right.get(mark).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn remember(&self, mark: Vec<u8>) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MOST_REMEMBERED {
            right.clear();
        }
        right.insert(mark, Instant::now());
    }
}
