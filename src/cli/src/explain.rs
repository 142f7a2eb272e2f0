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
    if decision.candidates.is_empty() {
        return text;
    }
    text.push('\n');
    text + &candidates(decision, look)
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
    let mut grid = Grid::new(look, &["MODULE", "VERDICT", "SCORE", "WHY"]);
    for candidate in sorted {
        let score = plain(format!("{:.1}", candidate.score));
        grid.row(if !candidate.filtered.is_empty() {
            vec![plain(&candidate.module), state("ruled out"), plain(""), plain(&candidate.filtered)]
        } else if candidate.module == decision.chosen {
            vec![plain(&candidate.module), plain("chosen").fg(Color::Green), score, plain("the best score")]
        } else {
            vec![plain(&candidate.module), plain("fits"), score, plain("another scored better or came first")]
        });
    }
    grid.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, instance, snapshot};

    fn candidate(module: &str, filtered: &str, score: f64) -> Candidate {
        Candidate { module: module.into(), filtered: filtered.into(), score }
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
        });
        let text = render(&snapshot(), &[&placed], Look::default());
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
            ..Decision::default()
        });
        let text = render(&snapshot(), &[&pending], Look::default());
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
}
