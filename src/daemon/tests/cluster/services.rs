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
