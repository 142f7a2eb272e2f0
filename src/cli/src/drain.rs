use crate::{Failure, client::Server, print, print_done};
use api::v1::{CordonRequest, Instance, Snapshot};
use indicatif::ProgressBar;
use model::Span;
use std::time::Duration;

/// Of the spinner.
const TICK: Duration = Duration::from_millis(120);
/// Between two tries to reach a server that is away.
const AGAIN: Duration = Duration::from_millis(500);

/// Asks for the drain and, with a limit, waits until nothing is left there.
pub(crate) async fn drain(server: &Server, module: &str, limit: Option<Span>) -> Result<(), Failure> {
    let request =
        CordonRequest { module: module.to_owned(), cordoned: true, draining: true, before_update: None };
    print_done(&server.cordon(request).await?)?;
    let Some(limit) = limit else { return Ok(()) };
    let mut seen = Seen::default();
    match tokio::time::timeout(limit.duration(), emptied(server, module, &mut seen)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(seen.lost.unwrap_or_else(|| too_late(module, limit, seen.last.as_ref()))),
    }
    print(&format!("nothing is left on {module}\n"))
}

/// What the wait saw last, for the words when it takes too long.
#[derive(Default)]
struct Seen {
    last: Option<Snapshot>,
    /// The server is away at this moment.
    lost: Option<Failure>,
}

/// Outlives a restart of the server, which goes on with the drain when it is back.
async fn emptied(server: &Server, module: &str, seen: &mut Seen) -> Result<(), Failure> {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(TICK);
    loop {
        match watched(server, module, seen, &spinner).await {
            Err(failure @ Failure::Unreachable { .. }) => seen.lost = Some(failure),
            outcome => {
                spinner.finish_and_clear();
                return outcome;
            }
        }
        spinner.set_message("the server is away");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn watched(
    server: &Server,
    module: &str,
    seen: &mut Seen,
    spinner: &ProgressBar,
) -> Result<(), Failure> {
    let mut stream = server.watch().await?;
    while let Some(snapshot) = server.next(&mut stream).await? {
        seen.lost = None;
        let count = left(&snapshot, module).count();
        if count == 0 {
            return Ok(());
        }
        spinner.set_message(format!("{count} left on {module}"));
        seen.last = Some(snapshot);
    }
    Err(server.watch_ended())
}

fn left<'a>(snapshot: &'a Snapshot, module: &str) -> impl Iterator<Item = &'a Instance> {
    snapshot.instances.iter().filter(move |instance| instance.module == module)
}

fn too_late(module: &str, limit: Span, last: Option<&Snapshot>) -> Failure {
    let names: Vec<&str> = last.iter().flat_map(|s| left(s, module)).map(|i| i.replica.as_str()).collect();
    Failure::Refused(match names.first() {
        Some(first) => format!(
            "{module} still has {} after {limit}: {}; `spacectl explain {first}` says why, and the drain goes on",
            names.len(),
            names.join(", ")
        ),
        None => format!("the server did not say within {limit} what is left on {module}; the drain goes on"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, snapshot};

    #[test]
    fn what_is_left_is_named() {
        let mut all = snapshot();
        all.instances = vec![
            instance("cam-1-1", "module-2"),
            instance("cam-2-2", "module-1"),
            instance("tm-1-1", "module-2"),
        ];
        let line = too_late("module-2", Span(60_000), Some(&all)).to_string();
        assert!(
            line.starts_with("module-2 still has 2 after 1min: cam/1, tm/1; `spacectl explain cam/1`"),
            "{line}"
        );
        assert_eq!(left(&all, "module-3").count(), 0);
    }
}
