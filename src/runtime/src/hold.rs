//! What keeps the network from a frozen process: a table of rules inside its own network namespace.
//!
//! Nothing that arrives is answered, not even by a reset, and nothing that its kernel says of it gets out: whoever speaks
//! with it sends again until it goes on, here or elsewhere. What its end would say to its clients is not said either.
//!
//! ```text
//!  open ──► no new connections: those that have come are accepted ──► nothing in, nothing out
//! ```

use crate::{RuntimeError, namespace::in_namespace};
use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const TABLE: &str = "ip spacecloud-hold";
/// For connections that have come to be accepted: a client believes itself connected before the process has heard of it.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
/// States of a socket in /proc/net/tcp.
const SYN_RECV: &str = "03";
const LISTEN: &str = "0A";

/// Lets what has come be accepted, then lets nothing in or out.
pub(crate) async fn close(namespace: &Path) -> Result<(), RuntimeError> {
    let all = "type filter hook input priority -400; policy accept; iif lo accept;
        tcp flags & (syn | ack) == syn drop;";
    set(namespace, &format!("chain in {{ {all} }}")).await?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE && has_waiting(namespace).await? {
        tokio::time::sleep(LOOK).await;
    }
    shut(namespace).await
}

/// Lets nothing in or out.
pub(crate) async fn shut(namespace: &Path) -> Result<(), RuntimeError> {
    set(
        namespace,
        "chain in { type filter hook input priority -400; policy drop; }
         chain out { type filter hook output priority -400; policy drop; }",
    )
    .await
}

/// Lets everything through; it may have been so.
pub(crate) async fn open(namespace: &Path) -> Result<(), RuntimeError> {
    rules(namespace, format!("add table {TABLE}\ndelete table {TABLE}\n")).await
}

async fn set(namespace: &Path, chains: &str) -> Result<(), RuntimeError> {
    rules(namespace, format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{chains}\n}}\n"))
        .await
}

/// One transaction.
async fn rules(namespace: &Path, text: String) -> Result<(), RuntimeError> {
    let work = move || {
        let mut nft = Command::new("nft");
        // A child lives where the thread does that begets it.
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = nft.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("nft: {said}"))) }
    };
    inside(namespace, work).await
}

/// Whether somebody is about to be connected whom the process has not accepted yet.
async fn has_waiting(namespace: &Path) -> Result<bool, RuntimeError> {
    let work = || {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        // A kernel without IPv6 has no such file.
        Ok(waiting(&read("tcp")?) || waiting(&read("tcp6").unwrap_or_default()))
    };
    inside(namespace, work).await
}

async fn inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let path = namespace.to_owned();
    let outcome = tokio::task::spawn_blocking(move || in_namespace(&path, work)).await;
    let lost = |_| Err(io::Error::other("the thread that does it ended"));
    outcome.unwrap_or_else(lost).map_err(RuntimeError::io("hold the network of", namespace))
}

/// The same of a table as /proc/net/tcp has it: number, local, remote, state, queues (of a listener: those that wait).
fn waiting(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(3);
        match (words.next(), words.next()) {
            (Some(SYN_RECV), _) => true,
            (Some(LISTEN), Some(queues)) => {
                queues.rsplit(':').next().is_some_and(|q| q.contains(|c| c != '0'))
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_are_seen() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
        let listener =
            |waiting: &str| format!("   0: 00000000:1F90 00000000:0000 0A 00000000:{waiting} 00:0 0\n");
        let other =
            |state: &str| format!("   1: 0700002D:1F90 0900002D:A000 {state} 00000005:00000007 00:0 0\n");
        assert!(!waiting(head));
        assert!(!waiting(&format!("{head}{}{}", listener("00000000"), other("01"))));
        assert!(waiting(&format!("{head}{}", listener("00000001"))));
        assert!(waiting(&format!("{head}{}{}", listener("00000000"), other("03"))));
    }
}
