use super::*;
use model::AcceleratorShare;

/// A bus with devices in slots 5 and 8, each with a node; slot 6 is there and empty.
fn bus() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let pci = dir.path().join("bus/pci");
    for (slot, address) in [("5", "0000:05:00"), ("6", "0000:06:00"), ("8", "0000:08:00")] {
        fs::create_dir_all(pci.join("slots").join(slot)).unwrap();
        fs::write(pci.join("slots").join(slot).join("address"), format!("{address}\n")).unwrap();
    }
    for (address, minor) in [("0000:05:00.0", 0), ("0000:08:00.0", 1)] {
        let uio = pci.join("devices").join(address).join("uio").join(format!("uio{minor}"));
        fs::create_dir_all(&uio).unwrap();
        fs::write(uio.join("dev"), format!("243:{minor}\n")).unwrap();
        fs::write(uio.join("uevent"), format!("MAJOR=243\nMINOR={minor}\nDEVNAME=uio{minor}\n")).unwrap();
    }
    dir
}

fn line(number: u32, pcie_slot: &str) -> AcceleratorSlot {
    AcceleratorSlot { number, pcie_slot: pcie_slot.to_owned(), driver: None }
}

fn binding(numbers: &[u32]) -> Binding {
    let share = |number: &u32| AcceleratorShare { number: *number, share: Milli(Milli::WHOLE) };
    Binding { accelerators: numbers.iter().map(share).collect(), ..Binding::default() }
}

#[test]
fn a_number_is_its_slot_s_also_with_one_device_missing() {
    let bus = bus();
    let map = vec![line(3, "8"), line(0, "5"), line(1, "6"), line(7, "15"), line(4, "0000:08:00.0")];
    let accelerators = Accelerators::new(map, bus.path());
    let seen = |found: &[Accelerator]| -> Vec<(u32, String, String)> {
        found.iter().map(|a| (a.number, a.address.clone(), a.fault.clone())).collect()
    };
    let found = seen(&accelerators.discover());
    let expected = [
        (0, "0000:05:00.0", ""),
        (1, "", "no device in PCIe slot 6"),
        (3, "0000:08:00.0", ""),
        (4, "0000:08:00.0", ""),
        (7, "", "there is no PCIe slot 15"),
    ];
    assert_eq!(found, expected.map(|(n, a, f)| (n, a.to_owned(), f.to_owned())));
    fs::remove_dir_all(bus.path().join("bus/pci/devices/0000:05:00.0")).unwrap();
    let found = seen(&accelerators.discover());
    assert_eq!(found[0], (0, String::new(), "no device in PCIe slot 5".to_owned()));
    assert_eq!(found[2].1, "0000:08:00.0", "number 3 is what is in slot 8, whatever else is missing");
}

#[test]
fn an_instance_is_given_the_nodes_of_its_own_device_alone() {
    let bus = bus();
    let accelerators = Accelerators::new(vec![line(0, "5"), line(3, "8"), line(1, "6")], bus.path());
    let grants = accelerators.grants(&binding(&[3])).unwrap();
    let node = Node { path: "/dev/uio1".into(), block: false, major: 243, minor: 1 };
    assert_eq!(grants[0].nodes, [node]);
    assert_eq!(
        environment(&grants),
        ["SPACECLOUD_ACCELERATORS=3", "SPACECLOUD_PCIE_SLOTS=8", "SPACECLOUD_PCIE_ADDRESSES=0000:08:00.0"]
    );
    for (number, word) in [(1, "no device in PCIe slot 6"), (9, "agent.accelerators")] {
        let error = accelerators.grants(&binding(&[number])).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(&number.to_string()), "{error}");
    }
    assert!(environment(&[]).is_empty());
}
