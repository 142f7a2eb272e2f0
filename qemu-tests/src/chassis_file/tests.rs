use super::*;

const TWO: &str = r#"
name = "pair"
[[slot]]
number = 1
kind = "compute"
roles = ["server", "agent", "registry"]
[[slot]]
number = 5
kind = "compute"
memory = "2GiB"
cores = 4
disk = "8GiB"
accelerators = [{ number = 0, pcie_slot = 5 }, { number = 1, pcie_slot = 6 }]
labels = { zone = "port" }
"#;

#[test]
fn a_whole_file_is_read_with_its_defaults() {
    let chassis = ChassisFile::parse(TWO).unwrap();
    assert_eq!(chassis.name, "pair");
    let first = chassis.slot(1).unwrap();
    assert_eq!((first.memory, first.cores, first.disk), (Bytes(1 << 30), 2, Bytes(4 << 30)));
    assert_eq!(first.roles, BTreeSet::from([Role::Server, Role::Agent, Role::Registry]));
    let second = chassis.slot(5).unwrap();
    assert_eq!((second.memory, second.cores), (Bytes(2 << 30), 4));
    assert_eq!(second.roles, BTreeSet::from([Role::Agent]));
    assert_eq!(second.accelerators[1], Accelerator { number: 1, pcie_slot: 6, empty: false });
    assert_eq!(second.labels["zone"], "port");
    assert!(chassis.slot(2).is_none());
}

/// Each break of the good file, and what the one line must say.
#[test]
fn each_mistake_gets_one_line_that_names_key_and_remedy() {
    let many: String = (1..=17).map(|n| format!("[[slot]]\nnumber = {n}\nkind = \"compute\"\n")).collect();
    let breaks = [
        (
            TWO.replace("number = 5", "number = 1"),
            "slot.number = 1: two modules in one slot; give one another",
        ),
        (TWO.replace("\"2GiB\"", "\"2 gigs\""), "`memory = \"2 gigs\"`: \"2 gigs\" is no amount"),
        (TWO.replace("\"2GiB\"", "2"), "`memory = 2`: 2 has no unit"),
        (TWO.replace("cores = 4", "kores = 4"), "`kores = 4`: unknown field `kores`, expected one of"),
        (TWO.replace("cores = 4", "cores = 0"), "slot 5: cores = 0: a module has 1 to 16"),
        (TWO.replace("number = 5", "number = 17"), "slot.number = 17: slots are numbered 1 to 16"),
        (TWO.replace("\"2GiB\"", "\"100MiB\""), "slot 5: memory = \"100MiB\": a module needs 512MiB"),
        (TWO.replace("pcie_slot = 6", "pcie_slot = 5"), "slot 5: accelerators.pcie_slot = 5 is used twice"),
        (
            TWO.replace("pcie_slot = 6", "pcie_slot = 40"),
            "accelerators.pcie_slot = 40: PCIe slots are 1 to 15",
        ),
        (TWO.replace("number = 1, pcie", "number = 0, pcie"), "accelerators.number = 0 is used twice"),
        (TWO.replace("\"pair\"", "\"My Chassis\""), "name = \"My Chassis\" is no DNS label"),
        (
            TWO.replacen("kind = \"compute\"", "kind = \"storage\"", 1),
            "unknown variant `storage`, expected `compute`",
        ),
        (
            TWO.replace("\"registry\"]", "\"storage\"]").replace("cores = 4", "roles = [\"storage\"]"),
            "slot 5: roles: a chassis has one storage module",
        ),
        (TWO.replace("cores = 4", "ground = { grpc = 70000 }"), "invalid value: integer `70000`"),
        (
            TWO.replace("cores = 4", "ground = { grpc = 7000, http = 7000 }"),
            "slot 5: ground.http: the port is used twice",
        ),
        ("name = \"empty\"".to_owned(), "slot: the chassis is empty; add a [[slot]]"),
        (format!("name = \"big\"\n{many}"), "slot: 17 modules; a chassis has 16 slots"),
    ];
    for (text, expected) in breaks {
        let said = ChassisFile::parse(&text).unwrap_err();
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = ChassisFile::load(Path::new("/nowhere/c.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/c.toml: cannot be read"), "{error}");
    assert_eq!(error.exit_code(), 78);
}

/// The files that are shipped.
#[test]
fn the_shipped_chassis_files_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chassis");
    let three = ChassisFile::load(&folder.join("three.toml")).unwrap();
    assert_eq!(three.slots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [1, 2, 3]);
    let accelerated = ChassisFile::load(&folder.join("accelerators.toml")).unwrap();
    assert!(accelerated.slots.iter().any(|slot| !slot.accelerators.is_empty()));
}
