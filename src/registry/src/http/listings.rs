//! Lists: tags, repositories, referrers.

use super::{Answer, Asked, Code, Query, Refusal, Shared, blocking, json_response};
use crate::{digest::Digest, name::Repository};
use axum::{
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use serde_json::{Value, json};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// Most items of a page, whatever is asked for.
const LARGEST_PAGE: u64 = 10_000;

/// What part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    n: u64,
    last: String,
}

impl Page {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let bad = |_| Refusal::bad(Code::Unsupported, "the parameter n is no number");
        let n = query.get("n").map(str::parse::<u64>).transpose().map_err(bad)?;
        Ok(Self {
            n: n.unwrap_or(LARGEST_PAGE).min(LARGEST_PAGE),
            last: query.get("last").unwrap_or_default().to_owned(),
        })
    }

    /// Cuts the page out of a list that holds one item more if there is one, and says where the next one begins.
    fn cut(&self, mut items: Vec<String>) -> (Vec<String>, Option<String>) {
        let n = usize::try_from(self.n).unwrap_or(usize::MAX);
        let more = items.len() > n;
        items.truncate(n);
        let next = items.last().filter(|_| more).cloned();
        (items, next)
    }
}

fn respond(path: &str, key: &str, page: &Page, items: Vec<String>, mut body: Value) -> Answer {
    let (items, next) = page.cut(items);
    if let Some(fields) = body.as_object_mut() {
        fields.insert(key.into(), items.into());
    }
    let mut response = json_response(&body);
    if let Some(next) = next
        && let Ok(link) = HeaderValue::try_from(format!("<{path}?n={}&last={next}>; rel=\"next\"", page.n))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(super) async fn tags(service: &Shared, name: Repository, query: &Query) -> Answer {
    let page = Page::of(query)?;
    let (store, asked, wanted) = (service.store.clone(), name.clone(), page.clone());
    let Some(tags) = blocking(move || store.tags(&asked, &wanted.last, wanted.n + 1)).await? else {
        return Err(Refusal::not_found(Code::NameUnknown, format!("there is no repository {name}")));
    };
    respond(&format!("/v2/{name}/tags/list"), "tags", &page, tags, json!({"name": name.as_str()}))
}

/// Everybody sees the repositories that they may pull from.
pub(super) async fn catalog(service: &Shared, asked: &Asked) -> Answer {
    let page = Page::of(&asked.query)?;
    let mut visible = Vec::new();
    let mut last = page.last.clone();
    let wanted = usize::try_from(page.n).unwrap_or(usize::MAX).saturating_add(1);
    while visible.len() < wanted {
        let (store, after) = (service.store.clone(), last.clone());
        let some = blocking(move || store.repositories(&after, LARGEST_PAGE)).await?;
        let Some(end) = some.last().cloned() else { break };
        visible.extend(some.into_iter().filter(|name| match (&service.guard, &asked.caller) {
            (Some(guard), Some(caller)) => guard.sees(caller, name),
            _ => true,
        }));
        last = end;
    }
    respond("/v2/_catalog", "repositories", &page, visible, json!({}))
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
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let page = |n| Page { n, last: String::new() };
        assert_eq!(page(2).cut(all(&["a", "b", "c"])), (all(&["a", "b"]), Some("b".into())));
        assert_eq!(page(2).cut(all(&["a", "b"])), (all(&["a", "b"]), None));
        assert_eq!(page(0).cut(all(&["a"])), (all(&[]), None));
        assert_eq!(page(5).cut(all(&[])), (all(&[]), None));
    }

    #[test]
    fn page_parameters() {
        let page = |text: &str| Page::of(&Query::parse(text)).ok();
        assert_eq!(page(""), Some(Page { n: LARGEST_PAGE, last: String::new() }));
        assert_eq!(page("n=3&last=a%2Fb"), Some(Page { n: 3, last: "a/b".into() }));
        assert_eq!(page("n=99999999999"), Some(Page { n: LARGEST_PAGE, last: String::new() }));
        for bad in ["n=-1", "n=x", "n="] {
            assert_eq!(page(bad), None, "{bad}");
        }
    }
}
