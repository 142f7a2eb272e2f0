//! The files that instances' output goes to: bounded in size and in number.

use crate::RuntimeError;
use model::InstanceId;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A log that has grown beyond this is turned, in bytes; with the turned one an instance takes twice as much.
const TURN_AT: u64 = 8 << 20;
/// How many logs of instances that are gone are kept.
const PAST: usize = 64;

/// A directory with a log for each instance, `ID.log`, and the older part of a long one, `ID.log.1`.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    directory: PathBuf,
}

impl Logs {
    pub(crate) fn open(directory: &Path) -> Result<Self, RuntimeError> {
        fs::create_dir_all(directory).map_err(RuntimeError::io("create", directory))?;
        Ok(Self { directory: directory.to_owned() })
    }

    pub(crate) fn path(&self, id: &InstanceId) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    /// Turns what is too long, and removes the oldest logs of instances that are not `alive`.
    pub(crate) fn tidy(&self, alive: &BTreeSet<InstanceId>) -> io::Result<()> {
        let alive: BTreeSet<PathBuf> = alive.iter().map(|id| self.path(id)).collect();
        // The clock may have been set back: what is dated later than now was written before that.
        let now = SystemTime::now();
        let mut past: Vec<(bool, SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            if path.extension() != Some(OsStr::new("log")) {
                continue;
            }
            if metadata.len() > TURN_AT {
                turn(&path)?;
            }
            if !alive.contains(&path) {
                let written = metadata.modified()?;
                past.push((written <= now, written, path));
            }
        }
        past.sort();
        let excess = past.len().saturating_sub(PAST);
        for (_, _, path) in past.into_iter().take(excess) {
            fs::remove_file(&path)?;
            match fs::remove_file(turned(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn turned(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// The engine holds the file open and appends, so its text is moved, not its name. What is written between the copy
/// and the cut is lost: some microseconds of one instance's output, against a disk that fills up.
fn turn(log: &Path) -> io::Result<()> {
    let mut from = File::open(log)?;
    let mut to = File::create(turned(log))?;
    io::copy(&mut from, &mut to)?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn id(number: usize) -> InstanceId {
        format!("app-{number}-1").parse().unwrap()
    }

    #[test]
    fn a_long_log_is_turned_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path()).unwrap();
        let path = logs.path(&id(1));
        let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writer.write_all(&vec![b'a'; usize::try_from(TURN_AT).unwrap()]).unwrap();
        logs.tidy(&[id(1)].into()).unwrap();
        assert!(!turned(&path).exists(), "not yet too long");
        writer.write_all(b"b").unwrap();
        logs.tidy(&[id(1)].into()).unwrap();
        writer.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(fs::metadata(turned(&path)).unwrap().len(), TURN_AT + 1);
    }

    #[test]
    fn the_oldest_logs_go_but_never_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path()).unwrap();
        for number in 0..PAST + 3 {
            let file = File::create(logs.path(&id(number))).unwrap();
            let age = std::time::Duration::from_secs(1_000_000 + number as u64);
            file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
            fs::write(turned(&logs.path(&id(number))), "older").unwrap();
        }
        logs.tidy(&[id(0)].into()).unwrap();
        let left = |number| (logs.path(&id(number)).exists(), turned(&logs.path(&id(number))).exists());
        assert_eq!(left(0), (true, true), "it runs");
        assert_eq!([left(1), left(2)], [(false, false); 2]);
        assert_eq!(left(3), (true, true));
    }

    #[test]
    fn logs_of_before_the_clock_was_set_back_are_the_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path()).unwrap();
        for number in 0..PAST + 2 {
            let file = File::create(logs.path(&id(number))).unwrap();
            let hour = std::time::Duration::from_secs(3600);
            // The first two were written when the clock was ahead by an hour.
            let when = if number < 2 { SystemTime::now() + hour } else { SystemTime::now() - hour };
            file.set_modified(when).unwrap();
        }
        logs.tidy(&BTreeSet::new()).unwrap();
        let left: Vec<bool> = (0..PAST + 2).map(|number| logs.path(&id(number)).exists()).collect();
        assert_eq!(left.iter().position(|there| *there), Some(2));
        assert!(left.iter().skip(2).all(|there| *there));
    }
}
