//! A small chassis of network namespaces, inside one that the test has to itself and that vanishes with it.

use model::{Endpoint, Name, Policy, Protocol, Service, ServicePort, ServiceTable, Subnet};
use nix::sched::{CloneFlags, setns};
use runtime::{Services, set_bridge};
use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// For everything that must happen at all; nothing here is about speed.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const INSIDE: &str = "SPACECLOUD_TEST_INSIDE";

/// Runs the test called `name` once more, as root of network and mount namespaces of its own.
pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("mount -t tmpfs none /run");
        run("mkdir /run/netns");
        return body();
    }
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe().unwrap());
    let output = command.args([name, "--exact", "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A shell command that must succeed.
pub(crate) fn run(command: &str) {
    said(command);
}

/// What such a command prints.
pub(crate) fn said(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` on a thread that lives in a network namespace.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    };
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter();
                work()
            })
            .join()
            .unwrap()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Two modules `m1` and `m2` and a computer `outside` on one backplane.
pub(crate) fn build() {
    run("ip link add bp type bridge && ip link set bp up");
    for (name, host) in [("m1", 1), ("m2", 2), ("outside", 100)] {
        run(&format!(
            "ip netns add {name} && ip link add {name} type veth peer name bp0 netns {name} && \
             ip link set {name} master bp up && ip -n {name} link set lo up && ip -n {name} link set bp0 up && \
             ip -n {name} address add 10.44.0.{host}/24 dev bp0"
        ));
    }
    for (own, other) in [(1, 2), (2, 1)] {
        within(&format!("m{own}"), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            let made = runtime().block_on(async {
                set_bridge("sc0", pods(own)).await?;
                // Once more changes nothing.
                set_bridge("sc0", pods(own)).await
            });
            made.unwrap();
        });
        run(&format!("ip -n m{own} route add {} via 10.44.0.{other}", pods(other)));
    }
}

pub(crate) fn pods(module: u8) -> Subnet {
    format!("10.45.{module}.0/24").parse().unwrap()
}

pub(crate) fn services(module: u8) -> Services {
    Services::new(pods(module), Some(Ipv4Addr::new(10, 44, 0, module)))
}

/// An instance's namespace on a module, with a server that greets with its name and then echoes lines, and one at the
/// same port that answers each datagram with its name.
pub(crate) fn add_pod(module: u8, number: u8) -> Endpoint {
    let (name, host) = (pod(module, number), format!("m{module}"));
    run(&format!(
        "ip netns add {name} && ip -n {host} link add {name} type veth peer name eth0 netns {name} && \
         ip -n {host} link set {name} master sc0 up && ip -n {host} link set {name} type bridge_slave hairpin on && ip -n {name} link set lo up && \
         ip -n {name} link set eth0 up && ip -n {name} address add 10.45.{module}.{number}/24 dev eth0 && \
         ip -n {name} route add default via 10.45.{module}.1"
    ));
    let socket = within(&name, || UdpSocket::bind("0.0.0.0:8080").unwrap());
    answer(socket, &name);
    let listener = within(&name, || TcpListener::bind("0.0.0.0:8080").unwrap());
    let greeting = name.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let greeting = greeting.clone();
            thread::spawn(move || echo(stream, &greeting));
        }
    });
    Endpoint {
        instance: format!("web-{module}-{number}").parse().unwrap(),
        module: Name::of_module(module.into()),
        address: Ipv4Addr::new(10, 45, module, number),
        port: 8080,
        draining: false,
    }
}

/// Answers each datagram with a name.
pub(crate) fn answer(socket: UdpSocket, name: &str) {
    let name = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

pub(crate) fn pod(module: u8, number: u8) -> String {
    format!("p{module}{number}")
}

fn echo(mut stream: TcpStream, greeting: &str) {
    let Ok(copy) = stream.try_clone() else { return };
    if writeln!(stream, "{greeting}").is_err() {
        return;
    }
    for line in BufReader::new(copy).lines().map_while(Result::ok) {
        if writeln!(stream, "{line}").is_err() {
            return;
        }
    }
}

/// A connection that has been greeted.
pub(crate) struct Talk {
    pub(crate) with: String,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Talk {
    /// Connects from a namespace; the error is the kernel's.
    pub(crate) fn open(from: &str, to: SocketAddrV4) -> std::io::Result<Self> {
        within(from, || {
            let stream = TcpStream::connect_timeout(&to.into(), LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut with = String::new();
            reader.read_line(&mut with)?;
            Ok(Self { with: with.trim().to_owned(), stream, reader })
        })
    }

    /// Says something and hears it again.
    pub(crate) fn say(&mut self, words: &str) -> std::io::Result<()> {
        writeln!(self.stream, "{words}")?;
        let mut heard = String::new();
        self.reader.read_line(&mut heard)?;
        if heard.trim() == words { Ok(()) } else { Err(std::io::Error::other(format!("heard {heard:?}"))) }
    }
}

/// How often each server greeted in `count` connections one after the other.
pub(crate) fn greetings(
    from: &str,
    to: SocketAddrV4,
    count: usize,
) -> std::collections::BTreeMap<String, usize> {
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..count {
        let talk = Talk::open(from, to).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
        *seen.entry(talk.with).or_default() += 1;
    }
    seen
}

pub(crate) const VIRTUAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 46, 0, 1), 80);
pub(crate) const PUBLISHED: u16 = 8000;

pub(crate) fn table(policy: Policy, endpoints: &[Endpoint]) -> ServiceTable {
    let port = |protocol| ServicePort {
        port: 80,
        protocol,
        published: Some(PUBLISHED),
        endpoints: endpoints.to_vec(),
    };
    let ports = vec![port(Protocol::Tcp), port(Protocol::Udp)];
    let service = Service { app: "web".parse().unwrap(), address: *VIRTUAL.ip(), policy, ports };
    ServiceTable { range: Subnet::SERVICES, services: vec![service], roaming: Vec::new() }
}

/// Every module learns the table.
pub(crate) fn set(table: &ServiceTable) {
    for module in [1, 2] {
        within(&format!("m{module}"), || runtime().block_on(services(module).set(table))).unwrap();
    }
}

pub(crate) fn connections(module: u8, endpoint: &Endpoint) -> u32 {
    counted(module, endpoint, Protocol::Tcp)
}

pub(crate) fn counted(module: u8, endpoint: &Endpoint, protocol: Protocol) -> u32 {
    let port = ServicePort { port: 80, protocol, published: None, endpoints: vec![endpoint.clone()] };
    let counted = within(&format!("m{module}"), || runtime().block_on(services(module).connections(&[port])));
    counted.unwrap()[&endpoint.instance]
}

/// Waits for a condition, with a bound.
pub(crate) fn until(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !test() {
        assert!(Instant::now() < end, "{what} did not come true");
        thread::sleep(Duration::from_millis(20));
    }
}
