//! Volumes under random histories: at no moment, and whatever the server believes, do two instances have a
//! single-writer volume, nor does a local one have its data on two modules.

use super::*;

/// Names that begin with `one` are single-writer; with `local` in them they are on a module.
const VOLUMES: [&str; 4] = ["one-local", "one-chassis", "all-local", "all-chassis"];

fn volumes() -> Vec<model::VolumeSpec> {
    let text: String = VOLUMES
        .iter()
        .map(|name| {
            let class = if name.contains("local") { "local" } else { "chassis" };
            let access = if name.starts_with("one") { "single-writer" } else { "shared" };
            format!("[[volume]]\nname='{name}'\nclass='{class}'\naccess='{access}'\nsize='10MiB'\n")
        })
        .collect();
    AppFile::parse("test", &text).unwrap().volumes
}

impl World {
    pub(super) fn check_volumes(&self) {
        let mut writers: BTreeMap<&Name, Vec<String>> = BTreeMap::new();
        let mut places: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
        for (module, agent) in &self.agents {
            for told in agent.running.keys().map(|id| &agent.told[id]) {
                for volume in &told.volumes {
                    let name = &volume.key.name;
                    writers.entry(name).or_default().push(format!("{} on {module}", told.id));
                    places.entry(name).or_default().insert(module);
                }
            }
        }
        for (name, who) in writers.iter().filter(|(name, _)| name.starts_with("one")) {
            assert!(who.len() == 1, "{name} is attached to {who:?} at {}", self.time);
        }
        for (name, at) in places.iter().filter(|(name, _)| name.contains("local")) {
            assert!(at.len() == 1, "{name} is on {at:?} at {}", self.time);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Run(u64),
    Cut(u16, bool),
    CrashServer,
    Mount { app: u8, volume: usize, replicas: u32, version: u8 },
    Delete(u8),
    Drain(u16, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (50u64..2500).prop_map(Step::Run),
        3 => (1u16..=3, any::<bool>()).prop_map(|(slot, cut)| Step::Cut(slot, cut)),
        1 => Just(Step::CrashServer),
        4 => (0u8..5, 0..VOLUMES.len(), 1u32..3, 0u8..3)
            .prop_map(|(app, volume, replicas, version)| Step::Mount { app, volume, replicas, version }),
        1 => (0u8..5).prop_map(Step::Delete),
        2 => (1u16..=3, any::<bool>()).prop_map(|(slot, drain)| Step::Drain(slot, drain)),
    ]
}

fn mounting(app: u8, volume: usize, replicas: u32, version: u8) -> AppSpec {
    let volume = VOLUMES[volume];
    let replicas = if volume.starts_with("one") { 1 } else { replicas };
    let ports = if app.is_multiple_of(2) { "ports = [{ container = 8080, service = 80 }]" } else { "" };
    let more = format!(
        "replicas = {replicas}\nenv = {{ v = '{version}' }}\nmigration = {{ drain = '1s' }}\n{ports}\n\
         volumes = [{{ name = '{volume}', path = '/data' }}]"
    );
    spec(&format!("app-{app}"), &more)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_single_writer_volume_never_has_two_writers(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = World::new(3);
        world.request(Request::ApplyAll(volumes(), vec![])).unwrap();
        for step in steps {
            match step {
                Step::Run(span) => world.run(span),
                Step::Cut(slot, cut) => world.cut(slot, cut),
                Step::CrashServer => world.crash_server(),
                Step::Mount { app, volume, replicas, version } => {
                    let app = mounting(app, volume, replicas, version);
                    drop(world.request(Request::Apply(vec![app])));
                }
                Step::Delete(app) => {
                    drop(world.request(Request::Delete(vec![format!("app-{app}").parse().unwrap()])));
                }
                Step::Drain(slot, draining) => {
                    let module = Name::of_module(slot);
                    world.request(Request::Cordon { module, cordoned: draining, draining }).unwrap();
                }
            }
        }
        for slot in 1..=3 {
            world.cut(slot, false);
            let module = Name::of_module(slot);
            world.request(Request::Cordon { module, cordoned: false, draining: false }).unwrap();
        }
        // An update may take a minute until it is given up, and what it leaves is balanced then.
        world.run(90_000);
        // Each single-writer volume that anybody wants is somebody's, and nobody else waits for another reason.
        for volume in world.core.volumes().filter(|v| !v.apps.is_empty()) {
            prop_assert!(!volume.attached.is_empty(), "{:?}", volume);
        }
        for waits in world.core.instances().filter(|i| !i.is_ready()) {
            prop_assert!(waits.message.contains(" is attached to "), "{:?}", waits);
        }
    }
}
