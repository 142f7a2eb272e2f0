//! The whole push: what there is, what the other side lacks, and only that over the link.
use super::{
    args::Push,
    auth,
    error::{ImageError, Result},
    files::Files,
    graph::{Blob, Image, Manifest},
    ledger::Ledger,
    list,
    local::{self, Found},
    name::{Name, Reference, is_cluster},
    remote::{Remote, accepted},
    tls,
    upload::{Patience, Sent, Uploads},
    wire::{Ask, Scope, Wire, full, text},
};
use crate::{progress::Progress, table};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderName},
};
use serde::Serialize;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Questions on their way at once: on a long link each takes a second.
const AT_ONCE: usize = 8;
/// Smaller blobs are sent sooner than asked for.
const WORTH_ASKING: u64 = 64 << 10;
/// Other repositories that are asked for a blob.
const MOST_OWNERS: usize = 100;
const SOURCE_PASSWORD: &str = "SPACECTL_SOURCE_PASSWORD";

/// What a push did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    /// `NAME:TAG` in the cluster's registry.
    pub(super) image: String,
    pub(super) digest: String,
    /// All blobs of the image.
    pub(super) blobs: usize,
    pub(super) bytes: u64,
    /// Of these: there before, taken from other repositories, and sent.
    pub(super) blobs_present: usize,
    pub(super) blobs_mounted: usize,
    pub(super) blobs_sent: usize,
    /// Of the sent ones: begun by an earlier run.
    pub(super) blobs_resumed: usize,
    /// What went over the link, also what was lost there.
    pub(super) bytes_sent: u64,
}

impl Outcome {
    pub(super) fn line(&self) -> String {
        let sent = format!("{} of {}", table::bytes(self.bytes_sent), table::bytes(self.bytes));
        let was = match (self.blobs_present, self.blobs_mounted) {
            (0, 0) => String::new(),
            (there, 0) => format!(", {there} of {} blobs were there", self.blobs),
            (there, mounted) => format!(", {} of {} blobs were there", there + mounted, self.blobs),
        };
        format!("{} pushed as {}: sent {sent}{was}\n", self.image, self.digest)
    }
}

/// Pushes; `ca` is the cluster's, for registries of its own that are copied from.
pub(super) async fn push(wire: &Arc<Wire>, ca: &str, args: &Push, limit: Duration) -> Result<Outcome> {
    let given = args.name.as_deref().map(|name| Name::in_cluster(name, wire.address())).transpose()?;
    if args.chunk.0 == 0 {
        return Err(ImageError::Usage("--chunk: nothing cannot be sent; write 4MiB".into()));
    }
    let (found, remote) = source(wire, ca, args, limit).await?;
    let Found { image, names, packed: _packed } = found;
    let name = match given.or_else(|| local::name_of(&names)) {
        Some(name) => name,
        None => {
            let origin = &image.origin;
            return Err(ImageError::Usage(format!(
                "{origin} does not say what it is called; write `spacectl image push {} NAME:TAG`",
                args.source
            )));
        }
    };
    send(wire, &name, &image, remote.as_ref(), args).await
}

/// Finds the image: a directory or archive if there is one of that name, else another registry's.
async fn source(wire: &Arc<Wire>, ca: &str, args: &Push, limit: Duration) -> Result<(Found, Option<Remote>)> {
    let path = Path::new(&args.source);
    if path.exists() {
        let files = Files::open(path)?;
        let (select, platform) = (args.select.as_deref(), args.platform.as_deref());
        return Ok((local::find(&files, select, platform, !args.no_compress)?, None));
    }
    let looks_like_path = args.source.starts_with(['/', '.']) || args.source.ends_with(".tar");
    let name = if looks_like_path { None } else { Name::parse(&args.source).ok() };
    let Some((name, host)) = name.and_then(|name| name.host.clone().map(|host| (name, host))) else {
        return Err(ImageError::Usage(format!(
            "{}: there is no such file or directory, and it is no HOST/NAME:TAG of a registry",
            args.source
        )));
    };
    let wire = if is_cluster(&host, wire.address()) { wire.clone() } else { other(&host, ca, args, limit)? };
    let called = format!(
        "{}:{}",
        name.repository,
        match name.reference() {
            Reference::Tag(tag) => tag,
            Reference::Digest(_) => "latest".into(),
        }
    );
    let remote = Remote::new(wire, name);
    let image = remote.image(args.platform.as_deref()).await?;
    Ok((Found { image, names: vec![called], packed: Vec::new() }, Some(remote)))
}

fn other(host: &str, ca: &str, args: &Push, limit: Duration) -> Result<Arc<Wire>> {
    let login = auth::login(args.source_user.as_deref(), None, false, SOURCE_PASSWORD)?;
    // Docker's own registry has an address that nobody writes.
    let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let bare = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let loopback = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if args.source_plain_http && !loopback {
        return Err(ImageError::Usage(format!(
            "--source-plain-http is for loopback addresses only, not for {host}"
        )));
    }
    let tls = if args.source_plain_http { None } else { Some(tls::for_others(ca)?) };
    Ok(Arc::new(Wire::new(host, tls, login, limit)?))
}

async fn send(
    wire: &Wire,
    name: &Name,
    image: &Image,
    remote: Option<&Remote>,
    args: &Push,
) -> Result<Outcome> {
    let Some(root) = image.manifests.last() else {
        return Err(ImageError::source(image.origin.as_str(), "holds no manifest"));
    };
    let reference = name.reference();
    let label = format!("{}:{reference}", name.repository);
    let mut outcome = Outcome {
        image: label.clone(),
        digest: root.digest.to_string(),
        blobs: image.blobs.len(),
        bytes: image.bytes(),
        ..Outcome::default()
    };
    if let Reference::Digest(wanted) = &reference
        && *wanted != root.digest
    {
        let origin = &image.origin;
        return Err(ImageError::Usage(format!(
            "{origin} is {}, not {wanted}; leave the digest out",
            root.digest
        )));
    }
    let patience = Patience::new(args.retries);
    let quiet = Progress::new(&label, 0);
    let scope = Scope::push(&name.repository);
    let uploads = |progress: Progress| Uploads {
        wire,
        to: name,
        scope: scope.clone(),
        chunk: args.chunk.0,
        patience: &patience,
        progress: Arc::new(progress),
        remote,
        total: Arc::new(AtomicU64::new(0)),
    };
    let asking = uploads(quiet);
    let plan = loop {
        match plan(&asking, root, image, &reference).await {
            Ok(plan) => break plan,
            Err(error) => patience.pause(error, &asking.progress).await?,
        }
    };
    let Some(missing) = plan else {
        outcome.blobs_present = outcome.blobs;
        return Ok(outcome);
    };
    outcome.blobs_present = outcome.blobs - missing.len();
    for (blob, _) in &missing {
        local::verify(&image.origin, blob)?;
    }
    let ledger = Ledger::of_user();
    let sending = uploads(Progress::new(&label, missing.iter().map(|(blob, _)| blob.size).sum()));
    let mut done = 0u64;
    for (blob, owner) in &missing {
        match sending.bring(&ledger, blob, owner.as_deref(), done).await? {
            Sent::Present => outcome.blobs_sent += 1,
            Sent::Mounted => outcome.blobs_mounted += 1,
            Sent::From(at) => {
                outcome.blobs_sent += 1;
                outcome.blobs_resumed += usize::from(at > 0);
            }
        }
        done = done.saturating_add(blob.size);
    }
    for (manifest, last) in image.manifests.iter().rev().enumerate().map(|(n, m)| (m, n == 0)).rev() {
        let reference = if last { reference.clone() } else { Reference::Digest(manifest.digest.clone()) };
        while let Err(error) = put_manifest(wire, name, &scope, manifest, &reference).await {
            patience.pause(error, &sending.progress).await?;
        }
    }
    outcome.bytes_sent = sending.total.load(Ordering::Relaxed);
    Ok(outcome)
}

/// A blob that is missing, and another repository that has it.
type Missing<'a> = (&'a Blob, Option<String>);

/// What the registry lacks; none at all if the tag already leads to this image.
async fn plan<'a>(
    asking: &Uploads<'_>,
    root: &Manifest,
    image: &'a Image,
    reference: &Reference,
) -> Result<Option<Vec<Missing<'a>>>> {
    let name = &asking.to.repository;
    let target = format!("/v2/{name}/manifests/{reference}");
    let ask = Ask::new(Method::HEAD, &target, &asking.scope).header(ACCEPT, accepted());
    let answer = asking.wire.ask(ask).await?;
    let known = [StatusCode::OK, StatusCode::NOT_FOUND];
    let answer = asking.wire.expect(answer, &known, format!("look for {name}:{reference}")).await?;
    if answer.status() == StatusCode::OK && text(answer.headers(), CONTENT_DIGEST) == root.digest.to_string()
    {
        return Ok(None);
    }
    let missing = stream::iter(&image.blobs)
        .map(|blob| async move {
            let has = asking.has(name, &blob.digest, &asking.scope).await?;
            Ok::<_, ImageError>((!has).then_some(blob))
        })
        .buffered(AT_ONCE)
        .try_filter_map(async |found| Ok(found))
        .try_collect::<Vec<&Blob>>()
        .await?;
    let mut others = None;
    let mut plan = Vec::new();
    for blob in missing {
        let mut owner = asking.remote.and_then(|remote| remote.repository_in(asking.wire)).map(str::to_owned);
        if owner.is_none() && blob.size >= WORTH_ASKING {
            if others.is_none() {
                // Whoever may push need not be allowed to list.
                others = Some(list::repositories(asking.wire).await.unwrap_or_default());
            }
            let others = others.as_deref().unwrap_or_default();
            owner = find_owner(asking, blob, others.iter().filter(|other| *other != name)).await;
        }
        plan.push((blob, owner));
    }
    Ok(Some(plan))
}

async fn find_owner<'a>(
    asking: &Uploads<'_>,
    blob: &Blob,
    others: impl Iterator<Item = &'a String>,
) -> Option<String> {
    let asked = stream::iter(others.take(MOST_OWNERS)).map(|other| async move {
        let has = asking.has(other, &blob.digest, &Scope::pull(other)).await;
        matches!(has, Ok(true)).then(|| other.clone())
    });
    let mut found = std::pin::pin!(asked.buffer_unordered(AT_ONCE).filter_map(async |owner| owner));
    found.next().await
}

async fn put_manifest(
    wire: &Wire,
    name: &Name,
    scope: &Scope,
    manifest: &Manifest,
    reference: &Reference,
) -> Result<()> {
    let target = format!("/v2/{}/manifests/{reference}", name.repository);
    let content = manifest.content.clone();
    let body = move || Ok(full(content.clone()));
    let mut ask = Ask::new(Method::PUT, &target, scope).header(CONTENT_TYPE, manifest.media_type.as_str());
    ask.body = &body;
    let answer = wire.ask(ask).await?;
    wire.expect(answer, &[StatusCode::CREATED], format!("take the manifest {reference}")).await.map(drop)
}
