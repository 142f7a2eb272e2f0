//! A partition table that fits its disk: the copy of a GPT belongs into the last sectors (UEFI specification, 5.3.2),
//! and an image that is smaller than the disk brings it along in the middle. The data partition of a module's image
//! takes what that leaves free; its file system grows when it is mounted.
//!
//! ```text
//!   flashed:  MBR │ GPT │ … partitions … │ copy │            nothing           │
//!   fitted:   MBR │ GPT │ … partitions … │          free                │ copy │
//!   a module: MBR │ GPT │ … │ data                                      │ copy │
//! ```
use super::{
    error::{FlashError, Result},
    source::Source,
    target::Target,
};
use crc::{CRC_32_ISO_HDLC, Crc};

/// Enough for the MBR, the header and the table, whatever the disk's sectors.
const HEAD: usize = 64 << 10;
const SECTORS: [usize; 2] = [512, 4096];
const SIGNATURE: &[u8] = b"EFI PART";
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Where the fields of a header are.
mod at {
    pub(super) const SIZE: usize = 12;
    pub(super) const CRC: usize = 16;
    pub(super) const CURRENT: usize = 24;
    pub(super) const ALTERNATE: usize = 32;
    pub(super) const LAST_USABLE: usize = 48;
    pub(super) const ENTRIES: usize = 72;
    pub(super) const ENTRY_COUNT: usize = 80;
    pub(super) const ENTRY_SIZE: usize = 84;
    pub(super) const ENTRIES_CRC: usize = 88;
    pub(super) const END: usize = 92;
}
/// Where the fields of a partition's entry are.
mod entry {
    pub(super) const ID: std::ops::Range<usize> = 16..32;
    pub(super) const FIRST: usize = 32;
    pub(super) const LAST: usize = 40;
}
/// The data partition's number: 5ace0001-0000-4000-8000-0000000000da, as it is on every module's disk.
const DATA: [u8; 16] = [0x01, 0, 0xce, 0x5a, 0, 0, 0, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 0xda];
/// Partitions begin and end at whole mebibytes.
const ALIGNMENT: u64 = 1 << 20;
/// The only entry of an MBR that protects a GPT: its type, first sector and count of sectors.
const PROTECTED: usize = 446;
const PROTECTIVE: u8 = 0xee;
const OTHERS: std::ops::Range<usize> = 462..510;

/// What has to be written.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    /// The table's copy with its header, and its first byte on the disk.
    copy: Vec<u8>,
    copy_at: u64,
    /// The table in front, where it is not as it was, and its first byte.
    table: Vec<u8>,
    table_at: u64,
    /// MBR and header, which say where the copy is; from the disk's first byte.
    front: Vec<u8>,
}

/// The bytes of the sectors by which an image's partition table counts, if it has a GPT.
pub(super) fn sectors_of(source: &Source) -> Result<Option<u64>> {
    let mut head = vec![0; HEAD];
    let length = source.open()?.read(&mut head)?;
    head.truncate(length);
    let begins = |sector: &usize| head.get(*sector..).is_some_and(|header| header.starts_with(SIGNATURE));
    Ok(SECTORS.into_iter().find(begins).and_then(|sector| u64::try_from(sector).ok()))
}

/// Puts the copy of the partition table at the target's end, and reads it back; false if there was nothing to do.
pub(super) fn fit(target: &mut Target) -> Result<bool> {
    let name = target.name().to_owned();
    let failed = |source| FlashError::Table { target: name.clone(), source };
    let size = target.size();
    let mut head = vec![0; HEAD.min(usize::try_from(size).unwrap_or(HEAD))];
    target.read_at(&mut head, 0).map_err(failed)?;
    let Some(fit) = fitting(&head, size) else { return Ok(false) };
    // The copy first: whatever fails on the way, one of the two is whole.
    let parts = [(&fit.copy, fit.copy_at), (&fit.table, fit.table_at), (&fit.front, 0)];
    for (bytes, at) in parts {
        target.write_at(bytes, at).and_then(|()| target.sync()).map_err(failed)?;
    }
    target.forget();
    for (bytes, first) in parts {
        let mut found = vec![0; bytes.len()];
        target.read_at(&mut found, first).map_err(failed)?;
        if found != *bytes {
            let last = first.saturating_add(u64::try_from(bytes.len()).unwrap_or_default()).saturating_sub(1);
            return Err(FlashError::Differs { target: name, first, last });
        }
    }
    Ok(true)
}

/// What to write to a disk of `size` bytes that begins with `head`; none if it has no sound GPT, or one that fits.
fn fitting(head: &[u8], size: u64) -> Option<Fit> {
    SECTORS.into_iter().find_map(|sector| with_sectors(head, size, sector))
}

fn with_sectors(head: &[u8], size: u64, sector: usize) -> Option<Fit> {
    let unit = u64::try_from(sector).ok()?;
    let header = head.get(sector..sector.checked_mul(2)?)?;
    let last = (size / unit).checked_sub(1)?;
    let moves = long(header, at::CURRENT)? == 1 && long(header, at::ALTERNATE)? < last;
    if !header.starts_with(SIGNATURE) || sum(header)? != short(header, at::CRC)? || !moves {
        return None;
    }
    let mut table = entries(head, header, unit)?.to_vec();
    let whole = table.len().next_multiple_of(sector);
    let array = last.checked_sub(u64::try_from(whole).ok()? / unit)?;
    if array <= long(header, at::LAST_USABLE)? {
        return None;
    }

    let mut first = header.to_vec();
    put(&mut first, at::ALTERNATE, last)?;
    put(&mut first, at::LAST_USABLE, array.checked_sub(1)?)?;
    let grown =
        grow(&mut table, usize::try_from(short(header, at::ENTRY_SIZE)?).ok()?, array, unit).is_some();
    first.get_mut(at::ENTRIES_CRC..at::END)?.copy_from_slice(&CRC.checksum(&table).to_le_bytes());
    seal(&mut first)?;
    let mut copy = table.clone();
    copy.resize(whole, 0);
    if !grown {
        table.clear();
    }
    let table_at = long(header, at::ENTRIES)?.checked_mul(unit)?;
    let mut second = first.clone();
    put(&mut second, at::CURRENT, last)?;
    put(&mut second, at::ALTERNATE, 1)?;
    put(&mut second, at::ENTRIES, array)?;
    seal(&mut second)?;
    copy.extend_from_slice(&second);

    let mut front = head.get(..sector)?.to_vec();
    protect(&mut front, last);
    front.extend_from_slice(&first);
    Some(Fit { copy, copy_at: array.checked_mul(unit)?, table, table_at, front })
}

/// Lets the data partition go up to the sector `end`, if nothing lies in between.
fn grow(table: &mut [u8], entry_size: usize, end: u64, unit: u64) -> Option<()> {
    let used: Vec<usize> = (0..table.len() / entry_size.max(1))
        .map(|number| number * entry_size)
        .filter(|at| table.get(*at..*at + entry::ID.start).is_some_and(|kind| kind.iter().any(|b| *b != 0)))
        .collect();
    let id = |at: &usize| table.get(*at + entry::ID.start..*at + entry::ID.end) == Some(DATA.as_slice());
    let data = used.iter().copied().find(id)?;
    let last = long(table, data + entry::LAST)?;
    if used.iter().any(|at| long(table, at + entry::FIRST).is_none_or(|first| first > last)) {
        return None;
    }
    let step = ALIGNMENT / unit;
    let new = (end / step * step).checked_sub(1).filter(|new| *new > last)?;
    put(table, data + entry::LAST, new)
}

/// The table itself, if it is where the header says and has the sum that it says.
fn entries<'a>(head: &'a [u8], header: &[u8], unit: u64) -> Option<&'a [u8]> {
    let begin = usize::try_from(long(header, at::ENTRIES)?.checked_mul(unit)?).ok()?;
    let bytes = short(header, at::ENTRY_COUNT)?.checked_mul(short(header, at::ENTRY_SIZE)?)?;
    let table = head.get(begin..begin.checked_add(usize::try_from(bytes).ok()?)?)?;
    (CRC.checksum(table) == short(header, at::ENTRIES_CRC)?).then_some(table)
}

/// The protective MBR covers the whole disk. One that has partitions of its own is left as it is.
fn protect(mbr: &mut [u8], last: u64) {
    let alone = mbr.get(OTHERS).is_some_and(|others| others.iter().all(|byte| *byte == 0));
    let Some(entry) = mbr.get_mut(PROTECTED..OTHERS.start) else { return };
    if !alone || entry.get(4) != Some(&PROTECTIVE) || short(entry, 8) != Some(1) {
        return;
    }
    let sectors = u32::try_from(last).unwrap_or(u32::MAX);
    if let Some(count) = entry.get_mut(12..16) {
        count.copy_from_slice(&sectors.to_le_bytes());
    }
}

/// The sum of a header, taken with the field of the sum being zero.
fn sum(header: &[u8]) -> Option<u32> {
    let size = usize::try_from(short(header, at::SIZE)?).ok()?;
    let covered = header.get(..size).filter(|covered| covered.len() >= at::END)?;
    let mut digest = CRC.digest();
    digest.update(covered.get(..at::CRC)?);
    digest.update(&[0; 4]);
    digest.update(covered.get(at::CRC.checked_add(4)?..)?);
    Some(digest.finalize())
}

fn seal(header: &mut [u8]) -> Option<()> {
    let sum = sum(header)?;
    header.get_mut(at::CRC..at::CRC.checked_add(4)?)?.copy_from_slice(&sum.to_le_bytes());
    Some(())
}

fn put(header: &mut [u8], field: usize, value: u64) -> Option<()> {
    header.get_mut(field..field.checked_add(8)?)?.copy_from_slice(&value.to_le_bytes());
    Some(())
}

fn long(bytes: &[u8], field: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(field..field.checked_add(8)?)?.try_into().ok()?))
}

fn short(bytes: &[u8], field: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(field..field.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
