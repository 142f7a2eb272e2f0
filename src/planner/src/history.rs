//! The history queue: every run with its combination and its outcome, and from it the device-level queue.

use crate::core::Core;
use model::{Combination, Instance, InstanceId, Kind, Outcome, Record, RecordKind, Run, Success};

/// Runs kept; those that are over go first.
const RUNS: usize = 1000;
/// Task codes kept in the device-level queue; the oldest success goes first.
const CODES: usize = 1000;

impl Core {
    /// An instance is about to be recorded: opens its run when it is placed, and notes when it is ready.
    pub(crate) fn follow_run(&mut self, instance: &Instance) {
        let Some(module) = &instance.module else { return };
        let combination = Combination {
            module: module.clone(),
            binding: instance.binding.clone(),
            resources: instance.spec.resources,
        };
        let Some(number) = self.open_runs.get(&instance.id).copied() else {
            if !instance.is_stopping() {
                self.open_run(instance, combination);
            }
            return;
        };
        let Some(run) = self.runs.get(&number) else { return };
        let mut next = Run { combination, ready: run.ready || instance.is_ready(), ..run.clone() };
        if instance.is_stopping() {
            next.combination.clone_from(&run.combination);
        }
        if next == *run {
            return;
        }
        let succeeded = next.ready && !run.ready && next.kind == Kind::App;
        self.put_run(next.clone());
        if succeeded {
            self.put_success(&next);
        }
    }

    fn open_run(&mut self, instance: &Instance, combination: Combination) {
        let number = self.runs.last_key_value().map_or(1, |(number, _)| number + 1);
        self.open_runs.insert(instance.id.clone(), number);
        self.put_run(Run {
            number,
            code: instance.spec.code(instance.id.replica().number),
            kind: instance.spec.kind,
            instance: instance.id.clone(),
            combination,
            began: self.now.wall,
            ended: 0,
            ready: instance.is_ready(),
            outcome: Outcome::Running,
        });
        let over = self.runs.values().filter(|r| r.outcome != Outcome::Running).map(|r| r.number);
        let excess = self.runs.len().saturating_sub(RUNS);
        for number in over.take(excess).collect::<Vec<_>>() {
            self.runs.remove(&number);
            self.forget(RecordKind::Run, Run::key_of(number));
        }
    }

    /// A run is over. Without a word on its outcome, what was seen of it says.
    pub(crate) fn close_run(&mut self, id: &InstanceId, outcome: Option<Outcome>) {
        let Some(number) = self.open_runs.remove(id) else { return };
        let Some(run) = self.runs.get(&number) else { return };
        let outcome = outcome.unwrap_or(match (run.kind, run.ready) {
            (Kind::App, true) => Outcome::Succeeded,
            (Kind::App, false) => Outcome::Failed,
            (Kind::Task, _) => Outcome::Stopped,
        });
        let run = Run { outcome, ended: self.now.wall, ..run.clone() };
        self.put_run(run.clone());
        if outcome == Outcome::Succeeded {
            self.put_success(&run);
        }
    }

    fn put_run(&mut self, run: Run) {
        self.note(Record::Run(run.clone()));
        self.runs.insert(run.number, run);
    }

    fn put_success(&mut self, run: &Run) {
        let success = Success {
            code: run.code.clone(),
            kind: run.kind,
            combination: run.combination.clone(),
            run: run.number,
            at: self.now.wall,
        };
        self.note(Record::Success(success.clone()));
        self.successes.insert(run.code.clone(), success);
        // By the run's number: the wall clock may have been set back meanwhile.
        if self.successes.len() > CODES
            && let Some(oldest) = self.successes.values().min_by_key(|s| s.run).map(|s| s.code.clone())
        {
            self.successes.remove(&oldest);
            self.forget(RecordKind::Success, oldest);
        }
    }

    /// The history queue, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// The device-level queue, by task code.
    pub fn device_queue(&self) -> impl Iterator<Item = &Success> {
        self.successes.values()
    }
}
