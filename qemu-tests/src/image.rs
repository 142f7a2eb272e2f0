//! The twin image: a module's root file system assembled from Debian's packages.
//!
//! It comes in two read-only layers. The *base* (kernel, initramfs, erofs) holds what Debian gives and
//! takes a minute to make; it is kept in the cache under the digest of all that it is made of. The
//! *programs* layer holds our programs, their configuration and their units; it is packed again, in
//! a second, whenever one of them differs. The initramfs stacks both under a writable layer.
//!
//! ```text
//! packages, hooks ──mmdebstrap──▶ base/KEY/{vmlinux, initrd, base.erofs, …}     ─┐
//!                                                                               ├─▶ Image
//! programs, files ──mkfs.erofs──▶ programs/KEY.erofs                            ─┘
//! ```

mod base;
mod cache;
pub mod demo;
pub mod kernel;
pub mod kernel_config;
mod layers;
mod programs;
pub mod slots;
mod vmlinux;

use std::path::{Path, PathBuf};

pub use cache::default_cache;
pub use layers::Layers;
pub use programs::Programs;
pub use vmlinux::Compression;

/// A bootable twin: kernel, initramfs, read-only base and the layer of our programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The uncompressed kernel, booted through its PVH entry.
    pub kernel: PathBuf,
    /// The initramfs that stacks the layers.
    pub initrd: PathBuf,
    /// erofs, for the virtio-blk disk with serial `base`.
    pub base: PathBuf,
    /// erofs, for the virtio-blk disk with serial `programs`.
    pub programs: PathBuf,
    /// As `uname -r` says it on the module.
    pub kernel_release: String,
    /// The configuration that the kernel was built with.
    pub kernel_config: PathBuf,
    /// What a module that boots from slots has on its ESP beside the initramfs.
    pub firmware: Option<Firmware>,
}

/// What the firmware of a module with slots loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// systemd-boot.
    pub manager: PathBuf,
    /// The kernel with its EFI stub and decompressor.
    pub kernel: PathBuf,
}

impl Image {
    /// The kernel's command line on the module in a slot.
    #[must_use]
    pub fn kernel_arguments(slot: u8) -> String {
        format!(
            "console=ttyS0 quiet panic=-1 spacecloud.slot={slot} mitigations=off audit=0 lsm=capability \
             random.trust_cpu=on no_timer_check tsc=reliable net.ifnames=0 systemd.show_status=true \
             systemd.firstboot=off systemd.gpt_auto=no"
        )
    }
}

/// One step of the assembly, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is being done, in a few words.
    pub name: String,
    /// How many steps are done, from 0.
    pub done: u64,
    /// How many steps there are.
    pub total: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried, as a participle.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A host tool is not installed.
    #[error("starting {tool}: is it installed? `make` installs what qemu-tests/host-packages lists")]
    Tool {
        /// The program's name.
        tool: &'static str,
        /// Why it did not start.
        source: std::io::Error,
    },
    /// This user may not make a root file system.
    #[error(
        "making the image needs root, or a user name space with subordinate ids for this user ({said}); \
         run it with sudo, or add this user to /etc/subuid and /etc/subgid"
    )]
    NotAllowed {
        /// What the try printed.
        said: String,
    },
    /// A host tool ended with an error.
    #[error("{tool} ended with {status}: {said}")]
    Failed {
        /// The program's name.
        tool: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines that it wrote.
        said: String,
    },
    /// The kernel file is not what x86 kernels look like.
    #[error("{} is no x86 kernel image: {why}", path.display())]
    Kernel {
        /// The kernel's file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A program that goes into the image is missing.
    #[error("the program {} is not there: build it first (cargo build --release)", path.display())]
    Program {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A kernel configuration lacks what was asked for, because something that it depends on is off.
    #[error("the kernel configuration lacks what a fragment asks for: {lacking}")]
    Options {
        /// Fragment and option, with what is wrong.
        lacking: String,
    },
    /// A fragment asks for an option that this kernel does not have.
    #[error("the kernel has no such option: {options}; is it misspelt, or of another version?")]
    NoSuchOption {
        /// Fragment and option.
        options: String,
    },
    /// An image that has no boot manager was to be put into a slot.
    #[error("this image has no boot manager and no kernel for one: only the twin can be put into slots")]
    NoFirmware,
    /// veritysetup did not say what the root hash is.
    #[error("veritysetup printed no root hash for {}", path.display())]
    NoRootHash {
        /// The slot's image.
        path: PathBuf,
    },
    /// A slot's image does not fit into a slot.
    #[error("{} does not fit into a slot of {limit} bytes", path.display())]
    TooBig {
        /// The slot's image.
        path: PathBuf,
        /// A slot's length in bytes.
        limit: u64,
    },
    /// There is no place for the cache.
    #[error("neither SPACECLOUD_CACHE, XDG_CACHE_HOME nor HOME is set: no place for the image cache")]
    NoCache,
}

impl ImageError {
    /// Makes the error of a file operation; for `map_err`.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}

/// Builds what is missing in the cache and reports progress through the callback.
///
/// Two callers at the same time are fine: the second waits and finds what the first has built.
///
/// # Errors
/// When a program or a host tool is missing, a tool fails, or the cache cannot be written.
pub fn ensure(
    cache: &Path,
    programs: &Programs,
    progress: &mut dyn FnMut(Step),
) -> Result<Image, ImageError> {
    programs.check()?;
    let _lock = cache::lock(cache)?;
    cache::sweep(cache);
    let mut steps = Steps { progress, done: 0 };
    let base = base::ensure(cache, &mut steps)?;
    let layer = programs::ensure(cache, programs, &mut steps)?;
    steps.finish();
    let release = base.join("kernel-release");
    let kernel_release =
        std::fs::read_to_string(&release).map_err(ImageError::file("reading", &release))?.trim().to_owned();
    Ok(Image {
        kernel: base.join("vmlinux"),
        initrd: base.join("initrd"),
        base: base.join("base.erofs"),
        programs: layer,
        kernel_release,
        kernel_config: base.join("kernel-config"),
        firmware: Some(Firmware { manager: base.join("boot.efi"), kernel: base.join("vmlinuz") }),
    })
}

/// Counts steps for the callback.
pub(crate) struct Steps<'a> {
    progress: &'a mut dyn FnMut(Step),
    done: u64,
}

impl Steps<'_> {
    /// mmdebstrap's own stages that are reported, the kernel, the programs.
    const TOTAL: u64 = 8;

    pub(crate) fn begin(&mut self, name: &str) {
        let done = self.done.min(Self::TOTAL - 1);
        (self.progress)(Step { name: name.to_owned(), done, total: Self::TOTAL });
        self.done += 1;
    }

    fn finish(&mut self) {
        (self.progress)(Step { name: "image ready".to_owned(), done: Self::TOTAL, total: Self::TOTAL });
    }
}
