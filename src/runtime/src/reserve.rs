//! Addresses of this module's subnet that are on another module now: the plugin that gives addresses keeps a file for
//! each that it has given, and takes none whose file is there.
//!
//! | the file names | it is of |
//! | --- | --- |
//! | an instance and its interface | that instance; the plugin removes it with the instance |
//! | [`AWAY`] | an instance elsewhere, or one whose process is being given away; it goes when nobody says so any more |

use crate::RuntimeError;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const AWAY: &str = "away\neth0";

/// What to do with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Keep(Ipv4Addr),
    /// Its instance is here again, or still.
    HandTo(Ipv4Addr, String),
    Free(Ipv4Addr),
}

/// The addresses of a folder that are away, as this module believes.
pub(crate) fn away(folder: &Path) -> BTreeSet<Ipv4Addr> {
    let files = fs::read_dir(folder).map(|all| all.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let address = |file: &fs::DirEntry| file.file_name().to_str()?.parse::<Ipv4Addr>().ok();
    let is_away = |file: &fs::DirEntry| fs::read_to_string(file.path()).is_ok_and(|text| text == AWAY);
    files.iter().filter(|file| is_away(file)).filter_map(address).collect()
}

/// Keeps exactly these addresses from being given to anybody; `here` are those of instances that are on this module.
pub(crate) fn keep(
    folder: &Path,
    wanted: &BTreeSet<Ipv4Addr>,
    here: &BTreeMap<Ipv4Addr, String>,
) -> Result<(), RuntimeError> {
    steps(&away(folder), wanted, here).into_iter().try_for_each(|step| take(folder, &step))
}

/// Keeps one address, whoever has it: its process may go on elsewhere from now on.
pub(crate) fn mark(folder: &Path, address: Ipv4Addr) -> Result<(), RuntimeError> {
    take(folder, &Step::Keep(address))
}

/// It did not go.
pub(crate) fn unmark(folder: &Path, address: Ipv4Addr, instance: &str) -> Result<(), RuntimeError> {
    if away(folder).contains(&address) {
        take(folder, &Step::HandTo(address, instance.to_owned()))?;
    }
    Ok(())
}

fn steps(
    known: &BTreeSet<Ipv4Addr>,
    wanted: &BTreeSet<Ipv4Addr>,
    here: &BTreeMap<Ipv4Addr, String>,
) -> Vec<Step> {
    let missing = wanted.difference(known).map(|address| Step::Keep(*address));
    let over = known.difference(wanted).map(|address| match here.get(address) {
        Some(instance) => Step::HandTo(*address, instance.clone()),
        None => Step::Free(*address),
    });
    missing.chain(over).collect()
}

fn take(folder: &Path, step: &Step) -> Result<(), RuntimeError> {
    match step {
        Step::Keep(address) => write(folder, *address, AWAY),
        Step::HandTo(address, instance) => write(folder, *address, &format!("{instance}\neth0")),
        Step::Free(address) => {
            let path = folder.join(address.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(RuntimeError::io("remove", &path)(error))
                }
                _ => Ok(()),
            }
        }
    }
}

/// In one step: the plugin finds the old text or the new one. It makes these files without a lock on their names, too.
fn write(folder: &Path, address: Ipv4Addr, text: &str) -> Result<(), RuntimeError> {
    fs::create_dir_all(folder).map_err(RuntimeError::io("create", folder))?;
    let path = folder.join(address.to_string());
    let new: PathBuf = folder.join(format!("{address}.new"));
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(RuntimeError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<Ipv4Addr> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_away_is_kept_and_what_came_back_is_its_instances() {
        let here: BTreeMap<_, _> = [("10.45.1.3".parse().unwrap(), "web-1-4".to_owned())].into();
        let known = set(&["10.45.1.2", "10.45.1.3", "10.45.1.4"]);
        let wanted = set(&["10.45.1.2", "10.45.1.9"]);
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(
            steps(&known, &wanted, &here),
            [
                Step::Keep(address("10.45.1.9")),
                Step::HandTo(address("10.45.1.3"), "web-1-4".to_owned()),
                Step::Free(address("10.45.1.4")),
            ]
        );
        assert_eq!(steps(&wanted, &wanted, &here), []);
    }

    #[test]
    fn the_files_say_what_the_server_says() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spacecloud");
        let read = |address: &str| fs::read_to_string(folder.join(address)).ok();
        keep(&folder, &set(&[]), &BTreeMap::new()).unwrap();
        keep(&folder, &set(&["10.45.1.9"]), &BTreeMap::new()).unwrap();
        fs::write(folder.join("10.45.1.2"), "web-1-1\neth0").unwrap();
        fs::write(folder.join("last_reserved_ip.0"), "10.45.1.9").unwrap();
        assert_eq!(away(&folder), set(&["10.45.1.9"]));
        mark(&folder, "10.45.1.2".parse().unwrap()).unwrap();
        assert_eq!(away(&folder), set(&["10.45.1.2", "10.45.1.9"]));
        unmark(&folder, "10.45.1.2".parse().unwrap(), "web-1-1").unwrap();
        // Once more finds nothing to do.
        unmark(&folder, "10.45.1.2".parse().unwrap(), "another").unwrap();
        assert_eq!(read("10.45.1.2").as_deref(), Some("web-1-1\neth0"));
        keep(&folder, &set(&[]), &BTreeMap::new()).unwrap();
        assert_eq!((read("10.45.1.9"), read("10.45.1.2").is_some()), (None, true));
    }
}
