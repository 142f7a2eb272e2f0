use crate::RuntimeError;
use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use std::net::Ipv4Addr;

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

fn parse(subnet: &str) -> Option<(Ipv4Addr, u8)> {
    let (base, length) = subnet.split_once('/')?;
    Some((base.parse().ok()?, length.parse().ok().filter(|l| *l <= 32)?))
}
