//! What is in the registry, for people and for programs.
use super::{
    error::{ImageError, Result},
    graph::{Document, platform_of},
    hash, list,
    name::{Name, Reference},
    remote,
    wire::{Ask, Scope, Wire},
};
use crate::{
    args::Output,
    table::{self, Grid, Look, plain},
};
use hyper::{Method, StatusCode};
use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One tag.
#[derive(Debug, Serialize)]
struct Tag {
    name: String,
    tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Of all blobs of the manifest; of an index the number of its platforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    platforms: Vec<String>,
}

/// `image ls`.
pub(super) async fn ls(wire: &Wire, name: Option<&str>, output: Output) -> Result<String> {
    let repositories = match name {
        Some(name) => vec![Name::in_cluster(name, wire.address())?.repository],
        None => list::repositories(wire).await?,
    };
    let mut tags = Vec::new();
    for repository in &repositories {
        for tag in list::tags(wire, repository).await? {
            tags.push(describe(wire, repository, tag, output != Output::Table).await?);
        }
    }
    if let (Some(name), true) = (name, tags.is_empty()) {
        return Err(refused(
            wire,
            "list",
            format!("there is no image {name}; `spacectl image ls` lists all"),
        ));
    }
    if output == Output::Json {
        return Ok(pretty(&json!({"images": tags})));
    }
    let wide = output == Output::Wide;
    let header: &[&str] =
        if wide { &["NAME", "TAG", "DIGEST", "SIZE", "PLATFORMS"] } else { &["NAME", "TAG"] };
    let mut grid = Grid::new(Look::of_terminal(wide), header);
    for tag in tags {
        let mut cells = vec![plain(tag.name), plain(tag.tag)];
        if wide {
            cells.push(plain(tag.digest.unwrap_or_default()));
            cells.push(plain(tag.bytes.map(table::bytes).unwrap_or_default()));
            cells.push(plain(tag.platforms.join(", ")));
        }
        grid.row(cells);
    }
    Ok(grid.render())
}

async fn describe(wire: &Wire, repository: &str, tag: String, fully: bool) -> Result<Tag> {
    let mut told = Tag { name: repository.into(), tag, digest: None, bytes: None, platforms: Vec::new() };
    if !fully {
        return Ok(told);
    }
    let content = remote::manifest(wire, repository, &Reference::Tag(told.tag.clone())).await?;
    told.digest = Some(hash::sha256(&content));
    match Document::parse(&content).map_err(|why| wire.odd(format!("{repository}:{} {why}", told.tag)))? {
        Document::Manifest(manifest) => {
            let layers = manifest.layers().iter().map(|layer| layer.size());
            told.bytes = Some(layers.chain([manifest.config().size()]).sum());
        }
        Document::Index(index) => told.platforms = index.manifests().iter().filter_map(platform_of).collect(),
    }
    Ok(told)
}

/// `image inspect`.
pub(super) async fn inspect(wire: &Wire, image: &str, output: Output) -> Result<String> {
    let name = Name::in_cluster(image, wire.address())?;
    let reference = name.reference();
    let content = remote::manifest(wire, &name.repository, &reference).await?;
    let digest = match &reference {
        Reference::Digest(digest) => digest.to_string(),
        Reference::Tag(_) => hash::sha256(&content),
    };
    let document = Document::parse(&content).map_err(|why| wire.odd(format!("{image} {why}")))?;
    let config = match &document {
        Document::Manifest(manifest) if *manifest.config().media_type() != MediaType::EmptyJSON => {
            Some(blob(wire, &name.repository, manifest.config().digest().as_ref()).await?)
        }
        _ => None,
    };
    if output == Output::Json {
        let manifest: Value = serde_json::from_slice(&content).unwrap_or_default();
        let told = json!({"name": name.repository, "digest": digest, "manifest": manifest, "config": config});
        return Ok(pretty(&told));
    }
    Ok(inspection(&name.repository, &reference, &digest, &document, config.as_ref()))
}

fn inspection(
    repository: &str,
    reference: &Reference,
    digest: &str,
    document: &Document,
    config: Option<&Value>,
) -> String {
    let mut lines = vec![("Name", repository.to_owned()), ("Digest", digest.to_owned())];
    if let Reference::Tag(tag) = reference {
        lines.insert(1, ("Tag", tag.clone()));
    }
    let field = |path: &str| config.and_then(|config| config.pointer(path)).cloned().unwrap_or_default();
    let text = |path: &str| match field(path) {
        Value::String(text) => text,
        Value::Array(words) => words
            .iter()
            .map(|w| w.as_str().map_or_else(|| w.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut parts = Vec::new();
    match document {
        Document::Manifest(manifest) => {
            lines.push(("Platform", format!("{}/{}", text("/os"), text("/architecture"))));
            for (title, path) in [
                ("Created", "/created"),
                ("Entrypoint", "/config/Entrypoint"),
                ("Command", "/config/Cmd"),
                ("Environment", "/config/Env"),
                ("User", "/config/User"),
                ("Labels", "/config/Labels"),
            ] {
                lines.push((title, text(path)));
            }
            let total = manifest.layers().iter().map(|l| l.size()).sum::<u64>() + manifest.config().size();
            lines.push(("Size", table::bytes(total)));
            parts.extend(
                manifest
                    .layers()
                    .iter()
                    .map(|l| (l.digest().to_string(), l.size(), l.media_type().to_string())),
            );
        }
        Document::Index(index) => {
            parts.extend(index.manifests().iter().map(|m| {
                let platform = platform_of(m).unwrap_or_else(|| m.media_type().to_string());
                (m.digest().to_string(), m.size(), platform)
            }));
        }
    }
    let mut told: String = lines
        .into_iter()
        .filter(|(_, value)| !value.is_empty() && value != "/" && value != "{}")
        .map(|(title, value)| format!("{:<13}{value}\n", format!("{title}:")))
        .collect();
    let (of, kind) = match document {
        Document::Manifest(_) => ("LAYER", "KIND"),
        Document::Index(_) => ("MANIFEST", "PLATFORM"),
    };
    let mut grid = Grid::new(Look::default(), &[of, "SIZE", kind]);
    parts.into_iter().for_each(|(digest, size, kind)| {
        grid.row(vec![plain(digest), plain(table::bytes(size)), plain(kind)])
    });
    told.push_str(&grid.render());
    told
}

async fn blob(wire: &Wire, repository: &str, digest: &str) -> Result<Value> {
    let target = format!("/v2/{repository}/blobs/{digest}");
    let answer = wire.ask(Ask::new(Method::GET, &target, &Scope::pull(repository))).await?;
    let answer = wire.expect(answer, &[StatusCode::OK], format!("give {digest}")).await?;
    let content = wire.read(answer).await?;
    serde_json::from_slice(&content)
        .map_err(|e| wire.odd(format!("the configuration {digest} is no JSON: {e}")))
}

/// `image rm`: what was removed, a line each.
pub(super) async fn rm(wire: &Wire, images: &[String]) -> Result<Vec<String>> {
    let names = images.iter().map(|image| {
        let name = Name::in_cluster(image, wire.address())?;
        match name.reference {
            Some(_) => Ok(name),
            None => Err(ImageError::Usage(format!("{image}: say which one, NAME:TAG or NAME@DIGEST"))),
        }
    });
    let names = names.collect::<Result<Vec<Name>>>()?;
    let mut lines = Vec::new();
    for name in names {
        let reference = name.reference();
        let target = format!("/v2/{}/manifests/{reference}", name.repository);
        let answer = wire.ask(Ask::new(Method::DELETE, &target, &Scope::delete(&name.repository))).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            let reason = format!("there is no {reference} in {}", name.repository);
            return Err(refused(wire, "remove it", reason));
        }
        let done = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        wire.expect(answer, &done, format!("remove {}:{reference}", name.repository)).await?;
        lines.push(match reference {
            Reference::Tag(tag) => format!("{}:{tag} removed", name.repository),
            Reference::Digest(digest) => format!("{}@{digest} removed", name.repository),
        });
    }
    Ok(lines)
}

/// What the registry's `POST /v2/_space/gc` answers.
#[derive(Debug, Deserialize)]
struct Collected {
    manifests: u64,
    blobs: u64,
    bytes: u64,
}

/// `image gc`.
pub(super) async fn gc(wire: &Wire, untagged: bool, output: Output) -> Result<String> {
    let path = if untagged { "/v2/_space/gc?untagged=remove" } else { "/v2/_space/gc" };
    let Collected { manifests, blobs, bytes } = own(wire, Method::POST, path, "free space").await?;
    Ok(match output {
        Output::Json => {
            pretty(&json!({"removed_manifests": manifests, "removed_blobs": blobs, "freed_bytes": bytes}))
        }
        _ => format!("removed {manifests} manifests and {blobs} blobs, freed {}\n", table::bytes(bytes)),
    })
}

/// What the registry's `GET /v2/_space/usage` answers.
#[derive(Debug, Deserialize)]
struct Usage {
    stored: u64,
    quota: Option<u64>,
    free: u64,
    blobs: u64,
    quarantined: u64,
    repositories: Vec<Share>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Share {
    name: String,
    tags: u64,
    manifests: u64,
    bytes: u64,
}

/// `image df`.
pub(super) async fn df(wire: &Wire, output: Output) -> Result<String> {
    let usage: Usage = own(wire, Method::GET, "/v2/_space/usage", "say what it uses").await?;
    if output == Output::Json {
        return Ok(pretty(&json!({
            "blobs": usage.blobs,
            "bytes": usage.stored,
            "quota_bytes": usage.quota,
            "free_bytes": usage.free,
            "quarantined": usage.quarantined,
            "repositories": usage.repositories,
        })));
    }
    let mut grid = Grid::new(Look::default(), &["NAME", "TAGS", "MANIFESTS", "SIZE"]);
    for share in &usage.repositories {
        let cells = [
            share.name.clone(),
            share.tags.to_string(),
            share.manifests.to_string(),
            table::bytes(share.bytes),
        ];
        grid.row(cells.into_iter().map(plain).collect());
    }
    let (used, free) = (table::bytes(usage.stored), table::bytes(usage.free));
    let quota =
        usage.quota.map(|quota| format!(" of a quota of {}", table::bytes(quota))).unwrap_or_default();
    let damaged = match usage.quarantined {
        0 => String::new(),
        n => format!("; {n} damaged and set aside"),
    };
    let whole = format!("{} blobs, {used}{quota}; {free} free on the disk{damaged}", usage.blobs);
    Ok(format!("{}{whole}\n", grid.render()))
}

async fn own<T: for<'de> Deserialize<'de>>(wire: &Wire, method: Method, path: &str, what: &str) -> Result<T> {
    let answer = wire.ask(Ask::new(method, path, &Scope::catalog())).await?;
    if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return Err(refused(wire, what, format!("it has no {path}; only space-registry can do this")));
    }
    let answer = wire.expect(answer, &[StatusCode::OK], what).await?;
    let content = wire.read(answer).await?;
    serde_json::from_slice(&content).map_err(|e| wire.odd(format!("{path}: {e}")))
}

fn refused(wire: &Wire, operation: &str, reason: String) -> ImageError {
    ImageError::Refused { registry: wire.address().into(), operation: operation.into(), reason }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
