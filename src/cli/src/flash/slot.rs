//! Who a module is: the slot's number, as a file in the EFI system partition of what was flashed.
use super::{
    error::{FlashError, Result},
    target::Target,
};
use fatfs::{FileSystem, FsOptions};
use gpt::{GptConfig, disk::LogicalBlockSize, partition_types};
use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
};

/// The contract with the image: this file holds the slot's number in decimal and a line's end.
const FOLDER: &str = "spacecloud";
const FILE: &str = "slot";
/// Disks are written in these units; the file system asks for a few bytes at a time.
const UNIT: u64 = 4096;
/// An EFI system partition in an MBR (UEFI specification, 5.2.2).
const MBR_ESP: u8 = 0xef;
const MBR_ENTRIES: [usize; 4] = [446, 462, 478, 494];
const SECTOR: u64 = 512;

/// Writes the number, and reads it back from the medium.
pub(super) fn set(target: &mut Target, slot: u16) -> Result<()> {
    let name = target.name().to_owned();
    let failed = |reason: String| FlashError::Slot { target: name.clone(), reason };
    let esp = find(target).map_err(&failed)?;
    let text = format!("{slot}\n");
    write(target, esp, &text).map_err(|e| failed(told(&e)))?;
    target.sync().map_err(|e| failed(told(&e)))?;
    target.forget();
    match read(target, esp) {
        Ok(found) if found == text => Ok(()),
        Ok(found) => Err(failed(format!("it reads back as {found:?}"))),
        Err(error) => Err(failed(told(&error))),
    }
}

fn told(error: &io::Error) -> String {
    format!("its EFI system partition: {error}")
}

fn write(target: &mut Target, esp: Span, text: &str) -> io::Result<()> {
    let system = FileSystem::new(Window::new(target, esp), FsOptions::new())?;
    {
        let mut file = system.root_dir().create_dir(FOLDER)?.create_file(FILE)?;
        file.truncate()?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    system.unmount()
}

fn read(target: &mut Target, esp: Span) -> io::Result<String> {
    let system = FileSystem::new(Window::new(target, esp), FsOptions::new())?;
    let mut text = String::new();
    system.root_dir().open_dir(FOLDER)?.open_file(FILE)?.read_to_string(&mut text)?;
    Ok(text)
}

/// A part of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    begin: u64,
    length: u64,
}

/// Finds the EFI system partition, by GPT or by MBR.
fn find(target: &mut Target) -> std::result::Result<Span, String> {
    for sector in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
        let all = Span { begin: 0, length: target.size() };
        let config = GptConfig::new().writable(false).logical_block_size(sector);
        let Ok(table) = config.open_from_device(Window::new(target, all)) else { continue };
        let esp = table.partitions().values().find(|part| part.part_type_guid == partition_types::EFI);
        let span = esp.and_then(|part| {
            let begin = part.bytes_start(sector).ok()?;
            Some(Span { begin, length: part.bytes_len(sector).ok()? })
        });
        return span.ok_or_else(|| "the image has no EFI system partition".into());
    }
    let mut mbr = [0; 512];
    target.read_at(&mut mbr, 0).map_err(|error| error.to_string())?;
    find_in_mbr(&mbr).ok_or_else(|| "the image has no partition table with an EFI system partition".into())
}

fn find_in_mbr(mbr: &[u8; 512]) -> Option<Span> {
    if !mbr.ends_with(&[0x55, 0xaa]) {
        return None;
    }
    let entries = MBR_ENTRIES.iter().filter_map(|at| mbr.get(*at..at + 16));
    let esp = entries.into_iter().find(|entry| entry.get(4) == Some(&MBR_ESP))?;
    let number = |at: usize| Some(u64::from(u32::from_le_bytes(esp.get(at..at + 4)?.try_into().ok()?)));
    Some(Span { begin: number(8)?.saturating_mul(SECTOR), length: number(12)?.saturating_mul(SECTOR) })
}

/// A part of the target as a file, read and written in whole units.
struct Window<'a> {
    target: &'a mut Target,
    span: Span,
    at: u64,
    unit: Vec<u8>,
    /// Where `unit` was read from.
    held: Option<u64>,
}

impl<'a> Window<'a> {
    fn new(target: &'a mut Target, span: Span) -> Self {
        Self { target, span, at: 0, unit: Vec::new(), held: None }
    }

    /// Reads the unit around the position: its first byte on the target, and how much of it is ahead.
    fn hold(&mut self) -> io::Result<(u64, usize, usize)> {
        let position = self.span.begin.saturating_add(self.at);
        let begin = position - position % UNIT;
        let end = begin.saturating_add(UNIT).min(self.target.size());
        if self.held != Some(begin) {
            self.unit.resize(usize::try_from(end.saturating_sub(begin)).unwrap_or_default(), 0);
            self.held = None;
            self.target.read_at(&mut self.unit, begin)?;
            self.held = Some(begin);
        }
        let skip = usize::try_from(position - begin).unwrap_or_default();
        let left = usize::try_from(self.span.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        Ok((begin, skip, left.min(self.unit.len().saturating_sub(skip))))
    }
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("span", &self.span).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.span.length {
            return Ok(0);
        }
        let (_, skip, ahead) = self.hold()?;
        let count = ahead.min(buffer.len());
        let from = self.unit.get(skip..skip + count).unwrap_or_default();
        buffer.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        self.at = self.at.saturating_add(u64::try_from(from.len()).unwrap_or_default());
        Ok(from.len())
    }
}

impl Write for Window<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.at >= self.span.length {
            return Ok(0);
        }
        let (begin, skip, ahead) = self.hold()?;
        let count = ahead.min(buffer.len());
        let to = self.unit.get_mut(skip..skip + count).unwrap_or_default();
        to.iter_mut().zip(buffer).for_each(|(to, from)| *to = *from);
        self.target.write_at(&self.unit, begin)?;
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.span.length.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the begin"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mbr_names_its_esp() {
        let mut mbr = [0; 512];
        assert_eq!(find_in_mbr(&mbr), None);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(find_in_mbr(&mbr), None);
        mbr[462 + 4] = MBR_ESP;
        mbr[462 + 8..462 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 0, 1, 0]);
        assert_eq!(find_in_mbr(&mbr), Some(Span { begin: 2048 * 512, length: 65536 * 512 }));
    }
}
