use crate::RuntimeError;
use futures_util::TryStreamExt;
use model::Subnet;
use rtnetlink::{LinkBridge, LinkUnspec, RouteMessageBuilder, packet_route::route::RouteType};
use std::net::{IpAddr, Ipv4Addr};

/// Routes every (subnet, module address) over the backplane; setting one again changes nothing.
///
/// # Errors
/// The first route that the kernel refuses; entries that are no IPv4 subnet are left out.
pub async fn set_routes(peers: &[(String, String)]) -> Result<(), RuntimeError> {
    let refused = |subnet: &str| {
        let subnet = subnet.to_owned();
        move |source| RuntimeError::Route { subnet, source }
    };
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    for (subnet, gateway) in peers {
        let Some((base, length)) = parse(subnet) else { continue };
        let Ok(gateway) = gateway.parse::<Ipv4Addr>() else { continue };
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(base, length).gateway(gateway).build();
        handle.route().add(route).replace().execute().await.map_err(refused(subnet))?;
    }
    // The handle's requests are answered: the connection's task has nothing left to do.
    let _ = handle.link().get().match_name("lo".to_owned()).execute().try_next().await;
    connection.abort();
    Ok(())
}

/// The loopback interface, in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// The module's own programs need some route to a service before nftables can send them to an endpoint. Theirs
/// leads nowhere; what counts is that they speak from `address`, which the other modules can answer to.
pub(crate) async fn set_service_route(range: Subnet, address: Option<Ipv4Addr>) -> Result<(), RuntimeError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.base(), range.length())
        .output_interface(LOOPBACK);
    if let Some(address) = address {
        route = route.pref_source(address);
    }
    let answer = handle.route().add(route.build()).replace().execute().await;
    connection.abort();
    answer.map_err(|source| RuntimeError::Route { subnet: range.to_string(), source })
}

/// Lets nothing more go to an address, or lets it go again; either may be so already. What a connection that is closed
/// still has to send does not leave the module either.
///
/// # Errors
/// The kernel refuses.
pub(crate) async fn block(address: Ipv4Addr, blocked: bool) -> Result<(), RuntimeError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .kind(RouteType::Unreachable)
        .build();
    let answer = if blocked {
        handle.route().add(route).replace().execute().await
    } else {
        handle.route().del(route).execute().await
    };
    connection.abort();
    match answer {
        Err(rtnetlink::Error::NetlinkError(e)) if !blocked && e.raw_code() == -nix::libc::ESRCH => Ok(()),
        other => other.map_err(|source| RuntimeError::Route { subnet: format!("{address}/32"), source }),
    }
}

/// Makes the bridge that instances hang on, with its address, so that it is there before the first of them.
///
/// # Errors
/// The kernel refuses.
pub async fn set_bridge(name: &str, pods: Subnet) -> Result<(), RuntimeError> {
    let refused = |source| RuntimeError::Bridge { name: name.to_owned(), source };
    let Some(gateway) = pods.gateway() else { return Ok(()) };
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    let there = |error: &rtnetlink::Error| matches!(error, rtnetlink::Error::NetlinkError(e) if e.to_io().kind() == std::io::ErrorKind::AlreadyExists);
    let made = async {
        match handle.link().add(LinkBridge::new(name).up().build()).execute().await {
            Err(error) if !there(&error) => return Err(error),
            _ => {}
        }
        let link = handle.link().get().match_name(name.to_owned()).execute().try_next().await?;
        let Some(link) = link else { return Ok(()) };
        let index = link.header.index;
        let set = LinkUnspec::new_with_index(index).address(hardware_address(gateway)).up();
        handle.link().set(set.build()).execute().await?;
        match handle.address().add(index, IpAddr::V4(gateway), pods.length()).execute().await {
            Err(error) if !there(&error) => Err(error),
            _ => Ok(()),
        }
    };
    let outcome = made.await;
    connection.abort();
    outcome.map_err(refused)
}

/// A bridge without an address of its own takes the lowest of its ports', another one whenever instances come and go; what
/// those that stay send to the old one is lost until they ask anew. This one is of those that are given locally.
fn hardware_address(gateway: Ipv4Addr) -> Vec<u8> {
    [[0x02, 0x53].as_slice(), &gateway.octets()].concat()
}

fn parse(subnet: &str) -> Option<(Ipv4Addr, u8)> {
    let (base, length) = subnet.split_once('/')?;
    Some((base.parse().ok()?, length.parse().ok().filter(|l| *l <= 32)?))
}
