//! Services over UDP, with the real kernel; the same port number is TCP's too in all of them.

use crate::{block_on, chassis::*, module_address, three_pods};
use model::{AppFile, InstanceId, Policy, Protocol};
use runtime::Network;
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Result},
    net::{SocketAddrV4, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// A client that goes on at the same port, and hears only whom it asks.
struct Client(UdpSocket);

impl Client {
    fn new(from: &str, to: SocketAddrV4) -> Self {
        within(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            Self(socket)
        })
    }

    /// Asks until there is an answer, as clients of UDP do; an error is the kernel's word that nobody is there.
    fn ask(&self) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            self.0.send(b"who are you?")?;
            let mut buffer = [0; 64];
            match self.0.recv(&mut buffer) {
                Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if error.kind() != ErrorKind::WouldBlock || Instant::now() > end => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }
}

/// How often each answered in `count` flows.
fn answers(from: &str, to: SocketAddrV4, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let with = Client::new(from, to).ask().unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
        *seen.entry(with).or_default() += 1;
    }
    seen
}

#[test]
fn datagrams_from_everywhere_are_spread_over_all_endpoints() {
    isolated("datagrams::datagrams_from_everywhere_are_spread_over_all_endpoints", || {
        let endpoints = three_pods();
        add_pod(2, 9);
        set(&table(Policy::RoundRobin, &endpoints));
        let even: BTreeMap<String, usize> =
            [("p12", 2), ("p13", 2), ("p22", 2)].map(|(name, count)| (name.to_owned(), count)).into();
        for from in ["p12", "p22", "p29", "m1", "m2"] {
            assert_eq!(answers(from, VIRTUAL, 6), even, "from {from}");
            assert_eq!(greetings(from, VIRTUAL, 6), even, "by TCP from {from}");
        }
        for module in [1, 2] {
            for from in ["outside", "m1", "p12"] {
                assert_eq!(answers(from, module_address(module), 6), even, "{from} through module {module}");
            }
        }
        set(&table(Policy::Source, &endpoints));
        let first = answers("outside", module_address(1), 6);
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(answers("outside", module_address(2), 6), first);
    });
}

#[test]
fn a_flow_stays_until_its_endpoint_is_gone_and_then_finds_another() {
    isolated("datagrams::a_flow_stays_until_its_endpoint_is_gone_and_then_finds_another", || {
        let mut endpoints = three_pods();
        // Quickly forgotten, so that the end of a drain is seen.
        within("m2", || {
            for name in ["udp_timeout", "udp_timeout_stream"] {
                std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"), "2").unwrap();
            }
        });
        set(&table(Policy::RoundRobin, &endpoints));
        for (from, to) in [("p13", VIRTUAL), ("m1", VIRTUAL), ("outside", module_address(1))] {
            let clients: Vec<Client> = (0..3).map(|_| Client::new(from, to)).collect();
            let with: Vec<String> = clients.iter().map(|c| c.ask().unwrap()).collect();
            let ask_all = || clients.iter().map(|c| c.ask().unwrap()).collect::<Vec<_>>();
            assert_eq!(ask_all(), with);
            let at = with.iter().position(|name| name == "p22").unwrap();
            endpoints[2].draining = true;
            set(&table(Policy::RoundRobin, &endpoints));
            assert_eq!(ask_all(), with, "they stay while it drains");
            assert_eq!(answers(from, to, 4).get("p22"), None, "and no new ones come");
            assert!(counted(2, &endpoints[2], Protocol::Udp) > 0);
            assert_eq!(connections(2, &endpoints[2]), 0);
            until("they are forgotten", || counted(2, &endpoints[2], Protocol::Udp) == 0);
            // Gone, and its module with it: the next datagram of the same client finds another one.
            run("ip link set m2 down");
            within("m1", || block_on(services(1).set(&table(Policy::RoundRobin, &endpoints[..2])))).unwrap();
            let after = ask_all();
            assert_ne!(after[at], "p22", "{from}");
            for other in (0..3).filter(|other| *other != at) {
                assert_eq!(after[other], with[other], "the others stay");
            }
            run("ip link set m2 up");
            endpoints[2].draining = false;
            set(&table(Policy::RoundRobin, &endpoints));
            until("the module is back", || answers(from, to, 3).len() == 3);
        }
    });
}

/// The kernel remembers both for much longer than a drain waits: the one of many datagrams for two minutes.
#[test]
fn a_drain_does_not_wait_for_flows_that_are_silent() {
    isolated("datagrams::a_drain_does_not_wait_for_flows_that_are_silent", || {
        let mut endpoints = three_pods();
        set(&table(Policy::RoundRobin, &endpoints[2..]));
        let clients = ["p13", "m1"].map(|from| Client::new(from, VIRTUAL));
        let ask_all = || clients.iter().for_each(|client| assert_eq!(client.ask().unwrap(), "p22"));
        ask_all();
        endpoints[2].draining = true;
        set(&table(Policy::RoundRobin, &endpoints));
        let open = || counted(2, &endpoints[2], Protocol::Udp);
        // The second goes on for so long that it is a stream to the kernel.
        let end = Instant::now() + Duration::from_secs(7);
        while Instant::now() < end {
            assert_eq!(clients[1].ask().unwrap(), "p22");
            assert!(open() > 0, "one of them goes on");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(open(), 1, "the other has been silent");
        let silent = Instant::now();
        until("both are silent", || open() == 0);
        assert!(silent.elapsed() > Duration::from_secs(3) && silent.elapsed() < Duration::from_secs(25));
        ask_all();
        assert_eq!(open(), 2, "they are still the kernel's, and go where they went");
    });
}

#[test]
fn who_asked_before_there_was_an_answer_gets_it_when_there_is() {
    isolated("datagrams::who_asked_before_there_was_an_answer_gets_it_when_there_is", || {
        build();
        let endpoint = add_pod(1, 2);
        add_pod(2, 2);
        // A module that has no rules for it yet, and one whose service has no endpoint.
        let strangers =
            [("outside", module_address(1)), ("outside", module_address(2)), ("m1", module_address(2))];
        let early = strangers.map(|(from, to)| Client::new(from, to));
        let ask = |client: &Client, when: &str| {
            let error = client.ask().unwrap_err();
            // What the module itself sends is not even let out.
            let expected = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
            assert!(expected.contains(&error.kind()), "{when}: {error}");
        };
        early.iter().for_each(|client| ask(client, "without rules"));
        set(&table(Policy::RoundRobin, &[]));
        let late = [("p22", VIRTUAL), ("m1", VIRTUAL), ("outside", module_address(2))];
        let late = late.map(|(from, to)| Client::new(from, to));
        early.iter().chain(&late).for_each(|client| ask(client, "without endpoints"));
        set(&table(Policy::RoundRobin, &[endpoint]));
        for client in early.iter().chain(&late) {
            assert_eq!(client.ask().unwrap(), "p12");
        }
    });
}

/// Without a service it is the portmap plugin that publishes a port.
#[test]
fn a_host_port_of_each_protocol_leads_to_its_own_port_of_the_instance() {
    isolated("datagrams::a_host_port_of_each_protocol_leads_to_its_own_port_of_the_instance", || {
        build();
        let file = "name='dns'\nimage='registry.spacecloud:5000/dns:1'\n\
                    ports=[{container=8080, host=53}, {container=8081, protocol='udp', host=53}]\n";
        let spec = AppFile::parse("dns.toml", file).unwrap().apps.remove(0);
        let id: InstanceId = "dns-1-1".parse().unwrap();
        run("mkdir -p /run/state/netns");
        let network = Network::new(Path::new("/usr/lib/cni"), pods(1), Path::new("/run/state"), None);
        let on_module = |work: &(dyn Fn() + Sync)| within("m1", work);
        on_module(&|| drop(block_on(network.attach(&id, &spec, None)).unwrap()));
        run("ln -s /run/state/netns/dns-1-1 /run/netns/dns");
        let [tcp, udp] = ["8080", "8081"].map(|port| format!("0.0.0.0:{port}"));
        within("dns", || answer(UdpSocket::bind(&udp).unwrap(), "by udp"));
        let listener = within("dns", || std::net::TcpListener::bind(&tcp).unwrap());
        let at = SocketAddrV4::new([10, 44, 0, 1].into(), 53);
        assert_eq!(Client::new("outside", at).ask().unwrap(), "by udp");
        let connect = || within("outside", || std::net::TcpStream::connect_timeout(&at.into(), LIMIT));
        connect().unwrap();
        listener.accept().unwrap();
        on_module(&|| block_on(network.detach(&id, Some(&spec))).unwrap());
        assert_eq!(Client::new("outside", at).ask().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}
