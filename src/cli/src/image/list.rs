//! What a registry lists: repositories and tags, page by page.
use super::{
    error::Result,
    wire::{Ask, Scope, Wire, text},
};
use hyper::{Method, StatusCode, header::LINK};
use serde::Deserialize;

/// A registry that always has one more page is broken.
const MOST_PAGES: usize = 1000;
const PAGE: usize = 1000;

#[derive(Default, Deserialize)]
struct Page {
    #[serde(default)]
    repositories: Option<Vec<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

pub(super) async fn repositories(wire: &Wire) -> Result<Vec<String>> {
    pages(wire, format!("/v2/_catalog?n={PAGE}"), &Scope::catalog(), "list its repositories").await
}

/// A repository's tags; empty also if there is no such repository.
pub(super) async fn tags(wire: &Wire, repository: &str) -> Result<Vec<String>> {
    let first = format!("/v2/{repository}/tags/list?n={PAGE}");
    pages(wire, first, &Scope::pull(repository), &format!("list the tags of {repository}")).await
}

async fn pages(wire: &Wire, first: String, scope: &Scope, operation: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut next = Some(first);
    for _ in 0..MOST_PAGES {
        let Some(target) = next else { return Ok(all) };
        let answer = wire.ask(Ask::new(Method::GET, &target, scope)).await?;
        let answer = wire.expect(answer, &[StatusCode::OK, StatusCode::NOT_FOUND], operation).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(all);
        }
        next = link(text(answer.headers(), LINK));
        let content = wire.read(answer).await?;
        let page: Page =
            serde_json::from_slice(&content).map_err(|e| wire.odd(format!("its list is no list: {e}")))?;
        all.extend(page.repositories.into_iter().chain(page.tags).flatten());
    }
    Err(wire.odd("its list has no end".into()))
}

/// `</v2/_catalog?last=b&n=2>; rel="next"` (RFC 8288).
fn link(header: &str) -> Option<String> {
    let (target, rest) = header.strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_next_page() {
        assert_eq!(link("</v2/_catalog?n=2&last=b>; rel=\"next\"").unwrap(), "/v2/_catalog?n=2&last=b");
        assert_eq!((link(""), link("</x>; rel=\"first\""), link("x")), (None, None, None));
    }
}
