//! Counters in Prometheus' text form.

use axum::http::{Method, StatusCode};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(super) fn count(&self, method: &Method, status: StatusCode) {
        // A client must not be able to make up labels.
        let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
        let name =
            known.iter().zip(names).find(|(known, _)| *known == method).map_or("other", |(_, name)| name);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((name, status.as_u16())).or_default() += 1;
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# HELP space_registry_requests_total Answered requests below /v2/.")?;
        writeln!(f, "# TYPE space_registry_requests_total counter")?;
        for ((method, code), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(f, "space_registry_requests_total{{method=\"{method}\",code=\"{code}\"}} {count}")?;
        }
        for (name, help, value) in [
            ("blob_received_bytes_total", "Bytes of blobs received.", &self.received),
            ("blob_sent_bytes_total", "Bytes of blobs sent.", &self.sent),
        ] {
            writeln!(f, "# HELP space_registry_{name} {help}")?;
            writeln!(f, "# TYPE space_registry_{name} counter")?;
            writeln!(f, "space_registry_{name} {}", value.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// What the registry holds and does by itself.
pub(super) fn state(service: &super::Service) -> String {
    let (usage, counts) = (service.store.usage(), &service.counts);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (following, behind) = service.peers.state();
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("stored_bytes", "gauge", "Bytes of blobs on disk.", usage.stored),
        ("uploading_bytes", "gauge", "Bytes of unfinished uploads.", usage.uploading),
        ("free_bytes", "gauge", "Free bytes of the file system.", usage.free),
        ("collections_total", "counter", "Garbage collections.", count(&counts.collections)),
        (
            "collected_bytes_total",
            "counter",
            "Bytes that collections removed.",
            count(&counts.collected_bytes),
        ),
        ("scrubbed_bytes_total", "counter", "Bytes that were read again.", count(&counts.scrubbed_bytes)),
        ("damaged_blobs_total", "counter", "Blobs that were damaged and put aside.", count(&counts.damaged)),
        (
            "brought_back_blobs_total",
            "counter",
            "Damaged blobs that a peer brought back.",
            count(&counts.brought_back),
        ),
        ("peers_reached", "gauge", "Registries that this one follows and reaches.", following),
        ("peers_lost", "gauge", "Registries that this one follows and does not reach.", behind),
        ("copied_manifests_total", "counter", "Manifests copied from peers.", service.peers.copied()),
    ] {
        text.push_str(&format!(
            "# HELP space_registry_{name} {help}\n# TYPE space_registry_{name} {kind}\nspace_registry_{name} {value}\n"
        ));
    }
    text
}
