//! Service addresses: nftables rules that send each new connection to one of a service's endpoints.
//!
//! One table of our own, `ip spacecloud`. A change is one transaction: all rules go, all new ones come, and no
//! packet sees half of it. Connections that exist already are the kernel's conntrack's: they stay where they are.
//! `rules` says what is in the table.

mod balance;
mod rules;

use crate::{
    RuntimeError,
    conntrack::{Conntrack, Flow},
    roaming, routes,
};
pub use balance::Balance;
use model::{Endpoint, InstanceId, ServiceTable, Subnet};
use rules::{MARK, MARK_MASK, counted_rules, ruleset};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

const LIMIT: Duration = Duration::from_secs(20);

/// This module's part in all services.
#[derive(Debug, Clone)]
pub struct Services {
    pods: Subnet,
    address: Option<Ipv4Addr>,
}

impl Services {
    /// `pods` is the subnet of the module's instances, `address` its own on the backplane.
    pub fn new(pods: Subnet, address: Option<Ipv4Addr>) -> Self {
        Self { pods, address }
    }

    /// Makes the kernel send connections where `table` says, and forgets those that lead to endpoints which are
    /// no longer in it. Setting the same again changes nothing.
    ///
    /// # Errors
    /// The kernel or `nft` refuses; the rules are as they were before then.
    pub async fn set(&self, table: &ServiceTable) -> Result<(), RuntimeError> {
        routes::set_service_route(table.range, self.address).await?;
        roaming::set(&table.roaming, self.address).await?;
        let mut balance = Balance::default();
        if table.is_counted() {
            balance.look(&counted(table, &blocking(translated).await?));
        }
        nft(&ruleset(table, &balance.loads, self.pods, self.address)).await?;
        let known: BTreeSet<SocketAddrV4> = table.endpoints().map(address).collect();
        blocking(move || {
            let mut conntrack = Conntrack::open()?;
            for flow in conntrack.list(Some((MARK, MARK_MASK)))? {
                if !known.contains(&flow.endpoint) {
                    conntrack.forget(&flow)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Looks at the connections of services by least connections, and gives their endpoints turns to match. The
    /// rules are written only if that changes anything since `last`.
    ///
    /// # Errors
    /// The kernel does not say, or `nft` refuses; the rules are as they were before then.
    pub async fn balance(&self, table: &ServiceTable, last: &mut Balance) -> Result<(), RuntimeError> {
        last.look(&counted(table, &blocking(translated).await?));
        let rules = counted_rules(table, &last.loads);
        if last.written.as_ref() != Some(&rules) {
            nft(&rules).await?;
            last.written = Some(rules);
        }
        Ok(())
    }

    /// How many connections each of these endpoints of this module has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub async fn connections(
        &self,
        endpoints: &[Endpoint],
    ) -> Result<BTreeMap<InstanceId, u32>, RuntimeError> {
        let mut counts: BTreeMap<InstanceId, u32> =
            endpoints.iter().map(|e| (e.instance.clone(), 0)).collect();
        let owners: BTreeMap<SocketAddrV4, InstanceId> =
            endpoints.iter().map(|e| (address(e), e.instance.clone())).collect();
        // Those that another module translated bear no mark here.
        for flow in blocking(|| Conntrack::open()?.list(None)).await? {
            let owner = owners.get(&flow.endpoint).filter(|_| flow.alive);
            if let Some(count) = owner.and_then(|id| counts.get_mut(id)) {
                *count += 1;
            }
        }
        Ok(counts)
    }
}

fn address(endpoint: &Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(endpoint.address, endpoint.port)
}

/// All connections that this module has translated.
fn translated() -> Result<Vec<Flow>, RuntimeError> {
    Conntrack::open()?.list(Some((MARK, MARK_MASK)))
}

/// Those of them whose number says where new ones go.
fn counted<'a>(table: &ServiceTable, flows: &'a [Flow]) -> Vec<&'a Flow> {
    let counted = table.services.iter().filter(|s| s.is_counted()).flat_map(|s| &s.ports);
    let endpoints: BTreeSet<SocketAddrV4> = counted.flat_map(|p| &p.endpoints).map(address).collect();
    flows.iter().filter(|flow| endpoints.contains(&flow.endpoint)).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(RuntimeError::conntrack("use")(std::io::Error::other(error))),
    }
}

/// One transaction.
async fn nft(commands: &Value) -> Result<(), RuntimeError> {
    let failed = |reason: String| RuntimeError::Rules { reason };
    let mut child = Command::new("nft")
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("nft cannot be run: {e}; the package nftables has it")))?;
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(commands.to_string().as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(LIMIT, exchange).await {
        Err(_) => Err(failed(format!("nft did not end in {}s", LIMIT.as_secs()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))),
    }
}
