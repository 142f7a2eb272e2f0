use crate::{
    Failure,
    args::{Output, What},
    client::Server,
    print,
    table::{Grid, Look, age, bytes, cores, plain, state},
    tables,
};
use api::v1::{Module, PlannerTables, Snapshot};
use serde::Serialize;
use std::io::IsTerminal;
use time::{OffsetDateTime, UtcOffset, macros::format_description};

/// Home, and nothing below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

pub(crate) async fn get(server: &Server, what: What, output: Output, watch: bool) -> Result<(), Failure> {
    let look = Look::of_terminal(output == Output::Wide);
    if what.is_table() {
        return get_table(server, what, output, watch).await;
    }
    if !watch {
        return print(&render(&server.snapshot().await?, what, output, look)?);
    }
    let live = output != Output::Json && std::io::stdout().is_terminal();
    let mut stream = server.watch().await?;
    while let Some(snapshot) = server.next(&mut stream).await? {
        let text = match output {
            // One line for each snapshot, so that a reader knows where it ends.
            Output::Json => format!("{}\n", pick_json(&snapshot, what)?),
            _ => render(&snapshot, what, output, look)?,
        };
        print(&if live { format!("{CLEAR}{text}") } else { text })?;
    }
    Err(server.watch_ended())
}

/// The planner's tables are asked for anew whenever something in the cluster changes.
async fn get_table(server: &Server, what: What, output: Output, watch: bool) -> Result<(), Failure> {
    let look = Look::of_terminal(output == Output::Wide);
    let text = |tables: &PlannerTables| -> Result<String, Failure> {
        Ok(match (output, watch) {
            (Output::Json, true) => format!("{}\n", tables::pick_json(tables, what)?),
            (Output::Json, false) => format!("{:#}\n", tables::pick_json(tables, what)?),
            _ => tables::render(tables, what, look),
        })
    };
    if !watch {
        return print(&text(&server.tables().await?)?);
    }
    let live = output != Output::Json && std::io::stdout().is_terminal();
    let mut stream = server.watch().await?;
    let mut last = String::new();
    while server.next(&mut stream).await?.is_some() {
        let now = text(&server.tables().await?)?;
        if now != last {
            print(&if live { format!("{CLEAR}{now}") } else { now.clone() })?;
            last = now;
        }
    }
    Err(server.watch_ended())
}

fn render(snapshot: &Snapshot, what: What, output: Output, look: Look) -> Result<String, Failure> {
    Ok(match (output, what) {
        (Output::Json, _) => format!("{:#}\n", pick_json(snapshot, what)?),
        (_, What::Apps) => apps(snapshot, look),
        (_, What::Instances) => instances(snapshot, look),
        (_, What::Modules) => modules(snapshot, look),
        (_, What::Volumes) => crate::volume::volumes(snapshot, look),
        (_, _) => events(snapshot, look),
    })
}

fn pick_json(snapshot: &Snapshot, what: What) -> Result<serde_json::Value, Failure> {
    match what {
        What::Apps => json(&snapshot.apps),
        What::Instances => json(&snapshot.instances),
        What::Modules => json(&snapshot.modules),
        What::Volumes => json(&snapshot.volumes),
        _ => json(&snapshot.events),
    }
}

/// Through a value, whose keys are sorted: the same cluster prints the same text.
pub(crate) fn json(value: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|e| Failure::Refused(format!("the server's answer is no JSON: {e}")))
}

fn apps(snapshot: &Snapshot, look: Look) -> String {
    if snapshot.apps.is_empty() {
        return "no apps; `spacectl apply -f FILE` runs one\n".to_owned();
    }
    let mut grid = Grid::new(
        look,
        header(look, &["APP", "READY", "AGE", "IMAGE"], &["STRATEGY", "REVISION", "SERVICE", "NOTE"])
            .as_slice(),
    );
    for app in &snapshot.apps {
        let ready = format!("{}/{}", app.ready, app.replicas);
        let ready =
            if app.ready < app.replicas { plain(ready).fg(comfy_table::Color::Yellow) } else { plain(ready) };
        let mut row = vec![plain(&app.name), ready, plain(age(snapshot.at, app.created)), plain(&app.image)];
        if look.wide {
            row.extend([plain(&app.strategy), plain(app.revision), plain(&app.service), plain(&app.note)]);
        }
        grid.row(row);
    }
    grid.render()
}

fn instances(snapshot: &Snapshot, look: Look) -> String {
    if snapshot.instances.is_empty() {
        return "no instances\n".to_owned();
    }
    let narrow = ["REPLICA", "PHASE", "MODULE", "RESTARTS", "AGE"];
    let names = header(look, &narrow, &["INSTANCE", "ADDRESS", "IMAGE", "REPLACES"]);
    let mut grid = Grid::new(look, &[names.as_slice(), &["MESSAGE"]].concat());
    for instance in &snapshot.instances {
        let mut row = vec![
            plain(&instance.replica),
            state(&instance.phase),
            plain(&instance.module),
            plain(instance.restarts),
            plain(age(snapshot.at, instance.started)),
        ];
        if look.wide {
            row.extend([&instance.id, &instance.address, &instance.image, &instance.replaces].map(plain));
        }
        row.push(plain(&instance.message));
        grid.row(row);
    }
    grid.render()
}

fn modules(snapshot: &Snapshot, look: Look) -> String {
    if snapshot.modules.is_empty() {
        return "no modules have joined\n".to_owned();
    }
    let narrow = ["MODULE", "STATE", "INSTANCES", "CPU", "MEMORY", "ADDRESS"];
    let wide = ["SLOT", "PODS", "DISK", "ACCELERATORS", "ROOT", "KERNEL", "LABELS", "STORAGE"];
    let mut grid = Grid::new(look, &header(look, &narrow, &wide));
    for module in &snapshot.modules {
        let mut row = vec![
            plain(&module.name),
            state(&module_state(module)),
            plain(module.instances),
            plain(format!("{}/{}", cores(module.cpu_milli_asked), cores(module.cpu_milli))),
            plain(format!("{}/{}", bytes(module.memory_asked), bytes(module.memory))),
            plain(&module.address),
        ];
        if look.wide {
            let mut labels: Vec<String> =
                module.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            labels.sort();
            row.extend([plain(module.slot), plain(&module.pods), plain(bytes(module.disk))]);
            row.extend([
                plain(module.accelerators),
                plain(root(module)),
                plain(&module.kernel),
                plain(labels.join(",")),
                plain(&module.storage),
            ]);
        }
        grid.row(row);
    }
    grid.render()
}

/// `2.0 in b`, and that it is not proven; nothing for a module without root slots.
fn root(module: &Module) -> String {
    let Some(root) = &module.root else { return String::new() };
    let trial = if root.proven { "" } else { ", on trial" };
    format!("{} in {}{trial}", root.version, root.slot)
}

/// `ready`, or `ready,cordoned` as an operator wants it.
pub(crate) fn module_state(module: &Module) -> String {
    match (module.draining, module.cordoned) {
        (true, _) => format!("{},draining", module.state),
        (false, true) => format!("{},cordoned", module.state),
        (false, false) => module.state.clone(),
    }
}

fn events(snapshot: &Snapshot, look: Look) -> String {
    if snapshot.events.is_empty() {
        return "no events\n".to_owned();
    }
    let mut grid = Grid::new(
        look,
        &[&header(look, &["AGE"], &["NUMBER", "TIME"])[..], &["SEVERITY", "SUBJECT", "REASON", "MESSAGE"]]
            .concat(),
    );
    for event in &snapshot.events {
        let mut row = vec![plain(age(snapshot.at, event.at))];
        if look.wide {
            row.extend([plain(event.number), plain(utc(event.at))]);
        }
        row.extend([
            state(&event.severity),
            plain(&event.subject),
            plain(&event.reason),
            plain(&event.message),
        ]);
        grid.row(row);
    }
    grid.render()
}

pub(crate) fn header<'a>(look: Look, narrow: &[&'a str], wide: &[&'a str]) -> Vec<&'a str> {
    let wide = if look.wide { wide } else { &[] };
    narrow.iter().chain(wide).copied().collect()
}

/// Unix milliseconds as `2026-11-23 11:50:00.123Z`.
pub(crate) fn utc(millis: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000);
    let text = moment.ok().and_then(|moment| moment.to_offset(UtcOffset::UTC).format(format).ok());
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests;
