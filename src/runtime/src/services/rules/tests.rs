use super::*;

fn endpoint(number: u8, draining: bool) -> Endpoint {
    Endpoint {
        instance: format!("web-{number}-1").parse().unwrap(),
        module: model::Name::of_module(1),
        address: Ipv4Addr::new(10, 45, 1, number),
        port: 8080,
        draining,
    }
}

fn service(policy: Policy, endpoints: Vec<Endpoint>) -> (Service, ServicePort) {
    let port = ServicePort { port: 80, protocol: model::Protocol::Tcp, published: None, endpoints };
    let app = "web".parse().unwrap();
    let service = Service { app, address: Ipv4Addr::new(10, 46, 0, 1), policy, ports: vec![port.clone()] };
    (service, port)
}

fn buckets(endpoints: Vec<Endpoint>) -> Vec<String> {
    let (service, port) = service(Policy::Source, endpoints);
    let target = target(&service, &taking(&service, &port, &Loads::new())).unwrap();
    let set = target.pointer("/dnat/addr/map/data/set").and_then(Value::as_array).unwrap();
    set.iter().map(|entry| entry[1]["concat"][0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn affinity_moves_only_what_it_must() {
    let three = buckets(vec![endpoint(2, false), endpoint(3, false), endpoint(4, false)]);
    let two = buckets(vec![endpoint(2, false), endpoint(4, false)]);
    assert_eq!((three.len(), two.len()), (128, 128));
    for (before, after) in three.iter().zip(&two) {
        assert!(before == after || before == "10.45.1.3", "{before} became {after}");
    }
    for address in ["10.45.1.2", "10.45.1.3", "10.45.1.4"] {
        let share = three.iter().filter(|a| *a == address).count();
        assert!((20..=70).contains(&share), "{address} has {share} of 128");
    }
}

#[test]
fn draining_endpoints_get_nothing_new() {
    let (web, port) = service(Policy::RoundRobin, vec![endpoint(2, true), endpoint(3, false)]);
    let only = target(&web, &taking(&web, &port, &Loads::new())).unwrap();
    assert_eq!(only, json!({ "dnat": { "addr": "10.45.1.3", "port": 8080 } }));
    let (web, port) = service(Policy::RoundRobin, vec![endpoint(2, true)]);
    assert_eq!(target(&web, &taking(&web, &port, &Loads::new())), None);
}

#[test]
fn a_map_that_has_nothing_for_a_packet_is_not_the_last_word() {
    for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::Source] {
        let (web, _) = service(policy, vec![endpoint(2, true), endpoint(3, false), endpoint(4, false)]);
        let rules = service_rules(&web, ("services", "published"), &Loads::new());
        let last = |rule: &Value| rule.pointer("/add/rule/expr/3/dnat/addr").cloned().unwrap();
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert!(last(&rules[0]).get("map").is_some() && last(&rules[1]).is_string(), "{rules:?}");
    }
    let (web, _) = service(Policy::RoundRobin, vec![endpoint(2, true), endpoint(3, false)]);
    assert_eq!(service_rules(&web, ("services", "published"), &Loads::new()).len(), 1);
}
