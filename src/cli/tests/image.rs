//! Images over a link to a real registry: what is sent, what is not, and what a cut costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod registry;

use common::{refused, spacectl};
use identity::Authority;
use registry::{
    Layout, Registry, archive,
    ground::{Ground, ground},
    noise, sha256, wait_for,
};
use serde_json::Value;
use std::{fs, process::Command};

const MIB: usize = 1 << 20;

/// Another client, at the operator's home.
fn skopeo(ground: &Ground, arguments: &[&str]) {
    let home = ground.home.path();
    let mut skopeo = Command::new("skopeo");
    skopeo
        .arg("--insecure-policy")
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home);
    let output = skopeo.output().expect("skopeo must be installed to test pushes");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_layout_is_pushed_once_and_its_layers_never_again() {
    let ground = ground();
    let (base, top, other) = (noise(1, 3 * MIB), noise(2, MIB), noise(3, MIB));
    let layout = Layout::new(&ground.path("one"));
    let image = layout.image("amd64", &[&base, &top]);
    layout.name("1", &image);
    let pushed = ground.json(&["image", "push", "one", "demo/web:1", "-o", "json"]);
    assert_eq!((&pushed["blobs_sent"], &pushed["blobs_present"]), (&3.into(), &0.into()), "{pushed}");
    assert!(pushed["bytes_sent"].as_u64().unwrap() > u64::try_from(4 * MIB).unwrap());
    assert_eq!(ground.stored(&sha256(&base)), base);

    let again = ground.done(&["image", "push", "one", "demo/web:1"]);
    assert!(again.contains("sent 0B of ") && again.contains("3 of 3 blobs were there"), "{again}");

    // An image on the same base, in another repository: the base is mounted there.
    let layout = Layout::new(&ground.path("two"));
    let image = layout.image("amd64", &[&base, &other]);
    layout.name("demo/cam:2", &image);
    ground.link.mend();
    let pushed = ground.json(&["image", "push", "two", "-o", "json"]);
    assert_eq!((&pushed["image"], &pushed["blobs_mounted"]), (&"demo/cam:2".into(), &1.into()), "{pushed}");
    assert!(ground.link.carried() < u64::try_from(MIB + MIB / 2).unwrap(), "{} bytes", ground.link.carried());

    let listed = ground.done(&["image", "ls"]);
    assert_eq!(listed, "NAME      TAG\ndemo/cam  2\ndemo/web  1\n");
    let listed = ground.json(&["image", "ls", "demo/web", "-o", "json"]);
    assert_eq!(listed["images"][0]["platforms"], Value::Null);
    assert!(listed["images"][0]["bytes"].as_u64().unwrap() > u64::try_from(4 * MIB).unwrap(), "{listed}");
    let shown = ground.done(&["image", "inspect", "demo/web:1"]);
    assert!(
        shown.contains("linux/amd64") && shown.contains("/app") && shown.contains(&sha256(&top)),
        "{shown}"
    );
    let shown = ground.json(&["image", "inspect", "registry.spacecloud:5000/demo/web:1", "-o", "json"]);
    assert_eq!(shown["config"]["architecture"], "amd64");

    let used = ground.json(&["image", "df", "-o", "json"]);
    assert_eq!(used["repositories"][1]["name"], "demo/web");
    assert_eq!(used["repositories"][1]["tags"], 1);
    assert!(used["bytes"].as_u64().unwrap() > u64::try_from(5 * MIB).unwrap(), "{used}");
    let used = ground.done(&["image", "df"]);
    assert!(used.contains("demo/cam") && used.contains("free on the disk"), "{used}");

    assert_eq!(ground.done(&["image", "rm", "demo/web:1"]), "demo/web:1 removed\n");
    let gone = refused(ground.home.path(), &["image", "rm", "demo/web:1"], 1);
    assert!(gone.contains("there is no 1 in demo/web"), "{gone}");
    assert!(refused(ground.home.path(), &["image", "inspect", "demo/web:1"], 1).contains("demo/web"));
}

#[test]
fn a_cut_push_goes_on_where_it_stopped() {
    let ground = ground();
    let layer = noise(4, 16 * MIB);
    let layout = Layout::new(&ground.path("big"));
    let image = layout.image("amd64", &[&layer]);
    layout.name("1", &image);
    let push = ["image", "push", "big", "telemetry:1", "--chunk", "4MiB", "--retries", "0", "-o", "json"];
    ground.link.carry_only(u64::try_from(11 * MIB).unwrap());
    let (code, out, err) = spacectl(ground.home.path(), &push);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(
        err.trim_end().lines().last().unwrap().contains("the same command goes on where it stopped"),
        "{err}"
    );
    assert_eq!(ground.link.cuts(), 1);

    ground.link.mend();
    let pushed = ground.json(&push);
    let second = usize::try_from(ground.link.carried()).unwrap();
    assert_eq!((&pushed["blobs_resumed"], &pushed["blobs_sent"]), (&1.into(), &1.into()), "{pushed}");
    // Two chunks of four had come through; of the third what the registry had read is kept as well.
    assert!(second < 8 * MIB + MIB / 4, "{second} bytes went the second time");
    assert!(second > 5 * MIB, "{second} bytes cannot have been enough");
    assert_eq!(ground.stored(&sha256(&layer)), layer);
    let state = fs::read_dir(ground.path(".local/state/spacecloud/uploads")).unwrap();
    assert_eq!(state.count(), 0, "an upload that ended is still remembered");
}

#[test]
fn a_short_cut_is_bridged_without_a_word_from_the_operator() {
    let ground = ground();
    let layer = noise(5, 12 * MIB);
    let layout = Layout::new(&ground.path("big"));
    let image = layout.image("amd64", &[&layer]);
    layout.name("1", &image);
    ground.link.carry_only(u64::try_from(7 * MIB).unwrap());
    let mut push =
        common::command(ground.home.path(), &["image", "push", "big", "telemetry:1", "--chunk", "1MiB"]);
    let push =
        push.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    wait_for("the cut", || (ground.link.cuts() > 0).then_some(()));
    ground.link.mend();
    let output = push.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("trying again in 1 s") && told.contains("going on at "), "{told}");
    assert!(usize::try_from(ground.link.carried()).unwrap() < 7 * MIB, "{} bytes", ground.link.carried());
    assert_eq!(ground.stored(&sha256(&layer)), layer);
}

#[test]
fn archives_are_pushed_as_they_are_and_read_by_others() {
    let ground = ground();
    let layer = noise(6, MIB);
    let layout = Layout::new(&ground.path("layout"));
    let image = layout.image("amd64", &[&layer]);
    layout.name("demo/oci:1", &image);
    archive(&ground.path("layout"), &ground.path("oci.tar"));
    assert!(ground.done(&["image", "push", "oci.tar"]).starts_with("demo/oci:1 pushed as sha256:"));

    // As `docker save` wrote it for years: a layer that is a link to another one's.
    let config = format!(
        r#"{{"architecture":"arm64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{0}","{0}"]}}}}"#,
        sha256(&layer)
    );
    let saved = ground.path("saved");
    fs::create_dir_all(saved.join("one")).unwrap();
    fs::create_dir_all(saved.join("two")).unwrap();
    fs::write(saved.join("config.json"), config).unwrap();
    fs::write(saved.join("one/layer.tar"), &layer).unwrap();
    std::os::unix::fs::symlink("../one/layer.tar", saved.join("two/layer.tar")).unwrap();
    fs::write(
        saved.join("manifest.json"),
        r#"[{"Config":"config.json","RepoTags":["docker/app:7"],"Layers":["one/layer.tar","two/layer.tar"]}]"#,
    )
    .unwrap();
    let mut builder = tar::Builder::new(fs::File::create(ground.path("saved.tar")).unwrap());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &saved).unwrap();
    builder.finish().unwrap();
    let pushed = ground.json(&["image", "push", "saved.tar", "-o", "json"]);
    assert_eq!(
        (&pushed["image"], &pushed["blobs"], &pushed["blobs_mounted"]),
        (&"docker/app:7".into(), &2.into(), &1.into())
    );

    // A layer that nobody packed goes packed, and the same way the next time.
    let text = b"a module that unpacks is worth a link that need not carry\n".repeat(20_000);
    fs::write(saved.join("one/layer.tar"), &text).unwrap();
    let config =
        fs::read_to_string(saved.join("config.json")).unwrap().replace(&sha256(&layer), &sha256(&text));
    fs::write(saved.join("config.json"), config).unwrap();
    let mut builder = tar::Builder::new(fs::File::create(ground.path("text.tar")).unwrap());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &saved).unwrap();
    builder.finish().unwrap();
    let pushed = ground.json(&["image", "push", "text.tar", "docker/text:1", "-o", "json"]);
    assert!(pushed["bytes_sent"].as_u64().unwrap() < 20_000, "{pushed}");
    let pushed = ground.json(&["image", "push", "text.tar", "docker/text:2", "-o", "json"]);
    assert_eq!(pushed["bytes_sent"], 0, "{pushed}");
    let plain = ground.json(&["image", "push", "text.tar", "docker/plain:1", "--no-compress", "-o", "json"]);
    assert!(plain["bytes_sent"].as_u64().unwrap() > 1_000_000, "{plain}");
    let from = format!("docker://{}/docker/text:2", ground.registry.address());
    skopeo(&ground, &["copy", "--src-tls-verify=false", &from, "dir:back"]);
    let layers =
        fs::read_dir(ground.path("back")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let back = layers.into_iter().find_map(|layer| zstd::decode_all(&layer[..]).ok());
    assert!(back.unwrap() == text, "the layer did not come back as it was");

    // Skopeo takes both back.
    for name in ["demo/oci:1", "docker/app:7"] {
        let (from, to) =
            (format!("docker://{}/{name}", ground.registry.address()), name.replace(['/', ':'], "-"));
        skopeo(&ground, &["copy", "--src-tls-verify=false", &from, &format!("dir:{to}")]);
        let hex = sha256(&layer).replace("sha256:", "");
        assert_eq!(fs::read(ground.path(&to).join(hex)).unwrap(), layer);
    }
}

#[test]
fn an_image_is_copied_from_another_registry_whole_or_for_one_platform() {
    let ground = ground();
    let far = Registry::start_plain();
    let (amd, arm) = (noise(7, 2 * MIB), noise(8, 2 * MIB));
    let layout = Layout::new(&ground.path("multi"));
    let images = [layout.image("amd64", &[&amd]), layout.image("arm64", &[&arm])];
    let index = layout.index(&[&images[0], &images[1]]);
    layout.name("1", &index);
    let source = format!("{}/far/app:1", far.address());
    skopeo(
        &ground,
        &[
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            "oci:multi:1",
            &format!("docker://{source}"),
        ],
    );

    let all = ground.json(&["image", "push", &source, "near/app:1", "--source-plain-http", "-o", "json"]);
    assert_eq!((&all["blobs"], &all["blobs_sent"]), (&4.into(), &4.into()), "{all}");
    let shown = ground.done(&["image", "inspect", "near/app:1"]);
    assert!(shown.contains("linux/amd64") && shown.contains("linux/arm64"), "{shown}");
    let arm64 = [
        "image",
        "push",
        &source,
        "near/arm:1",
        "--platform",
        "linux/arm64",
        "--source-plain-http",
        "-o",
        "json",
    ];
    assert_eq!(ground.json(&arm64)["blobs"], 2);
    assert_eq!(ground.stored(&sha256(&arm)), arm);
    assert!(ground.done(&["image", "inspect", "near/arm:1"]).contains("linux/arm64"));

    // Within the registry a copy costs the link nothing but questions.
    ground.link.mend();
    let copied =
        ground.json(&["image", "push", "registry.spacecloud:5000/near/app:1", "copy/app:1", "-o", "json"]);
    assert_eq!((&copied["blobs_mounted"], &copied["bytes_sent"]), (&4.into(), &0.into()), "{copied}");
    assert!(ground.link.carried() < u64::try_from(MIB / 8).unwrap(), "{} bytes", ground.link.carried());

    // What the other registry does not have, or cannot give.
    let home = ground.home.path();
    let none =
        refused(home, &["image", "push", &format!("{}/far/none:1", far.address()), "--source-plain-http"], 1);
    assert!(none.contains("there is no 1 in far/none"), "{none}");
    let tls = refused(home, &["image", "push", &source], 2);
    assert!(tls.contains(&far.address()), "{tls}");
    let away = refused(home, &["image", "push", "10.0.0.1:5000/a:1", "--source-plain-http"], 64);
    assert!(away.contains("loopback"), "{away}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let ground = ground();
    let home = ground.home.path();
    let layout = Layout::new(&ground.path("good"));
    let image = layout.image("amd64", &[&noise(9, 100)]);
    layout.name("latest", &image);
    // The same with one bit of a layer turned.
    let bad = Layout::new(&ground.path("damaged"));
    let image = bad.image("amd64", &[&noise(9, 100)]);
    bad.name("a:1", &image);
    let hex = sha256(&noise(9, 100)).replace("sha256:", "");
    let mut turned = noise(9, 100);
    turned[50] ^= 1;
    fs::write(ground.path("damaged/blobs/sha256").join(&hex), turned).unwrap();
    let short = Layout::new(&ground.path("short"));
    let image = short.image("amd64", &[&noise(9, 100)]);
    short.name("a:1", &image);
    fs::write(ground.path("short/blobs/sha256").join(&hex), b"short").unwrap();
    fs::create_dir(ground.path("nothing")).unwrap();
    fs::write(ground.path("text.tar"), "this is no archive").unwrap();
    fs::write(ground.path("packed.tar"), b"\x1f\x8b\x08\x00\x00\x00\x00\x00").unwrap();
    archive(&ground.path("good"), &ground.path("cut.tar"));
    let whole = fs::read(ground.path("cut.tar")).unwrap();
    fs::write(ground.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();

    let cases: [(&[&str], i32, &str); 16] = [
        (&["image"], 64, "--help"),
        (&["image", "push"], 64, "DIR|ARCHIVE|REF"),
        (&["image", "push", "gone"], 64, "no such file"),
        (&["image", "push", "./gone.tar"], 64, "no such file"),
        (&["image", "push", "good"], 64, "good NAME:TAG"),
        (&["image", "push", "good", "Upper:1"], 64, "lower case"),
        (&["image", "push", "good", "other.org/a:1"], 64, "--registry"),
        (&["image", "push", "good", "a:1", "--select", "b"], 64, "latest"),
        (&["image", "push", "good", "a:1", "--chunk", "0B"], 64, "--chunk"),
        (&["image", "push", "good", "a:1", "--user", "op"], 64, "SPACECTL_REGISTRY_PASSWORD"),
        (&["image", "push", "nothing", "a:1"], 1, "index.json"),
        (&["image", "push", "text.tar", "a:1"], 1, "no tar archive"),
        (&["image", "push", "packed.tar", "a:1"], 1, "gzip -d"),
        (&["image", "push", "damaged"], 1, "damaged"),
        (&["image", "push", "short"], 1, "has 5 bytes, not 100"),
        (&["image", "rm", "a"], 64, "NAME:TAG"),
    ];
    for (words, code, told) in cases {
        let line = refused(home, words, code);
        assert!(line.contains(told), "{words:?}: {line}");
    }
    let cut = refused(home, &["image", "push", "cut.tar", "a:1"], 1);
    assert!(cut.contains("cut.tar"), "{cut}");
    assert_eq!(ground.done(&["image", "ls"]), "NAME  TAG\n");

    // Nobody is there; and somebody is there who is not of this cluster.
    let none = refused(home, &["image", "ls", "--registry", "127.0.0.1:1"], 2);
    assert!(none.contains("127.0.0.1:1") && none.contains("nothing listens there"), "{none}");
    let stranger = Registry::start(&Authority::create().unwrap().0);
    let strange = refused(home, &["image", "ls", "--registry", &stranger.address()], 2);
    assert!(strange.contains("not of this cluster's CA"), "{strange}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let line = refused(home, &["image", "ls", "--registry", &address, "--timeout", "300ms"], 2);
    assert!(line.contains(&address), "{line}");
}
