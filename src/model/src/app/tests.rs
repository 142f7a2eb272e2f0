use super::*;

const FULL: &str = r#"
kind = "app"
name = "telemetry"
image = "registry.spacecloud:5000/telemetry:1.2"
replicas = 2
strategy = "spread"

[resources]
cpu = 1
memory = "64MiB"
disk = "100MiB"
gpu = 0

[placement]
modules = []
labels = {}
near = []
apart = ["telemetry"]

[[ports]]
container = 8080

[health]
http = "/healthz"
every = "1s"

[migration]
planned = "make-before-break"
on_disconnect = "stop"
"#;

#[test]
fn the_documented_file_parses_and_reads_back() {
    let file = AppFile::parse("app.toml", FULL).unwrap();
    let app = &file.apps[0];
    assert_eq!(app.resources.cpu, Milli(1000));
    assert_eq!(app.resources.memory, Bytes(64 << 20));
    let json = serde_json::to_string(app).unwrap();
    assert_eq!(&serde_json::from_str::<AppSpec>(&json).unwrap(), app);
    let toml = toml::to_string(app).unwrap();
    assert_eq!(AppFile::parse("again.toml", &toml).unwrap(), file);
}

#[test]
fn several_apps_in_one_file() {
    let text = "[[app]]\nname = 'a'\nimage = 'r.s:5000/a'\n[[app]]\nname = 'b'\nimage = 'r.s:5000/b'\n";
    assert_eq!(AppFile::parse("f", text).unwrap().apps.len(), 2);
}

#[test]
fn volumes_stand_alone_or_beside_apps() {
    let one = "kind = 'volume'\nname = 'data'\nclass = 'local'\nsize = '1MiB'\n";
    let file = AppFile::parse("f", one).unwrap();
    assert!(file.apps.is_empty());
    assert_eq!(file.volumes[0].access, crate::Access::SingleWriter);
    let both = "[[volume]]\nname = 'data'\nclass = 'chassis'\nsize = '1MiB'\naccess = 'shared'\n\
                [[app]]\nname = 'a'\nimage = 'r.s:5000/a'\nvolumes = [{ name = 'data', path = '/data' }]\n";
    let file = AppFile::parse("f", both).unwrap();
    assert_eq!((file.apps[0].volumes[0].path.as_str(), file.volumes.len()), ("/data", 1));
    let refused = |from: &str, to: &str| {
        let error = AppFile::parse("f.toml", &both.replace(from, to)).unwrap_err().to_string();
        assert!(error.starts_with("f.toml: ") && !error.contains('\n'), "{error}");
        error
    };
    assert!(refused("1MiB", "1M").contains("64MiB"));
    assert!(refused("1MiB", "0B").contains("size"));
    assert!(refused("chassis", "nfs").contains("local"));
    assert!(refused("'/data'", "'data'").contains("not absolute"));
}

/// Each bad file is refused in one line that names file, key and remedy.
#[test]
fn bad_files_name_file_key_and_remedy() {
    let cases = [
        ("replicas = 2", "replica = 2", "unknown field `replica`"),
        ("memory = \"64MiB\"", "memory = \"64\"", "64MiB"),
        ("memory = \"64MiB\"", "memory = 64", "64MiB"),
        ("name = \"telemetry\"", "name = \"Tele metry\"", "DNS label"),
        ("container = 8080", "container = 0", "1 to 65535"),
        ("container = 8080", "container = 80800", "u16"),
        (
            "container = 8080",
            "container = 8080\nprotocol = \"sctp\"",
            "protocol: unknown variant `sctp`, expected `tcp` or `udp`",
        ),
        ("container = 8080", "container = 8080\nprotocol = \"udp\"", "for TCP to ask at"),
        (
            "image = \"registry.spacecloud:5000/telemetry:1.2\"",
            "image = \"telemetry\"",
            "registry.spacecloud:5000",
        ),
        ("strategy = \"spread\"", "strategy = \"random\"", "spread"),
        ("every = \"1s\"", "every = \"1 second\"", "ms"),
        ("container = 8080", "container = 8080\nservice = 0", "1 to 65535"),
        ("[health]", "[service]\npolicy = \"fewest\"\n\n[health]", "least-connections"),
        ("every = \"1s\"", "failures = 0", "at least 1"),
        ("http = \"/healthz\"", "exec = []", "names no command"),
        ("http = \"/healthz\"", "exec = [\"a\"]\ntcp = 1", "exactly one"),
        ("[health]", "[update]\nsurge = 0\n\n[health]", "max_unavailable"),
        ("near = []", "near = [\"telemetry\"]", "itself"),
    ];
    for (from, to, expected) in cases {
        assert!(FULL.contains(from), "{from}");
        let message = AppFile::parse("app.toml", &FULL.replace(from, to)).unwrap_err().to_string();
        assert!(message.starts_with("app.toml: "), "{message}");
        assert!(message.contains(expected), "{to}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

const TASK: &str = r#"
kind = "task"
name = "pass-17"
image = "registry.spacecloud:5000/pass:1"
start = 2026-11-23T15:00:00Z
end = "2026-11-23T15:30:00Z"
after = ["pass-16"]
code = "zyckj"
resources = { cpu = 2, gpu = 2 }
"#;

#[test]
fn a_task_has_a_window_and_a_set_of_them_comes_in_one_file() {
    let task = AppFile::parse("task.toml", TASK).unwrap().apps.remove(0);
    assert_eq!(task.start.unwrap().to_string(), "2026-11-23T15:00:00Z");
    assert_eq!(task.code(1), "zyckj");
    let json = serde_json::to_string(&task).unwrap();
    assert_eq!(serde_json::from_str::<AppSpec>(&json).unwrap(), task);
    let set = "[[task]]\nname='a'\nimage='r.s:5000/a'\nduration='10min'\n\
               [[task]]\nname='b'\nimage='r.s:5000/a'\nafter=['a']\nduration='10min'\n\
               [[app]]\nname='c'\nimage='r.s:5000/a'\n";
    let file = AppFile::parse("set", set).unwrap();
    let kinds: Vec<(&str, Kind)> = file.apps.iter().map(|a| (a.name.as_str(), a.kind)).collect();
    assert_eq!(kinds, [("c", Kind::App), ("a", Kind::Task), ("b", Kind::Task)]);
}

#[test]
fn bad_windows_and_amounts_name_key_and_reason() {
    let cases = [
        (
            "end = \"2026-11-23T15:30:00Z\"",
            "end = \"2026-11-23T15:00:00Z\"",
            "end: \"2026-11-23T15:00:00Z\" is not after",
        ),
        ("end = \"2026-11-23T15:30:00Z\"", "", "end: \"\" is missing"),
        ("end = \"2026-11-23T15:30:00Z\"", "duration = \"0s\"", "duration: \"0ms\" must be longer"),
        ("code = \"zyckj\"", "duration = \"1min\"", "duration: \"1min\" is given beside end"),
        ("after = [\"pass-16\"]", "after = [\"pass-17\"]", "after: \"pass-17\" is the task itself"),
        ("code = \"zyckj\"", "replicas = 2", "replicas: \"2\" is not 1"),
        ("start = 2026-11-23T15:00:00Z", "start = \"noon\"", "start: \"noon\" is no moment"),
        ("kind = \"task\"", "kind = \"app\"", "start: \"2026-11-23T15:00:00Z\" is for tasks"),
        ("cpu = 2, gpu = 2", "cpu = -2", "must not be negative"),
        ("cpu = 2, gpu = 2", "gpu = '-1'", "is no amount"),
        ("cpu = 2, gpu = 2", "gpu = '1500m'", "resources.gpu: \"1500m\" is neither whole"),
    ];
    for (from, to, expected) in cases {
        assert!(TASK.contains(from), "{from}");
        let message = AppFile::parse("task.toml", &TASK.replace(from, to)).unwrap_err().to_string();
        assert!(message.starts_with("task.toml: ") && !message.contains('\n'), "{message}");
        assert!(message.contains(expected), "{to}: {message}");
    }
}

#[test]
fn health_is_asked_at_the_first_port_for_tcp() {
    let app = |ports: &str| {
        let text = format!("name='a'\nimage='r.s:5000/a:1'\nports=[{ports}]\n");
        AppFile::parse("a.toml", &text).unwrap().apps.remove(0).first_tcp_port()
    };
    assert_eq!(
        app("{container=53, protocol='udp'}, {container=53}, {container=80, protocol='tcp'}"),
        Some(53)
    );
    assert_eq!(app("{container=53, protocol='udp'}, {container=80, protocol='tcp'}"), Some(80));
    assert_eq!(app("{container=53, protocol='udp'}"), None);
}
