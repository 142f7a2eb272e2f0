//! Block maps: which blocks of an image hold something (bmaptool's format 2.0, XML).
use super::error::{FlashError, Result};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// A map is some hundred lines; more than this is something else.
const LARGEST: u64 = 64 << 20;
const LARGEST_BLOCK: u64 = 1 << 30;

/// What must be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bmap {
    /// Bytes of the whole image, holes among them.
    pub(super) image_size: u64,
    pub(super) block_size: u64,
    /// In their order, none overlapping.
    pub(super) ranges: Vec<Range>,
}

/// Blocks from the first to the last, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) sha256: [u8; 32],
}

impl Bmap {
    pub(super) fn load(file: &Path) -> Result<Self> {
        let size = fs::metadata(file).map_err(FlashError::file("look at", file))?.len();
        let told = |reason: String| FlashError::Bmap { file: file.into(), reason };
        if size > LARGEST {
            return Err(told(format!("has {size} bytes, which is no block map")));
        }
        let text = fs::read_to_string(file).map_err(FlashError::file("read", file))?;
        Self::parse(&text).map_err(told)
    }

    /// Parses a map and verifies its own checksum.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let document = roxmltree::Document::parse(text).map_err(|e| format!("is no XML: {e}"))?;
        let root = document.root_element();
        let version = root.attribute("version").unwrap_or_default();
        if !root.has_tag_name("bmap") || !version.starts_with("2.") {
            return Err(format!("is no block map of format 2 (it says {version:?})"));
        }
        let field = |name: &str| {
            let found = root.children().find(|child| child.has_tag_name(name));
            found.and_then(|child| child.text()).map(str::trim).ok_or_else(|| format!("lacks {name}"))
        };
        let number = |name: &str| {
            let text = field(name)?;
            text.parse::<u64>().map_err(|_| format!("{name}: {text:?} is no number"))
        };
        let kind = field("ChecksumType")?;
        if kind != "sha256" {
            return Err(format!("ChecksumType: {kind:?} is not sha256"));
        }
        verify_itself(text, field("BmapFileChecksum")?)?;
        let (image_size, block_size) = (number("ImageSize")?, number("BlockSize")?);
        if block_size == 0 || block_size > LARGEST_BLOCK {
            return Err(format!("BlockSize: {block_size} is no size of a block"));
        }
        let blocks = image_size.div_ceil(block_size);
        if number("BlocksCount")? != blocks {
            return Err(format!("BlocksCount: {image_size} bytes are {blocks} blocks of {block_size}"));
        }
        let map = root.children().find(|child| child.has_tag_name("BlockMap")).ok_or("lacks BlockMap")?;
        let mut ranges: Vec<Range> = Vec::new();
        for node in map.children().filter(|child| child.has_tag_name("Range")) {
            let range = parse_range(node.text().unwrap_or_default().trim(), node.attribute("chksum"))?;
            let in_order = ranges.last().is_none_or(|before| before.last < range.first);
            if range.last >= blocks || !in_order {
                return Err(format!("Range {}-{} is out of order or of the image", range.first, range.last));
            }
            ranges.push(range);
        }
        let mapped: u64 = ranges.iter().map(|range| range.last - range.first + 1).sum();
        if number("MappedBlocksCount")? != mapped {
            return Err(format!("MappedBlocksCount: its ranges have {mapped} blocks"));
        }
        Ok(Self { image_size, block_size, ranges })
    }

    /// A range's first byte and its length; the last block may be cut by the image's end.
    pub(super) fn bytes(&self, range: &Range) -> (u64, u64) {
        let begin = range.first.saturating_mul(self.block_size);
        let end = range.last.saturating_add(1).saturating_mul(self.block_size).min(self.image_size);
        (begin, end.saturating_sub(begin))
    }
}

/// The checksum is that of the file with zeros in the checksum's place.
fn verify_itself(text: &str, checksum: &str) -> std::result::Result<(), String> {
    let zeros = "0".repeat(checksum.len());
    let found = hex::encode(Sha256::digest(text.replacen(checksum, &zeros, 1)));
    if found == checksum.to_ascii_lowercase() {
        Ok(())
    } else {
        Err("is damaged: its own checksum is wrong".into())
    }
}

fn parse_range(text: &str, checksum: Option<&str>) -> std::result::Result<Range, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("Range {text:?} is no number"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("Range {first}-{last} ends before it begins"));
    }
    let checksum = checksum.ok_or_else(|| format!("Range {first}-{last} has no chksum"))?;
    let mut sha256 = [0; 32];
    hex::decode_to_slice(checksum, &mut sha256)
        .map_err(|_| format!("Range {first}-{last}: chksum is no sha256"))?;
    Ok(Range { first, last, sha256 })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A map as bmaptool writes it, for the blocks of `image` that are not all zeros.
    pub(in super::super) fn map_of(image: &[u8], block: usize) -> String {
        let chunks: Vec<&[u8]> = image.chunks(block).collect();
        let full: Vec<bool> = chunks.iter().map(|chunk| chunk.iter().any(|b| *b != 0)).collect();
        let (mut ranges, mut mapped, mut at) = (String::new(), 0, 0);
        while at < full.len() {
            if !full[at] {
                at += 1;
                continue;
            }
            let end = (at..full.len()).find(|n| !full[*n]).unwrap_or(full.len());
            let bytes = &image[at * block..(end * block).min(image.len())];
            let sum = hex::encode(Sha256::digest(bytes));
            let span = if end - at == 1 { format!("{at}") } else { format!("{at}-{}", end - 1) };
            ranges.push_str(&format!("        <Range chksum=\"{sum}\"> {span} </Range>\n"));
            mapped += end - at;
            at = end;
        }
        let text = format!(
            "<?xml version=\"1.0\" ?>\n<!-- made by a test -->\n<bmap version=\"2.0\">\n    <ImageSize> {} </ImageSize>\n    <BlockSize> {block} </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    <MappedBlocksCount> {mapped}  </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> {} </BmapFileChecksum>\n    <BlockMap>\n{ranges}    </BlockMap>\n</bmap>\n",
            image.len(),
            chunks.len(),
            "0".repeat(64)
        );
        let sum = hex::encode(Sha256::digest(&text));
        text.replacen(&"0".repeat(64), &sum, 1)
    }

    fn image() -> Vec<u8> {
        let mut image = vec![0; 10_000];
        image[0] = 1;
        image[5000] = 2;
        image[9_999] = 3;
        image
    }

    #[test]
    fn a_map_names_what_is_not_empty() {
        let bmap = Bmap::parse(&map_of(&image(), 4096)).unwrap();
        assert_eq!((bmap.image_size, bmap.block_size, bmap.ranges.len()), (10_000, 4096, 1));
        assert_eq!(bmap.bytes(&bmap.ranges[0]), (0, 10_000));
        let bmap = Bmap::parse(&map_of(&image(), 1000)).unwrap();
        let spans: Vec<_> = bmap.ranges.iter().map(|r| bmap.bytes(r)).collect();
        assert_eq!(spans, [(0, 1000), (5000, 1000), (9000, 1000)]);
    }

    #[test]
    fn a_damaged_or_foreign_map_is_refused() {
        let good = map_of(&image(), 1000);
        // The checksum is made anew, so that the rule behind it is what refuses.
        let signed = |text: String| {
            let begin = text.find("<BmapFileChecksum> ").unwrap() + 19;
            let zeroed = format!("{}{}{}", &text[..begin], "0".repeat(64), &text[begin + 64..]);
            let sum = hex::encode(Sha256::digest(&zeroed));
            zeroed.replacen(&"0".repeat(64), &sum, 1)
        };
        for (text, told) in [
            (good.replace("10000", "10001"), "checksum is wrong"),
            (good.replace("version=\"2.0\"", "version=\"1.3\""), "format 2"),
            (good.replace("</bmap>", ""), "no XML"),
            (good.replace("> sha256 <", "> md5 <"), "not sha256"),
            (signed(good.replace("<BlockSize> 1000", "<BlockSize> 0")), "no size of a block"),
            (signed(good.replace("> 5 <", "> 0 <")), "out of order"),
            (signed(good.replace("> 9 <", "> 10 <")), "out of order or of the image"),
            (signed(good.replace("> 5 <", "> 5-4 <")), "ends before"),
            (signed(good.replace("<MappedBlocksCount> 3", "<MappedBlocksCount> 4")), "MappedBlocksCount"),
            (signed(good.replace("<BlocksCount> 10", "<BlocksCount> 11")), "BlocksCount"),
            ("hello".into(), "no XML"),
        ] {
            let error = Bmap::parse(&text).unwrap_err();
            assert!(error.contains(told) && !error.contains('\n'), "{told}: {error}");
        }
    }
}
