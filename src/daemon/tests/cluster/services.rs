//! What the agents do for services that need more of them than rules.

use super::*;
use std::time::Instant;

async fn until(what: &str, test: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !test() {
        assert!(Instant::now() < end, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn web(policy: &str, replicas: u32) -> String {
    format!(
        "name='web'\nimage='registry.spacecloud:5000/demo:1'\nreplicas={replicas}\n\
         ports=[{{container=8080, service=80}}]\nservice={{policy='{policy}'}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_where_their_number_matters_and_four_times_a_second_at_most() {
    let cluster = Cluster::start(2).await;
    let agents = || cluster.agents.values().map(|(runtime, _)| runtime);
    let endpoints = |count| agents().all(|r| r.table().endpoints().count() == count);
    cluster.apply(&web("round-robin", 2)).await.unwrap();
    until("two endpoints", || endpoints(2)).await;
    // One alone has everything whatever it has already.
    cluster.apply(&web("least-connections", 1)).await.unwrap();
    until("one endpoint", || endpoints(1)).await;
    assert!(agents().all(|r| r.looks().is_empty()));
    let begun = Instant::now();
    cluster.apply(&web("least-connections", 2)).await.unwrap();
    until("both look again and again", || agents().all(|r| r.looks().len() > 4)).await;
    for runtime in agents() {
        // One at once for each table, and then one each quarter of a second.
        let (took, looks) = (begun.elapsed(), runtime.looks());
        let tables = 1 + looks.windows(2).filter(|two| two[0] != two[1]).count();
        let most = tables + usize::try_from(took.as_millis() / 250).unwrap();
        assert!(looks.len() <= most, "{} looks of {tables} tables in {took:?}", looks.len());
        assert!(looks.iter().all(|table| table.is_counted()));
    }
    // Rules that somebody has taken away are missed at the next look, and come back.
    let (runtime, _) = &cluster.agents[&1];
    runtime.lose_rules();
    until("the rules are back", || runtime.table().endpoints().count() == 2).await;
    // Nobody looks when nobody needs it.
    cluster.apply(&web("source", 2)).await.unwrap();
    until("all know it", || agents().all(|r| !r.table().is_counted())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_both_protocols_is_asked_by_tcp_and_drains_both() {
    let cluster = Cluster::start(2).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let app = format!(
        "name='dns'\nimage='registry.spacecloud:5000/demo:1'\nhealth={{http='/', every='50ms'}}\nmigration={{drain='60s'}}\n\
         ports=[{{container=1, protocol='udp', service=53, host=53}}, {{container={port}, service=53}}]\n"
    );
    cluster.apply(&app).await.unwrap();
    let snapshot = cluster.until("one ready", all_ready(1)).await;
    assert_eq!(snapshot.apps[0].service, "10.46.0.1:53/udp,10.46.0.1:53");
    let agents = || cluster.agents.values().map(|(runtime, _)| runtime);
    until("both modules have both ports", || agents().all(|r| r.table().endpoints().count() == 2)).await;
    let table = agents().next().unwrap().table();
    let ports: Vec<_> =
        table.ports().map(|p| (p.protocol.as_str(), p.published, p.endpoints[0].port)).collect();
    assert_eq!(ports, [("udp", Some(53), 1), ("tcp", None, port)]);
    // What is counted of it holds its end up.
    let id = table.endpoints().next().unwrap().instance.clone();
    agents().for_each(|r| r.connect(&id, 1));
    cluster.apply(&app.replace("demo:1", "demo:2")).await.unwrap();
    until("it drains", || agents().all(|r| r.table().endpoints().filter(|e| e.draining).count() == 2)).await;
    assert!(agents().any(|r| r.running().contains(&id)));
    agents().for_each(|r| r.connect(&id, 0));
    until("it has ended", || !agents().any(|r| r.running().contains(&id))).await;
}
