//! Three modules that are namespaces, and what the rounds do to them.

use crate::ground::{self, Ground};
use api::v1::Snapshot;
use spacesim::{
    BackplaneKind, ChassisFile, Provision, SimError, cluster::Cluster, scenario, wait_until, within,
};
use std::ops::Deref;
use std::time::Duration;

/// Bounds a wait; on a host that does nothing else each takes some seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    ground: Ground,
}

impl Deref for Rig {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Rig {
    /// Three modules, or a changed chassis, with this laid over their configuration, and the image in the registry.
    pub(crate) fn start(change: impl FnOnce(&mut ChassisFile), configuration: &str) -> Self {
        Self::with(change, configuration, |identity| identity)
    }

    /// The same with more files on every module.
    pub(crate) fn with(
        change: impl FnOnce(&mut ChassisFile),
        configuration: &str,
        more: impl Fn(Provision) -> Provision,
    ) -> Self {
        let mut file = ground::three();
        change(&mut file);
        let ground = Ground::planned(file, BackplaneKind::Netns, |plan| {
            for identity in plan.identities.values_mut() {
                let path = "/etc/spacecloud/spacecloud.toml.d/40-faults.toml";
                *identity = more(std::mem::take(identity).file(path, 0o644, configuration));
            }
        });
        let rig = Self { cluster: ground.connect(), ground };
        rig.wait("three modules are ready", |s| s.modules.iter().filter(|m| m.state == "ready").count() == 3);
        rig.push(1);
        rig
    }

    pub(crate) fn wait(&self, what: &str, test: impl Fn(&Snapshot) -> bool) {
        if let Err(error) = self.cluster.wait_for(what, within(PATIENCE), |_| {}, test) {
            for event in self.cluster.now().events.iter().rev().take(40).rev() {
                eprintln!("{} {} {}", event.subject, event.reason, event.message);
            }
            panic!("{error}");
        }
    }

    /// As an operator does whose server was just killed, or is hard to reach.
    pub(crate) fn insist(&self, request: impl Fn(&Cluster) -> Result<(), SimError>) {
        let mut last = None;
        let taken = wait_until("the server takes a request", within(PATIENCE), || {
            last = request(&self.cluster).err();
            last.is_none()
        });
        taken.unwrap_or_else(|error| panic!("{error}: {last:?}"));
    }

    pub(crate) fn drain(&self, slot: u16, wanted: bool) {
        self.insist(|cluster| cluster.drain(&format!("module-{slot}"), wanted));
    }

    /// No stray, none missing: every module's containers are those that the cluster knows.
    pub(crate) fn runs_what_it_says(&self) {
        for module in self.chassis.modules() {
            let list = || module.run("ctr -n spacecloud tasks ls -q | wc -l", within(PATIENCE)).unwrap();
            let says = || self.cluster.now().instances.iter().filter(|i| i.module == module.name()).count();
            let same = || list().trim().parse() == Ok(says());
            wait_until("the module runs what the cluster says", within(PATIENCE), same).unwrap_or_else(
                |error| {
                    panic!("{error}: {} runs {}, the cluster says {}", module.name(), list().trim(), says())
                },
            );
        }
    }

    pub(crate) fn no_double_runs(&self, app: &str) {
        assert_eq!(scenario::double_runs(&self.chassis, app).unwrap(), Vec::<String>::new());
    }
}
