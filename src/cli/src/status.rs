use crate::{
    Failure,
    args::Output,
    client::Server,
    get::{json, module_state},
    print,
    table::{Grid, Look, age, bytes, cores, plain},
};
use api::v1::Snapshot;
use std::collections::BTreeMap;

/// How many warnings `status` repeats.
const WARNINGS: usize = 5;

pub(crate) async fn status(server: &Server, output: Output) -> Result<(), Failure> {
    let snapshot = server.snapshot().await?;
    match output {
        Output::Json => print(&format!("{:#}\n", json(&snapshot)?)),
        _ => print(&render(&snapshot, server.address(), Look::of_terminal(output == Output::Wide))),
    }
}

fn render(snapshot: &Snapshot, address: &str, look: Look) -> String {
    let mut text = format!("server     {address}, version {}\n", snapshot.server_version);
    text += &format!("modules    {}\n", modules(snapshot));
    text += &format!("apps       {}\n", apps(snapshot));
    text += &format!("instances  {}\n", instances(snapshot));
    let usable = || snapshot.modules.iter().filter(|module| module.state == "ready");
    let sum = |amounts: &mut dyn Iterator<Item = u64>| amounts.fold(0u64, u64::saturating_add);
    let (asked, has) =
        (sum(&mut usable().map(|m| m.cpu_milli_asked)), sum(&mut usable().map(|m| m.cpu_milli)));
    text +=
        &format!("cpu        {} of {} cores asked for ({})\n", cores(asked), cores(has), percent(asked, has));
    let (asked, has) = (sum(&mut usable().map(|m| m.memory_asked)), sum(&mut usable().map(|m| m.memory)));
    text += &format!("memory     {} of {} asked for ({})\n", bytes(asked), bytes(has), percent(asked, has));
    text + &warnings(snapshot, look)
}

fn modules(snapshot: &Snapshot) -> String {
    let all = snapshot.modules.len();
    let well = snapshot.modules.iter().filter(|module| module_state(module) == "ready").count();
    let others = snapshot.modules.iter().filter(|module| module_state(module) != "ready");
    with(
        format!("{well} of {all} ready"),
        others.map(|module| format!("{} {}", module.name, module_state(module))),
    )
}

fn apps(snapshot: &Snapshot) -> String {
    let all = snapshot.apps.len();
    let short = || snapshot.apps.iter().filter(|app| app.ready < app.replicas);
    let head = format!("{} of {all} complete", all - short().count());
    with(head, short().map(|app| format!("{} {}/{}", app.name, app.ready, app.replicas)))
}

fn instances(snapshot: &Snapshot) -> String {
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in &snapshot.instances {
        *phases.entry(&instance.phase).or_default() += 1;
    }
    let ready = phases.remove("ready").unwrap_or_default();
    with(
        format!("{ready} of {} ready", snapshot.instances.len()),
        phases.iter().map(|(phase, n)| format!("{n} {phase}")),
    )
}

fn with(head: String, details: impl Iterator<Item = String>) -> String {
    let details: Vec<String> = details.collect();
    if details.is_empty() { head } else { format!("{head}: {}", details.join(", ")) }
}

fn percent(part: u64, whole: u64) -> String {
    let part = u128::from(part) * 100;
    part.checked_div(u128::from(whole)).map_or_else(|| "-".to_owned(), |share| format!("{share}%"))
}

fn warnings(snapshot: &Snapshot, look: Look) -> String {
    let mut latest: Vec<_> = snapshot.events.iter().filter(|event| event.severity == "warning").collect();
    latest.sort_by_key(|event| std::cmp::Reverse(event.number));
    if latest.is_empty() {
        return String::new();
    }
    let mut grid = Grid::new(look, &["AGE", "LAST WARNINGS", "REASON", "MESSAGE"]);
    for event in latest.into_iter().take(WARNINGS) {
        grid.row(vec![
            plain(age(snapshot.at, event.at)),
            plain(&event.subject),
            plain(&event.reason),
            plain(&event.message),
        ]);
    }
    format!("\n{}", grid.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{app, event, instance, module, snapshot};

    #[test]
    fn a_glance_tells_what_is_wrong() {
        let mut all = snapshot();
        all.modules =
            vec![module("module-1", "ready"), module("module-2", "ready"), module("module-3", "lost")];
        all.modules[1].cordoned = true;
        all.apps = vec![app("cam", 1, 2), app("tm", 1, 1)];
        all.instances =
            vec![instance("cam-1-1", "module-1"), instance("cam-2-2", ""), instance("tm-1-1", "module-2")];
        all.instances[1].phase = "pending".into();
        all.events = (1..=9)
            .map(|n| event(n, if n == 9 { "normal" } else { "warning" }, &format!("message {n}")))
            .collect();
        let text = render(&all, "module-1:7440", Look::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "server     module-1:7440, version 0.1.0");
        assert_eq!(lines[1], "modules    1 of 3 ready: module-2 ready,cordoned, module-3 lost");
        assert_eq!(lines[2], "apps       1 of 2 complete: cam 1/2");
        assert_eq!(lines[3], "instances  2 of 3 ready: 1 pending");
        assert_eq!(lines[4], "cpu        1 of 4 cores asked for (25%)");
        assert_eq!(lines[5], "memory     512MiB of 2GiB asked for (25%)");
        assert!(lines[8].ends_with("message 8") && lines.len() == 8 + WARNINGS, "{text}");
    }

    #[test]
    fn an_empty_cluster_has_a_status_too() {
        let text = render(&snapshot(), "module-1:7440", Look::default());
        assert!(
            text.contains("modules    0 of 0 ready\n") && text.ends_with("0B of 0B asked for (-)\n"),
            "{text}"
        );
    }
}
