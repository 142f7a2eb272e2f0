//! Frames under way: each is handed on when its time has come, in the order of those times.

use crate::SimError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than any cable holds; what comes beyond is lost.
const LIMIT: usize = 20_000;

/// A thread that hands on what is due. Dropping it loses what is still under way.
pub(crate) struct Later<T> {
    line: Arc<Line<T>>,
    thread: Option<JoinHandle<()>>,
}

struct Line<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    /// The order of sending decides between two that are due at once.
    due: BinaryHeap<Reverse<Due<T>>>,
    sent: u64,
    ended: bool,
}

struct Due<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T> Debug for Later<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").field("under_way", &self.line.state().due.len()).finish()
    }
}

impl<T> Line<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next that is due; none at the end.
    fn next(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            let wait = match state.due.peek() {
                Some(Reverse(first)) => first.at.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if wait.is_zero() {
                return state.due.pop().map(|Reverse(due)| due.what);
            }
            state = self.wake.wait_timeout(state, wait).map_or_else(|e| e.into_inner().0, |woken| woken.0);
        }
    }
}

impl<T: Send + 'static> Later<T> {
    /// What is due is given to `take`.
    pub(crate) fn start(take: impl Fn(T) + Send + 'static) -> Result<Self, SimError> {
        let state = State { due: BinaryHeap::new(), sent: 0, ended: false };
        let line = Arc::new(Line { state: Mutex::new(state), wake: Condvar::new() });
        let shared = Arc::clone(&line);
        let thread = std::thread::Builder::new()
            .name("later".to_owned())
            .spawn(move || std::iter::from_fn(|| shared.next()).for_each(take))
            .map_err(SimError::io("start a thread for", "frames under way"))?;
        Ok(Self { line, thread: Some(thread) })
    }

    /// Hands it on after `delay`. False if too much is under way: it is lost.
    pub(crate) fn send(&self, delay: Duration, what: T) -> bool {
        let mut state = self.line.state();
        if state.due.len() >= LIMIT {
            return false;
        }
        state.sent += 1;
        let number = state.sent;
        state.due.push(Reverse(Due { at: Instant::now() + delay, number, what }));
        drop(state);
        self.line.wake.notify_one();
        true
    }
}

impl<T> Drop for Later<T> {
    fn drop(&mut self) {
        self.line.state().ended = true;
        self.line.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn what_is_due_first_comes_first() {
        let (send, arrived) = channel();
        let later = Later::start(move |word: &str| send.send(word).unwrap()).unwrap();
        let before = Instant::now();
        for (delay, word) in [(300, "last"), (150, "first"), (150, "second")] {
            assert!(later.send(Duration::from_millis(delay), word));
        }
        let words: Vec<_> = (0..3).map(|_| arrived.recv().unwrap()).collect();
        assert_eq!(words, ["first", "second", "last"]);
        assert!(before.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn the_line_is_bounded_and_ends_with_what_is_under_way() {
        let (send, arrived) = channel();
        let later = Later::start(move |number: usize| send.send(number).unwrap()).unwrap();
        let hour = Duration::from_secs(3600);
        assert!((0..LIMIT).all(|number| later.send(hour, number)));
        assert!(!later.send(hour, LIMIT));
        drop(later);
        assert!(arrived.recv().is_err());
    }
}
