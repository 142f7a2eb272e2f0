//! The twin image as a chassis wants it: from the programs that were built last, out of the cache if it is there.

use crate::SimError;
use crate::image::{self, Image, Programs, Step};
use std::path::{Path, PathBuf};

/// Names the folder with spacecloudd, space-registry and spacectl.
pub const PROGRAMS_VARIABLE: &str = "SPACECLOUD_PROGRAMS";

/// The folder with our three programs: `$SPACECLOUD_PROGRAMS`, else the `release` folder beside the
/// build folder that this program itself was built into.
pub fn programs_folder() -> Result<PathBuf, SimError> {
    if let Some(folder) = std::env::var_os(PROGRAMS_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(folder.into());
    }
    let ours = std::env::current_exe().map_err(SimError::io("find", "this program's own file"))?;
    beside(&ours).ok_or(SimError::NoPrograms { variable: PROGRAMS_VARIABLE })
}

/// Brings the twin image up to date and reports each step.
pub fn ensure(progress: &mut dyn FnMut(Step)) -> Result<Image, SimError> {
    let programs = Programs::built_in(&programs_folder()?);
    let cache = image::default_cache().map_err(unbuilt)?;
    image::ensure(&cache, &programs, progress).map_err(unbuilt)
}

fn unbuilt(error: image::ImageError) -> SimError {
    SimError::Image(Box::new(error))
}

fn beside(program: &Path) -> Option<PathBuf> {
    program
        .ancestors()
        .map(|folder| folder.join("release"))
        .find(|folder| folder.join("spacecloudd").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_from_a_test_and_from_the_tool() {
        let target = tempfile::tempdir().unwrap();
        let release = target.path().join("release");
        std::fs::create_dir(&release).unwrap();
        let (tool, test) = (target.path().join("debug/spacesim"), target.path().join("debug/deps/boot-1"));
        assert_eq!(beside(&tool), None);
        std::fs::write(release.join("spacecloudd"), "").unwrap();
        assert_eq!(beside(&tool).as_deref(), Some(release.as_path()));
        assert_eq!(beside(&test).as_deref(), Some(release.as_path()));
    }
}
