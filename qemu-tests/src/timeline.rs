//! The picture of a migration: modules as lanes, instances as bars, from what the cluster showed.

use crate::cluster::Moment;
use std::{collections::BTreeMap, fmt::Write};

/// One instance's time on one module, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// The module.
    pub module: String,
    /// The instance.
    pub instance: String,
    /// First seen ready.
    pub from: u64,
    /// Last seen ready.
    pub until: u64,
}

/// A moment that people should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: u64,
    /// What.
    pub text: String,
}

/// What was ready where and when. A module that is not heard is believed to run nothing.
pub fn bars(history: &[Moment], end: u64) -> Vec<Bar> {
    let mut open: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut done = Vec::new();
    for moment in history {
        let heard =
            |module: &str| moment.snapshot.modules.iter().any(|m| m.name == module && m.state != "lost");
        let ready: Vec<(String, String)> = moment
            .snapshot
            .instances
            .iter()
            .filter(|i| i.phase == "ready" && heard(&i.module))
            .map(|i| (i.module.clone(), i.id.clone()))
            .collect();
        let ended: Vec<_> = open.keys().filter(|key| !ready.contains(key)).cloned().collect();
        for key in ended {
            if let Some(from) = open.remove(&key) {
                done.push(Bar { module: key.0, instance: key.1, from, until: moment.at });
            }
        }
        for key in ready {
            open.entry(key).or_insert(moment.at);
        }
    }
    done.extend(open.into_iter().map(|((module, instance), from)| Bar {
        module,
        instance,
        from,
        until: end,
    }));
    done.sort_by(|a, b| (&a.module, a.from, &a.instance).cmp(&(&b.module, b.from, &b.instance)));
    done
}

const WIDTH: u64 = 1200;
const LEFT: u64 = 110;
const ROW: u64 = 18;
const COLOURS: [&str; 10] = [
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
    "#8a8a8a",
];

/// The picture as SVG.
pub fn svg(bars: &[Bar], marks: &[Mark], end: u64) -> String {
    let x = |at: u64| LEFT + at.min(end) * (WIDTH - LEFT - 20) / end.max(1);
    let app = |instance: &str| instance.rsplitn(3, '-').last().unwrap_or_default().to_owned();
    let mut apps: Vec<String> = bars.iter().map(|b| app(&b.instance)).collect();
    apps.sort();
    apps.dedup();
    let mut body = String::new();
    let mut y = 40;
    let mut modules: Vec<&String> = bars.iter().map(|b| &b.module).collect();
    modules.sort();
    modules.dedup();
    for module in modules {
        // Bars share a row when they do not overlap in time.
        let mut rows: Vec<u64> = Vec::new();
        let top = y;
        for bar in bars.iter().filter(|b| b.module == *module) {
            let row = rows.iter().position(|end| *end <= bar.from).unwrap_or(rows.len());
            if row == rows.len() {
                rows.push(0);
            }
            if let Some(end) = rows.get_mut(row) {
                *end = bar.until;
            }
            let number = apps.iter().position(|a| *a == app(&bar.instance)).unwrap_or(0);
            let colour = COLOURS.get(number % COLOURS.len()).unwrap_or(&"#888888");
            let (left, right, at) = (x(bar.from), x(bar.until), top + row as u64 * ROW);
            let _ = writeln!(
                body,
                "<rect x='{left}' y='{at}' width='{}' height='{}' rx='3' fill='{colour}'/><text x='{}' y='{}' fill='white'>{}</text>",
                (right - left).max(2),
                ROW - 3,
                left + 4,
                at + 11,
                bar.instance
            );
        }
        let height = rows.len().max(1) as u64 * ROW;
        let _ = writeln!(body, "<text x='8' y='{}' class='lane'>{module}</text>", top + height / 2 + 4);
        y = top + height + 10;
        let _ = writeln!(body, "<line x1='0' x2='{WIDTH}' y1='{0}' y2='{0}' stroke='#ccc'/>", y - 6);
    }
    for (number, mark) in marks.iter().enumerate() {
        let at = x(mark.at);
        let _ = writeln!(
            body,
            "<line x1='{at}' x2='{at}' y1='30' y2='{y}' stroke='#333' stroke-dasharray='3 3'/><text x='{}' y='{}'>{} ({:.1} s)</text>",
            at + 3,
            12 + (number as u64 % 2) * 13,
            mark.text,
            mark.at as f64 / 1000.0
        );
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{0}' viewBox='0 0 {WIDTH} {0}'>\n\
         <style>text{{font:10px sans-serif}} .lane{{font:bold 12px sans-serif}}</style>\n\
         <rect width='100%' height='100%' fill='white'/>\n{body}</svg>\n",
        y + 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1;

    fn moment(at: u64, module: &str, state: &str, phase: &str) -> Moment {
        let modules = vec![v1::Module { name: module.into(), state: state.into(), ..Default::default() }];
        let instances = vec![v1::Instance {
            id: "a-1-1".into(),
            module: module.into(),
            phase: phase.into(),
            ..Default::default()
        }];
        Moment { at, snapshot: v1::Snapshot { modules, instances, ..Default::default() } }
    }

    #[test]
    fn a_bar_lasts_while_the_instance_is_ready_on_a_module_that_is_heard() {
        let history = [
            moment(0, "m", "ready", "starting"),
            moment(10, "m", "ready", "ready"),
            moment(50, "m", "lost", "ready"),
        ];
        let bars = bars(&history, 100);
        assert_eq!(bars, [Bar { module: "m".into(), instance: "a-1-1".into(), from: 10, until: 50 }]);
        let picture = svg(&bars, &[Mark { at: 50, text: "isolated".into() }], 100);
        assert!(picture.contains("a-1-1") && picture.contains("isolated (0.1 s)"));
    }
}
