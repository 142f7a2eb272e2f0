//! Which of several registries answers: all are tried at once, so that one that is gone costs no time.

use std::{collections::BTreeMap, time::Duration};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long a registry may take to answer. An emulated module on a busy host takes its time.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one that answered waits for those before it.
const HEAD_START: Duration = Duration::from_millis(300);
/// Between two looks at a registry that is being pulled from.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks without an answer, and it is gone.
const MISSED: u32 = 2;

/// Registries that are being tried.
pub(crate) struct Search {
    began: Instant,
    /// Of those that have not answered yet, by their place in the list.
    waiting: BTreeMap<usize, String>,
    answered: BTreeMap<usize, String>,
    probes: JoinSet<(usize, bool)>,
}

impl Search {
    /// Tries all of them.
    pub(crate) fn begin(registries: &[String]) -> Self {
        let mut probes = JoinSet::new();
        for (place, registry) in registries.iter().cloned().enumerate() {
            probes.spawn(async move { (place, answers(&registry).await) });
        }
        let waiting = registries.iter().cloned().enumerate().collect();
        Self { began: Instant::now(), waiting, answered: BTreeMap::new(), probes }
    }

    /// The next one to ask; none when there are no more that answer.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let head_start = HEAD_START.saturating_sub(self.began.elapsed());
            let first = self.answered.keys().next().copied();
            let due = first.is_some_and(|first| {
                head_start.is_zero() || self.waiting.keys().next().is_none_or(|waiting| first < *waiting)
            });
            if due {
                return self.answered.pop_first().map(|(_, registry)| registry);
            }
            let limit = if first.is_some() { head_start } else { 2 * PATIENCE };
            match timeout(limit, self.probes.join_next()).await {
                Ok(Some(Ok((place, answered)))) => {
                    let registry = self.waiting.remove(&place);
                    self.answered.extend(registry.filter(|_| answered).map(|registry| (place, registry)));
                }
                Ok(Some(Err(_))) => {}
                // All have been heard, or are never going to be.
                Ok(None) => self.waiting.clear(),
                Err(_) if first.is_none() => return None,
                Err(_) => {}
            }
            if self.waiting.is_empty() && self.answered.is_empty() {
                return None;
            }
        }
    }
}

async fn answers(registry: &str) -> bool {
    matches!(timeout(PATIENCE, TcpStream::connect(registry)).await, Ok(Ok(_)))
}

/// Ends when the registry has not answered several times in a row. containerd itself would wait for many minutes
/// for a peer that was cut off in the middle of a layer.
pub(crate) async fn lost(registry: &str) {
    let mut missed = 0;
    while missed < MISSED {
        sleep(LOOK).await;
        missed = if answers(registry).await { 0 } else { missed + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn there() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// A port that nothing listens on.
    async fn refusing() -> String {
        there().await.1
    }

    /// Takes no connection and refuses none: its queue is full, so that the kernel leaves further ones unanswered.
    struct Silent {
        _listener: std::os::fd::OwnedFd,
        _queue: Vec<TcpStream>,
        address: String,
    }

    async fn silent() -> Silent {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
        };
        use std::os::fd::AsRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = getsockname::<SockaddrIn>(listener.as_raw_fd()).unwrap().to_string();
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(500), TcpStream::connect(&address)).await {
            queue.push(stream);
        }
        Silent { _listener: listener, _queue: queue, address }
    }

    #[tokio::test]
    async fn the_first_comes_first_and_one_that_is_gone_costs_little() {
        let ((_a, first), (_b, second)) = (there().await, there().await);
        let gone = refusing().await;
        let silent = silent().await;
        let mut search = Search::begin(&[first.clone(), gone.clone(), second.clone()]);
        assert_eq!(search.next().await.unwrap(), first);
        assert_eq!(search.next().await.unwrap(), second);
        assert_eq!(search.next().await, None);

        let mut search = Search::begin(&[silent.address.clone(), second.clone()]);
        assert_eq!(search.next().await.unwrap(), second);
        assert!(search.waiting.contains_key(&0), "the first one is still being waited for");
        assert_eq!(search.next().await, None);

        assert_eq!(Search::begin(&[gone]).next().await, None);
        assert_eq!(Search::begin(&[]).next().await, None);
    }

    #[tokio::test]
    async fn one_that_falls_silent_is_left() {
        let (listener, address) = there().await;
        assert!(timeout(3 * LOOK, lost(&address)).await.is_err(), "it answers");
        drop(listener);
        timeout(Duration::from_secs(60), lost(&address)).await.unwrap();
    }
}
