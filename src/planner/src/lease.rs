use model::Span;

/// An agent's right to keep instances running, on a clock that never jumps and that outlives the process.
///
/// The lease counts from the moment the acknowledged heartbeat was *sent*, so it always ends before the
/// server, which counts from when it was received, may start replacements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    length: u64,
    deadline: Option<u64>,
}

impl Lease {
    /// No lease yet; `kept` is the deadline that an earlier process of this boot left behind.
    pub fn new(length: Span, kept: Option<u64>) -> Self {
        Self { length: length.0, deadline: kept }
    }

    /// The server acknowledged a heartbeat sent at `sent`, or it was found at `sent` that nobody serves on the
    /// server's port: then nobody decides either, and a server that starts later waits a whole lease first.
    pub fn renew(&mut self, sent: u64) {
        self.deadline = Some(self.deadline.unwrap_or(0).max(sent.saturating_add(self.length)));
    }

    /// When it ends; none before the first acknowledgement.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Whether instances may run at `now`.
    pub fn holds(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| now < deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_sending_and_never_shrinks() {
        let mut lease = Lease::new(Span(500), None);
        assert!(!lease.holds(0));
        lease.renew(1000);
        lease.renew(900);
        assert!(lease.holds(1499));
        assert!(!lease.holds(1500));
        assert!(Lease::new(Span(500), Some(2000)).holds(1999));
    }
}
