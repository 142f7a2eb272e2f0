//! The planner's tables for people.

use crate::v1;
use model::{AppSpec, Binding, Combination, Decision, Instance, Plan, ResourceState, Run, Success, Verdict};

/// A decision with its whole table.
pub fn view_decision(decision: &Decision) -> v1::Decision {
    let candidates = decision
        .candidates
        .iter()
        .map(|c| {
            let (filtered, score) = match &c.verdict {
                Verdict::Filtered(why) => (why.clone(), 0.0),
                Verdict::Score(score) => (String::new(), *score),
            };
            let failed = c.failed.iter().map(|f| v1::FailedFilter {
                filter: f.filter.clone(),
                why: f.why.clone(),
                remedy: f.remedy.clone(),
            });
            let scores =
                c.scores.iter().map(|(name, value)| v1::NamedScore { name: name.clone(), value: *value });
            v1::Candidate {
                module: c.module.to_string(),
                filtered,
                score,
                failed: failed.collect(),
                scores: scores.collect(),
            }
        })
        .collect();
    v1::Decision {
        cause: decision.cause.clone(),
        chosen: decision.chosen.as_ref().map(ToString::to_string).unwrap_or_default(),
        candidates,
        at: decision.at,
        level: decision.level.clone(),
        strategy: decision.strategy.clone(),
        filters: decision.filters.clone(),
        remedies: decision.remedies(),
        binding: decision.binding.words(),
        policy: decision.policy.clone(),
        others: decision.others_words(),
    }
}

/// A line of the resource-state table.
pub fn view_resource(state: &ResourceState) -> v1::Resource {
    v1::Resource {
        module: state.module.to_string(),
        resource: state.resource.to_string(),
        state: state.state.as_str().to_owned(),
        capacity: state.capacity,
        used: state.used,
        maintenance: state.maintenance,
        pcie_slot: state.pcie_slot.clone(),
        why: state.why.clone(),
        holders: state.holders.iter().map(ToString::to_string).collect(),
        since: state.since,
    }
}

fn view_combination(combination: &Combination) -> v1::Combination {
    let asked = &combination.resources;
    v1::Combination {
        module: combination.module.to_string(),
        accelerators: combination.binding.numbers().collect(),
        cores: combination.binding.cores.iter().copied().collect(),
        cpu_milli: asked.cpu.0,
        memory: asked.memory.0,
        disk: asked.disk.0,
        gpu_milli: asked.gpu.0,
    }
}

/// A line of the history queue.
pub fn view_run(run: &Run) -> v1::Run {
    v1::Run {
        number: run.number,
        code: run.code.clone(),
        kind: run.kind.as_str().to_owned(),
        instance: run.instance.to_string(),
        combination: Some(view_combination(&run.combination)),
        began: run.began,
        ended: run.ended,
        outcome: run.outcome.as_str().to_owned(),
    }
}

/// A line of the device-level queue.
pub fn view_success(success: &Success) -> v1::Success {
    v1::Success {
        code: success.code.clone(),
        kind: success.kind.as_str().to_owned(),
        combination: Some(view_combination(&success.combination)),
        run: success.run,
        at: success.at,
    }
}

/// A task with its window: where it runs, else where it will.
pub fn view_task(plan: &Plan, spec: &AppSpec, instance: Option<&Instance>) -> v1::Task {
    let nothing = Binding::default();
    let running = instance.and_then(|i| i.module.as_ref().map(|module| (module, &i.binding)));
    let kept = plan.reservation.as_ref().map(|kept| (&kept.module, &kept.binding));
    let (module, binding) = match running.or(kept) {
        Some((module, binding)) => (module.to_string(), binding),
        None => (String::new(), &nothing),
    };
    let message = match instance {
        Some(instance) => instance.message.clone(),
        None if plan.state.is_over() => String::new(),
        None => plan.decision.refusal(),
    };
    v1::Task {
        name: plan.task.to_string(),
        state: plan.state.as_str().to_owned(),
        start: plan.start,
        end: plan.end,
        module,
        accelerators: binding.numbers().collect(),
        cores: binding.cores.iter().copied().collect(),
        after: spec.after.iter().map(ToString::to_string).collect(),
        code: spec.code(1),
        started: plan.started,
        ended: plan.ended,
        message,
        decision: Some(view_decision(&plan.decision)),
    }
}
