//! Reading blobs again, because bits flip: what is no longer what its name says is put aside, so that nobody
//! gets it and a push or a peer can bring it back.

use super::{
    Result, Store, StoreError, blobs::blob_path, durable::sync_directory, if_present,
    manifests::milliseconds, walk,
};
use crate::{
    digest::{Digest, Hasher},
    name::Repository,
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

const READ_AT_ONCE: usize = 256 << 10;

/// What a blob turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What its name says.
    Sound,
    /// Something else, or unreadable; it was put there.
    Damaged(PathBuf),
    /// Removed in the meantime.
    Gone,
}

/// A repository that needs some content, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    Blob(Repository),
    Manifest(Repository),
}

/// One blob that was read.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) verdict: Verdict,
}

/// Reads a file at `rate` bytes a second at most; None when its content is not what the digest says.
pub(super) fn verify(path: &Path, digest: &Digest, rate: Option<u64>) -> std::io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; READ_AT_ONCE];
    let (began, mut total) = (Instant::now(), 0_u64);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match buffer.get(..count) {
            Some(read) if count > 0 => hasher.update(read),
            _ => break,
        }
        total += u64::try_from(count).unwrap_or(u64::MAX);
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let due = Duration::from_micros(total.saturating_mul(1_000_000) / rate);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    // What was read only to be verified shall not push out of memory what is in use.
    let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok((hasher.finish() == *digest).then_some(total))
}

/// Puts a damaged blob aside and says where.
pub(super) fn quarantine(root: &Path, digest: &Digest) -> Result<PathBuf> {
    let directory = root.join("quarantine");
    fs::create_dir_all(&directory).map_err(StoreError::io("create", &directory))?;
    let now = milliseconds(SystemTime::now());
    let to = directory.join(format!("{}-{}-{now}", digest.algorithm().name(), digest.hex()));
    let from = blob_path(root, digest);
    fs::rename(&from, &to).map_err(StoreError::io("put aside", &from))?;
    sync_directory(&directory)?;
    from.parent().map_or(Ok(()), sync_directory)?;
    Ok(to)
}

/// Of a file in quarantine.
fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, rest) = name.split_once('-')?;
    format!("{algorithm}:{}", rest.split_once('-')?.0).parse().ok()
}

impl Store {
    /// All blobs that are on disk now, in the order of their names.
    pub(crate) fn blobs_on_disk(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        walk::contents(&self.root, |digest, _| {
            found.push(digest);
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads one blob again.
    pub(crate) fn scrub(&self, digest: &Digest, rate: Option<u64>) -> Result<Scrubbed> {
        let path = self.blob_path(digest);
        let scrubbed = |bytes, verdict| Ok(Scrubbed { digest: digest.clone(), bytes, verdict });
        let Some(found) = if_present(fs::metadata(&path), "look at", &path)? else {
            return scrubbed(0, Verdict::Gone);
        };
        match if_present(verify(&path, digest, rate), "read", &path) {
            Ok(None) => scrubbed(0, Verdict::Gone),
            Ok(Some(Some(bytes))) => scrubbed(bytes, Verdict::Sound),
            // A sector that cannot be read is damage too.
            Ok(Some(None)) | Err(_) => {
                // A push may have brought it again in the meantime: look once more, at full speed.
                if matches!(verify(&path, digest, None), Ok(Some(_))) {
                    return scrubbed(found.len(), Verdict::Sound);
                }
                let to = quarantine(&self.root, digest)?;
                self.space.sub_stored(found.len());
                self.noted(self.index.remove_blob(digest));
                scrubbed(found.len(), Verdict::Damaged(to))
            }
        }
    }

    /// What was put aside, is not back, and is still needed: each with what it is needed for.
    pub(crate) fn lacking(&self) -> Result<Vec<(Digest, Vec<Need>)>> {
        let names = super::entries(&self.root.join("quarantine"))?;
        let damaged: BTreeSet<Digest> = names.iter().filter_map(|name| digest_of(name)).collect();
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let repositories = walk::repositories(&self.root)?;
        let mut lacking = Vec::new();
        for digest in damaged.into_iter().filter(|digest| !self.blob_path(digest).is_file()) {
            let blobs = self.index.holders(&digest)?.into_iter().map(Need::Blob);
            // By the files: an index that was made anew since does not know a manifest without content.
            let has_link = |repository: &&Repository| self.manifest_link(repository, &digest).is_file();
            let all = repositories.iter().map(|(repository, _)| repository);
            let manifests = all.filter(has_link).cloned().map(Need::Manifest);
            let needs: Vec<Need> = manifests.chain(blobs).collect();
            if !needs.is_empty() {
                lacking.push((digest, needs));
            }
        }
        Ok(lacking)
    }

    /// How many blobs have been put aside.
    pub(crate) fn quarantined(&self) -> usize {
        super::entries(&self.root.join("quarantine")).map_or(0, |names| names.len())
    }
}
