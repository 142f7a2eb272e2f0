//! What a container engine must do for a live move, and the folders that travel between two modules.
//!
//! States and what each failure leads to are drawn at [`model::Live`]; the agent asks for the steps in that order.

use crate::RuntimeError;
use async_trait::async_trait;
use model::{Desired, InstanceId};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdout, Command},
};

/// A running process, taken from one module and put on another.
#[async_trait]
pub trait LiveMoves: Send + Sync {
    /// Writes what the process has in memory into the folder `to`, or what changed since the round in the folder
    /// `since`, which lies beside it. The process runs on.
    async fn copy(&self, id: &InstanceId, to: &Path, since: Option<&str>) -> Result<(), RuntimeError>;
    /// Nothing reaches the process any more, and it does nothing any more.
    async fn freeze(&self, id: &InstanceId) -> Result<(), RuntimeError>;
    /// As [`LiveMoves::copy`], of a frozen process and with all that makes it up. It stays frozen.
    async fn checkpoint(&self, id: &InstanceId, to: &Path, since: Option<&str>) -> Result<(), RuntimeError>;
    /// Undoes [`LiveMoves::freeze`]. Doing it twice is fine.
    async fn thaw(&self, id: &InstanceId) -> Result<(), RuntimeError>;
    /// The folder with what the instance has changed in its image's file system.
    async fn files(&self, id: &InstanceId) -> Result<PathBuf, RuntimeError>;
    /// Makes everything of an instance but its process; answers its address here.
    async fn prepare(&self, desired: &Desired) -> Result<String, RuntimeError>;
    /// Lets a prepared instance go on from the checkpoint in `from`.
    async fn restore(&self, desired: &Desired, from: &Path) -> Result<(), RuntimeError>;
}

/// Bytes that travel together.
const CHUNK: usize = 128 << 10;
/// Small parts of a file system tell of an error by the end of tar, which may take this long.
const TAR_LIMIT: Duration = Duration::from_secs(60);

fn tar(folder: &Path) -> Command {
    let mut tar = Command::new("tar");
    // Overlay's marks of what was removed are extended attributes and devices.
    tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"]).arg(folder);
    tar.kill_on_drop(true);
    tar
}

fn failed(operation: &'static str, path: &Path, reason: impl Into<String>) -> RuntimeError {
    let source = std::io::Error::other(reason.into());
    RuntimeError::Io { operation, path: path.to_owned(), source }
}

async fn end(operation: &'static str, path: &Path, mut child: Child) -> Result<(), RuntimeError> {
    let mut said = String::new();
    let ended = async {
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut said).await;
        }
        child.wait().await
    };
    match tokio::time::timeout(TAR_LIMIT, ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        // On a full disk it has a line for each file: the first ones tell.
        Ok(Ok(status)) => {
            let words: Vec<&str> = said.lines().take(2).collect();
            Err(failed(operation, path, format!("tar: {status}: {}", words.join(" "))))
        }
        Ok(Err(source)) => Err(RuntimeError::Io { operation, path: path.to_owned(), source }),
        Err(_) => Err(failed(operation, path, "tar does not end")),
    }
}

/// A folder on its way out.
#[derive(Debug)]
pub struct Pack {
    folder: PathBuf,
    child: Option<Child>,
    out: ChildStdout,
}

impl Pack {
    /// Begins.
    ///
    /// # Errors
    /// tar cannot be started.
    pub fn open(folder: &Path) -> Result<Self, RuntimeError> {
        let mut command = tar(folder);
        command.args(["-c", "-f", "-", "."]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(RuntimeError::io("pack", folder))?;
        let out = child.stdout.take().ok_or_else(|| failed("pack", folder, "tar has no output"))?;
        Ok(Self { folder: folder.to_owned(), child: Some(child), out })
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// tar failed.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, RuntimeError> {
        let mut bytes = Vec::with_capacity(CHUNK);
        let mut part = (&mut self.out).take(u64::try_from(CHUNK).unwrap_or(u64::MAX));
        part.read_to_end(&mut bytes).await.map_err(RuntimeError::io("pack", &self.folder))?;
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
        if let Some(child) = self.child.take() {
            end("pack", &self.folder, child).await?;
        }
        Ok(None)
    }
}

/// A folder on its way in.
#[derive(Debug)]
pub struct Unpack {
    folder: PathBuf,
    child: Child,
}

impl Unpack {
    /// Begins; makes the folder.
    ///
    /// # Errors
    /// It cannot be made, or tar cannot be started.
    pub fn open(folder: &Path) -> Result<Self, RuntimeError> {
        std::fs::create_dir_all(folder).map_err(RuntimeError::io("create", folder))?;
        let mut command = tar(folder);
        command.args(["-x", "-p", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let child =
            command.stderr(Stdio::piped()).spawn().map_err(RuntimeError::io("unpack into", folder))?;
        Ok(Self { folder: folder.to_owned(), child })
    }

    /// The next bytes.
    ///
    /// # Errors
    /// tar takes no more; [`Unpack::finish`] says why.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        let Some(stdin) = self.child.stdin.as_mut() else { return Ok(()) };
        stdin.write_all(bytes).await.map_err(RuntimeError::io("unpack into", &self.folder))
    }

    /// That was all.
    ///
    /// # Errors
    /// tar failed.
    pub async fn finish(mut self) -> Result<(), RuntimeError> {
        drop(self.child.stdin.take());
        end("unpack into", &self.folder, self.child).await
    }
}

/// What a log of criu's gives as the cause: the first error that is one.
pub(crate) fn cause(log: &str) -> Option<String> {
    // It says so on kernels that lack what nobody asks for.
    const HARMLESS: [&str; 2] = ["Unable to create tun", "RLIMIT_NOFILE"];
    let errors = log.lines().filter_map(|line| line.split_once("Error ("));
    let mut errors = errors.filter(|(_, text)| HARMLESS.iter().all(|harmless| !text.contains(harmless)));
    let (_, text) = errors.next()?;
    Some(text.split_once("): ").map_or(text, |(_, said)| said).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_arrives_with_all_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("deep")).unwrap();
        let large: Vec<u8> = (0..3 * CHUNK).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(from.join("deep/file"), &large).unwrap();
        std::os::unix::fs::symlink("../0", from.join("parent")).unwrap();
        let (mut pack, mut unpack) = (Pack::open(&from).unwrap(), Unpack::open(&to).unwrap());
        while let Some(bytes) = pack.next().await.unwrap() {
            assert!(bytes.len() <= CHUNK);
            unpack.write(&bytes).await.unwrap();
        }
        unpack.finish().await.unwrap();
        assert_eq!(std::fs::read(to.join("deep/file")).unwrap(), large);
        assert_eq!(std::fs::read_link(to.join("parent")).unwrap(), Path::new("../0"));
    }

    #[tokio::test]
    async fn what_cannot_be_packed_or_unpacked_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut pack = Pack::open(&dir.path().join("nowhere")).unwrap();
        assert!(pack.next().await.unwrap_err().to_string().contains("nowhere"));
        let mut unpack = Unpack::open(dir.path()).unwrap();
        let _ = unpack.write(&[7; 2048]).await;
        assert!(unpack.finish().await.is_err());
    }

    #[test]
    fn the_cause_is_the_first_error_that_is_one() {
        let log = "(00.000001) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory\n\
                   (00.012622) Warn  (criu/x.c:1): nothing\n\
                   (00.110903) Error (criu/files-ext.c:96): Can't dump file 3 of that type [600] (unknown)\n\
                   (00.130278) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(cause(log).unwrap(), "Can't dump file 3 of that type [600] (unknown)");
        assert_eq!(cause("(00.000001) fine"), None);
    }
}
