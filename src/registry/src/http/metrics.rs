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

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
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
