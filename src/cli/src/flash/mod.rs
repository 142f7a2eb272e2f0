//! `spacectl flash`: an image onto a disk, sparsely, with proof, and with the slot's number in it.
//!
//! ```text
//!   .wic │ .wic.zst ──► source ──┐ ranges of the block map, each against its sha256
//!   .wic.bmap ────────► bmap  ───┴──► write ──► target: disk │ file │ NBD ──► verify (read back) ──► partitions ──► slot
//! ```
//!
//! Nothing here speaks to the cluster.
mod args;
mod bmap;
mod disks;
mod error;
mod nbd;
mod partitions;
mod slot;
mod source;
mod target;
mod write;

pub(crate) use args::Flash;
pub use error::FlashError;

use crate::{
    Failure,
    args::Output,
    print,
    progress::Progress,
    table::{self, Grid, Look, plain},
};
use serde::Serialize;
use source::Source;
use std::time::Instant;
use target::Target;

/// What a flash did.
#[derive(Debug, Serialize)]
struct Outcome {
    image: String,
    target: String,
    /// Of the whole image, holes among them; of a target of unknown image size what was written.
    image_bytes: u64,
    bytes_written: u64,
    seconds: f64,
    bytes_per_second: u64,
    used_bmap: bool,
    verified: bool,
    /// The disk is larger than the image, and the copy of the partition table is at its end now.
    table_fitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u16>,
}

/// Does what `flash` says.
pub(crate) fn flash(args: &Flash) -> Result<(), Failure> {
    if args.list {
        return print(&listing(&disks::list(), args.output));
    }
    let outcome = perform(args)?;
    print(&match args.output {
        Output::Json => format!("{:#}\n", serde_json::json!(outcome)),
        _ => told(&outcome),
    })
}

fn perform(args: &Flash) -> error::Result<Outcome> {
    let (Some(image), Some(name)) = (&args.image, &args.target) else {
        return Err(FlashError::Usage(nothing_named(&disks::list())));
    };
    let source = Source::find(image, args.bmap.as_deref(), args.no_bmap)?;
    let mut target = Target::open(name, source.size, source.least, args.force)?;
    if let (Some(have), Some(made_for)) = (target.sector(), partitions::sectors_of(&source)?)
        && have != made_for
        && !args.force
    {
        return Err(FlashError::Sectors { target: name.clone(), have, made_for });
    }
    let total = write::expected(&source);
    let begun = Instant::now();
    let written = write::write(&source, &mut target, &Progress::new("writing", total))?;
    let took = begun.elapsed();
    if !args.no_verify {
        write::verify(&written, &mut target, &Progress::new("verifying", written.bytes))?;
    }
    let table_fitted = partitions::fit(&mut target)?;
    if let Some(slot) = args.slot {
        slot::set(&mut target, slot)?;
    }
    target.announce();
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    Ok(Outcome {
        image: source.image.display().to_string(),
        target: name.clone(),
        image_bytes: source.size.unwrap_or(written.bytes),
        bytes_written: written.bytes,
        seconds: took.as_secs_f64(),
        bytes_per_second: written.bytes.saturating_mul(1000) / millis,
        used_bmap: source.bmap.is_some(),
        verified: !args.no_verify,
        table_fitted,
        slot: args.slot,
    })
}

fn told(outcome: &Outcome) -> String {
    let Outcome { target, verified, slot, .. } = outcome;
    let sparse = if outcome.bytes_written < outcome.image_bytes {
        format!(" of {}", table::bytes(outcome.image_bytes))
    } else {
        String::new()
    };
    let slot = slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let verified = if *verified { ", read back and right" } else { ", not read back" };
    let fitted = if outcome.table_fitted { ", partition table fitted to the disk" } else { "" };
    let (bytes, rate) = (table::bytes(outcome.bytes_written), table::bytes(outcome.bytes_per_second));
    format!(
        "{target}: {bytes}{sparse} written in {:.1} s ({rate}/s){verified}{fitted}{slot}\n",
        outcome.seconds
    )
}

fn nothing_named(disks: &[disks::Disk]) -> String {
    let targets: Vec<String> = disks
        .iter()
        .filter(|disk| disk.is_target())
        .map(|disk| format!("{} ({} {})", disk.device, table::bytes(disk.size), disk.model))
        .collect();
    match targets.as_slice() {
        [] => "name the device; no removable one that is free was found, `spacectl flash --list` shows all"
            .into(),
        found => format!("name the device; these could be meant: {}", found.join(", ")),
    }
}

fn listing(disks: &[disks::Disk], output: Output) -> String {
    if output == Output::Json {
        return format!("{:#}\n", serde_json::json!({"disks": disks}));
    }
    let mut grid =
        Grid::new(Look::of_terminal(false), &["DEVICE", "SIZE", "KIND", "REMOVABLE", "MODEL", "STATE"]);
    for disk in disks {
        let removable = if disk.removable { "yes" } else { "no" };
        let state = disk.in_use.clone().unwrap_or_else(|| "free".into());
        let cells = [
            disk.device.clone(),
            table::bytes(disk.size),
            disk.transport.into(),
            removable.into(),
            disk.model.clone(),
            state,
        ];
        grid.row(cells.into_iter().map(plain).collect());
    }
    grid.render()
}
