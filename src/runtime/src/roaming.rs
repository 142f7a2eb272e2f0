//! Addresses that have moved to another module with their process: where this module sends their packets, and how an
//! instance gets the address that it brings along.
//!
//! ```text
//!  an instance of the address's own module ── asks for it on the bridge ──► the bridge answers for it (proxy ARP) ─┐
//!  anything else on any module ────────────────────────────────────────────────────────────────────────────────────┤
//!            route of that one address: to the module that it is on, there to the bridge ◄─────────────────────────┘
//! ```
//!
//! The routes carry a protocol number of their own, so that those which nobody wants any more are found and removed,
//! whoever has set them.

use crate::{BRIDGE, RuntimeError, announce::announce, namespace::inside};
use futures_util::TryStreamExt;
use model::Roaming;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
    },
};
use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

/// Ours among the routes of a module; the numbers from 4 to 255 are anybody's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(92);
const ESRCH: i32 = nix::libc::ESRCH;
/// An instance's end of its cable.
const CABLE: &str = "eth0";
/// What a bridge must do so that an instance whose address is elsewhere, or comes from elsewhere, is reached: answer for
/// what it routes on, at once, and teach nobody a way past itself, where translated connections could not go.
const SETTINGS: [(&str, &str); 4] = [
    ("conf/sc0/proxy_arp", "1"),
    ("neigh/sc0/proxy_delay", "0"),
    ("conf/all/send_redirects", "0"),
    ("conf/sc0/send_redirects", "0"),
];

/// Sends every one of these addresses where it is, and no other one anywhere special. `own` is this module's address on
/// the backplane.
pub(crate) async fn set(table: &[Roaming], own: Option<Ipv4Addr>) -> Result<(), RuntimeError> {
    if !table.is_empty() {
        set_up_bridge()?;
    }
    let failed =
        |address: Ipv4Addr| move |source| RuntimeError::Route { subnet: format!("{address}/32"), source };
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    let outcome = async {
        let wanted: BTreeSet<Ipv4Addr> = table.iter().map(|r| r.address).collect();
        for (address, route) in ours(&handle).await.map_err(failed(Ipv4Addr::UNSPECIFIED))? {
            if !wanted.contains(&address) {
                remove(&handle, route).await.map_err(failed(address))?;
            }
        }
        for roaming in table {
            set_one(&handle, roaming, own).await.map_err(failed(roaming.address))?;
        }
        Ok(())
    }
    .await;
    connection.abort();
    outcome
}

fn set_up_bridge() -> Result<(), RuntimeError> {
    SETTINGS.iter().try_for_each(|(name, value)| {
        let path = Path::new("/proc/sys/net/ipv4").join(name);
        fs::write(&path, value).map_err(RuntimeError::io("set", &path))
    })
}

/// Sends one address to the bridge, before everybody is told that it is here. Those `at_home` go there by themselves.
/// The bridge and those on it may know the address as that of a cable which is gone.
pub(crate) async fn welcome(namespace: &Path, address: Ipv4Addr, at_home: bool) -> Result<(), RuntimeError> {
    set_up_bridge()?;
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(RuntimeError::io("open", "the kernel's netlink socket"))?;
    let connection = tokio::spawn(connection);
    let outcome = async {
        if !at_home {
            let here = Roaming { address, via: Ipv4Addr::LOCALHOST };
            return set_one(&handle, &here, Some(here.via)).await;
        }
        for (elsewhere, route) in ours(&handle).await? {
            if elsewhere == address {
                remove(&handle, route).await?;
            }
        }
        Ok(())
    }
    .await;
    connection.abort();
    outcome.map_err(|source| RuntimeError::Route { subnet: format!("{address}/32"), source })?;
    inside(namespace, async move |handle| match tell(&handle, CABLE, address).await {
        Ok(told) => told,
        Err(error) => Err(io::Error::other(error)),
    })
    .await
    .map_err(RuntimeError::io("tell of the address in", namespace))
}

/// Tells everybody on a link who has the address now.
async fn tell(handle: &Handle, link: &str, address: Ipv4Addr) -> Result<io::Result<()>, rtnetlink::Error> {
    let link = handle.link().get().match_name(link.to_owned()).execute().try_next().await?;
    let index = link.as_ref().map_or(0, |link| link.header.index);
    let hardware = link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => <[u8; 6]>::try_from(address).ok(),
        _ => None,
    });
    Ok(hardware.map_or(Ok(()), |hardware| announce(index, hardware, address)))
}

async fn set_one(handle: &Handle, roaming: &Roaming, own: Option<Ipv4Addr>) -> Result<(), rtnetlink::Error> {
    let bridge = handle.link().get().match_name(BRIDGE.to_owned()).execute().try_next().await?;
    let index = bridge.map_or(0, |link| link.header.index);
    let here = Some(roaming.via) == own;
    let route =
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(roaming.address, 32).protocol(PROTOCOL);
    let route =
        if here { route.output_interface(index).scope(RouteScope::Link) } else { route.gateway(roaming.via) };
    handle.route().add(route.build()).replace().execute().await?;
    if !here && let Err(error) = tell(handle, BRIDGE, roaming.address).await? {
        // They find out by themselves, later.
        tracing::warn!(address = %roaming.address, %error, "cannot tell the instances here that it has moved");
    }
    Ok(())
}

async fn ours(handle: &Handle) -> Result<Vec<(Ipv4Addr, RouteMessage)>, rtnetlink::Error> {
    let all = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let all: Vec<RouteMessage> = all.try_collect().await?;
    let ours = all.into_iter().filter(|r| r.header.protocol == PROTOCOL);
    Ok(ours.filter_map(|route| Some((destination(&route)?, route))).collect())
}

fn destination(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

async fn remove(handle: &Handle, route: RouteMessage) -> Result<(), rtnetlink::Error> {
    match handle.route().del(route).execute().await {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -ESRCH => Ok(()),
        other => other,
    }
}

/// Gives the instance in a network namespace this address in place of the one that its module gave it. All that it
/// sends goes by way of `gateway`.
pub(crate) async fn readdress(
    namespace: &Path,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), RuntimeError> {
    inside(namespace, async move |handle| change(&handle, address, gateway).await.map_err(io::Error::other))
        .await
        .map_err(RuntimeError::io("change the address in", namespace))
}

async fn change(handle: &Handle, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), rtnetlink::Error> {
    let eth0 = handle.link().get().match_name(CABLE.to_owned()).execute().try_next().await?;
    let index = eth0.map_or(0, |link| link.header.index);
    let all: Vec<_> = handle.address().get().set_link_index_filter(index).execute().try_collect().await?;
    for given in all {
        let is_ipv4 = |a: &AddressAttribute| matches!(a, AddressAttribute::Address(IpAddr::V4(_)));
        if given.header.index == index && given.attributes.iter().any(is_ipv4) {
            handle.address().del(given).execute().await?;
        }
    }
    // Nobody is a neighbour: the bridge alone knows where whom to find.
    handle.address().add(index, IpAddr::V4(address), 32).execute().await?;
    let up: LinkMessageBuilder<LinkUnspec> = LinkUnspec::new_with_index(index);
    handle.link().set(up.up().build()).execute().await?;
    let to = || RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index);
    let near = to().destination_prefix(gateway, 32).scope(RouteScope::Link).build();
    handle.route().add(near).replace().execute().await?;
    let far = to().gateway(gateway).pref_source(address).build();
    handle.route().add(far).replace().execute().await
}
