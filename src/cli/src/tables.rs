//! The planner's tables: resource states, history queue, device-level queue, tasks.

use crate::{
    Failure,
    args::What,
    get::{header, json, utc},
    table::{Grid, Look, age, bytes, cores, plain, state},
};
use api::v1::{Combination, PlannerTables, Resource, Task};
use comfy_table::{Cell, Color};

pub(crate) fn render(tables: &PlannerTables, what: What, look: Look) -> String {
    match what {
        What::Resources => resources(tables, look),
        What::History => history(tables, look),
        What::DeviceQueue => device_queue(tables, look),
        _ => tasks(tables, look),
    }
}

pub(crate) fn pick_json(tables: &PlannerTables, what: What) -> Result<serde_json::Value, Failure> {
    match what {
        What::Resources => json(&tables.resources),
        What::History => json(&tables.history),
        What::DeviceQueue => json(&tables.device_queue),
        _ => json(&tables.tasks),
    }
}

fn availability(text: &str) -> Cell {
    plain(text).fg(match text {
        "idle" => Color::Green,
        "maintenance" => Color::Red,
        _ => Color::Yellow,
    })
}

fn resources(tables: &PlannerTables, look: Look) -> String {
    if tables.resources.is_empty() {
        return "no resources; no module has joined\n".to_owned();
    }
    let names = header(look, &["MODULE", "RESOURCE", "STATE", "FREE", "OF", "SLOT"], &["SINCE"]);
    let mut grid = Grid::new(look, &[&names[..], &["HOLDERS", "WHY"]].concat());
    for line in &tables.resources {
        let amount = |value: u64| amount(line, value);
        let mut row = vec![
            plain(&line.module),
            plain(&line.resource),
            availability(&line.state),
            plain(amount(line.capacity.saturating_sub(line.used))),
            plain(amount(line.capacity)),
            plain(&line.pcie_slot),
        ];
        if look.wide {
            row.push(plain(age(tables.at, line.since)));
        }
        row.extend([plain(line.holders.join(" ")), plain(&line.why)]);
        grid.row(row);
    }
    grid.render()
}

fn amount(line: &Resource, value: u64) -> String {
    match line.resource.as_str() {
        "memory" | "disk" => bytes(value),
        port if port.starts_with("port-") => value.to_string(),
        _ => cores(value),
    }
}

/// `0 3`, or nothing.
fn numbers(list: &[u32]) -> Cell {
    plain(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

fn combination(of: Option<&Combination>) -> Vec<Cell> {
    let nothing = Combination::default();
    let of = of.unwrap_or(&nothing);
    vec![
        plain(&of.module),
        numbers(&of.accelerators),
        plain(cores(of.cpu_milli)),
        numbers(&of.cores),
        plain(bytes(of.memory)),
        plain(bytes(of.disk)),
    ]
}

const COMBINATION: [&str; 6] = ["MODULE", "GPU", "CPU", "CORES", "MEMORY", "DISK"];

fn history(tables: &PlannerTables, look: Look) -> String {
    if tables.history.is_empty() {
        return "nothing has run yet\n".to_owned();
    }
    let first = header(look, &["CODE"], &["NUMBER", "INSTANCE", "BEGAN"]);
    let mut grid = Grid::new(look, &[&first[..], &COMBINATION, &["AGE", "TOOK", "OUTCOME"]].concat());
    for run in &tables.history {
        let mut row = vec![plain(&run.code)];
        if look.wide {
            row.extend([plain(run.number), plain(&run.instance), plain(utc(run.began))]);
        }
        row.extend(combination(run.combination.as_ref()));
        let until = if run.ended == 0 { tables.at } else { run.ended };
        row.extend([plain(age(tables.at, run.began)), plain(age(until, run.began)), outcome(&run.outcome)]);
        grid.row(row);
    }
    grid.render()
}

fn outcome(text: &str) -> Cell {
    match text {
        "succeeded" => plain(text).fg(Color::Green),
        "failed" | "lost" | "missed" => plain(text).fg(Color::Red),
        _ => state(text),
    }
}

fn device_queue(tables: &PlannerTables, look: Look) -> String {
    if tables.device_queue.is_empty() {
        return "nothing has succeeded yet\n".to_owned();
    }
    let mut grid = Grid::new(look, &[&["CODE", "KIND"][..], &COMBINATION, &["RUN", "AGE"]].concat());
    for success in &tables.device_queue {
        let mut row = vec![plain(&success.code), plain(&success.kind)];
        row.extend(combination(success.combination.as_ref()));
        row.extend([plain(success.run), plain(age(tables.at, success.at))]);
        grid.row(row);
    }
    grid.render()
}

fn tasks(tables: &PlannerTables, look: Look) -> String {
    if tables.tasks.is_empty() {
        return "no tasks; `spacectl apply -f FILE` plans some\n".to_owned();
    }
    let first = header(look, &["TASK", "STATE", "START", "END", "MODULE", "GPU"], &["CORES", "CODE"]);
    let mut grid = Grid::new(look, &[&first[..], &["AFTER", "MESSAGE"]].concat());
    let mut sorted: Vec<&Task> = tables.tasks.iter().collect();
    sorted.sort_by(|a, b| (a.start, &a.name).cmp(&(b.start, &b.name)));
    for task in sorted {
        let mut row = vec![
            plain(&task.name),
            outcome(&task.state),
            plain(model::utc(task.start / 1000 * 1000)),
            plain(model::utc(task.end / 1000 * 1000)),
            plain(&task.module),
            numbers(&task.accelerators),
        ];
        if look.wide {
            row.extend([numbers(&task.cores), plain(&task.code)]);
        }
        row.extend([plain(task.after.join(" ")), plain(&task.message)]);
        grid.row(row);
    }
    grid.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NOW;
    use api::v1::{Run, Success};

    fn combination() -> Option<Combination> {
        Some(Combination {
            module: "module-2".into(),
            accelerators: vec![0, 3],
            cores: vec![1],
            cpu_milli: 1000,
            memory: 64 << 20,
            ..Combination::default()
        })
    }

    fn resource(resource: &str, state: &str, capacity: u64, used: u64) -> Resource {
        Resource {
            module: "module-2".into(),
            resource: resource.into(),
            state: state.into(),
            capacity,
            used,
            ..Resource::default()
        }
    }

    #[test]
    fn resources_read_as_the_paper_s_table() {
        let mut third = resource("gpu-3", "maintenance", 1000, 0);
        (third.pcie_slot, third.why) = ("8".into(), "set by an operator".into());
        let mut taken = resource("gpu-0", "occupied", 1000, 500);
        taken.holders = vec!["cam-1-1".into()];
        let memory = resource("memory", "idle", 1 << 30, 0);
        let tables = PlannerTables { resources: vec![taken, third, memory], at: NOW, ..Default::default() };
        let text = render(&tables, What::Resources, Look::default());
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["MODULE", "RESOURCE", "STATE", "FREE", "OF", "SLOT", "HOLDERS", "WHY"]);
        assert_eq!(lines[1], ["module-2", "gpu-0", "occupied", "0.5", "1", "-", "cam-1-1", "-"]);
        assert!(text.contains("gpu-3     maintenance  1     1     8"), "{text}");
        assert!(lines[3].starts_with(&["module-2", "memory", "idle", "1GiB", "1GiB"]), "{text}");
        assert_eq!(
            render(&PlannerTables::default(), What::Resources, Look::default()),
            "no resources; no module has joined\n"
        );
    }

    #[test]
    fn queues_and_tasks_show_combination_window_and_outcome() {
        let run = Run {
            number: 7,
            code: "zyckj".into(),
            combination: combination(),
            began: NOW - 90_000,
            ended: NOW - 60_000,
            outcome: "succeeded".into(),
            ..Run::default()
        };
        let success = Success {
            code: "zyckj".into(),
            kind: "task".into(),
            combination: combination(),
            run: 7,
            at: NOW - 60_000,
        };
        let task = Task {
            name: "pass-17".into(),
            state: "planned".into(),
            start: 1_795_446_000_000,
            end: 1_795_447_800_000,
            module: "module-2".into(),
            accelerators: vec![0, 3],
            after: vec!["pass-16".into()],
            ..Task::default()
        };
        let tables = PlannerTables {
            history: vec![run],
            device_queue: vec![success],
            tasks: vec![task],
            at: NOW,
            ..Default::default()
        };
        let rows = |what| -> Vec<String> {
            let text = render(&tables, what, Look::default());
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(rows(What::History)[1], "zyckj module-2 0 3 1 1 64MiB 0B 1min 30s succeeded");
        assert_eq!(rows(What::DeviceQueue)[1], "zyckj task module-2 0 3 1 1 64MiB 0B 7 1min");
        assert_eq!(
            rows(What::Tasks)[1],
            "pass-17 planned 2026-11-23T15:00:00Z 2026-11-23T15:30:00Z module-2 0 3 pass-16 -"
        );
        assert_eq!(pick_json(&tables, What::DeviceQueue).unwrap()[0]["combination"]["accelerators"][1], 3);
    }
}
