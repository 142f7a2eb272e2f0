//! Services with the real kernel: TCP connections through nftables rules between network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod chassis;
mod datagrams;
mod roaming;

use chassis::*;
use model::{Endpoint, Policy, ServiceTable};
use runtime::Balance;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

fn module_address(module: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 44, 0, module), PUBLISHED)
}

fn three_pods() -> Vec<Endpoint> {
    build();
    vec![add_pod(1, 2), add_pod(1, 3), add_pod(2, 2)]
}

#[test]
fn connections_from_everywhere_are_spread_over_all_endpoints() {
    isolated("connections_from_everywhere_are_spread_over_all_endpoints", || {
        let endpoints = three_pods();
        add_pod(2, 9);
        set(&table(Policy::RoundRobin, &endpoints));
        let even: BTreeMap<String, usize> =
            [("p12", 4), ("p13", 4), ("p22", 4)].map(|(name, count)| (name.to_owned(), count)).into();
        for bridge_calls_rules in ["0", "1"] {
            for module in ["m1", "m2"] {
                within(module, || {
                    let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
                    // Where the kernel has no such thing the bridge never asks.
                    let _ = std::fs::write(setting, bridge_calls_rules);
                });
            }
            // From an endpoint itself, from another instance, from the modules.
            for from in ["p12", "p22", "p29", "m1", "m2"] {
                assert_eq!(greetings(from, VIRTUAL, 12), even, "from {from}");
            }
            // From outside, which knows the modules' own addresses and nothing else.
            for module in [1, 2] {
                assert_eq!(greetings("outside", module_address(module), 12), even, "through module {module}");
                assert_eq!(greetings("m1", module_address(module), 12), even);
                assert_eq!(greetings("p12", module_address(module), 12), even);
            }
        }
    });
}

#[test]
fn a_draining_endpoint_keeps_its_connections_and_gets_no_new_ones() {
    isolated("a_draining_endpoint_keeps_its_connections_and_gets_no_new_ones", || {
        let mut endpoints = three_pods();
        set(&table(Policy::RoundRobin, &endpoints));
        let mut talks: Vec<Talk> = (0..3).map(|_| Talk::open("p13", VIRTUAL).unwrap()).collect();
        let at = talks.iter().position(|t| t.with == "p22").unwrap();
        let mut old = talks.swap_remove(at);
        drop(talks);
        endpoints[2].draining = true;
        set(&table(Policy::RoundRobin, &endpoints));
        // What is set again stays as it is.
        set(&table(Policy::RoundRobin, &endpoints));
        for n in 0..20 {
            old.say(&format!("still here {n}")).unwrap();
        }
        for from in ["p12", "p13", "p22", "m1", "m2"] {
            assert_eq!(greetings(from, VIRTUAL, 6).get("p22"), None, "from {from}");
        }
        assert_eq!(connections(2, &endpoints[2]), 1);
        old.say("and still").unwrap();
        drop(old);
        until("no connection is left", || connections(2, &endpoints[2]) == 0);
    });
}

#[test]
fn a_connection_to_an_endpoint_that_is_gone_ends_at_once() {
    isolated("a_connection_to_an_endpoint_that_is_gone_ends_at_once", || {
        let endpoints = three_pods();
        set(&table(Policy::RoundRobin, &endpoints));
        for from in ["p12", "m1", "outside"] {
            let to = if from == "outside" { module_address(1) } else { VIRTUAL };
            let mut talks: Vec<Talk> = (0..3).map(|_| Talk::open(from, to).unwrap()).collect();
            let at = talks.iter().position(|t| t.with == "p22").unwrap();
            let mut lost = talks.swap_remove(at);
            // Its module is cut off: nobody would ever answer.
            run("ip link set m2 down");
            within("m1", || block_on(services(1).set(&table(Policy::RoundRobin, &endpoints[..2])))).unwrap();
            let error = lost.say("anybody there?").unwrap_err();
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{from} waited for ever");
            for talk in &mut talks {
                talk.say("the others go on").unwrap();
            }
            assert_eq!(greetings(from, to, 4).get("p22"), None);
            run("ip link set m2 up");
            set(&table(Policy::RoundRobin, &endpoints));
            until("the module is back", || greetings(from, to, 3).len() == 3);
        }
    });
}

/// Or what the others send to it is lost for as long as they believe in the old one.
#[test]
fn the_bridge_keeps_its_hardware_address_when_instances_come_and_go() {
    isolated("the_bridge_keeps_its_hardware_address_when_instances_come_and_go", || {
        build();
        add_pod(1, 2);
        let address = || said("ip -n m1 -o link show sc0 | grep -o 'link/ether [^ ]*'");
        let before = address();
        // A bridge that is left to itself takes the lowest address of all.
        run(
            "ip -n m1 link add low address 02:00:00:00:00:01 type veth peer name far && ip -n m1 link set low master sc0 up",
        );
        assert_eq!(address(), before);
        run("ip -n m1 link del low && ip -n m1 link del p12");
        assert_eq!(address(), before);
    });
}

#[test]
fn a_service_without_endpoints_refuses() {
    isolated("a_service_without_endpoints_refuses", || {
        build();
        add_pod(1, 2);
        set(&table(Policy::RoundRobin, &[]));
        for (from, to) in
            [("p12", VIRTUAL), ("m1", VIRTUAL), ("outside", module_address(1)), ("p12", module_address(2))]
        {
            let error = Talk::open(from, to).err().unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{from} to {to}: {error}");
        }
    });
}

#[test]
fn a_source_meets_the_same_endpoint_through_every_module() {
    isolated("a_source_meets_the_same_endpoint_through_every_module", || {
        let endpoints = three_pods();
        set(&table(Policy::Source, &endpoints));
        let first = greetings("outside", module_address(1), 8);
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(greetings("outside", module_address(2), 8), first);
        // Sources are spread: of twenty addresses not all meet the same one.
        let mut met = std::collections::BTreeSet::new();
        for host in 101..121 {
            run(&format!("ip -n outside address replace 10.44.0.{host}/24 dev bp0"));
            run(&format!("ip -n outside route replace 10.44.0.1 dev bp0 src 10.44.0.{host}"));
            let seen = greetings("outside", module_address(1), 2);
            assert_eq!(seen.len(), 1, "{seen:?}");
            met.extend(seen.into_keys());
        }
        assert_eq!(met.len(), 3, "{met:?}");
    });
}

/// As the agent does again and again.
fn balance(module: u8, table: &ServiceTable, last: &mut Balance) {
    within(&format!("m{module}"), || block_on(services(module).balance(table, last))).unwrap();
}

#[test]
fn new_connections_go_to_the_endpoints_that_have_the_fewest() {
    isolated("new_connections_go_to_the_endpoints_that_have_the_fewest", || {
        let endpoints = three_pods();
        let all = table(Policy::LeastConnections, &endpoints);
        // One of them has ten connections, from all sides.
        set(&table(Policy::RoundRobin, &endpoints[..1]));
        let mut held: Vec<Talk> = (0..10)
            .map(|n| match n % 2 {
                0 => Talk::open("p13", VIRTUAL).unwrap(),
                _ => Talk::open("outside", module_address(1)).unwrap(),
            })
            .collect();
        set(&all);
        let mut last = Balance::default();
        balance(1, &all, &mut last);
        let others: BTreeMap<String, usize> = [("p13", 6), ("p22", 6)].map(|(n, c)| (n.to_owned(), c)).into();
        for (from, to) in [("p12", VIRTUAL), ("m1", VIRTUAL), ("outside", module_address(1))] {
            assert_eq!(greetings(from, to, 12), others, "from {from}");
        }
        // The other module has none of these: it counts its own.
        assert_eq!(greetings("m2", VIRTUAL, 12).len(), 3);
        let counts = || [(1, 0), (1, 1), (2, 2)].map(|(module, at)| connections(module, &endpoints[at]));
        until("the short ones have ended", || counts() == [10, 0, 0]);
        // Nothing comes for a while.
        (0..10).for_each(|_| balance(1, &all, &mut last));
        // New ones that stay fill up what the others have less, and go on whatever is written anew.
        for expected in [[10, 3, 2], [10, 5, 5], [10, 8, 7], [10, 10, 10]] {
            held.extend((0..5).map(|_| Talk::open("m1", VIRTUAL).unwrap()));
            assert_eq!(counts(), expected);
            balance(1, &all, &mut last);
            for talk in &mut held {
                talk.say("still here").unwrap();
            }
        }
        // Those of the first end: it takes part again, and gets the next ones alone.
        held.retain(|talk| talk.with != "p12");
        until("they have ended", || {
            balance(1, &all, &mut last);
            greetings("p13", VIRTUAL, 4) == [("p12".to_owned(), 4)].into()
        });
        // One that is draining gets nothing, however few it has.
        let mut draining = endpoints.clone();
        draining[0].draining = true;
        let all = table(Policy::LeastConnections, &draining);
        set(&all);
        assert_eq!(greetings("p13", VIRTUAL, 4).get("p12"), None);
        balance(1, &all, &mut Balance::default());
        assert_eq!(greetings("p13", VIRTUAL, 4).get("p12"), None);
    });
}

#[test]
fn nobody_fails_while_turns_are_written_anew() {
    isolated("nobody_fails_while_turns_are_written_anew", || {
        let endpoints = three_pods();
        let all = table(Policy::LeastConnections, &endpoints);
        set(&all);
        let mut held: Vec<Talk> = (0..3).map(|_| Talk::open("p13", VIRTUAL).unwrap()).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut served = 0;
                while !done.load(Ordering::Relaxed) {
                    served += greetings("p13", VIRTUAL, 3).values().sum::<usize>();
                }
                served
            });
            // One that knows nothing of the last writes in any case.
            (0..100).for_each(|_| balance(1, &all, &mut Balance::default()));
            done.store(true, Ordering::Relaxed);
            assert!(client.join().unwrap() > 0);
        });
        held.iter_mut().for_each(|talk| talk.say("still here").unwrap());
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
