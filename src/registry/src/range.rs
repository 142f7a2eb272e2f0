//! Byte ranges: what a reader asks for (`Range`) and where a chunk belongs (`Content-Range`).

/// What to send of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    Whole,
    /// From the first to the last byte, both included.
    Part {
        first: u64,
        last: u64,
    },
    Unsatisfiable,
}

/// Decides what a `Range` header selects of `size` bytes. What is not understood, several ranges among it,
/// selects the whole (RFC 9110, section 14.2: a server may ignore the header).
pub(crate) fn select(header: Option<&str>, size: u64) -> Selection {
    let Some((from, to)) =
        header.and_then(|text| text.strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
    else {
        return Selection::Whole;
    };
    let end = size.saturating_sub(1);
    match (number(from), number(to)) {
        (None, Some(count)) if from.is_empty() => match (count, size) {
            (0, _) | (_, 0) => Selection::Unsatisfiable,
            _ => Selection::Part { first: size.saturating_sub(count), last: end },
        },
        (Some(first), to_end) if to_end.is_some() || to.is_empty() => match to_end {
            Some(last) if last < first => Selection::Unsatisfiable,
            _ if first >= size => Selection::Unsatisfiable,
            last => Selection::Part { first, last: last.map_or(end, |last| last.min(end)) },
        },
        _ => Selection::Whole,
    }
}

/// Parses a chunk's `Content-Range`: `first-last`, both included; `bytes ` before and `/…` behind are tolerated.
pub(crate) fn chunk(text: &str) -> Option<(u64, u64)> {
    let text = text.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u64> {
    // parse() alone would take a plus sign.
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers() {
        let part = |first, last| Selection::Part { first, last };
        for (header, size, selected) in [
            (None, 10, Selection::Whole),
            (Some("bytes=0-3"), 10, part(0, 3)),
            (Some("bytes=4-"), 10, part(4, 9)),
            (Some("bytes=4-400"), 10, part(4, 9)),
            (Some("bytes=-3"), 10, part(7, 9)),
            (Some("bytes=-30"), 10, part(0, 9)),
            (Some("bytes=10-"), 10, Selection::Unsatisfiable),
            (Some("bytes=-0"), 10, Selection::Unsatisfiable),
            (Some("bytes=0-0"), 0, Selection::Unsatisfiable),
            (Some("bytes=-1"), 0, Selection::Unsatisfiable),
            (Some("bytes=5-2"), 10, Selection::Unsatisfiable),
            (Some("bytes=0-1,4-5"), 10, Selection::Whole),
            (Some("bytes=+1-2"), 10, Selection::Whole),
            (Some("lines=1-2"), 10, Selection::Whole),
            (Some("bytes=-"), 10, Selection::Whole),
            (Some("bytes=99999999999999999999-"), 10, Selection::Whole),
        ] {
            assert_eq!(select(header, size), selected, "{header:?} of {size}");
        }
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk("0-9"), Some((0, 9)));
        assert_eq!(chunk("bytes 10-19/*"), Some((10, 19)));
        assert_eq!(chunk("bytes=10-19"), Some((10, 19)));
        for bad in ["", "-", "5", "9-0", "a-b", "-5", "5-", "+1-2"] {
            assert_eq!(chunk(bad), None, "{bad:?}");
        }
    }
}
