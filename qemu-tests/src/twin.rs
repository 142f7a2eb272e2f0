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

/// What stands for a kernel of our own in place of a file's name.
pub const BUILT: &str = "built";

/// Puts another kernel under an image: a file (bzImage, or an ELF file with a PVH entry), or, for [`BUILT`], the slim
/// kernel from `kernel-config/`, which is built if it is not in the cache. It must have all that it needs built in.
pub fn with_kernel(
    mut image: Image,
    kernel: &Path,
    progress: &mut dyn FnMut(Step),
) -> Result<Image, SimError> {
    if kernel != Path::new(BUILT) {
        if !kernel.is_file() {
            return Err(SimError::NoKernel { path: kernel.to_owned() });
        }
        return Ok(Image { kernel: kernel.to_owned(), kernel_release: String::new(), ..image });
    }
    let kernel = build_kernel(progress)?;
    image.kernel = kernel.vmlinux;
    image.kernel_config = kernel.config;
    image.kernel_release = kernel.release;
    Ok(image)
}

/// The slim kernel; builds it if it is not in the cache.
pub fn build_kernel(progress: &mut dyn FnMut(Step)) -> Result<image::kernel::Kernel, SimError> {
    let cache = image::default_cache().map_err(unbuilt)?;
    image::kernel::build(&cache, progress).map_err(|error| SimError::Kernel(Box::new(error)))
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
