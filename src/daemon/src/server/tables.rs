//! The planner's tables, for whoever asks.

use crate::wall_clock;
use api::{v1, view_resource, view_run, view_success, view_task};
use planner::Core;

/// All of them as they are now.
pub(super) fn of(core: &Core) -> v1::PlannerTables {
    let tasks = core.plans().filter_map(|plan| {
        let app = core.apps().find(|app| *app.name() == plan.task)?;
        let instance = core.instances().find(|i| i.spec.name == plan.task && !i.is_stopping());
        Some(view_task(plan, &app.spec, instance))
    });
    v1::PlannerTables {
        resources: core.resources().map(view_resource).collect(),
        history: core.history().map(view_run).collect(),
        device_queue: core.device_queue().map(view_success).collect(),
        tasks: tasks.collect(),
        at: wall_clock(),
    }
}
