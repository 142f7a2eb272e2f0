//! When whoever uses the engine dies: at one of the moments between what it does to the world outside.

use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets nobody past the chosen moment.
#[derive(Debug, Default)]
pub(crate) struct Mortality {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Its name, and how often it is still to pass before.
    last: Option<(String, usize)>,
    over: bool,
}

impl Mortality {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whether the end that was chosen before had come.
    pub(crate) fn begin(&self, last: Option<(String, usize)>) -> bool {
        std::mem::replace(&mut *self.state(), State { last, over: false }).over
    }

    pub(crate) fn died(&self) -> bool {
        self.state().over
    }

    /// Returns unless the end has come; the caller's tasks then wait until they are dropped, as at a kill -9.
    pub(crate) async fn moment(&self, name: &str) {
        if !self.comes(name) {
            return;
        }
        pending().await
    }

    fn comes(&self, name: &str) -> bool {
        let mut state = self.state();
        if let Some((_, before)) = state.last.as_mut().filter(|(last, _)| last == name) {
            match before.checked_sub(1) {
                Some(fewer) => *before = fewer,
                None => state.over = true,
            }
        }
        // Nobody does anything after the end.
        state.over
    }
}
