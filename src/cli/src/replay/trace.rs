//! The CSV files of a trace, in the format of openb. A row that cannot be true is refused with its line, its column
//! and the reason; nothing is guessed.

use csv::StringRecord;
use planner::pool::{Amounts, NodeSpec, Request, WHOLE};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fmt::Display,
    fs::File,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why a trace is refused.
#[derive(Debug, Error)]
pub(crate) enum TraceError {
    /// It cannot be opened.
    #[error("{file}: cannot read it: {source}", file = .file.display())]
    Open {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not CSV.
    #[error("{file}: {source}", file = .file.display())]
    Csv {
        /// Which file.
        file: PathBuf,
        /// Where and why.
        source: csv::Error,
    },
    /// A column that is needed is not there, or one is there twice.
    #[error("{file}: row 1: {key}: {reason}", file = .file.display())]
    Column {
        /// Which file.
        file: PathBuf,
        /// Which column.
        key: String,
        /// Which of both.
        reason: &'static str,
    },
    /// A row lies.
    #[error("{file}: row {row}: {key}: {reason}", file = .file.display())]
    Row {
        /// Which file.
        file: PathBuf,
        /// The line, the header's being 1.
        row: u64,
        /// Which column.
        key: String,
        /// Why it cannot be true, and what could.
        reason: String,
    },
    /// There is a header and nothing else.
    #[error("{file}: there is no row after the header", file = .file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
}

/// Larger amounts are mistakes, and sums of smaller ones cannot overflow.
const MOST: u64 = 1_000_000_000_000;

/// Fields are read as text, so that what is wrong with one can be said in our words.
#[derive(Debug, Deserialize)]
struct NodeRow {
    sn: String,
    cpu_milli: String,
    memory_mib: String,
    gpu: String,
    model: String,
}

#[derive(Debug, Deserialize)]
struct TaskRow {
    name: String,
    cpu_milli: String,
    memory_mib: String,
    num_gpu: String,
    gpu_milli: String,
    gpu_spec: String,
    #[serde(default)]
    creation_time: String,
    #[serde(default)]
    deletion_time: String,
}

/// Where in which file.
struct Place<'a> {
    file: &'a Path,
    row: u64,
}

impl Place<'_> {
    fn refuse(&self, key: &str, reason: impl Into<String>) -> TraceError {
        let (file, key) = (self.file.to_owned(), key.to_owned());
        TraceError::Row { file, row: self.row, key, reason: reason.into() }
    }

    /// A row has a field for each column.
    fn complete(&self, record: &StringRecord, header: &StringRecord) -> Result<(), TraceError> {
        if record.len() == header.len() {
            return Ok(());
        }
        let key = header.get(record.len()).or_else(|| header.iter().next_back()).unwrap_or_default();
        Err(self.refuse(key, format!("the row has {} fields, the header {}", record.len(), header.len())))
    }

    /// A moment, if the trace has one.
    fn moment(&self, key: &str, text: &str) -> Result<Option<f64>, TraceError> {
        let moment = text.parse::<f64>().ok().filter(|moment| moment.is_finite());
        if moment.is_none() && !text.is_empty() {
            return Err(self.refuse(key, format!("{text:?} is no number")));
        }
        Ok(moment)
    }

    fn amount(&self, key: &'static str, text: &str, most: u64) -> Result<u64, TraceError> {
        let told = |why: &dyn Display| Err(self.refuse(key, format!("{text:?} {why}")));
        match text.parse::<i128>() {
            Ok(number) if number < 0 => told(&"is negative; 0 or more is possible"),
            Ok(number) => match u64::try_from(number).ok().filter(|number| *number <= most) {
                Some(number) => Ok(number),
                None => told(&format!("is too much; at most {most} is possible")),
            },
            Err(_) if text.is_empty() => told(&"is nothing; give a whole number"),
            Err(_) => told(&"is no whole number"),
        }
    }

    fn small(&self, key: &'static str, text: &str, most: u16) -> Result<u16, TraceError> {
        Ok(u16::try_from(self.amount(key, text, u64::from(most))?).unwrap_or(most))
    }

    fn amounts(&self, cpu: &str, memory: &str) -> Result<Amounts, TraceError> {
        let cpu = self.amount("cpu_milli", cpu, MOST)?;
        Ok(Amounts { cpu, memory: self.amount("memory_mib", memory, MOST)?, disk: 0 })
    }

    fn unique(&self, key: &'static str, name: &str, seen: &mut BTreeSet<String>) -> Result<(), TraceError> {
        if name.is_empty() {
            return Err(self.refuse(key, "is empty; give a name"));
        }
        if !seen.insert(name.to_owned()) {
            return Err(self.refuse(key, format!("{name:?} stands in an earlier row too; names must differ")));
        }
        Ok(())
    }
}

/// The nodes of a trace, in the file's order.
pub(crate) fn nodes(file: &Path) -> Result<Vec<NodeSpec>, TraceError> {
    let mut seen = BTreeSet::new();
    rows(file, &["sn", "cpu_milli", "memory_mib", "gpu", "model"], |place, row: NodeRow| {
        place.unique("sn", &row.sn, &mut seen)?;
        let capacity = place.amounts(&row.cpu_milli, &row.memory_mib)?;
        let accelerators = place.small("gpu", &row.gpu, 1024)?;
        if capacity.cpu == 0 {
            return Err(place.refuse("cpu_milli", "a node without CPU runs nothing"));
        }
        Ok(NodeSpec { name: row.sn, capacity, accelerators, model: row.model })
    })
}

/// The tasks of a trace, in the file's order.
pub(crate) fn tasks(file: &Path) -> Result<Vec<Request>, TraceError> {
    let mut seen = BTreeSet::new();
    let columns = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"];
    rows(file, &columns, |place, row: TaskRow| {
        place.unique("name", &row.name, &mut seen)?;
        let amounts = place.amounts(&row.cpu_milli, &row.memory_mib)?;
        let accelerators = place.small("num_gpu", &row.num_gpu, 1024)?;
        let milli = match (accelerators, row.gpu_milli.as_str()) {
            (0, "") => 0,
            (_, text) => place.small("gpu_milli", text, WHOLE)?,
        };
        match (accelerators, milli) {
            (0, 0) | (1.., 1..) => {}
            (0, _) => {
                return Err(
                    place.refuse("gpu_milli", format!("is {milli} of an accelerator, and num_gpu is 0"))
                );
            }
            (count, _) => return Err(place.refuse("gpu_milli", format!("is 0, and num_gpu is {count}"))),
        }
        let start = place.moment("creation_time", &row.creation_time)?;
        if let (Some(start), Some(end)) = (start, place.moment("deletion_time", &row.deletion_time)?)
            && end < start
        {
            let reason = format!("the task ends at {end}, before it starts at {start}");
            return Err(place.refuse("deletion_time", reason));
        }
        let models = row.gpu_spec.split('|').filter(|model| !model.is_empty()).map(str::to_owned).collect();
        Ok(Request { amounts, accelerators, milli, models })
    })
}

fn rows<R: for<'de> Deserialize<'de>, T>(
    file: &Path,
    columns: &[&'static str],
    mut read: impl FnMut(&Place<'_>, R) -> Result<T, TraceError>,
) -> Result<Vec<T>, TraceError> {
    let open = File::open(file).map_err(|source| TraceError::Open { file: file.to_owned(), source })?;
    let broken = |source| TraceError::Csv { file: file.to_owned(), source };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(open);
    let header = reader.headers().map_err(broken)?.clone();
    let column =
        |key: &str, reason| TraceError::Column { file: file.to_owned(), key: key.to_owned(), reason };
    if let Some(key) = columns.iter().find(|key| !header.iter().any(|column| column == **key)) {
        return Err(column(key, "the header has no such column"));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = header.iter().find(|key| !seen.insert(*key)) {
        return Err(column(twice, "the header has this column twice"));
    }
    let mut all = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let row = record.position().map_or(0, csv::Position::line);
        let place = Place { file, row };
        place.complete(&record, &header)?;
        all.push(read(&place, record.deserialize(Some(&header)).map_err(broken)?)?);
    }
    if all.is_empty() {
        return Err(TraceError::Empty { file: file.to_owned() });
    }
    Ok(all)
}
