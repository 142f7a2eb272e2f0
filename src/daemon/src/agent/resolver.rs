//! Names: answers `APP.space` from the service table, and passes all other questions on to the module's own
//! name servers, over UDP and TCP.

use super::services::Services;
use crate::{config::NamesConfig, files::write_whole};
use anyhow::Context;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata::A},
};
use model::ServiceTable;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

/// Seconds for which an answer may be kept: an address stays as long as its service.
const TTL: u32 = 5;
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
/// A client that says nothing for this long is left.
const IDLE: Duration = Duration::from_secs(10);
/// The largest UDP answer that is passed on.
const LARGEST: usize = 4096;
const RETRY: Duration = Duration::from_secs(1);
const DNS_PORT: u16 = 53;

/// A resolver whose ports are bound.
pub(super) struct Resolver {
    udp: UdpSocket,
    tcp: TcpListener,
    rules: Arc<Rules>,
}

struct Rules {
    services: Arc<Services>,
    zone: String,
    upstream: Vec<SocketAddr>,
}

/// Serves for as long as the process lives; a port that is taken is told once and tried again.
pub(super) async fn run(names: NamesConfig, gateway: Ipv4Addr, run: &Path, services: Arc<Services>) {
    let listen = names.listen.parse().unwrap_or(SocketAddr::from((gateway, DNS_PORT)));
    let mut told = false;
    let resolver = loop {
        match Resolver::bind(listen, &names, services.clone()) {
            Ok(resolver) => break resolver,
            Err(error) => {
                if !told {
                    tracing::warn!(%listen, error = %format!("{error:#}"), "no names for instances");
                }
                told = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    // resolv.conf(5) knows no other port.
    if listen.port() == DNS_PORT {
        let text = format!("nameserver {}\nsearch {}\noptions ndots:1\n", listen.ip(), names.zone);
        if let Err(error) = write_whole(&runtime::Network::resolv_conf_in(run), 0o644, &text) {
            tracing::warn!(%error, "cannot write the instances' resolv.conf");
        }
    }
    resolver.serve().await;
}

impl Resolver {
    /// Binds the port for UDP and TCP, also while the bridge does not have its address yet.
    fn bind(listen: SocketAddr, names: &NamesConfig, services: Arc<Services>) -> anyhow::Result<Self> {
        let udp = std::net::UdpSocket::from({
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let family = if listen.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let socket = socket(family, SockType::Datagram, flags, None).context("cannot make a socket")?;
            setsockopt(&socket, sockopt::IpFreebind, &true).context("cannot set IP_FREEBIND")?;
            let address = SockaddrStorage::from(listen);
            bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).context("cannot bind the UDP port")?;
            socket
        });
        let port = udp.local_addr()?;
        let tcp = if port.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        setsockopt(&tcp, sockopt::IpFreebind, &true).context("cannot set IP_FREEBIND")?;
        tcp.set_reuseaddr(true)?;
        tcp.bind(port).context("cannot bind the TCP port")?;
        let upstream = if names.upstream.is_empty() {
            let text = std::fs::read_to_string(&names.resolv_conf).unwrap_or_default();
            name_servers(&text).filter(|server| *server != port).collect()
        } else {
            names.upstream.clone()
        };
        let rules = Arc::new(Rules { services, zone: names.zone.to_string(), upstream });
        Ok(Self { udp: UdpSocket::from_std(udp)?, tcp: tcp.listen(64)?, rules })
    }

    async fn serve(self) {
        let Self { udp, tcp, rules } = self;
        let udp = Arc::new(udp);
        let streams = rules.clone();
        tokio::spawn(async move {
            loop {
                match tcp.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(streams.clone().converse(stream))),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        });
        let mut buffer = vec![0; LARGEST];
        loop {
            let Ok((length, from)) = udp.recv_from(&mut buffer).await else { continue };
            let question = buffer.get(..length).unwrap_or_default().to_vec();
            let (udp, rules) = (udp.clone(), rules.clone());
            tokio::spawn(async move {
                if let Some(answer) = rules.answer(&question, false).await {
                    // The asker may be gone.
                    let _ = udp.send_to(&answer, from).await;
                }
            });
        }
    }
}

impl Rules {
    /// Questions over TCP, one after the other.
    async fn converse(self: Arc<Self>, mut stream: TcpStream) {
        while let Ok(Ok(question)) = timeout(IDLE, read_framed(&mut stream)).await {
            let Some(answer) = self.answer(&question, true).await else { return };
            if write_framed(&mut stream, &answer).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let message = Message::from_vec(question).ok()?;
        if let Some(own) = self.own(&message) {
            return own.to_vec().ok();
        }
        for server in &self.upstream {
            let asked = async {
                if stream {
                    ask_stream(*server, question).await
                } else {
                    ask_datagram(*server, question).await
                }
            };
            if let Ok(Ok(answer)) = timeout(UPSTREAM_LIMIT, asked).await {
                return Some(answer);
            }
        }
        reply(&message, ResponseCode::ServFail).to_vec().ok()
    }

    /// The answer to a question about our zone.
    fn own(&self, message: &Message) -> Option<Message> {
        let query = message.queries.first()?;
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        if name == self.zone {
            return Some(reply(message, ResponseCode::NoError));
        }
        let app = name.strip_suffix(&self.zone)?.strip_suffix('.')?;
        let Some(address) = address_of(&self.services.table(), app) else {
            return Some(reply(message, ResponseCode::NXDomain));
        };
        let mut answer = reply(message, ResponseCode::NoError);
        if wants_address(query) {
            answer.add_answer(Record::from_rdata(query.name().clone(), TTL, RData::A(A(address))));
        }
        Some(answer)
    }
}

fn address_of(table: &ServiceTable, app: &str) -> Option<Ipv4Addr> {
    table.services.iter().find(|s| s.app.as_str() == app).map(|s| s.address)
}

fn wants_address(query: &Query) -> bool {
    query.query_class() == DNSClass::IN && matches!(query.query_type(), RecordType::A | RecordType::ANY)
}

fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::error_msg(question.metadata.id, question.metadata.op_code, code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = code != ResponseCode::ServFail;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

/// The `nameserver` lines of a resolv.conf(5).
fn name_servers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .map(|address| SocketAddr::new(address, DNS_PORT))
}

async fn ask_datagram(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Only what answers this very question.
        if length >= 2 && buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_stream(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, question).await?;
    read_framed(&mut stream).await
}

/// RFC 1035, 4.2.2: two bytes of length before each message.
async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(message).await
}

#[cfg(test)]
mod tests;
