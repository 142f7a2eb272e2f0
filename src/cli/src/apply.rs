use crate::{Failure, client::Server, print_done};
use api::v1::{ApplyRequest, DeleteRequest};
use model::{AppFile, Name};
use std::{
    fs,
    future::Future,
    io::{self, Read},
    path::{Path, PathBuf},
};

fn to_json<T: serde::Serialize>(list: &[T]) -> Result<Vec<String>, Failure> {
    let texts = list.iter().map(serde_json::to_string).collect::<Result<_, _>>();
    texts.map_err(|e| Failure::Refused(format!("it cannot be written as JSON: {e}")))
}

/// All apps of all files in one request, so that the server takes all or none.
pub(crate) async fn apply<F>(files: &[PathBuf], connect: impl FnOnce() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<Server, Failure>>,
{
    let AppFile { apps, volumes } = read_all(files)?;
    let (specs_json, volumes_json) = (to_json(&apps)?, to_json(&volumes)?);
    print_done(&connect().await?.apply(ApplyRequest { specs_json, volumes_json }).await?)
}

pub(crate) async fn delete<F>(
    apps: Vec<Name>,
    files: &[PathBuf],
    volumes: bool,
    connect: impl FnOnce() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Server, Failure>>,
{
    let from_files = read_all(files)?.apps.into_iter().map(|spec| spec.name);
    let apps = apps.into_iter().chain(from_files).map(|name| name.to_string()).collect();
    print_done(&connect().await?.delete(DeleteRequest { apps, volumes }).await?)
}

fn read_all(files: &[PathBuf]) -> Result<AppFile, Failure> {
    let mut all = AppFile::default();
    let mut take = |file: AppFile| {
        all.apps.extend(file.apps);
        all.volumes.extend(file.volumes);
    };
    for given in files {
        if given == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|source| unreadable("standard input", source))?;
            take(parse("standard input", &text)?);
            continue;
        }
        for file in expand(given)? {
            let text = fs::read_to_string(&file).map_err(|source| unreadable(&file, source))?;
            take(parse(&file.display().to_string(), &text)?);
        }
    }
    Ok(all)
}

fn parse(file: &str, text: &str) -> Result<AppFile, Failure> {
    AppFile::parse(file, text).map_err(Failure::Spec)
}

/// A directory's app files in the order of their names; a file is itself.
fn expand(given: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !given.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let entries = fs::read_dir(given).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|source| unreadable(given, source))?;
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && path.is_file())
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(unreadable(given, io::Error::other("holds no .toml file")));
    }
    Ok(files)
}

fn unreadable(file: impl AsRef<Path>, source: io::Error) -> Failure {
    Failure::AppFile { file: file.as_ref().to_owned(), source }
}
