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
            "image = \"registry.spacecloud:5000/telemetry:1.2\"",
            "image = \"telemetry\"",
            "registry.spacecloud:5000",
        ),
        ("strategy = \"spread\"", "strategy = \"random\"", "spread"),
        ("every = \"1s\"", "every = \"1 second\"", "ms"),
        ("container = 8080", "container = 8080\nservice = 0", "1 to 65535"),
        ("[health]", "[service]\npolicy = \"least-connections\"\n\n[health]", "counts no connections"),
        ("every = \"1s\"", "failures = 0", "at least 1"),
        ("http = \"/healthz\"", "exec = []", "names no command"),
        ("http = \"/healthz\"", "exec = [\"a\"]\ntcp = 1", "exactly one"),
        ("[health]", "[update]\nsurge = 0\n\n[health]", "max_unavailable"),
        ("kind = \"app\"", "kind = \"task\"", "not available"),
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
