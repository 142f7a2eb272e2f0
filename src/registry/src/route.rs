//! What a path under `/v2/` asks for. Read from the right, because repository names hold slashes.

use crate::{
    digest::Digest,
    name::{NameError, Reference, Repository, UploadId},
};
use thiserror::Error;

/// A path's meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Tags(Repository),
    Blob(Repository, Digest),
    NewUpload(Repository),
    Upload(Repository, UploadId),
    Manifest(Repository, Reference),
    Referrers(Repository, Digest),
    /// Of this registry alone, for followers.
    Changes,
    /// Of this registry alone: how much room there is.
    Usage,
    /// Of this registry alone: collect garbage now.
    Collect,
}

/// A path without a meaning, or with a broken name in it.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum RouteError {
    #[error("no such path; the registry's interface is below /v2/")]
    Unknown,
    #[error("invalid name in the path")]
    Name(#[from] NameError),
}

/// Parses the path of a request.
pub(crate) fn parse(path: &str) -> Result<Route, RouteError> {
    match path {
        "/v2" | "/v2/" => return Ok(Route::Base),
        "/v2/_catalog" => return Ok(Route::Catalog),
        "/v2/_space/changes" => return Ok(Route::Changes),
        "/v2/_space/usage" => return Ok(Route::Usage),
        "/v2/_space/gc" => return Ok(Route::Collect),
        _ => {}
    }
    let path = path.strip_prefix("/v2/").ok_or(RouteError::Unknown)?;
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Ok(Route::Tags(name.parse()?));
    }
    if let Some(name) = path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads")) {
        return Ok(Route::NewUpload(name.parse()?));
    }
    let (before, last) = path.rsplit_once('/').ok_or(RouteError::Unknown)?;
    let digest = || last.parse::<Digest>().map_err(NameError::from);
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        return Ok(Route::Upload(name.parse()?, last.parse()?));
    }
    if let Some(name) = before.strip_suffix("/blobs") {
        return Ok(Route::Blob(name.parse()?, digest()?));
    }
    if let Some(name) = before.strip_suffix("/manifests") {
        return Ok(Route::Manifest(name.parse()?, last.parse()?));
    }
    if let Some(name) = before.strip_suffix("/referrers") {
        return Ok(Route::Referrers(name.parse()?, digest()?));
    }
    Err(RouteError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_the_right() {
        let name = |text: &str| text.parse::<Repository>().unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let id = UploadId::random();
        assert_eq!(parse("/v2/"), Ok(Route::Base));
        assert_eq!(parse("/v2/_catalog"), Ok(Route::Catalog));
        assert_eq!(parse("/v2/a/b/tags/list"), Ok(Route::Tags(name("a/b"))));
        assert_eq!(parse("/v2/a/blobs/blobs/uploads/"), Ok(Route::NewUpload(name("a/blobs"))));
        assert_eq!(
            parse(&format!("/v2/a/blobs/uploads/{}", id.as_str())),
            Ok(Route::Upload(name("a"), id.clone()))
        );
        assert_eq!(
            parse(&format!("/v2/manifests/tags/blobs/{digest}")),
            Ok(Route::Blob(name("manifests/tags"), digest.parse().unwrap()))
        );
        assert_eq!(
            parse("/v2/tags/list/manifests/1.0"),
            Ok(Route::Manifest(name("tags/list"), "1.0".parse().unwrap()))
        );
        assert_eq!(
            parse(&format!("/v2/x/referrers/{digest}")),
            Ok(Route::Referrers(name("x"), digest.parse().unwrap()))
        );
    }

    #[test]
    fn what_leads_nowhere() {
        for path in ["/", "/v1/", "/v2/a", "/v2/a/b", "/etc/passwd", "/v2/a/other/b", "/v2/a/blobs/../.."] {
            assert_eq!(parse(path), Err(RouteError::Unknown), "{path}");
        }
        for path in ["/v2/../tags/list", "/v2/a/../../b/manifests/x", "/v2/A/manifests/x"] {
            assert!(matches!(parse(path), Err(RouteError::Name(_))), "{path}");
        }
    }
}
