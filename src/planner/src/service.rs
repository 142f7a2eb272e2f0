//! Services: virtual addresses, the table that every module is told, and the drain of what leaves it.
//!
//! ```text
//!  ready ──► in the table ──retire──► draining: no new connections ──► stopped
//!                                        │ every module has the new table, and
//!                                        └ no connection is left, or spec.migration.drain is over
//! ```

use crate::{Refusal, core::Core};
use model::{
    AppSpec, Endpoint, Instance, InstanceId, Liveness, Name, Port, Service, ServicePort, ServiceTable,
    Severity, Subnet,
};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// An instance that has left its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drain {
    since: u64,
    /// For each module the order with the first table without it.
    told: BTreeMap<Name, u64>,
    /// When every module was first known to have such a table.
    switched: Option<u64>,
    /// The last count of its connections, and when it came.
    counted: Option<(u64, u32)>,
}

/// A count of connections is at most this many heartbeats old when it arrives.
const STALE_BEATS: u64 = 3;

impl Core {
    /// Services get their addresses from `range`.
    #[must_use]
    pub fn with_services(mut self, range: Subnet) -> Self {
        self.table.range = range;
        self
    }

    /// What the modules are told of services.
    pub fn services(&self) -> &ServiceTable {
        &self.table
    }

    /// The address for an app: the one that it has, or the next free one after the highest that is taken, so
    /// that an address is not soon used again.
    pub(crate) fn allot(&self, spec: &AppSpec) -> Result<String, Refusal> {
        let known = self.apps.get(&spec.name).map(|app| app.service_address.clone()).unwrap_or_default();
        if !spec.has_service() || !known.is_empty() {
            return Ok(if spec.has_service() { known } else { String::new() });
        }
        let range = self.table.range;
        let taken: std::collections::BTreeSet<u32> =
            self.apps.values().filter_map(|app| range.number(app.service_address.parse().ok()?)).collect();
        let highest = taken.last().copied().unwrap_or(0);
        let free = (highest.saturating_add(1)..=range.hosts()).chain(1..highest).find(|n| !taken.contains(n));
        free.and_then(|n| range.host(n))
            .map(|a| a.to_string())
            .ok_or_else(|| Refusal::NoServiceAddress { app: spec.name.clone(), range: range.to_string() })
    }

    /// Refuses a request as a whole when it needs more addresses than are left.
    pub(crate) fn refuse_too_many_services(&self, specs: &[AppSpec]) -> Result<(), Refusal> {
        let has = |name: &Name| self.apps.get(name).is_some_and(|app| !app.service_address.is_empty());
        let mut new = specs.iter().filter(|spec| spec.has_service() && !has(&spec.name));
        let taken = self.apps.values().filter(|app| !app.service_address.is_empty()).count();
        let left = usize::try_from(self.table.range.hosts()).unwrap_or(usize::MAX).saturating_sub(taken);
        match new.nth(left) {
            None => Ok(()),
            Some(spec) => {
                Err(Refusal::NoServiceAddress { app: spec.name.clone(), range: self.table.range.to_string() })
            }
        }
    }

    /// A host port that a service publishes is taken on every module.
    pub(crate) fn refuse_published(&self, spec: &AppSpec, others: &[AppSpec]) -> Result<(), Refusal> {
        let is_new = |app: &&model::App| others.iter().all(|o| o.name != *app.name());
        let known = self.apps.values().filter(is_new).map(|app| &app.spec);
        for other in known.chain(others).filter(|o| o.name != spec.name) {
            for port in &spec.ports {
                let Some(id) = port.host_id() else { continue };
                let clash =
                    |p: &Port| p.host_id() == Some(id) && (p.service.is_some() || port.service.is_some());
                if other.ports.iter().any(clash) {
                    return Err(Refusal::PublishedTwice {
                        app: spec.name.clone(),
                        port: id,
                        other: other.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes an instance out of its service and stops it when its connections have ended; at once when it has
    /// no service or serves nobody.
    pub(crate) fn retire(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get(id).cloned() else { return };
        if instance.draining {
            return;
        }
        if !instance.spec.has_service() || !instance.is_ready() {
            return self.stop(id);
        }
        self.moves.remove(id);
        let (since, told) = (self.now.mono, BTreeMap::new());
        self.drains.insert(id.clone(), Drain { since, told, switched: None, counted: None });
        self.put_instance(Instance { draining: true, replaces: None, ..instance });
    }

    /// What an agent counted of a draining instance.
    pub(crate) fn count(&mut self, id: &InstanceId, connections: Option<u32>) {
        let now = self.now.mono;
        if let (Some(drain), Some(connections)) = (self.drains.get_mut(id), connections) {
            drain.counted = Some((now, connections));
        }
    }

    /// Draining instances whose time is over are stopped.
    pub(crate) fn finish_drains(&mut self) {
        let draining: Vec<Instance> =
            self.instances.values().filter(|i| i.draining && !i.is_stopping()).cloned().collect();
        for instance in draining {
            let now = self.now.mono;
            let drain = self.drains.entry(instance.id.clone()).or_insert(Drain {
                since: now,
                told: BTreeMap::new(),
                switched: None,
                counted: None,
            });
            let links = &self.links;
            let has_it = |name: &Name, order: &u64| links.get(name).is_none_or(|l| l.routed >= *order);
            if drain.switched.is_none() && drain.told.iter().all(|(name, order)| has_it(name, order)) {
                drain.switched = Some(now);
            }
            let fresh =
                |at: u64| drain.switched.is_some_and(|s| at >= s + STALE_BEATS * self.timing.heartbeat.0);
            let idle = drain.counted.is_some_and(|(at, count)| count == 0 && fresh(at));
            // A module that cannot set its table must not hold everything up for ever.
            let patience = self.timing.lease.0 + self.timing.margin.0;
            let limit =
                instance.spec.migration.drain.0.max(if drain.switched.is_some() { 0 } else { patience });
            let over = now.saturating_sub(drain.since) >= limit;
            if !idle && !over && instance.is_ready() {
                continue;
            }
            if let Some((_, left)) = drain.counted.filter(|(_, count)| *count > 0 && over) {
                let text = format!(
                    "{} still had {left} connections after {}",
                    instance.id, instance.spec.migration.drain
                );
                self.event(Severity::Warning, instance.id.replica(), "DrainLimit", text);
            }
            self.stop(&instance.id);
        }
    }

    /// A module has a new connection, or none any more: what it was told before does not count.
    pub(crate) fn forget_told(&mut self, module: &Name) {
        for drain in self.drains.values_mut() {
            drain.told.remove(module);
        }
    }

    /// Order `number`, with the table as it is now, goes to `module`.
    pub(crate) fn tell(&mut self, module: &Name, number: u64) {
        for drain in self.drains.values_mut() {
            drain.told.entry(module.clone()).or_insert(number);
        }
    }

    /// Renews the table; every module gets a new order when it has changed.
    pub(crate) fn route(&mut self) {
        let services: Vec<Service> = self.apps.values().filter_map(|app| self.service(app)).collect();
        let roaming = self.roaming();
        if (&services, &roaming) != (&self.table.services, &self.table.roaming) {
            (self.table.services, self.table.roaming) = (services, roaming);
            self.reorder.extend(self.links.keys().cloned());
        }
    }

    fn service(&self, app: &model::App) -> Option<Service> {
        let address: Ipv4Addr = app.service_address.parse().ok()?;
        let ready: Vec<(&Instance, &Name, Ipv4Addr)> = self
            .instances_of(&app.spec.name)
            .filter(|i| i.is_ready())
            .filter_map(|i| Some((i, i.module.as_ref()?, i.address.parse().ok()?)))
            .collect();
        let heard = |module: &Name| {
            self.links
                .get(module)
                .is_some_and(|l| matches!(l.liveness, Liveness::Ready | Liveness::Returning))
        };
        // One that is not heard keeps what it has, and gets nothing new as long as there are others.
        let others = ready.iter().any(|(i, module, _)| !i.draining && heard(module));
        let ports = app.spec.ports.iter().filter_map(|port| {
            let id = port.service_id()?;
            let endpoints = ready.iter().filter_map(|(instance, module, address)| {
                let own = instance.spec.ports.iter().find(|p| p.service_id() == Some(id))?;
                Some(Endpoint {
                    instance: instance.id.clone(),
                    module: (*module).clone(),
                    address: *address,
                    port: own.container,
                    draining: instance.draining || (others && !heard(module)),
                })
            });
            Some(ServicePort {
                port: id.number,
                protocol: id.protocol,
                published: port.host,
                endpoints: endpoints.collect(),
            })
        });
        Some(Service {
            app: app.spec.name.clone(),
            address,
            policy: app.spec.service.policy,
            ports: ports.collect(),
        })
    }
}
