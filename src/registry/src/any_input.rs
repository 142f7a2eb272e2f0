//! Whatever comes over the wire: parsers neither panic nor let anything through that they promise to stop.

use crate::{
    auth::Scope,
    digest::Digest,
    name::{Reference, Repository, Tag, UploadId},
    range::{self, Selection},
    route,
    store::Document,
};
use proptest::prelude::*;
use std::path::{Component, Path};

/// Pieces that mean something, in any order, with anything between them.
fn nearly_a_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/v2/".to_owned()),
        Just("/blobs/uploads/".to_owned()),
        Just("/manifests/".to_owned()),
        Just("/referrers/".to_owned()),
        Just("/tags/list".to_owned()),
        Just("/blobs/".to_owned()),
        Just("..".to_owned()),
        Just("sha256:".to_owned()),
        Just("a".repeat(64)),
        "[a-z0-9._/%-]{0,12}",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn stays_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) && !name.contains('\0')
}

proptest! {
    #[test]
    fn names_that_parse_are_safe_below_the_root(text in nearly_a_path()) {
        let _ = route::parse(&text);
        if let Ok(name) = text.parse::<Repository>() {
            prop_assert!(stays_inside(name.as_str()) && name.as_str().len() <= 255);
        }
        if let Ok(tag) = text.parse::<Tag>() {
            prop_assert!(stays_inside(tag.as_str()) && !tag.as_str().contains('/'));
        }
        if let Ok(id) = text.parse::<UploadId>() {
            prop_assert!(stays_inside(id.as_str()));
        }
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
        }
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn a_selected_range_is_inside_the_blob(first in "[0-9+ -]{0,22}", last in any::<String>(), size in any::<u64>()) {
        for text in [format!("bytes={first}-{last}"), format!("bytes={first}"), last] {
            if let Selection::Part { first, last } = range::select(Some(&text), size) {
                prop_assert!(first <= last && last < size);
            }
            if let Some((first, last)) = range::chunk(&text) {
                prop_assert!(first <= last);
            }
        }
    }

    #[test]
    fn manifests_and_scopes_of_any_kind(bytes in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
        let _ = Document::parse(&bytes);
        let wrapped = format!("{{\"mediaType\":{text:?},\"layers\":[{{\"digest\":{text:?}}}],\"config\":{text}}}");
        if let Ok(document) = Document::parse(wrapped.as_bytes()) {
            let _ = document.needs();
        }
        prop_assert!(Scope::parse(&text).len() <= 16);
    }
}
