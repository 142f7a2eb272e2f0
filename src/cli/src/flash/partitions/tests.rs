use super::*;
use gpt::{GptConfig, disk::LogicalBlockSize, mbr::ProtectiveMBR, partition_types};
use std::io::Cursor;

const MIB: usize = 1 << 20;

/// An image with two partitions, made by the library.
fn image(sector: LogicalBlockSize, size: usize) -> Vec<u8> {
    image_with(sector, size, &["esp", "root"])
}

/// The one that is called `data` has the number of a module's.
fn image_with(sector: LogicalBlockSize, size: usize, names: &[&str]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; size]);
    let unit = usize::try_from(u64::from(sector)).unwrap();
    ProtectiveMBR::with_lb_size(u32::try_from(size / unit - 1).unwrap()).overwrite_lba0(&mut disk).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(sector);
    let mut table = config.create_from_device(disk, None).unwrap();
    for name in names {
        let kind = if *name == "esp" { partition_types::EFI } else { partition_types::LINUX_FS };
        table.add_partition(name, 1 << 20, kind, 0, None).unwrap();
    }
    let mut partitions = table.take_partitions();
    for data in partitions.values_mut().filter(|partition| partition.name == "data") {
        data.part_guid = "5ace0001-0000-4000-8000-0000000000da".parse().unwrap();
    }
    table.update_partitions(partitions).unwrap();
    table.write().unwrap().into_inner()
}

fn put_on(image: &[u8], size: usize) -> Vec<u8> {
    let mut disk = image.to_vec();
    disk.resize(size, 0);
    let fit = fitting(&disk[..HEAD], u64::try_from(size).unwrap()).unwrap();
    disk[..fit.front.len()].copy_from_slice(&fit.front);
    let table = usize::try_from(fit.table_at).unwrap();
    disk[table..table + fit.table.len()].copy_from_slice(&fit.table);
    let begin = usize::try_from(fit.copy_at).unwrap();
    disk[begin..begin + fit.copy.len()].copy_from_slice(&fit.copy);
    disk
}

#[test]
fn the_copy_is_at_the_end_and_each_half_names_the_other() {
    for (sector, unit) in [(LogicalBlockSize::Lb512, 512), (LogicalBlockSize::Lb4096, 4096)] {
        let small = image(sector, 4 * MIB);
        // A disk that is not a whole number of mebibytes either.
        let disk = put_on(&small, 9 * MIB + 3 * unit);
        let last = u64::try_from(disk.len() / unit - 1).unwrap();
        let read = |disk: Vec<u8>, both: bool| {
            GptConfig::new()
                .logical_block_size(sector)
                .only_valid_headers(both)
                .open_from_device(Cursor::new(disk))
                .unwrap()
        };
        let (before, after) = (read(small, true), read(disk.clone(), true));
        assert_eq!(before.partitions(), after.partitions());
        assert_eq!(before.guid(), after.guid());
        let (first, second) = (after.primary_header().unwrap(), after.backup_header().unwrap());
        assert_eq!((first.current_lba, first.backup_lba), (1, last));
        assert_eq!((second.current_lba, second.backup_lba), (last, 1));
        assert_eq!(second.last_usable, second.part_start - 1);
        assert_eq!(first.last_usable, second.last_usable);
        assert_eq!(disk[PROTECTED + 12..PROTECTED + 16], u32::try_from(last).unwrap().to_le_bytes());
        // The copy alone is enough.
        let mut without = disk;
        without[unit..6 * unit].fill(0);
        assert_eq!(read(without, false).partitions(), after.partitions());
    }
}

#[test]
fn what_fits_or_is_no_sound_table_is_left_alone() {
    let disk = image(LogicalBlockSize::Lb512, 4 * MIB);
    let larger = 8 * (1 << 20);
    let head = &disk[..HEAD];
    assert!(fitting(head, larger).is_some());
    assert_eq!(fitting(head, 4 << 20), None, "it fits already");
    assert_eq!(fitting(head, 2 << 20), None, "the disk is smaller");
    assert_eq!(fitting(&head[..4096], larger), None, "the table is cut short");
    assert_eq!(fitting(&[], 0), None);
    assert_eq!(fitting(&vec![0; HEAD], larger), None);
    for (byte, what) in [(512, "signature"), (560, "header"), (1024 + 200, "table")] {
        let mut broken = head.to_vec();
        broken[byte] ^= 1;
        assert_eq!(fitting(&broken, larger), None, "a broken {what}");
    }
    let put_on_again = put_on(&disk, 8 * MIB);
    assert_eq!(fitting(&put_on_again[..HEAD], larger), None, "fitted twice");
}

#[test]
fn an_mbr_with_partitions_of_its_own_stays_as_it_is() {
    let mut disk = image(LogicalBlockSize::Lb512, 4 * MIB);
    disk[462 + 4] = 0x0c;
    let fit = fitting(&disk[..HEAD], 8 << 20).unwrap();
    assert_eq!(fit.front[..512], disk[..512]);
}

#[test]
fn the_data_partition_takes_what_is_free_behind_it() {
    for sector in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
        let unit = u64::from(sector);
        let open = |disk: Vec<u8>| {
            let config = GptConfig::new().logical_block_size(sector).only_valid_headers(true);
            config.open_from_device(Cursor::new(disk)).unwrap()
        };
        let ends = |disk: Vec<u8>| -> Vec<u64> {
            open(disk).partitions().values().map(|partition| (partition.last_lba + 1) * unit).collect()
        };
        let small = image_with(sector, 5 * MIB, &["esp", "data"]);
        let before = ends(small.clone());
        let disk = put_on(&small, 9 * MIB + 512 * 8);
        // The last whole mebibyte that ends before the copy.
        assert_eq!(ends(disk.clone()), [before[0], 8 << 20]);
        let last = usize::try_from(unit).unwrap();
        // The copy alone is enough.
        let mut without = disk.clone();
        without[last..6 * last].fill(0);
        let config = GptConfig::new().logical_block_size(sector).only_valid_headers(false);
        let read = config.open_from_device(Cursor::new(without)).unwrap();
        assert_eq!(read.partitions(), open(disk).partitions());
        // Another one is in the way.
        let small = image_with(sector, 6 * MIB, &["data", "more"]);
        assert_eq!(ends(put_on(&small, 9 * MIB)), ends(small));
    }
}
