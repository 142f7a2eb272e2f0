use model::Span;
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a module was not updated. Each names the module, and what to do.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// The bundle cannot be read.
    #[error("{file}: {source}; name a RAUC bundle", file = .file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bundle is none, or only a part of one.
    #[error("{file} is no whole RAUC bundle of format verity ({reason}); copy or build it again", file = .file.display())]
    NoBundle {
        /// Which.
        file: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// There is no such module.
    #[error("there is no module {0}; `spacectl get modules` lists them")]
    NoModule(String),
    /// There is none at all.
    #[error("no module has joined yet; `spacectl get modules` lists them")]
    NoModules,
    /// It cannot be updated now.
    #[error("{module} is {state}; it must be ready to be updated, and nothing was changed")]
    NotReady {
        /// Which.
        module: String,
        /// How it is.
        state: String,
    },
    /// It has only one root.
    #[error(
        "{0} was not started from a root slot, so it has no other one to write; flash its disk (docs/building.md)"
    )]
    NoSlots(String),
    /// It is not for this kind of module.
    #[error("{module} takes bundles for {own}, this one is for {bundle}; nothing was changed")]
    Foreign {
        /// Which.
        module: String,
        /// What it takes.
        own: String,
        /// What the bundle is for.
        bundle: String,
    },
    /// Somebody is at it.
    #[error("{0} is being updated already; wait for its end, which `spacectl get events` says")]
    UnderWay(String),
    /// It restarts, or will never be back.
    #[error(
        "{0} is away in the middle of an update, and only one module is updated at a time; wait until it has restarted, or, if its board is gone, say `spacectl forget {0}`"
    )]
    AwayInUpdate(String),
    /// The other slot is the one to fall back to.
    #[error(
        "{0} runs from a slot that has not proven good yet, and the other slot is what it falls back to; wait until it has"
    )]
    NotProven(String),
    /// The apps are not whole, and a module less would make it worse.
    #[error(
        "{module}: not begun, for {app} has {ready} of {replicas} replicas ready; mend that first (`spacectl get instances`)"
    )]
    NotWhole {
        /// The module whose turn it was.
        module: String,
        /// Which app.
        app: String,
        /// So many are ready.
        ready: u32,
        /// So many should be.
        replicas: u32,
    },
    /// What runs there finds no other place.
    #[error(
        "{module} cannot be emptied, {replica} has no room elsewhere: {reason}; it takes work again, and nothing was installed"
    )]
    NoRoom {
        /// Which.
        module: String,
        /// What should move.
        replica: String,
        /// Why not.
        reason: String,
    },
    /// The module has given it up.
    #[error("{module}: {reason}; it runs {runs}")]
    Failed {
        /// Which.
        module: String,
        /// In the module's words.
        reason: String,
        /// Version and slot.
        runs: String,
    },
    /// It is not known what has become of it.
    #[error(
        "{module} was not done within {limit}, last seen {state}{}: look at its console and at `spacectl get events`, then say the same again",
        if *.drained { "; it stays drained" } else { "" }
    )]
    TooLate {
        /// Which.
        module: String,
        /// How long was waited.
        limit: Span,
        /// How far it was.
        state: String,
        /// It takes no work.
        drained: bool,
    },
}
