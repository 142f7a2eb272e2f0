//! What is asked of tasks and their windows, and of accelerators, beyond what the types say.

use super::{AppSpec, Kind};
use crate::{Milli, Moment, Span, SpecError};

impl AppSpec {
    /// What the queues know it by: an app's replicas each by themselves, a task by its code.
    pub fn code(&self, replica: u32) -> String {
        match self.kind {
            Kind::App => format!("{}/{replica}", self.name),
            Kind::Task => self.code.as_ref().unwrap_or(&self.name).to_string(),
        }
    }

    pub(super) fn check_window(&self) -> Result<(), SpecError> {
        if self.kind == Kind::App {
            let only = "is for tasks; write kind = \"task\" or leave it out";
            let given = [
                ("start", self.start.map(|m| m.to_string())),
                ("end", self.end.map(|m| m.to_string())),
                ("duration", self.duration.map(|d| d.to_string())),
                ("after", self.after.first().map(ToString::to_string)),
                ("code", self.code.as_ref().map(ToString::to_string)),
            ];
            return match given.into_iter().find_map(|(key, value)| Some((key, value?))) {
                Some((key, value)) => Err(SpecError::value(key, value, only)),
                None => Ok(()),
            };
        }
        if self.replicas != 1 {
            return Err(SpecError::value("replicas", self.replicas, "is not 1: a task runs once"));
        }
        if self.after.contains(&self.name) {
            return Err(SpecError::value("after", &self.name, "is the task itself"));
        }
        match (self.end, self.duration) {
            (Some(_), Some(duration)) => {
                return Err(SpecError::value("duration", duration, "is given beside end; keep one of them"));
            }
            (None, None) => {
                return Err(SpecError::value("end", "", "is missing; give end, or duration = \"10min\""));
            }
            (None, Some(Span(0))) => {
                return Err(SpecError::value("duration", Span(0), "must be longer than nothing"));
            }
            _ => {}
        }
        let backwards = match (self.start, self.end) {
            (Some(Moment::At(start)), Some(Moment::At(end))) => end <= start,
            (Some(Moment::In(start)), Some(Moment::In(end))) => end <= start,
            (None, Some(Moment::In(end))) => end.0 == 0,
            _ => false,
        };
        if backwards {
            let end = self.end.map(|m| m.to_string()).unwrap_or_default();
            return Err(SpecError::value("end", end, "is not after the task's start"));
        }
        Ok(())
    }

    pub(super) fn check_accelerators(&self) -> Result<(), SpecError> {
        let gpu = self.resources.gpu;
        if gpu.0 > Milli::WHOLE && gpu.wholes().is_none() {
            return Err(SpecError::value(
                "resources.gpu",
                gpu,
                "is neither whole accelerators nor a part of one; write 2, or \"500m\"",
            ));
        }
        Ok(())
    }
}
