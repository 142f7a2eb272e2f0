use crate::Accelerators;
use model::{Bytes, Capacity, Milli};
use std::{fs, path::Path};

/// What this module has for instances: all cores, the memory but `reserved`, the free disk under `state`, and what is
/// in the slots of the map.
pub fn measure(state: &Path, reserved: Bytes, accelerators: &Accelerators) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text)).unwrap_or(0);
    let disk = nix::sys::statvfs::statvfs(state)
        .map_or(0, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
    Capacity {
        cpu: Milli(cores * 1000),
        memory: Bytes(memory.saturating_sub(reserved.0)),
        disk: Bytes(disk),
        accelerators: accelerators.discover(),
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:    2048 kB\n"), Some(2048 * 1024));
        let capacity = measure(Path::new("/"), Bytes(0), &Accelerators::new(vec![], Path::new("/sys")));
        assert!(capacity.cpu.0 >= 1000 && capacity.memory.0 > 1 << 20);
    }
}
