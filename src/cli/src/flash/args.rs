use crate::args::Output;
use clap::Args;
use std::path::PathBuf;

/// What to write, where to, and how.
#[derive(Debug, Args)]
pub(crate) struct Flash {
    /// The disk image: .wic, .wic.zst, or the .wic.bmap beside one of them
    #[arg(value_name = "IMAGE", required_unless_present = "list")]
    pub(crate) image: Option<PathBuf>,
    /// A whole disk, a plain file, or nbd://HOST[:PORT]/EXPORT; `--list` shows the disks
    #[arg(value_name = "DEVICE|FILE|nbd://…")]
    pub(crate) target: Option<String>,
    /// Show the disks of this machine, and which of them could be flashed
    #[arg(long, conflicts_with_all = ["image", "target", "force", "slot"])]
    pub(crate) list: bool,
    /// Also onto a disk that is mounted, that this system runs from, that is too small, or whose sectors do not fit
    #[arg(long)]
    pub(crate) force: bool,
    /// The slot of the module that will boot it: written into its EFI system partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=31))]
    pub(crate) slot: Option<u16>,
    /// The block map, instead of the one beside the image
    #[arg(long, value_name = "FILE", conflicts_with = "no_bmap")]
    pub(crate) bmap: Option<PathBuf>,
    /// Write every block, as if there were no block map
    #[arg(long)]
    pub(crate) no_bmap: bool,
    /// Do not read it back
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// How to print the outcome or the list
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
