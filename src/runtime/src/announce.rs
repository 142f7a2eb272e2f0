//! Tells the instances on the bridge that an address is to be found at the bridge now. Those that spoke with its owner
//! as a neighbour would otherwise send to a cable that is no longer there, for up to a minute.

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::{io, net::Ipv4Addr, os::fd::AsRawFd};

const ETHERNET: [u8; 2] = [0, 1];
const IPV4: [u8; 2] = [8, 0];
const ARP: u16 = 0x0806;
const REQUEST: [u8; 2] = [0, 1];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Sends a gratuitous ARP request (RFC 5227, section 3) to the interface `index`, which has `hardware` as its address.
pub(crate) fn announce(index: u32, hardware: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    let bad = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let packet = packet(hardware, address);
    let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let [h0, h1, h2, h3, h4, h5] = EVERYBODY;
    let to = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(bad)?,
        sll_protocol: ARP.to_be(),
        sll_ifindex: i32::try_from(index).map_err(bad)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [h0, h1, h2, h3, h4, h5, 0, 0],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(bad)?;
    // SAFETY: packet and address live through the call, and their lengths are theirs; the kernel only reads them.
    let sent = unsafe {
        libc::sendto(fd.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, (&raw const to).cast(), length)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn packet(hardware: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let sender = [hardware.as_slice(), &address.octets()].concat();
    let target = [[0; 6].as_slice(), &address.octets()].concat();
    [ETHERNET.as_slice(), &IPV4, &[6, 4], &REQUEST, &sender, &target].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_asks_for_its_own_address() {
        let packet = packet([2, 0x53, 10, 45, 1, 1], Ipv4Addr::new(10, 45, 1, 7));
        let head = [0, 1, 8, 0, 6, 4, 0, 1];
        let sender = [2, 0x53, 10, 45, 1, 1, 10, 45, 1, 7];
        let target = [0, 0, 0, 0, 0, 0, 10, 45, 1, 7];
        assert_eq!(packet, [head.as_slice(), &sender, &target].concat());
    }
}
