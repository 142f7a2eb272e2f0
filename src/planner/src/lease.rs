use model::Span;

/// An agent's right to keep instances running, on a clock that never jumps and that outlives the process.
///
/// The lease counts from the moment the acknowledged heartbeat was *sent*, so it always ends before the
/// server, which counts from when it was received, may start replacements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    length: u64,
    deadline: Option<u64>,
    given: bool,
}

impl Lease {
    /// No lease yet; `kept` are the deadline and the length that an earlier process of this boot left behind. What the
    /// server gave is what it counts on, so nothing here makes it longer.
    pub fn new(length: Span, kept: Option<(u64, Span)>) -> Self {
        let length = kept.map_or(length.0, |(_, kept)| length.0.min(kept.0));
        Self { length, deadline: kept.map(|(deadline, _)| deadline), given: false }
    }

    /// The server acknowledged a heartbeat sent at `sent` and gives a lease of this length, which it may also shorten:
    /// after its planned absence it does.
    pub fn grant(&mut self, sent: u64, length: Span) {
        *self = Self { length: length.0, deadline: Some(sent.saturating_add(length.0)), given: true };
    }

    /// The length of the last lease that was given to this process; nothing before the first one.
    pub fn given(&self) -> Span {
        Span(if self.given { self.length } else { 0 })
    }

    /// It was found at `sent` that nobody serves on the server's port: then nobody decides either, and a server that
    /// starts later waits a whole lease first.
    pub fn renew(&mut self, sent: u64) {
        self.deadline = Some(self.deadline.unwrap_or(0).max(sent.saturating_add(self.length)));
    }

    /// How long one lasts.
    pub fn length(&self) -> Span {
        Span(self.length)
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
        let mut lease = Lease::new(Span(4000), Some((2000, Span(500))));
        assert!(lease.holds(1999));
        lease.renew(1900);
        assert_eq!(lease.deadline(), Some(2400));
    }

    #[test]
    fn a_longer_lease_is_over_as_soon_as_the_server_gives_a_usual_one() {
        let mut lease = Lease::new(Span(500), Some((1200, Span(500))));
        assert_eq!(lease.given(), Span(0));
        lease.grant(1000, Span(60_500));
        assert_eq!((lease.given(), lease.deadline()), (Span(60_500), Some(61_500)));
        // Nobody serves on the port: the server may be back in a moment, and knows what it gave.
        lease.renew(2000);
        assert_eq!(lease.deadline(), Some(62_500));
        lease.grant(3000, Span(500));
        assert_eq!((lease.given(), lease.deadline()), (Span(500), Some(3500)));
    }
}
