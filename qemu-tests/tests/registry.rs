//! Two modules hold every image, and images outlive the module of the registry: with it cut off, an app moves to a
//! module that never saw its image and gets it from the registry that follows. Needs root, as namespaces do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ground;

use api::v1::Snapshot;
use ground::Ground;
use spacesim::{BackplaneKind, ChassisFile, Module, Times, image, wait_until, within};
use std::process::Command;

/// The server is not where the first registry is, so that somebody is left who decides.
const FOUR: &str = r#"
name = "apart"
slot = [
  { number = 1, kind = "compute", roles = ["server", "agent"] },
  { number = 2, kind = "compute", roles = ["agent", "registry"] },
  { number = 3, kind = "compute", roles = ["agent", "registry"] },
  { number = 4, kind = "compute", roles = ["agent"] },
]
"#;

/// The server has images pulled ahead by two more modules; of 1, 3 and 4 this app's name chooses the first two.
const APP: &str = r#"
name = "camera"
image = "registry.spacecloud:5000/demo/web:1"
health = { tcp = 8080 }
"#;

fn has_image(module: &Module) -> bool {
    module.run("ctr -n spacecloud images ls -q", within(60.s())).unwrap().contains("demo/web:1")
}

fn ready_on(snapshot: &Snapshot, module: &str) -> bool {
    snapshot.instances.len() == 1
        && snapshot.instances.iter().all(|i| i.module == module && i.phase == "ready")
}

/// The chassis that the simulator makes when nothing is said.
#[test]
fn two_modules_hold_every_image_by_what_the_image_itself_says() {
    let file = ChassisFile::parse(spacesim::cli::DEFAULT_CHASSIS).unwrap();
    let ground = Ground::new(file, BackplaneKind::Netns);
    let _scenario = ground.begin(|_| {});
    let module = |number| ground.chassis.module(number).unwrap();
    for number in [1, 2] {
        let own = module(number).run("cat /etc/spacecloud/registry.toml", within(60.s())).unwrap();
        let shipped = include_str!("../../meta-spacecloud/recipes-core/spacecloud-conf/files/registry.toml");
        assert_eq!(own.trim(), shipped.trim(), "module-{number} is configured by hand");
    }
    // Pushed to either of them, it is on both.
    ground.push(1);
    let second = format!("docker://127.0.0.1:{}/demo/two:1", module(2).ground().registry);
    let pushed = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-cert-dir"])
        .arg(ground.operator.join("registry"))
        .args([&format!("oci:{}:{}", ground.demo.display(), image::demo::TAG), &second])
        .output()
        .unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    for (number, name) in [(1, "web"), (1, "two"), (2, "web"), (2, "two")] {
        let tags = format!("find /var/lib/space-registry/repositories/demo/{name}/_tags -type f");
        wait_until("both have it", within(60.s()), || {
            module(number).run(&tags, within(60.s())).is_ok_and(|found| found.contains("/1"))
        })
        .unwrap_or_else(|error| panic!("module-{number} has no demo/{name}: {error}"));
    }
}

#[test]
fn an_image_is_pulled_from_the_follower_while_the_registrys_module_is_isolated() {
    let ground = Ground::new(ChassisFile::parse(FOUR).unwrap(), BackplaneKind::Netns);
    let scenario = ground.begin(|_| {});
    let cluster = &scenario.cluster;
    let module = |number| ground.chassis.module(number).unwrap();
    ground.push(2);

    // It runs on the registry's own module, and those that have the image ahead take nothing over.
    for number in [1, 3, 4] {
        cluster.drain(&format!("module-{number}"), true).unwrap();
    }
    cluster.apply(APP).unwrap();
    let limit = || within(120.s());
    cluster.wait_for("it runs on module-2", limit(), |_| {}, |s| ready_on(s, "module-2")).unwrap();
    wait_until("modules 1 and 3 have it ahead", limit(), || has_image(module(1)) && has_image(module(3)))
        .unwrap();
    let blobs = "find /var/lib/space-registry/repositories/demo/web/_tags -type f";
    wait_until("the follower has the image", limit(), || {
        module(3).run(blobs, within(60.s())).is_ok_and(|found| found.contains("/1"))
    })
    .unwrap();
    cluster.drain("module-4", false).unwrap();
    let usable = |s: &Snapshot| s.modules.iter().any(|m| m.name == "module-4" && !m.cordoned);
    cluster.wait_for("module-4 may be used", limit(), |_| {}, usable).unwrap();
    assert!(!has_image(module(4)), "this test is about a module that never saw the image");

    module(2).isolate().unwrap();
    let moved = |s: &Snapshot| ready_on(s, "module-4");
    let (_, took) = cluster.wait_for("it runs on module-4", limit(), |_| {}, moved).unwrap();
    eprintln!("registry's module isolated to running where the image never was: {:.2} s", took.as_secs_f64());
    let console = module(4).console().unwrap();
    assert!(console.contains("pulled from a registry that follows"), "{console}");
    assert!(has_image(module(4)), "it is kept under its own name");
}
