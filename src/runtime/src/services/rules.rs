//! What is in the table, as commands of nft's JSON interface (libnftables-json(5)).
//!
//! ```text
//!  prerouting (from instances and outside) ─┐   to a service's address ─► services ─► dnat to an endpoint
//!  output     (from this module itself) ────┤   to an address of ours ──► published ─► dnat to an endpoint
//!  postrouting ─ masquerade where the answer would otherwise not come back through here
//!  forward, output ─ what still has a service's address has no endpoint: refused at once
//! ```
//!
//! What is spread by counts is in chains of its own, which are renewed alone.

use super::{
    balance::{Load, Loads, turns},
    place,
};
use model::{Endpoint, Policy, Roaming, Service, ServicePort, ServiceTable, Subnet};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

const TABLE: &str = "spacecloud";
/// Connections that these rules have translated; the last byte says how they came.
pub(super) const MARK: u32 = 0x005c_0000;
pub(super) const MARK_MASK: u32 = 0xffff_ff00;
const TO_SERVICE: u32 = MARK | 1;
const TO_PUBLISHED: u32 = MARK | 2;
/// Source addresses are spread over this many buckets, and buckets over endpoints.
const BUCKETS: u32 = 128;
/// The same on every module, so that a client meets the same endpoint through each of them.
const SEED: u32 = 0x005c_0b10;

/// Chains of services by least connections, and of their published ports.
const COUNTED: (&str, &str) = ("counted", "counted-published");

fn object(kind: &str, mut fields: Value) -> Value {
    extend(&mut fields, json!({ "family": "ip", "table": TABLE }));
    json!({ kind: fields })
}

fn add(kind: &str, fields: Value) -> Value {
    json!({ "add": object(kind, fields) })
}

fn rule(chain: &str, expr: Vec<Value>) -> Value {
    add("rule", json!({ "chain": chain, "expr": expr }))
}

/// What renews the chains of services by least connections, and nothing else.
pub(super) fn counted_rules(table: &ServiceTable, loads: &Loads) -> Value {
    let flush = |chain: &str| json!({ "flush": object("chain", json!({ "name": chain })) });
    let mut commands = vec![flush(COUNTED.0), flush(COUNTED.1)];
    let counted = table.services.iter().filter(|s| s.is_counted());
    commands.extend(counted.flat_map(|s| service_rules(s, COUNTED, loads)));
    json!({ "nftables": commands })
}

/// Where new connections to a service go, in a chain for its address and one for its published ports.
fn service_rules(service: &Service, (by_address, published): (&str, &str), loads: &Loads) -> Vec<Value> {
    let mut rules = Vec::new();
    for port in &service.ports {
        let taking = taking(service, port, loads);
        let dport = |number: u16| is("==", payload(port.protocol.as_str(), "dport"), json!(number));
        let at = is("==", payload("ip", "daddr"), json!(service.address));
        for target in target(service, &taking).into_iter().chain(instead(&taking)) {
            rules
                .push(rule(by_address, vec![at.clone(), dport(port.port), mark(TO_SERVICE), target.clone()]));
            if let Some(host) = port.published {
                rules.push(rule(published, vec![dport(host), mark(TO_PUBLISHED), target]));
            }
        }
    }
    rules
}

/// Everything that is in the table, as commands for one transaction.
pub(super) fn ruleset(table: &ServiceTable, loads: &Loads, pods: Subnet, own: Option<Ipv4Addr>) -> Value {
    let hook = |name: &str, kind: &str, hook: &str, priority: i32| {
        add(
            "chain",
            json!({ "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept" }),
        )
    };
    let mut commands = vec![
        json!({ "add": { "table": { "family": "ip", "name": TABLE } } }),
        add("chain", json!({ "name": "services" })),
        add("chain", json!({ "name": "published" })),
        add("chain", json!({ "name": COUNTED.0 })),
        add("chain", json!({ "name": COUNTED.1 })),
        // Before Docker's and the portmap plugin's.
        hook("prerouting", "nat", "prerouting", -105),
        hook("output", "nat", "output", -105),
        hook("postrouting", "nat", "postrouting", 95),
        hook("refuse-forward", "filter", "forward", -5),
        hook("refuse-output", "filter", "output", -5),
        json!({ "flush": { "table": { "family": "ip", "name": TABLE } } }),
    ];
    let mut rule = |chain: &str, expr: Vec<Value>| commands.push(rule(chain, expr));
    let to_services = is("==", payload("ip", "daddr"), prefix(table.range));
    for chain in ["prerouting", "output"] {
        for to in ["services", COUNTED.0] {
            rule(chain, vec![to_services.clone(), jump(to)]);
        }
        let loopback = json!({ "prefix": { "addr": "127.0.0.0", "len": 8 } });
        let ours = vec![
            is("!=", payload("ip", "daddr"), loopback),
            is("==", json!({ "fib": { "result": "type", "flags": ["daddr"] } }), json!("local")),
        ];
        for to in ["published", COUNTED.1] {
            rule(chain, [ours.clone(), vec![jump(to)]].concat());
        }
    }
    let from = |subnet: Subnet| is("==", payload("ip", "saddr"), prefix(subnet));
    let to = |op: &str, subnet: Subnet| is(op, payload("ip", "daddr"), prefix(subnet));
    let masked = json!({ "&": [{ "ct": { "key": "mark" } }, MARK_MASK] });
    let ours = is("==", masked, json!(MARK));
    let masquerade = json!({ "masquerade": null });
    // Those that have come with an address of another module's, and those of ours that have gone with theirs.
    let (here, away): (Vec<&Roaming>, Vec<&Roaming>) = table.roaming.iter().partition(|r| Some(r.via) == own);
    let addresses = |all: &[&Roaming]| json!({ "set": all.iter().map(|r| r.address).collect::<Vec<_>>() });
    let away: Vec<&Roaming> = away.into_iter().filter(|r| pods.contains(r.address)).collect();
    // Two instances of this module: the answer would go over the bridge alone and nobody would translate it back. By
    // the bridge's own address and not whichever fits the way out, so that it stays when one of them goes elsewhere.
    let as_bridge = pods.gateway().map_or(masquerade.clone(), |g| json!({ "snat": { "addr": g } }));
    rule("postrouting", vec![ours.clone(), from(pods), to("==", pods), as_bridge.clone()]);
    if !here.is_empty() {
        let is_here = |field| is("==", payload("ip", field), addresses(&here));
        rule("postrouting", vec![ours.clone(), is_here("saddr"), is_here("daddr"), as_bridge]);
    }
    let mut elsewhere = vec![vec![to("!=", pods)]];
    if let (false, Some(first)) = (here.is_empty(), elsewhere.first_mut()) {
        first.push(is("!=", payload("ip", "daddr"), addresses(&here)));
    }
    if !away.is_empty() {
        elsewhere.push(vec![is("==", payload("ip", "daddr"), addresses(&away))]);
    }
    let published = is("==", json!({ "ct": { "key": "mark" } }), json!(TO_PUBLISHED));
    let local = is("==", json!({ "fib": { "result": "type", "flags": ["saddr"] } }), json!("local"));
    let as_module = own.map_or(masquerade, |own| json!({ "snat": { "addr": own } }));
    for elsewhere in elsewhere {
        // From outside to another module: that one knows no way back to the client but through here.
        rule("postrouting", [vec![published.clone()], elsewhere.clone(), vec![as_module.clone()]].concat());
        // From this module by an address that others cannot answer to, as the ground link's.
        let by_hand = vec![local.clone(), as_module.clone()];
        rule("postrouting", [vec![ours.clone()], elsewhere, by_hand].concat());
    }
    for chain in ["refuse-forward", "refuse-output"] {
        let tcp = is("==", json!({ "meta": { "key": "l4proto" } }), json!("tcp"));
        rule(chain, vec![to_services.clone(), tcp, json!({ "reject": { "type": "tcp reset" } })]);
        let unreachable = json!({ "reject": { "type": "icmp", "expr": "port-unreachable" } });
        rule(chain, vec![to_services.clone(), unreachable]);
    }
    for service in &table.services {
        let chains = if service.is_counted() { COUNTED } else { ("services", "published") };
        commands.extend(service_rules(service, chains, loads));
    }
    json!({ "nftables": commands })
}

fn extend(fields: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn prefix(subnet: Subnet) -> Value {
    json!({ "prefix": { "addr": subnet.base(), "len": subnet.length() } })
}

fn is(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn jump(chain: &str) -> Value {
    json!({ "jump": { "target": chain } })
}

fn mark(value: u32) -> Value {
    json!({ "mangle": { "key": { "ct": { "key": "mark" } }, "value": value } })
}

/// Who takes new connections to a port, each as often as it has turns.
fn taking<'a>(service: &Service, port: &'a ServicePort, loads: &Loads) -> Vec<&'a Endpoint> {
    let mut taking: Vec<&Endpoint> = port.endpoints.iter().filter(|e| !e.draining).collect();
    if service.is_counted() {
        let loads: Vec<Load> =
            taking.iter().map(|e| loads.get(&place(port, e)).copied().unwrap_or_default()).collect();
        taking = turns(&loads).into_iter().filter_map(|turn| taking.get(turn).copied()).collect();
    }
    taking
}

fn to_one(endpoint: &Endpoint) -> Value {
    json!({ "dnat": { "addr": endpoint.address, "port": endpoint.port } })
}

/// Behind the rule that chooses by a map. The kernel may take a map's entries away while a packet is still on its way
/// through the rules that were replaced: the map has nothing for it then, and it would be refused.
fn instead(taking: &[&Endpoint]) -> Option<Value> {
    taking.first().filter(|_| taking.len() > 1).map(|first| to_one(first))
}

/// Where new connections go; nothing when nobody is there.
fn target(service: &Service, taking: &[&Endpoint]) -> Option<Value> {
    let to = |e: &Endpoint| json!({ "concat": [e.address, e.port] });
    if let [only] = taking {
        return Some(to_one(only));
    }
    let (key, entries): (Value, Vec<Value>) = match service.policy {
        Policy::Source => {
            let source = payload("ip", "saddr");
            let hash = json!({ "jhash": { "mod": BUCKETS, "seed": SEED, "expr": source } });
            let entries = (0..BUCKETS).filter_map(|bucket| {
                let winner = taking.iter().max_by_key(|e| (rank(bucket, e), e.address, e.port))?;
                Some(json!([bucket, to(winner)]))
            });
            (hash, entries.collect())
        }
        Policy::RoundRobin | Policy::LeastConnections => {
            let turn = json!({ "numgen": { "mode": "inc", "mod": taking.len(), "offset": 0 } });
            (turn, taking.iter().enumerate().map(|(n, e)| json!([n, to(e)])).collect())
        }
    };
    if entries.is_empty() {
        return None;
    }
    Some(json!({ "dnat": { "family": "ip", "addr": { "map": { "key": key, "data": { "set": entries } } } } }))
}

/// Highest random weight: when an endpoint comes or goes only its own buckets change hands.
fn rank(bucket: u32, endpoint: &Endpoint) -> u64 {
    let seed =
        (u64::from(u32::from(endpoint.address)) << 32) | (u64::from(endpoint.port) << 16) | u64::from(bucket);
    // The finalizer of SplitMix64.
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
