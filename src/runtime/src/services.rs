//! Service addresses: nftables rules that send each new connection to one of a service's endpoints.
//!
//! One table of our own, `ip spacecloud`. A change is one transaction: all rules go, all new ones come, and no
//! packet sees half of it. Connections that exist already are the kernel's conntrack's: they stay where they are.
//! `rules` says what is in the table.

mod balance;
mod rules;

use crate::{
    RuntimeError,
    conntrack::{Conntrack, Flow, Place},
    roaming, routes,
};
pub use balance::Balance;
use model::{Endpoint, InstanceId, Protocol, ServicePort, ServiceTable, Subnet};
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
        let table = table.clone();
        blocking(move || {
            let lost = Lost::of(&table)?;
            let mut conntrack = Conntrack::open()?;
            // Those that no rule has met bear no mark.
            let marked = lost.missed.is_empty().then_some((MARK, MARK_MASK));
            for flow in conntrack.list(marked)? {
                if lost.has(&flow) {
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

    /// How many connections each endpoint of these ports has, all being of this module.
    ///
    /// # Errors
    /// The kernel does not say.
    pub async fn connections(
        &self,
        ports: &[ServicePort],
    ) -> Result<BTreeMap<InstanceId, u32>, RuntimeError> {
        let owners: BTreeMap<Place, InstanceId> =
            places(ports).map(|(place, e)| (place, e.instance.clone())).collect();
        let mut counts: BTreeMap<InstanceId, u32> = owners.values().map(|id| (id.clone(), 0)).collect();
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

/// What the kernel must forget, or it would go on where it leads nowhere.
struct Lost {
    /// Who is there: what leads to others is lost.
    known: BTreeSet<Place>,
    /// Where somebody answers to UDP, at services' addresses and at the module's own. A client that asked there before
    /// anybody did, and asks on from the same port, would never meet the rules.
    missed: BTreeSet<SocketAddrV4>,
}

impl Lost {
    fn of(table: &ServiceTable) -> Result<Self, RuntimeError> {
        let known = places(table.ports()).map(|(place, _)| place).collect();
        let mut missed = BTreeSet::new();
        let answers = |p: &&ServicePort| p.protocol == Protocol::Udp && !p.endpoints.is_empty();
        for service in &table.services {
            for port in service.ports.iter().filter(answers) {
                missed.insert(SocketAddrV4::new(service.address, port.port));
                if let Some(published) = port.published {
                    missed.extend(own_addresses()?.map(|own| SocketAddrV4::new(own, published)));
                }
            }
        }
        Ok(Self { known, missed })
    }

    fn has(&self, flow: &Flow) -> bool {
        if flow.mark & MARK_MASK == MARK {
            return !self.known.contains(&flow.endpoint);
        }
        let (protocol, asked) = flow.asked;
        // What others translate is theirs.
        protocol == Protocol::Udp && flow.asked == flow.endpoint && self.missed.contains(&asked)
    }
}

fn own_addresses() -> Result<impl Iterator<Item = Ipv4Addr>, RuntimeError> {
    let all =
        nix::ifaddrs::getifaddrs().map_err(|e| RuntimeError::conntrack("find addresses for")(e.into()))?;
    Ok(all.filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip())))
}

/// All endpoints of these ports, and where they are.
fn places<'a>(
    ports: impl IntoIterator<Item = &'a ServicePort>,
) -> impl Iterator<Item = (Place, &'a Endpoint)> {
    ports.into_iter().flat_map(|p| p.endpoints.iter().map(|e| (place(p, e), e)))
}

fn place(port: &ServicePort, endpoint: &Endpoint) -> Place {
    (port.protocol, SocketAddrV4::new(endpoint.address, endpoint.port))
}

/// All connections that this module has translated.
fn translated() -> Result<Vec<Flow>, RuntimeError> {
    Conntrack::open()?.list(Some((MARK, MARK_MASK)))
}

/// Those of them whose number says where new ones go.
fn counted<'a>(table: &ServiceTable, flows: &'a [Flow]) -> Vec<&'a Flow> {
    let ports = table.services.iter().filter(|s| s.is_counted()).flat_map(|s| &s.ports);
    let counted: BTreeSet<Place> = places(ports).map(|(place, _)| place).collect();
    flows.iter().filter(|flow| counted.contains(&flow.endpoint)).collect()
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
