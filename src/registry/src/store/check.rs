//! Checking a root that nobody serves, and repairing what can be repaired.

use super::{
    Document, Index, Result, StoreError,
    blobs::blob_path,
    entries, if_present, remove,
    scrub::{quarantine, verify},
    take, walk,
};
use crate::{digest::Digest, name::Repository};
use std::{collections::HashSet, fs, path::Path};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// What is wrong and stays so.
    pub(crate) problems: Vec<String>,
    /// What was wrong and is not any more.
    pub(crate) repaired: Vec<String>,
    /// What is as it should be after a crash, and goes by itself.
    pub(crate) notes: Vec<String>,
    /// Blobs that were read.
    pub(crate) blobs: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Manifests that were read.
    pub(crate) manifests: usize,
    /// Tags that were followed.
    pub(crate) tags: usize,
}

struct Check<'a> {
    root: &'a Path,
    repair: bool,
    findings: Findings,
    present: HashSet<Digest>,
}

/// Reads everything below a root.
///
/// # Errors
/// The root belongs to a running registry, or a file cannot be handled.
pub(crate) fn check(root: &Path, repair: bool) -> Result<Findings> {
    // A root that is not there has no damage, and none must be made.
    let found = fs::metadata(root.join("blobs")).map_err(StoreError::io("look at", root))?;
    if !found.is_dir() {
        return Err(StoreError::Content { path: root.join("blobs"), content: "no directory".into() });
    }
    let _lock = take(root)?;
    let mut check = Check { root, repair, findings: Findings::default(), present: HashSet::new() };
    check.contents()?;
    for (repository, directory) in walk::repositories(root)? {
        check.repository(&repository, &directory)?;
    }
    check.leftovers()?;
    check.index()?;
    Ok(check.findings)
}

impl Check<'_> {
    fn found(&mut self, what: String, repaired: bool) {
        if repaired { &mut self.findings.repaired } else { &mut self.findings.problems }.push(what);
    }

    fn contents(&mut self) -> Result<()> {
        let mut all = Vec::new();
        walk::contents(self.root, |digest, path| {
            all.push((digest, path));
            Ok(())
        })?;
        for (digest, path) in all {
            match verify(&path, &digest, None) {
                Ok(Some(bytes)) => {
                    self.findings.blobs += 1;
                    self.findings.bytes += bytes;
                    self.present.insert(digest);
                }
                Ok(None) => self.damaged(&digest, "does not hold what its name says")?,
                Err(error) => self.damaged(&digest, &format!("cannot be read: {error}"))?,
            }
        }
        Ok(())
    }

    fn damaged(&mut self, digest: &Digest, why: &str) -> Result<()> {
        let mut what = format!("blob {digest} {why}");
        if self.repair {
            let to = quarantine(self.root, digest)?;
            what.push_str(&format!("; put aside as {}", to.display()));
        }
        self.found(what, self.repair);
        Ok(())
    }

    fn repository(&mut self, repository: &Repository, directory: &Path) -> Result<()> {
        let mut blobs: HashSet<Digest> = walk::digests(&directory.join("_blobs"))?.into_iter().collect();
        for digest in blobs.clone() {
            if !self.present.contains(&digest) {
                let link = directory.join("_blobs").join(digest.algorithm().name()).join(digest.hex());
                self.drop_file(&link, format!("{repository} has no content for its blob {digest}"))?;
                blobs.remove(&digest);
            }
        }
        let mut manifests: HashSet<Digest> =
            walk::digests(&directory.join("_manifests"))?.into_iter().collect();
        for digest in manifests.clone() {
            if !self.present.contains(&digest) {
                let link = directory.join("_manifests").join(digest.algorithm().name()).join(digest.hex());
                self.drop_file(&link, format!("{repository} has no content for its manifest {digest}"))?;
                manifests.remove(&digest);
            }
        }
        for (tag, digest, _) in walk::tags(directory)? {
            self.findings.tags += 1;
            if !manifests.contains(&digest) {
                let link = directory.join("_tags").join(tag.as_str());
                self.drop_file(
                    &link,
                    format!("tag {repository}:{} leads to {digest}, which is not there", tag.as_str()),
                )?;
            }
        }
        for digest in &manifests {
            self.manifest(repository, digest, &blobs, &manifests)?;
        }
        Ok(())
    }

    /// An image that lacks a part is not repaired by removing it: a push or a peer brings the part.
    fn manifest(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        blobs: &HashSet<Digest>,
        manifests: &HashSet<Digest>,
    ) -> Result<()> {
        let path = blob_path(self.root, digest);
        let Some(content) = if_present(fs::read(&path), "read", &path)? else { return Ok(()) };
        self.findings.manifests += 1;
        match Document::parse(&content).and_then(|document| document.needs()) {
            Err(error) => self.found(format!("{repository}@{digest} is no manifest: {error}"), false),
            Ok(needs) => {
                for needed in needs.all() {
                    if !blobs.contains(needed) && !manifests.contains(needed) {
                        let what = format!(
                            "{repository}@{digest} needs {needed}, which is not there; push the image again"
                        );
                        self.found(what, false);
                    }
                }
            }
        }
        Ok(())
    }

    fn drop_file(&mut self, path: &Path, what: String) -> Result<()> {
        if self.repair {
            remove(path)?;
        }
        self.found(what, self.repair);
        Ok(())
    }

    fn leftovers(&mut self) -> Result<()> {
        let uploads = entries(&self.root.join("uploads"))?.len();
        if uploads > 0 {
            self.findings
                .notes
                .push(format!("{uploads} uploads are unfinished; they are removed after a day"));
        }
        let aside = entries(&self.root.join("quarantine"))?.len();
        if aside > 0 {
            self.findings.notes.push(format!(
                "{aside} damaged blobs are in quarantine; remove them when they are of no use"
            ));
        }
        Ok(())
    }

    fn index(&mut self) -> Result<()> {
        let snapshot = walk::snapshot(self.root)?;
        let (index, stale) = Index::open(self.root)?;
        let differences = index.differences(&snapshot)?;
        if differences > 0 {
            let what = format!("the index differs from the files in {differences} places");
            if self.repair {
                index.rebuild(&snapshot)?;
                self.findings.repaired.push(what);
            } else if stale {
                // It knows that it may lag behind: the next start makes it anew.
                self.findings.notes.push(what);
            } else {
                self.findings.problems.push(what);
            }
        }
        if self.repair || (differences == 0 && !stale) {
            index.close()?;
        }
        Ok(())
    }
}
