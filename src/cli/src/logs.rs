use crate::{Failure, client::Server, find, print_bytes};
use api::v1::{Instance, LogsRequest, Snapshot};

pub(crate) async fn logs(server: &Server, target: &str, follow: bool, tail: u32) -> Result<(), Failure> {
    let instance = choose(&server.snapshot().await?, target)?;
    let mut stream = server.logs(LogsRequest { instance, tail, follow }).await?;
    while let Some(chunk) = server.next(&mut stream).await? {
        print_bytes(&chunk.text)?;
    }
    Ok(())
}

/// While a replica moves it has two instances: the one that serves is the one to read.
fn choose(snapshot: &Snapshot, target: &str) -> Result<String, Failure> {
    let found = find::instances(snapshot, target)?;
    let rank = |i: &Instance| match i.phase.as_str() {
        "ready" => 0,
        "running" => 1,
        "starting" | "back-off" => 2,
        _ => 3,
    };
    match found.iter().filter(|i| !i.module.is_empty()).min_by_key(|i| rank(i)) {
        Some(instance) => Ok(instance.id.clone()),
        None => Err(Failure::Refused(format!(
            "{target} is pending and has written nothing; `spacectl explain {target}` says why"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, snapshot};

    #[test]
    fn the_instance_that_serves_is_read() {
        let mut all = snapshot();
        let mut coming = instance("cam-1-2", "module-2");
        coming.phase = "starting".into();
        all.instances = vec![instance("cam-1-1", "module-1"), coming];
        assert_eq!(choose(&all, "cam/1").unwrap(), "cam-1-1");
        assert_eq!(choose(&all, "cam-1-2").unwrap(), "cam-1-2");
    }

    #[test]
    fn a_pending_instance_has_no_log() {
        let mut all = snapshot();
        let mut pending = instance("cam-1-1", "");
        pending.phase = "pending".into();
        all.instances = vec![pending];
        let refused = choose(&all, "cam/1").unwrap_err();
        assert!(refused.to_string().contains("spacectl explain cam/1"), "{refused}");
        assert_eq!(refused.exit_code(), 1);
    }
}
