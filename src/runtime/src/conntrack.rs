//! The kernel's table of connections: which ones lead to which endpoint, and the removal of those that lead nowhere.

use crate::RuntimeError;
use model::Protocol;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        self, ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
        Tuple,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

/// linux/netfilter/nfnetlink_conntrack.h
const CTA_ID: u16 = 12;
const CTA_MARK_MASK: u16 = 21;
/// enum tcp_conntrack: from SYN_SENT to LAST_ACK there is somebody who waits for something.
const ALIVE: std::ops::RangeInclusive<u8> = 1..=6;
/// A flow of UDP has no end that anybody could see: after so many seconds without a datagram nobody waits for one.
const SILENT: u32 = 5;
const BUFFER: usize = 64 << 10;
const ENOENT: i32 = 2;

/// An address that somebody is at, by one protocol.
pub(crate) type Place = (Protocol, SocketAddrV4);

/// One tracked TCP connection, or UDP flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    original: Vec<Tuple>,
    /// The kernel's number for it.
    pub(crate) id: u32,
    /// What the rules have marked it with.
    pub(crate) mark: u32,
    /// Whom the client asked.
    pub(crate) asked: Place,
    /// Who answers: the endpoint that a service's address was translated to.
    pub(crate) endpoint: Place,
    /// It is being opened, used or closed; not merely remembered.
    pub(crate) alive: bool,
}

#[cfg(test)]
impl Flow {
    pub(crate) fn example(endpoint: Place, id: u32, alive: bool) -> Self {
        Self { original: Vec::new(), id, mark: 0, asked: endpoint, endpoint, alive }
    }
}

/// A socket to conntrack. Its calls block for as long as the kernel takes, which is no time at all.
pub(crate) struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    pub(crate) fn open() -> Result<Self, RuntimeError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // A kernel that does not answer must not hold a thread for ever.
            let limit = nix::sys::time::TimeVal::new(5, 0);
            // SAFETY: the descriptor is open for as long as `socket`, which outlives this borrow.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) };
            nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?;
            Ok(socket)
        };
        open().map(|socket| Self { socket }).map_err(RuntimeError::conntrack("open"))
    }

    /// All of them over IPv4, or those whose mark is `mark` in the bits of `mask`.
    pub(crate) fn list(&mut self, marked: Option<(u32, u32)>) -> Result<Vec<Flow>, RuntimeError> {
        let attributes = marked.map_or_else(Vec::new, |(mark, mask)| {
            let mask = DefaultNla::new(CTA_MARK_MASK, mask.to_be_bytes().to_vec());
            vec![ConntrackAttribute::CtaMark(mark), ConntrackAttribute::Other(mask)]
        });
        let mut found = Vec::new();
        self.ask(ConntrackMessage::Get(attributes), NLM_F_DUMP, |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                found.push(attributes);
            }
        })
        .map_err(RuntimeError::conntrack("list"))?;
        // Only the question above makes the kernel load what has these settings.
        let memory = Memory::read().map_err(RuntimeError::conntrack("list"))?;
        Ok(found.into_iter().filter_map(|attributes| flow(attributes, &memory)).collect())
    }

    /// Forgets a connection: its next packet is a stranger's. One that is gone already is no error.
    pub(crate) fn forget(&mut self, flow: &Flow) -> Result<(), RuntimeError> {
        let original = ConntrackAttribute::CtaTupleOrig(flow.original.clone());
        match self.ask(ConntrackMessage::Delete(vec![original]), NLM_F_ACK, |_| {}) {
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
            other => other.map_err(RuntimeError::conntrack("change")),
        }
    }

    fn ask(
        &mut self,
        question: ConntrackMessage,
        flags: u16,
        mut take: impl FnMut(NetfilterMessage),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let family = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        let mut packet = NetlinkMessage::new(header, NetfilterMessage::new(family, question).into());
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let bad =
            |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(|e| bad(&e))?;
                let length = usize::try_from(answer.header.length).unwrap_or(0);
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                    }
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
                // Messages are padded to four bytes.
                rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
            }
        }
    }
}

/// For how many seconds the kernel remembers a flow of UDP after its last datagram.
struct Memory {
    usual: u32,
    /// Both sides have talked for a while.
    stream: u32,
}

impl Memory {
    fn read() -> io::Result<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))?;
            text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        };
        Ok(Self { usual: read("udp_timeout")?, stream: read("udp_timeout_stream")? })
    }

    /// Whether there was a datagram lately in a flow that is remembered for so much longer.
    fn is_recent(&self, status: Status, left: u32) -> bool {
        let whole = if status.contains(Status::Assured) { self.stream } else { self.usual };
        whole.saturating_sub(left) < SILENT
    }
}

fn flow(attributes: Vec<ConntrackAttribute>, memory: &Memory) -> Option<Flow> {
    let (mut original, mut asked, mut endpoint) = (None, None, None);
    let (mut id, mut mark, mut alive) = (0, 0, false);
    let (mut status, mut left) = (Status::empty(), u32::MAX);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                asked = ends(&tuple).map(|(_, to)| to);
                original = Some(tuple);
            }
            ConntrackAttribute::CtaTupleReply(tuple) => endpoint = ends(&tuple).map(|(from, _)| from),
            ConntrackAttribute::CtaProtoInfo(list) => {
                alive = list.iter().any(|part| match part {
                    ProtoInfo::TCP(tcp) => tcp
                        .iter()
                        .any(|part| matches!(part, ProtoInfoTCP::State(state) if ALIVE.contains(state))),
                    _ => false,
                });
            }
            ConntrackAttribute::CtaMark(value) => mark = value,
            ConntrackAttribute::CtaStatus(value) => status = value,
            ConntrackAttribute::CtaTimeout(seconds) => left = seconds,
            ConntrackAttribute::Other(other) if other.kind() == CTA_ID => {
                let mut bytes = [0; 4];
                if other.value_len() == bytes.len() {
                    other.emit_value(&mut bytes);
                    id = u32::from_be_bytes(bytes);
                }
            }
            _ => {}
        }
    }
    let endpoint: Place = endpoint?;
    let alive = match endpoint.0 {
        Protocol::Tcp => alive,
        Protocol::Udp => memory.is_recent(status, left),
    };
    Some(Flow { original: original?, id, mark, asked: asked?, endpoint, alive })
}

/// Where a tuple comes from and goes to.
fn ends(tuple: &[Tuple]) -> Option<(Place, Place)> {
    let (mut from, mut to) = ((None, None), (None, None));
    let mut protocol = None;
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(IpAddr::V4(address)) => from.0 = Some(*address),
                        IPTuple::DestinationAddress(IpAddr::V4(address)) => to.0 = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(conntrack::Protocol::Tcp) => protocol = Some(Protocol::Tcp),
                        ProtoTuple::Protocol(conntrack::Protocol::Udp) => protocol = Some(Protocol::Udp),
                        ProtoTuple::SourcePort(port) => from.1 = Some(*port),
                        ProtoTuple::DestinationPort(port) => to.1 = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let place = |(address, port): (Option<Ipv4Addr>, Option<u16>)| {
        Some((protocol?, SocketAddrV4::new(address?, port?)))
    };
    Some((place(from)?, place(to)?))
}
