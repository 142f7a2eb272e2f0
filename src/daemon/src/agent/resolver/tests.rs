use super::*;
use hickory_proto::{
    op::{MessageType, OpCode},
    rr::Name,
};
use model::{Service, Subnet};

fn table() -> ServiceTable {
    let service = Service {
        app: "telemetry".parse().unwrap(),
        address: Ipv4Addr::new(10, 46, 0, 7),
        policy: model::Policy::RoundRobin,
        ports: vec![],
    };
    ServiceTable { range: Subnet::SERVICES, services: vec![service], roaming: Vec::new() }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// On a port that is free for both: what UDP is given may be somebody else's for TCP.
fn for_both<T>(mut bind: impl FnMut() -> Option<T>) -> T {
    (0..100).find_map(|_| bind()).expect("a port is free for UDP and TCP")
}

/// A resolver on a free port, whose upstream answers every question with 192.0.2.1.
async fn start() -> SocketAddr {
    let (upstream, streams) = for_both(|| {
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let streams = std::net::TcpListener::bind(datagrams.local_addr().unwrap()).ok()?;
        datagrams.set_nonblocking(true).and_then(|()| streams.set_nonblocking(true)).unwrap();
        Some((UdpSocket::from_std(datagrams).unwrap(), TcpListener::from_std(streams).unwrap()))
    });
    let names = NamesConfig { upstream: vec![upstream.local_addr().unwrap()], ..NamesConfig::default() };
    let answer = |question: &[u8]| {
        let question = Message::from_vec(question).unwrap();
        let mut answer = reply(&question, ResponseCode::NoError);
        let name = question.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(name, TTL, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
        answer.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
            upstream.send_to(&answer(&buffer[..length]), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = streams.accept().await.unwrap();
            let question = read_framed(&mut stream).await.unwrap();
            write_framed(&mut stream, &answer(&question)).await.unwrap();
        }
    });
    let local = "127.0.0.1:0".parse().unwrap();
    let resolver = for_both(|| Resolver::bind(local, &names, Services::with_table(table())).ok());
    let address = resolver.udp.local_addr().unwrap();
    tokio::spawn(resolver.serve());
    address
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn services_are_answered_here_and_the_rest_upstream() {
    let server = start().await;
    for stream in [false, true] {
        let ask = async |name: &str, kind: RecordType| {
            let question = question(name, kind);
            let asked = async {
                if stream {
                    ask_stream(server, &question).await
                } else {
                    ask_datagram(server, &question).await
                }
            };
            let answer = timeout(Duration::from_secs(30), asked).await.unwrap().unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.id, 77);
            (answer.metadata.response_code, addresses(&answer))
        };
        let own = (ResponseCode::NoError, vec!["10.46.0.7".to_owned()]);
        assert_eq!(ask("telemetry.space.", RecordType::A).await, own);
        assert_eq!(ask("Telemetry.SPACE.", RecordType::A).await, own);
        assert_eq!(ask("telemetry.space.", RecordType::AAAA).await, (ResponseCode::NoError, vec![]));
        assert_eq!(ask("nobody.space.", RecordType::A).await, (ResponseCode::NXDomain, vec![]));
        let upstream = (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]);
        assert_eq!(ask("example.org.", RecordType::A).await, upstream);
        // No part of the zone, whatever it looks like.
        assert_eq!(ask("telemetryspace.", RecordType::A).await, upstream);
    }
}

#[tokio::test]
async fn nobody_upstream_is_an_answer_too() {
    let names = NamesConfig { resolv_conf: "/nonexistent".into(), ..NamesConfig::default() };
    let resolver =
        Resolver::bind("127.0.0.1:0".parse().unwrap(), &names, Services::with_table(table())).unwrap();
    let answer = resolver.rules.answer(&question("example.org.", RecordType::A), false).await.unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::ServFail);
    assert_eq!(resolver.rules.answer(b"no message", false).await, None);
}

#[test]
fn name_servers_are_read_from_resolv_conf() {
    let text = "# a\nsearch x\nnameserver 10.0.2.3\nnameserver\t1.1.1.1\nnameserver bad\n";
    let found: Vec<String> = name_servers(text).map(|a| a.to_string()).collect();
    assert_eq!(found, ["10.0.2.3:53", "1.1.1.1:53"]);
}
