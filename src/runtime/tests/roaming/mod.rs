//! An address that moves to another module with its process, with the real kernel: the sockets stay where they are, in
//! their own network namespace, and its cable goes to another bridge.

use crate::chassis::*;
use model::{Endpoint, InstanceId, Policy, Roaming};
use runtime::Network;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    thread,
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 45, 1, 2);
const DIRECT: SocketAddrV4 = SocketAddrV4::new(ADDRESS, 8080);

fn module_address(module: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 44, 0, module)
}

fn network(module: u8) -> Network {
    let state = format!("/run/state-{module}");
    std::fs::create_dir_all(format!("{state}/netns")).unwrap();
    Network::new(Path::new("/nowhere"), pods(module), Path::new(&state), Some(module_address(module)))
}

/// Does something with a module's network, on that module.
fn on<T: Send>(module: u8, work: impl AsyncFnOnce(Network) -> T + Send) -> T {
    within(&format!("m{module}"), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(network(module)))
    })
}

/// Pulls the cable of `p12` out of one module and puts it into the other, as `number` among its instances.
fn plug(from: u8, to: u8, number: u8) {
    run(&format!(
        "ip -n m{from} link del p12 && ip -n m{to} link add p12 type veth peer name eth0 netns p12 && \
         ip -n m{to} link set p12 master sc0 up && ip -n m{to} link set p12 type bridge_slave hairpin on && \
         ip -n p12 link set eth0 up && ip -n p12 address add 10.45.{to}.{number}/24 dev eth0 && \
         ip -n p12 route add default via 10.45.{to}.1"
    ));
}

/// Moves it; whoever talks with it says something meanwhile, and hears it afterwards.
fn moves(from: u8, to: u8, number: u8, endpoints: &[Endpoint], talks: &mut [Talk]) {
    let id: InstanceId = endpoints[0].instance.clone();
    for module in [from, to] {
        network(module);
        run(&format!("ln -sf /run/netns/p12 /run/state-{module}/netns/{id}"));
    }
    on(from, async |network| network.hold(&id, &ADDRESS.to_string()).await.unwrap());
    let word = format!("on the way to m{to}");
    thread::scope(|scope| {
        for (at, talk) in talks.iter_mut().enumerate() {
            let word = &word;
            scope.spawn(move || {
                let begun = std::time::Instant::now();
                let outcome = talk.say(word);
                eprintln!("way {at}: {word}: {:.1} s: {outcome:?}", begun.elapsed().as_secs_f64());
                outcome.unwrap();
            });
        }
        until("what they say has been sent, and dropped", || {
            let count = "nft list table ip spacecloud-hold | grep -c 'policy drop'";
            said(&format!("ip netns exec p12 {count}")).trim() == "2"
        });
        plug(from, to, number);
        on(to, async |network| {
            network.expect(&id).await.unwrap();
            network.bring(&id, ADDRESS).await.unwrap();
            network.welcome(&id, ADDRESS).await.unwrap();
            network.release(&id, "").await.unwrap();
        });
        let mut after = table(Policy::RoundRobin, endpoints);
        if to != 1 {
            after.roaming = vec![Roaming { address: ADDRESS, via: module_address(to) }];
        }
        set(&after);
    });
}

fn special_routes(module: u8) -> String {
    said(&format!("ip -n m{module} route show proto 92"))
}

#[test]
fn connections_go_on_when_an_instance_moves_with_its_address_and_back() {
    isolated("roaming::connections_go_on_when_an_instance_moves_with_its_address_and_back", || {
        build();
        let endpoints = [add_pod(1, 2)];
        add_pod(1, 3);
        add_pod(2, 2);
        set(&table(Policy::RoundRobin, &endpoints));
        let through_m2 = SocketAddrV4::new(module_address(2), PUBLISHED);
        let ways = [
            ("p13", VIRTUAL),
            ("p22", VIRTUAL),
            ("m1", VIRTUAL),
            ("m2", VIRTUAL),
            ("p13", DIRECT),
            ("p22", DIRECT),
            ("m1", DIRECT),
            ("m2", DIRECT),
            ("outside", through_m2),
        ];
        let open =
            || ways.map(|(from, to)| Talk::open(from, to).unwrap_or_else(|e| panic!("{from} {to}: {e}")));
        let mut talks: Vec<Talk> = open().into();
        moves(1, 2, 77, &endpoints, &mut talks);
        assert!(special_routes(1).contains("10.45.1.2 via 10.44.0.2"), "{}", special_routes(1));
        assert!(special_routes(2).contains("10.45.1.2 dev sc0 scope link"), "{}", special_routes(2));
        assert!(said("ip -n p12 -o -4 address show dev eth0").contains("inet 10.45.1.2/32"));
        // New ones too, and from itself to itself.
        talks.extend(open());
        // From outside through the very module that it is about to leave: that one translates what is sent to it, but
        // the answers will not come by there.
        talks.pop();
        let itself = greetings("p12", VIRTUAL, 2);
        assert_eq!(itself.get("p12"), Some(&2));
        for module in [1, 2] {
            let port = SocketAddrV4::new(module_address(module), PUBLISHED);
            assert_eq!(greetings("outside", port, 2).get("p12"), Some(&2));
        }
        for talk in &mut talks {
            talk.say("all the time").unwrap();
        }
        moves(2, 1, 9, &endpoints, &mut talks);
        assert_eq!((special_routes(1), special_routes(2)), (String::new(), String::new()));
        talks.extend(open());
        for talk in &mut talks {
            talk.say("at home again").unwrap();
        }
    });
}

#[test]
fn what_is_held_neither_answers_nor_resets_and_those_that_came_are_accepted() {
    isolated("roaming::what_is_held_neither_answers_nor_resets_and_those_that_came_are_accepted", || {
        build();
        let endpoints = [add_pod(1, 2)];
        add_pod(1, 3);
        let id = endpoints[0].instance.clone();
        network(1);
        run(&format!("ln -sf /run/netns/p12 /run/state-1/netns/{id}"));
        let mut talk = Talk::open("p13", DIRECT).unwrap();
        on(1, async |network| network.hold(&id, "").await.unwrap());
        thread::scope(|scope| {
            let old = scope.spawn(|| talk.say("hold the line"));
            let new = scope.spawn(|| Talk::open("p13", DIRECT).map(drop));
            let held = || {
                let states = said("ip netns exec p13 cat /proc/net/tcp");
                // Sent and not acknowledged; and a connection that is being opened.
                states.lines().any(|l| l.contains(" 01 0000000E:"))
                    && states.lines().any(|l| l.contains(" 02 "))
            };
            until("both wait", held);
            assert!(!old.is_finished() && !new.is_finished());
            on(1, async |network| network.release(&id, "").await.unwrap());
            old.join().unwrap().unwrap();
            new.join().unwrap().unwrap();
        });
    });
}
