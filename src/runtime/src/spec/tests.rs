use super::*;
use crate::Node;
use model::{AcceleratorShare, AppFile, Milli};
use std::path::PathBuf;

fn desired(resources: &str, binding: Binding) -> Desired {
    let text = format!("name='a'\nimage='r.s:5000/a'\ncommand=['x']\nresources={resources}\n");
    let spec = AppFile::parse("test", &text).unwrap().apps.remove(0);
    Desired { id: "a-1-1".parse().unwrap(), spec, binding, volumes: Vec::new(), live: None, keeps: None }
}

fn grant(number: u32, path: &str, minor: i64) -> Grant {
    Grant {
        number,
        pcie_slot: (number + 5).to_string(),
        address: format!("0000:0{}:00.0", number + 5),
        share: Milli(Milli::WHOLE),
        nodes: vec![Node { path: PathBuf::from(path), block: false, major: 243, minor }],
    }
}

#[test]
fn an_instance_has_its_cores_its_limits_and_its_own_devices() {
    let bound = AcceleratorShare { number: 3, share: Milli(Milli::WHOLE) };
    let binding = Binding { accelerators: vec![bound], cores: [1, 2].into() };
    let desired = desired("{ cpu = 2, memory = '64MiB', gpu = 1 }", binding);
    let grants = [grant(3, "/dev/uio3", 3)];
    let place = Place {
        netns: Path::new("/n"),
        module: "module-2",
        grants: &grants,
        resolv_conf: None,
        volumes: &[],
    };
    let spec = build(&desired, &ImageConfiguration::default(), &place).unwrap();
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    for wanted in ["SPACECLOUD_MODULE=module-2", "SPACECLOUD_ACCELERATORS=3", "SPACECLOUD_PCIE_SLOTS=8"] {
        assert!(env.iter().any(|line| line == wanted), "{wanted} is not in {env:?}");
    }
    let linux = spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].path(), devices[0].minor()), (&PathBuf::from("/dev/uio3"), 3));
    let resources = linux.resources().as_ref().unwrap();
    assert_eq!(resources.cpu().as_ref().unwrap().cpus().as_deref(), Some("1,2"));
    assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(64 << 20));
    let rules = resources.devices().as_ref().unwrap();
    assert!(!rules[0].allow() && rules[0].major().is_none(), "first of all, nothing is allowed");
    assert_eq!(rules.len(), 2);
    assert!(rules[1].allow() && rules[1].minor() == Some(3));
}

#[test]
fn without_accelerators_there_is_no_device_and_no_word_of_them() {
    let desired = desired("{ cpu = '500m' }", Binding::default());
    let place =
        Place { netns: Path::new("/n"), module: "module-2", grants: &[], resolv_conf: None, volumes: &[] };
    let spec = build(&desired, &ImageConfiguration::default(), &place).unwrap();
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert!(!env.iter().any(|line| line.contains("ACCELERATOR") || line.contains("PCIE")));
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.devices().as_ref().is_none_or(Vec::is_empty));
    let cpu = linux.resources().as_ref().unwrap().cpu().clone().unwrap();
    assert_eq!((cpu.quota(), cpu.cpus().clone()), (Some(50_000), None));
}
