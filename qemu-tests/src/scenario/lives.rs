//! When instances lived, from the lines that they wrote themselves: did one ever run twice?

use super::failed;
use crate::{Chassis, SimError, Times, within};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What lies between the lives of the replicas.
pub(crate) struct Gaps {
    /// Overlaps, in words.
    pub(crate) doubles: Vec<String>,
    /// The shortest time between two lives, if any replica has two.
    pub(crate) smallest: Option<Duration>,
}

/// The shortest time between the lives of `these` instances, whose module was cut off, and those that came after them, with the
/// modules' clocks corrected. Other lives may overlap: balance moves an app before it stops it.
///
/// # Errors
/// Two lives overlap, or nothing moved, so that nothing could be checked.
pub(super) fn smallest_gap(
    chassis: &Chassis,
    same_clock: bool,
    these: &BTreeSet<String>,
) -> Result<Duration, SimError> {
    let Gaps { doubles, smallest } = between(read(chassis, same_clock)?, |before| these.contains(before));
    if let Some(double) = doubles.first() {
        return Err(failed(double.clone()));
    }
    smallest.ok_or_else(|| failed("no instance has two lives: nothing moved, so nothing was checked"))
}

/// Reads when each instance lived. The modules' clocks are corrected unless they are the host's own.
///
/// # Errors
/// A module does not answer.
pub(crate) fn gaps(chassis: &Chassis, same_clock: bool) -> Result<Gaps, SimError> {
    Ok(between(read(chassis, same_clock)?, |_| true))
}

/// The lives of each replica.
fn read(chassis: &Chassis, same_clock: bool) -> Result<BTreeMap<String, Vec<Life>>, SimError> {
    let mut lives: BTreeMap<String, Vec<Life>> = BTreeMap::new();
    for module in chassis.modules() {
        let (offset, doubt) = if same_clock { (0, 0) } else { clock(module)? };
        let read = "cd /var/lib/spacecloud/logs && for f in *.log; do [ -f $f ] || continue; head -n 1 $f; tail -n 1 $f; done";
        for (instance, first, last) in lives_of(&module.run(read, within(60.s()))?) {
            let replica =
                instance.rsplit_once('-').map(|(replica, _)| replica.to_owned()).unwrap_or_default();
            let life = Life { instance, from: first - offset - doubt, until: last - offset + doubt };
            lives.entry(replica).or_default().push(life);
        }
    }
    Ok(lives)
}

fn between(lives: BTreeMap<String, Vec<Life>>, counts: impl Fn(&str) -> bool) -> Gaps {
    let mut gaps = Gaps { doubles: Vec::new(), smallest: None };
    for (replica, mut lives) in lives {
        lives.sort_by_key(|l| l.from);
        for pair in lives.windows(2) {
            let [before, after] = pair else { continue };
            if !counts(&before.instance) {
                continue;
            }
            let gap = after.from - before.until;
            if gap <= 0 {
                gaps.doubles.push(format!(
                    "{replica} ran twice: {} until {}, {} from {}",
                    before.instance, before.until, after.instance, after.from
                ));
            }
            let gap = Duration::from_millis(u64::try_from(gap).unwrap_or(0));
            gaps.smallest = Some(gaps.smallest.map_or(gap, |smallest| smallest.min(gap)));
        }
    }
    gaps
}

struct Life {
    instance: String,
    from: i64,
    until: i64,
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(0))
}

/// By how much the module's clock is ahead of the host's, and how far off that may be, in milliseconds: the best of
/// some readings, for each may have met a stall.
fn clock(module: &crate::Module) -> Result<(i64, i64), SimError> {
    let mut best = read_clock(module)?;
    for _ in 0..3 {
        let again = read_clock(module)?;
        best = if again.1 < best.1 { again } else { best };
    }
    Ok(best)
}

fn read_clock(module: &crate::Module) -> Result<(i64, i64), SimError> {
    let before = millis(SystemTime::now());
    let said = module.run("date +%s%3N", within(30.s()))?;
    let after = millis(SystemTime::now());
    let there: i64 =
        said.trim().parse().map_err(|_| failed(format!("{}: bad date {said:?}", module.name())))?;
    Ok((there - before.midpoint(after), (after - before) / 2 + 1))
}

/// (instance, first line's time, last line's time) from lines `TIME INSTANCE MODULE`.
fn lives_of(text: &str) -> Vec<(String, i64, i64)> {
    let mut lives: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(Ok(at)), Some(instance)) = (words.next().map(str::parse::<i64>), words.next()) else {
            continue;
        };
        let life = lives.entry(instance.to_owned()).or_insert((at, at));
        *life = (life.0.min(at), life.1.max(at));
    }
    lives.into_iter().map(|(instance, (first, last))| (instance, first, last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_named_and_the_shortest_gap_found() {
        let life = |instance: &str, from, until| Life { instance: instance.into(), from, until };
        let apart = vec![life("a-1-1", 0, 100), life("a-1-2", 150, 300), life("a-1-3", 320, 400)];
        let Gaps { doubles, smallest } = between(BTreeMap::from([("a-1".to_owned(), apart)]), |_| true);
        assert_eq!((doubles.len(), smallest), (0, Some(Duration::from_millis(20))));
        let over = || vec![life("a-1-2", 90, 300), life("a-1-1", 0, 100)];
        // Only those that are asked for: the others may overlap.
        let moved = between(BTreeMap::from([("a-1".to_owned(), over())]), |before| before != "a-1-1");
        assert_eq!((moved.doubles.len(), moved.smallest), (0, None));
        let Gaps { doubles, .. } = between(BTreeMap::from([("a-1".to_owned(), over())]), |_| true);
        assert_eq!(doubles, ["a-1 ran twice: a-1-1 until 100, a-1-2 from 90"]);
        assert_eq!(between(BTreeMap::new(), |_| true).smallest, None);
    }

    #[test]
    fn reads_lives() {
        let text = "10 a-1-1 module-1\n30 a-1-1 module-1\n35 a-1-1 module-1 stop\n50 a-1-2 module-2\n";
        assert_eq!(lives_of(text), [("a-1-1".into(), 10, 35), ("a-1-2".into(), 50, 50)]);
    }
}
