//! Starts take turns: a few at a time, the most important first, so that a failover's first apps are not held up
//! by its last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// More at once only make each of them slower.
const AT_ONCE: usize = 8;

#[derive(Debug)]
struct Queue {
    free: usize,
    next: u64,
    /// By (importance, arrival): the first is next.
    waiting: BTreeMap<(i64, u64), oneshot::Sender<Turn>>,
}

/// A gate for starts.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    queue: Arc<Mutex<Queue>>,
}

/// The right to start something now; it passes on when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    gate: Gate,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self::of(AT_ONCE)
    }

    fn of(free: usize) -> Self {
        Self { queue: Arc::new(Mutex::new(Queue { free, next: 0, waiting: BTreeMap::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub(super) async fn enter(&self, priority: i32) -> Turn {
        let receiver = {
            let mut queue = self.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Turn { gate: self.clone() };
            }
            let (sender, receiver) = oneshot::channel();
            let place = (-i64::from(priority), queue.next);
            queue.next += 1;
            queue.waiting.insert(place, sender);
            receiver
        };
        // A sender is only dropped together with the whole queue, which this very task keeps alive.
        receiver.await.unwrap_or_else(|_| Turn { gate: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut next = Some(Turn { gate: self.gate.clone() });
        while let Some(turn) = next.take() {
            let mut queue = self.gate.lock();
            match queue.waiting.pop_first() {
                None => {
                    queue.free += 1;
                    std::mem::forget(turn);
                }
                // One that waits no longer gives the turn back.
                Some((_, waiter)) => next = waiter.send(turn).err(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_most_important_goes_first_and_who_left_is_passed_over() {
        let gate = Gate::of(1);
        let first = gate.enter(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for priority in [1, 5, 3] {
            let (gate, order) = (gate.clone(), order.clone());
            waiters.push(tokio::spawn(async move {
                let _turn = gate.enter(priority).await;
                order.lock().unwrap().push(priority);
            }));
        }
        while gate.lock().waiting.len() < 3 {
            tokio::task::yield_now().await;
        }
        waiters.remove(1).abort();
        while !gate.lock().waiting.values().any(oneshot::Sender::is_closed) {
            tokio::task::yield_now().await;
        }
        drop(first);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [3, 1]);
        assert_eq!(gate.lock().free, 1);
    }
}
