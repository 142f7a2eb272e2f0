//! The target's side of a live move: makes everything ready, then fetches the process and lets it go on here.
//!
//! ```text
//!  image, file system, network ──► rounds ──► frozen ──► last round, files, all ──► restored
//!             │                       │          │               │
//!             └───────────────────────┴──────────┴───────────────┴──► refused: nothing is left here, then it is said
//! ```

use super::{giving, instances::Instances, joining};
use crate::chain;
use api::v1::{TakeRequest, move_part::Part, moves_client::MovesClient};
use model::{Bytes, Desired, InstanceId, Name};
use runtime::{LiveMoves, Unpack};
use std::path::Path;
use tokio::time::Instant;

/// Where a process comes from.
pub(super) struct Source<'a> {
    pub(super) from: &'a InstanceId,
    pub(super) module: &'a Name,
    pub(super) address: &'a str,
}

/// How it went.
#[derive(Debug, Clone, Default)]
struct Course {
    frozen: Option<Instant>,
    rounds: u32,
    bytes: u64,
    all: Option<String>,
}

/// Takes a process over; answers the instance's address and the course in words, or why the process does not run here.
/// What is left of it the caller removes before it says so.
pub(super) async fn take(
    instances: &Instances,
    desired: &Desired,
    source: &Source<'_>,
) -> Result<(String, String), String> {
    let live = instances.runtime.live().ok_or("this module has no criu, runc, tar or nft")?;
    if source.address.is_empty() {
        return Err(format!("{} gives no processes away", source.module));
    }
    let place = giving::folder(&instances.config).join(format!("to-{}", desired.id));
    let began = Instant::now();
    let _ = std::fs::remove_dir_all(&place);
    let outcome = fetch_and_restore(instances, live, desired, source, &place).await;
    let _ = std::fs::remove_dir_all(&place);
    let (address, course) = outcome?;
    let frozen = course.frozen.map_or(0.0, |at| at.elapsed().as_secs_f64());
    let words = format!(
        "live: frozen for {frozen:.2} s of {:.2} s, {} rounds ahead, {}",
        began.elapsed().as_secs_f64(),
        course.rounds,
        Bytes(course.bytes)
    );
    Ok((address, words))
}

async fn fetch_and_restore(
    instances: &Instances,
    live: &dyn LiveMoves,
    desired: &Desired,
    source: &Source<'_>,
    place: &Path,
) -> Result<(String, Course), String> {
    let failed = |error: runtime::RuntimeError| chain(&error);
    instances.runtime.pull(&desired.spec.image).await.map_err(failed)?;
    let address = live.prepare(desired).await.map_err(failed)?;
    let files = live.files(&desired.id).await.map_err(failed)?;
    let course = fetch(instances, desired, source, place, &files).await?;
    let all = course.all.as_deref().ok_or_else(|| format!("{} did not send all of it", source.module))?;
    if !instances.lease_holds() {
        return Err(chain(&runtime::RuntimeError::Fenced));
    }
    live.restore(desired, &place.join(all)).await.map_err(failed)?;
    Ok((address, course))
}

async fn fetch(
    instances: &Instances,
    desired: &Desired,
    source: &Source<'_>,
    place: &Path,
    files: &Path,
) -> Result<Course, String> {
    let failed = |error: runtime::RuntimeError| chain(&error);
    let channel = joining::peer(&instances.config, source.module, source.address)
        .await
        .map_err(|error| format!("{} cannot be asked: {error:#}", source.module).replace('\n', " "))?;
    let request = TakeRequest { instance: source.from.to_string(), successor: desired.id.to_string() };
    let said = |status: tonic::Status| format!("{}: {}", source.module, status.message());
    let mut parts = MovesClient::new(channel).take(request).await.map_err(said)?.into_inner();
    let mut course = Course::default();
    let mut into: Option<Unpack> = None;
    while let Some(message) = parts.message().await.map_err(said)? {
        let Some(part) = message.part else { continue };
        if let Part::Data(bytes) = &part {
            course.bytes += u64::try_from(bytes.len()).unwrap_or(0);
            if let Some(unpack) = into.as_mut() {
                unpack.write(bytes).await.map_err(failed)?;
            }
            continue;
        }
        if let Some(unpack) = into.take() {
            unpack.finish().await.map_err(failed)?;
        }
        match part {
            Part::Round(name) => {
                if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(format!("{} sends a round called {name:?}", source.module));
                }
                course.rounds += u32::from(course.frozen.is_none());
                into = Some(Unpack::open(&place.join(name)).map_err(failed)?);
            }
            Part::Frozen(_) => course.frozen = Some(Instant::now()),
            Part::Files(_) => into = Some(Unpack::open(files).map_err(failed)?),
            Part::All(name) if name.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                course.all = Some(name);
                return Ok(course);
            }
            Part::All(_) | Part::Data(_) => {}
        }
    }
    Ok(course)
}
