//! Health and metrics over HTTP, read-only.

use api::v1::Snapshot;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use std::fmt::Write;
use tokio::sync::watch;

type Shared = watch::Receiver<Snapshot>;

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) fn routes(snapshots: Shared) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(snapshots)
}

async fn ready(State(snapshots): State<Shared>) -> (StatusCode, &'static str) {
    if snapshots.borrow().modules.iter().any(|m| m.state == "ready") {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no module is ready\n")
    }
}

async fn metrics(State(snapshots): State<Shared>) -> String {
    render(&snapshots.borrow())
}

fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    };
    let modules = |value: fn(&api::v1::Module) -> f64| {
        snapshot.modules.iter().map(|m| (format!("module=\"{}\"", m.name), value(m))).collect()
    };
    family(
        "spacecloud_module_ready",
        "1 when the module takes work",
        modules(|m| f64::from(u8::from(m.state == "ready"))),
    );
    family(
        "spacecloud_module_instances",
        "Instances placed on the module",
        modules(|m| f64::from(m.instances)),
    );
    family(
        "spacecloud_module_cpu_asked",
        "Cores asked for by instances",
        modules(|m| m.cpu_milli_asked as f64 / 1000.0),
    );
    family(
        "spacecloud_module_memory_asked_bytes",
        "Memory asked for by instances",
        modules(|m| m.memory_asked as f64),
    );
    let apps = |value: fn(&api::v1::App) -> f64| {
        snapshot.apps.iter().map(|a| (format!("app=\"{}\"", a.name), value(a))).collect()
    };
    family("spacecloud_app_replicas", "Replicas wanted", apps(|a| f64::from(a.replicas)));
    family("spacecloud_app_ready", "Replicas ready", apps(|a| f64::from(a.ready)));
    text
}
