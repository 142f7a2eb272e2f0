use crate::{
    Failure,
    args::Output,
    client::Server,
    find,
    get::json,
    print,
    table::{Grid, Look, age, plain, state},
};
use api::v1::{Candidate, Decision, Instance, Snapshot};
use comfy_table::Color;

pub(crate) async fn explain(server: &Server, target: &str, output: Output) -> Result<(), Failure> {
    let snapshot = server.snapshot().await?;
    let found = find::instances(&snapshot, target)?;
    match output {
        Output::Json => print(&format!("{:#}\n", json(&found)?)),
        _ => print(&render(&snapshot, &found, Look::of_terminal(output == Output::Wide))),
    }
}

fn render(snapshot: &Snapshot, found: &[&Instance], look: Look) -> String {
    let parts: Vec<String> = found.iter().map(|instance| one(snapshot, instance, look)).collect();
    parts.join("\n")
}

fn one(snapshot: &Snapshot, instance: &Instance, look: Look) -> String {
    let mut text = headline(snapshot, instance);
    if !instance.replaces.is_empty() {
        text += &format!("It takes over from {}, which stops when this one is ready.\n", instance.replaces);
    }
    if !instance.message.is_empty() {
        text += &format!("Its module or the server says: {}\n", instance.message);
    }
    if let Some(app) = snapshot.apps.iter().find(|a| a.name == instance.app && !a.note.is_empty()) {
        text += &format!("Its app: {}.\n", app.note);
    }
    if instance.phase == "draining" {
        text += "It gets no new connections; it stops when the old ones have ended or their time is over.\n";
    }
    let Some(decision) = &instance.decision else { return text + "No decision is recorded.\n" };
    text += &reason(snapshot, decision);
    if !decision.level.is_empty() {
        text += &format!("By the {}.\n", decision.level);
    }
    if !decision.policy.is_empty() {
        text += &format!("Weighed by {}.\n", decision.policy);
    }
    if !instance.binding.is_empty() {
        text += &format!("It has {} there.\n", instance.binding);
    }
    if decision.candidates.is_empty() {
        return text;
    }
    if !decision.remedies.is_empty() {
        text += "What would have to change:\n";
        text += &decision.remedies.iter().map(|line| format!("  {line}\n")).collect::<String>();
    }
    text.push('\n');
    text += &candidates(decision, look);
    if !decision.others.is_empty() {
        text += &format!("Not in the table: {}.\n", decision.others);
    }
    text
}

fn headline(snapshot: &Snapshot, instance: &Instance) -> String {
    let Instance { replica, id, phase, module, restarts, .. } = instance;
    if module.is_empty() {
        return format!("{replica} ({id}) is {phase}: no module takes it now.\n");
    }
    let since = match instance.started {
        0 => String::new(),
        started => format!(", started {} ago", age(snapshot.at, started)),
    };
    let again = match restarts {
        0 => String::new(),
        n => format!(", started again {n} times"),
    };
    format!("{replica} ({id}) is {phase} on {module}{since}{again}.\n")
}

fn reason(snapshot: &Snapshot, decision: &Decision) -> String {
    let cause = if decision.cause.is_empty() { "not recorded" } else { &decision.cause };
    let when = match decision.at {
        0 => String::new(),
        at => format!(" {} ago", age(snapshot.at, at)),
    };
    if !decision.chosen.is_empty() {
        return format!("Decided{when}: {}. Cause: {cause}.\n", decision.chosen);
    }
    if decision.candidates.is_empty() {
        return format!("Decided{when}: nowhere, as no module has joined. Cause: {cause}.\n");
    }
    format!("Decided{when}: nowhere, as every module is ruled out below. Cause: {cause}.\n")
}

/// The chosen first, then by score, then those that were ruled out.
fn candidates(decision: &Decision, look: Look) -> String {
    let mut sorted: Vec<&Candidate> = decision.candidates.iter().collect();
    sorted.sort_by(|a, b| {
        let rank = |c: &Candidate| (c.module != decision.chosen, !c.filtered.is_empty());
        rank(a).cmp(&rank(b)).then(b.score.total_cmp(&a.score)).then(a.module.cmp(&b.module))
    });
    let names = scores(decision);
    let filters: Vec<&str> =
        if look.wide { decision.filters.iter().map(String::as_str).collect() } else { vec![] };
    let parts: Vec<&str> = if look.wide { names } else { vec![] };
    let columns: Vec<String> = filters.iter().chain(&parts).map(|name| name.to_uppercase()).collect();
    let mut header = vec!["MODULE", "VERDICT", "SCORE"];
    header.extend(columns.iter().map(String::as_str));
    header.push("WHY");
    let mut grid = Grid::new(look, &header);
    for candidate in sorted {
        let score = plain(format!("{:.1}", candidate.score));
        let (verdict, score, why) = if !candidate.filtered.is_empty() {
            (state("ruled out"), plain(""), plain(all_reasons(candidate)))
        } else if candidate.module == decision.chosen {
            let why = if decision.level.is_empty() { "the best score" } else { "see above" };
            (plain("chosen").fg(Color::Green), score, plain(why))
        } else {
            (plain("fits"), score, plain("another scored better or came first"))
        };
        let mut row = vec![plain(&candidate.module), verdict, score];
        row.extend(filters.iter().map(|name| {
            let failed = candidate.failed.iter().any(|f| f.filter == *name);
            if failed { plain("no").fg(Color::Red) } else { plain("ok").fg(Color::Green) }
        }));
        row.extend(parts.iter().map(|name| {
            let of = candidate.scores.iter().find(|s| s.name == *name);
            plain(of.map(|s| format!("{:.1}", s.value)).unwrap_or_default())
        }));
        row.push(why);
        grid.row(row);
    }
    grid.render()
}

/// What the scores are made of, over all candidates.
fn scores(decision: &Decision) -> Vec<&str> {
    let names: std::collections::BTreeSet<&str> =
        decision.candidates.iter().flat_map(|c| c.scores.iter().map(|s| s.name.as_str())).collect();
    names.into_iter().collect()
}

fn all_reasons(candidate: &Candidate) -> String {
    if candidate.failed.is_empty() {
        return candidate.filtered.clone();
    }
    candidate.failed.iter().map(|f| f.why.as_str()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, instance, snapshot};
    use api::v1::{FailedFilter, NamedScore};

    fn candidate(module: &str, filtered: &str, score: f64) -> Candidate {
        Candidate { module: module.into(), filtered: filtered.into(), score, ..Candidate::default() }
    }

    #[test]
    fn a_placed_instance_says_why_here_and_not_there() {
        let mut placed = instance("cam-1-3", "module-2");
        placed.decision = Some(Decision {
            cause: "module-3 lost".into(),
            chosen: "module-2".into(),
            candidates: vec![
                candidate("module-1", "", 41.0),
                candidate("module-2", "", 62.25),
                candidate("module-3", "is lost", 0.0),
            ],
            at: NOW - 61_000,
            others: "of 40 other modules 40 ruled out by cpu".into(),
            ..Decision::default()
        });
        let text = render(&snapshot(), &[&placed], Look::default());
        assert!(text.ends_with("\nNot in the table: of 40 other modules 40 ruled out by cpu.\n"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cam/1 (cam-1-3) is ready on module-2, started 3min ago.");
        assert_eq!(lines[1], "Decided 1min ago: module-2. Cause: module-3 lost.");
        assert_eq!(lines[3], "MODULE    VERDICT    SCORE  WHY");
        assert!(lines[4].starts_with("module-2  chosen     62.2"), "{text}");
        assert!(lines[5].starts_with("module-1  fits       41.0"), "{text}");
        assert_eq!(lines[6], "module-3  ruled out  -      is lost");
    }

    #[test]
    fn a_pending_instance_says_why_nowhere() {
        let mut pending = instance("cam-1-3", "");
        pending.phase = "pending".into();
        pending.decision = Some(Decision {
            cause: "new replica".into(),
            candidates: vec![candidate("module-1", "memory short by 1GiB", 0.0)],
            policy: "its own share 0.5; the rest is the cluster's".into(),
            ..Decision::default()
        });
        let text = render(&snapshot(), &[&pending], Look::default());
        assert!(text.contains("\nWeighed by its own share 0.5; the rest is the cluster's.\n"), "{text}");
        assert!(text.starts_with("cam/1 (cam-1-3) is pending: no module takes it now.\n"), "{text}");
        assert!(text.contains("nowhere, as every module is ruled out below. Cause: new replica."), "{text}");
        assert!(text.contains("module-1  ruled out  -      memory short by 1GiB"), "{text}");
        pending.decision = Some(Decision::default());
        assert!(render(&snapshot(), &[&pending], Look::default()).contains("no module has joined"));
    }

    #[test]
    fn a_move_shows_both_sides() {
        let mut coming = instance("cam-1-4", "module-3");
        coming.replaces = "cam-1-3".into();
        let old = instance("cam-1-3", "module-1");
        let text = render(&snapshot(), &[&coming, &old], Look::default());
        assert!(text.contains("It takes over from cam-1-3"), "{text}");
        assert!(text.contains("\n\ncam/1 (cam-1-3) is ready on module-1"), "{text}");
    }

    #[test]
    fn the_whole_table_and_what_would_have_to_change() {
        let mut pending = instance("cam-1-3", "");
        pending.phase = "pending".into();
        let failed = |filter: &str, why: &str| FailedFilter {
            filter: filter.into(),
            why: why.into(),
            remedy: "later".into(),
        };
        let mut ruled_out = candidate("module-1", "cpu: asks 2, free 1", 0.0);
        ruled_out.failed = vec![failed("cpu", "cpu: asks 2, free 1"), failed("disk", "disk: asks 2")];
        let mut fits = candidate("module-2", "", 41.0);
        fits.scores = vec![NamedScore { name: "match".into(), value: 12.5 }];
        pending.decision = Some(Decision {
            cause: "new replica".into(),
            level: "device-level queue ①: cam has no past success; unit level".into(),
            filters: vec!["cpu".into(), "disk".into()],
            candidates: vec![ruled_out, fits],
            remedies: vec!["module-1 takes it when 1 more of its cpu is free".into()],
            ..Decision::default()
        });
        let text = render(&snapshot(), &[&pending], Look { wide: true, colour: false });
        assert!(
            text.contains("By the device-level queue ①: cam has no past success; unit level.\n"),
            "{text}"
        );
        assert!(text.contains("What would have to change:\n  module-1 takes it when 1 more"), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        let header = rows.iter().position(|row| row.first() == Some(&"MODULE")).unwrap();
        assert_eq!(rows[header], ["MODULE", "VERDICT", "SCORE", "CPU", "DISK", "MATCH", "WHY"]);
        assert!(rows[header + 1].starts_with(&["module-2", "fits", "41.0", "ok", "ok", "12.5"]), "{text}");
        assert!(rows[header + 2].starts_with(&["module-1", "ruled", "out", "-", "no", "no", "-"]), "{text}");
        assert!(text.contains("cpu: asks 2, free 1; disk: asks 2"), "{text}");
    }
}
