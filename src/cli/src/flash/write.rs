//! Writing and reading back: block by block, with the checksums that both must have.
use super::{
    bmap::Bmap,
    error::{FlashError, Result},
    source::{Content, Source},
    target::Target,
};
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::io;

/// Bytes on their way at once.
const BUFFER: usize = 1 << 20;
/// What may be in memory only: after so much the device is asked, so that the rate is the device's own and a
/// device that vanished is noticed soon.
const SYNC_EVERY: u64 = 32 << 20;
/// Without a map, so much is verified at a time.
const PIECE: u64 = 64 << 20;

/// Bytes of the target, and the checksum that they must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) sha256: [u8; 32],
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) extents: Vec<Extent>,
    /// Bytes that went to the device; holes are not among them.
    pub(super) bytes: u64,
}

/// A target that is being written, and how far it is.
struct Pen<'a> {
    target: &'a mut Target,
    progress: &'a Progress,
    total: u64,
    written: u64,
    /// On the medium for certain.
    synced: u64,
}

impl Pen<'_> {
    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = self.target.write_at(bytes, offset);
        self.moved(written, bytes.len())
    }

    fn zero(&mut self, zeros: &[u8], offset: u64) -> Result<()> {
        let written = self.target.zero_at(zeros, offset);
        self.moved(written, zeros.len())
    }

    fn moved(&mut self, outcome: io::Result<()>, length: usize) -> Result<()> {
        let length = u64::try_from(length).unwrap_or_default();
        outcome.map_err(|error| self.failed(error))?;
        self.written = self.written.saturating_add(length);
        self.progress.advance(length);
        if self.written.saturating_sub(self.synced) >= SYNC_EVERY { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.target.sync().map_err(|error| self.failed(error))?;
        self.synced = self.written;
        Ok(())
    }

    fn failed(&self, error: io::Error) -> FlashError {
        let name = self.target.name();
        if error.kind() == io::ErrorKind::StorageFull {
            let need = Some(self.total).filter(|total| *total > self.target.size());
            return FlashError::TooSmall { target: name.into(), have: self.target.size(), need };
        }
        vanished(name, "it was written", self.synced, self.total, error)
    }
}

fn vanished(target: &str, doing: &'static str, done: u64, total: u64, source: io::Error) -> FlashError {
    // What a socket with a time limit says is no help to a person.
    let source = match source.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer any more"),
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
        }
        _ => source,
    };
    FlashError::Vanished { target: target.into(), doing, done, total, source }
}

/// How many bytes a run will write; zero if only the end will tell.
pub(super) fn expected(source: &Source) -> u64 {
    match &source.bmap {
        Some(bmap) => bmap.ranges.iter().map(|range| bmap.bytes(range).1).sum(),
        None => source.least.unwrap_or_default(),
    }
}

/// Writes the image; when this returns, it is on the medium.
pub(super) fn write(source: &Source, target: &mut Target, progress: &Progress) -> Result<Written> {
    let content = source.open()?;
    let total = expected(source);
    let mut pen = Pen { target, progress, total, written: 0, synced: 0 };
    let extents = match &source.bmap {
        Some(bmap) => mapped(source, content, bmap, &mut pen)?,
        None => whole(content, &mut pen)?,
    };
    pen.sync()?;
    Ok(Written { extents, bytes: pen.written })
}

/// Only the blocks that the map names, each range held against its checksum.
fn mapped(source: &Source, mut content: Content, bmap: &Bmap, pen: &mut Pen<'_>) -> Result<Vec<Extent>> {
    let mut buffer = vec![0; BUFFER];
    let mut extents = Vec::with_capacity(bmap.ranges.len());
    for range in &bmap.ranges {
        let (offset, length) = bmap.bytes(range);
        content.skip_to(offset)?;
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < length {
            let count = usize::try_from(length - at).unwrap_or(BUFFER).min(BUFFER);
            let Some(part) = buffer.get_mut(..count) else { break };
            content.read_exact(part)?;
            hasher.update(&*part);
            pen.write(part, offset.saturating_add(at))?;
            at = at.saturating_add(u64::try_from(count).unwrap_or_default());
        }
        if hasher.finalize().as_slice() != range.sha256 {
            let image = source.image.clone();
            return Err(FlashError::Damaged { image, first: range.first, last: range.last });
        }
        extents.push(Extent { offset, length, sha256: range.sha256 });
    }
    Ok(extents)
}

/// Every block; zeros in the way that is cheapest for the target.
fn whole(mut content: Content, pen: &mut Pen<'_>) -> Result<Vec<Extent>> {
    let mut buffer = vec![0; BUFFER];
    let mut extents = Vec::new();
    let (mut offset, mut begin, mut hasher) = (0u64, 0u64, Sha256::new());
    loop {
        let count = content.read(&mut buffer)?;
        let part = buffer.get(..count).unwrap_or_default();
        let end = offset.saturating_add(u64::try_from(count).unwrap_or_default());
        if end > pen.target.size() {
            return Err(pen.failed(io::ErrorKind::StorageFull.into()));
        }
        hasher.update(part);
        if part.iter().all(|byte| *byte == 0) {
            pen.zero(part, offset)?
        } else {
            pen.write(part, offset)?
        }
        offset = end;
        let is_last = count < BUFFER;
        if offset.saturating_sub(begin) >= PIECE || is_last {
            let sha256 = std::mem::take(&mut hasher).finalize().into();
            extents.push(Extent { offset: begin, length: offset.saturating_sub(begin), sha256 });
            begin = offset;
        }
        if is_last {
            pen.target.end_at(offset).map_err(|error| pen.failed(error))?;
            return Ok(extents);
        }
    }
}

/// Reads back what was written, from the medium.
pub(super) fn verify(written: &Written, target: &mut Target, progress: &Progress) -> Result<()> {
    target.forget();
    let total = written.extents.iter().map(|extent| extent.length).sum();
    let mut buffer = vec![0; BUFFER];
    let mut done = 0u64;
    for extent in &written.extents {
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < extent.length {
            let count = usize::try_from(extent.length - at).unwrap_or(BUFFER).min(BUFFER);
            let Some(part) = buffer.get_mut(..count) else { break };
            let read = target.read_at(part, extent.offset.saturating_add(at));
            read.map_err(|error| vanished(target.name(), "it was read back", done, total, error))?;
            hasher.update(&*part);
            let count = u64::try_from(count).unwrap_or_default();
            progress.advance(count);
            (at, done) = (at.saturating_add(count), done.saturating_add(count));
        }
        if hasher.finalize().as_slice() != extent.sha256 {
            let last = extent.offset.saturating_add(extent.length).saturating_sub(1);
            return Err(FlashError::Differs { target: target.name().into(), first: extent.offset, last });
        }
    }
    Ok(())
}
