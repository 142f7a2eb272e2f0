//! An image in another registry, or under another name in the same one.
use super::{
    error::{ImageError, Result},
    graph::{
        Blob, DOCKER_LIST, DOCKER_MANIFEST, Image, LARGEST_MANIFEST, OCI_INDEX, OCI_MANIFEST, Place, Walk,
        describe,
    },
    name::{Name, Reference},
    wire::{Ask, Scope, Wire},
};
use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    body::Incoming,
    header::{ACCEPT, RANGE},
};
use std::sync::Arc;

/// Where to read from.
pub(super) struct Remote {
    wire: Arc<Wire>,
    name: Name,
}

impl Remote {
    pub(super) fn new(wire: Arc<Wire>, name: Name) -> Self {
        Self { wire, name }
    }

    /// The repository, if it is one of the registry behind `wire`.
    pub(super) fn repository_in(&self, wire: &Wire) -> Option<&str> {
        (self.wire.address() == wire.address()).then_some(self.name.repository.as_str())
    }

    /// For people.
    pub(super) fn origin(&self) -> String {
        let mark = if matches!(self.name.reference(), Reference::Digest(_)) { '@' } else { ':' };
        format!("{}/{}{mark}{}", self.wire.address(), self.name.repository, self.name.reference())
    }

    /// Reads all manifests; the blobs stay where they are.
    pub(super) async fn image(&self, platform: Option<&str>) -> Result<Image> {
        let content = manifest(&self.wire, &self.name.repository, &self.name.reference()).await?;
        let root = match self.name.reference() {
            Reference::Tag(_) => describe(OCI_MANIFEST, &content)?,
            Reference::Digest(digest) => {
                let mut root = describe(OCI_MANIFEST, &content)?;
                root.set_digest(digest);
                root
            }
        };
        let mut walk = Walk::new(&self.origin(), root, platform);
        walk.bring(content)?;
        while let Some(wanted) = walk.next() {
            let reference = Reference::Digest(wanted.digest().clone());
            walk.bring(manifest(&self.wire, &self.name.repository, &reference).await?)?;
        }
        let mut image = walk.finish();
        image.blobs.iter_mut().for_each(|blob| blob.place = Place::Remote);
        Ok(image)
    }

    /// A blob's bytes from `at` up to `end`.
    pub(super) async fn part(&self, blob: &Blob, at: u64, end: u64) -> Result<Incoming> {
        let target = format!("/v2/{}/blobs/{}", self.name.repository, blob.digest);
        let scope = Scope::pull(&self.name.repository);
        let mut ask = Ask::new(Method::GET, &target, &scope);
        let whole = at == 0 && end == blob.size;
        if !whole {
            ask = ask.header(RANGE, format!("bytes={at}-{}", end.saturating_sub(1)));
        }
        let answer = self.wire.ask(ask).await?;
        let wanted = if whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        let answer = self.wire.expect(answer, &[wanted], format!("give bytes of {}", blob.digest)).await?;
        Ok(answer.into_body())
    }
}

/// Reads a manifest or an index.
pub(super) async fn manifest(wire: &Wire, repository: &str, reference: &Reference) -> Result<Bytes> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let scope = Scope::pull(repository);
    let ask = Ask::new(Method::GET, &target, &scope).header(ACCEPT, accepted());
    let answer = wire.ask(ask).await?;
    if answer.status() == StatusCode::NOT_FOUND {
        let reason = format!("there is no {reference} in {repository}");
        return Err(ImageError::Refused {
            registry: wire.address().into(),
            operation: "give a manifest".into(),
            reason,
        });
    }
    let answer = wire.expect(answer, &[StatusCode::OK], format!("give the manifest {reference}")).await?;
    let content = wire.read(answer).await?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > LARGEST_MANIFEST {
        return Err(wire.odd(format!("the manifest {reference} is larger than {LARGEST_MANIFEST} bytes")));
    }
    Ok(content)
}

/// The kinds of manifests that are understood.
pub(super) fn accepted() -> String {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")
}
