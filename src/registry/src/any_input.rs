//! Whatever comes over the wire: parsers neither panic nor let anything through that they promise to stop. Each
//! function here takes any bytes and panics if a promise is broken. The fuzz targets call them with what a
//! fuzzer finds, the tests with what is kept from that (`fuzz/seeds`) and with made-up input.

use crate::{
    auth::{self, Scope},
    digest::Digest,
    name::{Reference, Repository, Tag, UploadId},
    range::{self, Selection},
    route,
    store::Document,
};
use std::path::{Component, Path};

fn stays_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) && !name.contains('\0')
}

/// Paths, repositories, tags, digests, uploads.
pub fn names(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let _ = route::parse(text);
    if let Ok(name) = text.parse::<Repository>() {
        assert!(stays_inside(name.as_str()) && name.as_str().len() <= 255);
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert!(stays_inside(tag.as_str()) && !tag.as_str().contains('/'));
    }
    if let Ok(id) = text.parse::<UploadId>() {
        assert!(stays_inside(id.as_str()));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
}

/// Manifests and indexes.
pub fn manifest(data: &[u8]) {
    if let Ok(document) = Document::parse(data)
        && let Ok(needs) = document.needs()
    {
        // Each takes some bytes to be written down.
        assert!(needs.all().count() <= data.len());
    }
}

/// `Range`: the first eight bytes are the blob's size, the rest is the header.
pub fn range(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<8>() else { return };
    let (size, text) = (u64::from_le_bytes(*size), String::from_utf8_lossy(header));
    if let Selection::Part { first, last } = range::select(Some(&text), size) {
        assert!(first <= last && last < size);
    }
}

/// `Content-Range`.
pub fn content_range(data: &[u8]) {
    if let Some((first, last)) = range::chunk(&String::from_utf8_lossy(data)) {
        assert!(first <= last);
    }
}

/// `Authorization`, and the scopes that a token is asked for with.
pub fn authorization(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    assert!(auth::try_header(text));
    assert!(Scope::parse(text).len() <= 16);
}

/// The password file.
pub fn htpasswd(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    match auth::parse_htpasswd(text) {
        Ok(users) => assert!(users.keys().all(|user| !user.contains([':', '\n']))),
        Err(line) => assert!((1..=text.lines().count()).contains(&line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Target = fn(&[u8]);

    /// By the names of the fuzz targets and of the folders below `fuzz/seeds`.
    const ALL: [(&str, Target); 6] = [
        ("names", names),
        ("manifest", manifest),
        ("range", range),
        ("content_range", content_range),
        ("authorization", authorization),
        ("htpasswd", htpasswd),
    ];

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

    #[test]
    fn what_the_fuzzer_is_given_and_has_found() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        for (name, target) in ALL {
            assert!(
                seeds.join("..").join(format!("fuzz_targets/{name}.rs")).is_file(),
                "{name} has a target"
            );
            let mut count = 0;
            for seed in std::fs::read_dir(seeds.join(name)).unwrap() {
                target(&std::fs::read(seed.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 3, "{name} has seeds");
        }
        assert_eq!(std::fs::read_dir(seeds).unwrap().count(), ALL.len());
    }

    proptest! {
        #[test]
        fn names_that_parse_are_safe_below_the_root(text in nearly_a_path()) {
            names(text.as_bytes());
        }

        #[test]
        fn a_selected_range_is_inside_the_blob(first in "[0-9+ -]{0,22}", last in any::<String>(), size in any::<u64>()) {
            for text in [format!("bytes={first}-{last}"), format!("bytes={first}"), last] {
                range(&[&size.to_le_bytes(), text.as_bytes()].concat());
                content_range(text.as_bytes());
            }
        }

        #[test]
        fn headers_and_files_of_any_kind(bytes in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            for (_, target) in ALL {
                target(&bytes);
            }
            manifest(
                format!("{{\"mediaType\":{text:?},\"layers\":[{{\"digest\":{text:?}}}],\"config\":{text}}}").as_bytes(),
            );
            for kind in ["Basic", "Bearer"] {
                authorization(format!("{kind} {text}").as_bytes());
            }
            htpasswd(format!("{text}:$2b$10${text}\n").as_bytes());
        }
    }
}
