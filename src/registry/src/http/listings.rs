//! Lists: tags, repositories, referrers.

use super::{Answer, Code, Query, Refusal, Shared, blocking, json_response};
use crate::{digest::Digest, name::Repository};
use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use serde_json::{Value, json};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// One page of a list, and what the next one begins after.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    items: Vec<String>,
    next: Option<String>,
}

/// Cuts a page out of a sorted list: at most `n` items after `last`.
fn page(items: Vec<String>, n: Option<usize>, last: Option<&str>) -> Page {
    let mut items: Vec<_> =
        items.into_iter().filter(|item| last.is_none_or(|last| item.as_str() > last)).collect();
    let more = n.is_some_and(|n| items.len() > n);
    items.truncate(n.unwrap_or(usize::MAX));
    let next = items.last().filter(|_| more).cloned();
    Page { items, next }
}

fn respond(path: &str, key: &str, items: Vec<String>, query: &Query, mut body: Value) -> Answer {
    let bad = || Refusal::bad(Code::Unsupported, "the parameter n is no number");
    let n = query.get("n").map(|text| text.parse::<usize>().map_err(|_| bad())).transpose()?;
    let Page { items, next } = page(items, n, query.get("last"));
    if let Some(fields) = body.as_object_mut() {
        fields.insert(key.into(), items.into());
    }
    let mut response = json_response(&body);
    if let (Some(next), Some(n)) = (next, n)
        && let Ok(link) = HeaderValue::try_from(format!("<{path}?n={n}&last={next}>; rel=\"next\""))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(super) async fn tags(service: &Shared, name: Repository, query: &Query) -> Answer {
    let store = service.store.clone();
    let asked = name.clone();
    let Some(tags) = blocking(move || store.tags(&asked)).await? else {
        return Err(Refusal::not_found(Code::NameUnknown, format!("there is no repository {name}")));
    };
    respond(&format!("/v2/{name}/tags/list"), "tags", tags, query, json!({"name": name.as_str()}))
}

pub(super) async fn catalog(service: &Shared, query: &Query) -> Answer {
    let store = service.store.clone();
    let repositories = blocking(move || store.repositories()).await?;
    respond("/v2/_catalog", "repositories", repositories, query, json!({}))
}

pub(super) async fn referrers(service: &Shared, name: Repository, digest: Digest, query: &Query) -> Answer {
    let store = service.store.clone();
    let wanted = query.get("artifactType").map(str::to_owned);
    let filtered = wanted.is_some();
    let manifests = blocking(move || store.referrers(&name, &digest, wanted.as_deref())).await?;
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    let mut response: Response = json_response(&index);
    response.headers_mut().insert(header::CONTENT_TYPE, INDEX);
    if filtered {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let all = || ["a", "b", "c"].map(String::from).to_vec();
        let expect = |items: &[&str], next: Option<&str>| Page {
            items: items.iter().map(ToString::to_string).collect(),
            next: next.map(str::to_owned),
        };
        assert_eq!(page(all(), None, None), expect(&["a", "b", "c"], None));
        assert_eq!(page(all(), Some(2), None), expect(&["a", "b"], Some("b")));
        assert_eq!(page(all(), Some(2), Some("b")), expect(&["c"], None));
        assert_eq!(page(all(), Some(3), None), expect(&["a", "b", "c"], None));
        assert_eq!(page(all(), Some(0), None), expect(&[], None));
        assert_eq!(page(all(), None, Some("bb")), expect(&["c"], None));
    }
}
